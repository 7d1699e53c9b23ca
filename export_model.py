"""Write the network of a checkpoint in a form that other programs read: safetensors or ONNX.

    python export_model.py weights/CHECKPOINT --format safetensors
    python export_model.py weights/CHECKPOINT --format onnx --output model.onnx

Ours and the winners' published checkpoints will do. The file says what it needs (encoder, size, normalisation,
margin, epoch, metrics) in its metadata, and predict_folder.py takes it as it takes the checkpoint. Before it is put in
place it is read again and scores a few fixed pictures beside the original; if they differ, nothing is written and the
exit status is 1.

safetensors: the weights under the names they have here. ONNX: opset 18, fp32, input `images` (normalised float
[n, 3, size, size], any n), output `logits` [n, 1]; the probability of fake is their sigmoid.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dfdc import command_line
from dfdc.command_line import UsageError


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="ours, or one of the winners'")
    parser.add_argument("--format", choices=("safetensors", "onnx"), required=True)
    beside = "(beside the checkpoint, with .safetensors or .onnx after its name)"
    parser.add_argument("--output", type=Path, metavar="FILE", help=beside)
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    args = parser.parse_args(argv)
    suffix = f".{args.format}"
    if args.output is None:
        args.output = args.checkpoint.with_name(args.checkpoint.name + suffix)
    if args.output.suffix.lower() != suffix:
        raise UsageError(f"--output {args.output}: the name of a file that ends in {suffix} is expected")
    if not args.checkpoint.is_file():
        raise UsageError(f"{args.checkpoint}: there is no such checkpoint")
    if not args.output.parent.is_dir():
        raise UsageError(f"--output {args.output}: there is no folder {args.output.parent}; make it first")
    if args.output.exists():
        if args.output.is_dir() or args.output.samefile(args.checkpoint):
            what = "a folder" if args.output.is_dir() else "the checkpoint itself"
            raise UsageError(f"--output {args.output}: that is {what}; take another name")
        if not args.force:
            raise UsageError(f"--output {args.output} is there already; --force writes over it")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    from networks.export import export  # here: --help and wrong use must not wait for PyTorch

    export(args.checkpoint, args.format, args.output)
    return 0


if __name__ == "__main__":
    command_line.run_main(main)
