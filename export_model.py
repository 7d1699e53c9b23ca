"""Export the network of a checkpoint to safetensors or ONNX, for other programs.

    python export_model.py weights/CHECKPOINT --format safetensors
    python export_model.py weights/CHECKPOINT --format onnx --output model.onnx

CHECKPOINT is one of this project's or the winners' checkpoints. The file's metadata contains encoder, size,
normalisation, margin, epoch and metrics, so predict_folder.py accepts it like the checkpoint. The exported network is
read back and compared with the original on 13 images of a face. If they differ, nothing is written and the exit status
is 1.

safetensors: the weights under their PyTorch names. ONNX: opset 18, fp32, input `images` (normalised float
[n, 3, size, size], any n), output `logits` [n, 1]; their sigmoid is the score, 0 (real) to 1 (fake).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dfdc import command_line
from dfdc.command_line import UsageError


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a checkpoint of this project or the winners"
    )
    parser.add_argument("--format", choices=("safetensors", "onnx"), required=True, help="file format")
    beside = "file to write (default: the checkpoint's name with .safetensors or .onnx appended, in its folder)"
    parser.add_argument("--output", type=Path, metavar="FILE", help=beside)
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")
    args = parser.parse_args(argv)
    suffix = f".{args.format}"
    if args.output is None:
        args.output = args.checkpoint.with_name(args.checkpoint.name + suffix)
    if args.output.suffix.lower() != suffix:
        raise UsageError(f"--output {args.output}: expected a file name that ends in {suffix}")
    if not args.checkpoint.is_file():
        raise UsageError(f"{args.checkpoint}: no such checkpoint; check the path")
    if not args.output.parent.is_dir():
        raise UsageError(f"--output {args.output}: the folder {args.output.parent} does not exist; create it first")
    if args.output.exists():
        if args.output.is_dir() or args.output.samefile(args.checkpoint):
            what = "a folder" if args.output.is_dir() else "the checkpoint itself"
            raise UsageError(f"--output {args.output}: this is {what}; choose another name")
        if not args.force:
            raise UsageError(f"--output {args.output} already exists; use --force to overwrite it")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    from networks.export import export  # here: --help and usage errors must not wait for PyTorch

    export(args.checkpoint, args.format, args.output)
    return 0


if __name__ == "__main__":
    command_line.run_main(main)
