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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dfdc import command_line
from dfdc.artifacts import atomic_file
from dfdc.command_line import UsageError

if TYPE_CHECKING:
    import torch

    from networks.checkpoint import Checkpoint

FORMATS = ("safetensors", "onnx")
OPSET = 18
# Largest difference of a probability, and of a logit as a part of its size. The same weights in the same network give
# the same bits; ONNX Runtime adds up in another order. The logit is looked at as well because a network that is sure of
# all the pictures has the same probability, 0 or 1, whatever went wrong.
TOLERANCES = {"safetensors": (0.0, 0.0), "onnx": (1e-4, 1e-3)}
_FINENESS = (2, 8, 32, 128)  # of the fixed pictures: coloured spots along a side


class ParityError(RuntimeError):
    """The exported network does not score as the original does."""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="ours, or one of the winners'")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", type=Path, metavar="FILE",
                        help="(beside the checkpoint, with .safetensors or .onnx after its name)")  # fmt: skip
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
    from networks.checkpoint import CheckpointError, load_model
    from networks.model import ModelError

    try:
        network, checkpoint = load_model(args.checkpoint)
    except (CheckpointError, ModelError) as error:
        raise UsageError(str(error)) from error
    spec = checkpoint.spec
    try:
        probability, logit = export(network, checkpoint, args.format, args.output)
    except ParityError as error:
        print(f"export_model.py: {error}; {args.output} was not written")
        return 1
    print(f"{spec.network} with {spec.encoder}, {spec.size} px, epoch {checkpoint.epoch}"
          + (f", opset {OPSET}" if args.format == "onnx" else ""))  # fmt: skip
    print(f"largest difference on {len(_FINENESS)} fixed pictures: of a probability {probability:.3g}, "
          f"of a logit {logit:.3g} of its size")  # fmt: skip
    print(f"written: {args.output} ({args.output.stat().st_size / 1e6:.1f} MB)")
    return 0


def export(network: torch.nn.Module, checkpoint: Checkpoint, form: str, output: Path) -> tuple[float, float]:
    """Write `output`, all of it and checked, or nothing.

    Args:
        network: with the weights of `checkpoint`, in evaluation mode, on the CPU.
        form: of FORMATS.

    Returns:
        as `largest_differences`.

    Raises:
        ParityError: they are over the tolerances.
    """
    with atomic_file(output) as temp:
        temp.write_bytes(to_safetensors(network, checkpoint) if form == "safetensors" else to_onnx(network, checkpoint))
        found = largest_differences(network, _load(temp, form), checkpoint)
        # Not "any is greater", so that NaN does not pass.
        if not all(value <= most for value, most in zip(found, TOLERANCES[form], strict=True)):
            raise ParityError(
                f"{checkpoint.path} as {form} scores otherwise: probabilities differ by up to {found[0]:.3g} "
                f"({TOLERANCES[form][0]:g} at most is expected), logits by {found[1]:.3g} of their size "
                f"({TOLERANCES[form][1]:g})"
            )
    return found


def to_safetensors(network: torch.nn.Module, checkpoint: Checkpoint) -> bytes:
    """The file: the weights under the names of the state dict, and the description."""
    import safetensors.torch

    from networks.checkpoint import describe

    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    # "format" tells other readers of safetensors files which library's layout the weights have.
    return safetensors.torch.save(weights, {"format": "pt", **describe(checkpoint)})


def to_onnx(network: torch.nn.Module, checkpoint: Checkpoint) -> bytes:
    """The file: graph, weights, and the description in its metadata_props.

    Raises:
        UsageError: PyTorch has no ONNX form of something in this encoder.
    """
    import torch

    from networks.checkpoint import describe
    from networks.onnx_model import INPUT, OUTPUT

    size = checkpoint.spec.size
    # Two images: with one, the exporter takes the size of the batch for a constant.
    try:
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 3, size, size),),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            opset_version=OPSET,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        encoder = checkpoint.spec.encoder
        raise UsageError(f"{checkpoint.path}: PyTorch can't put {encoder} into ONNX; take safetensors") from error
    program.model.metadata_props.update(describe(checkpoint))
    return program.model_proto.SerializeToString()


def _load(path: Path, form: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The exported network, by the readers that predict_folder.py has."""
    from networks.checkpoint import load_model
    from networks.onnx_model import OnnxModel

    return load_model(path)[0] if form == "safetensors" else OnnxModel(path, "cpu")


def largest_differences(
    original: torch.nn.Module, exported: Callable[[torch.Tensor], torch.Tensor], checkpoint: Checkpoint
) -> tuple[float, float]:
    """How much two networks differ on fixed random pictures, scored one by itself and the others as a batch, in fp32.

    Returns:
        the largest difference of a probability, and the largest of a logit divided by its size (1 at least).
    """
    import torch

    from networks.model import Normalizer

    spec = checkpoint.spec
    generator = torch.Generator().manual_seed(0)
    pictures = [
        torch.nn.functional.interpolate(torch.rand(1, 3, spots, spots, generator=generator), (spec.size, spec.size))
        for spots in _FINENESS
    ]
    as_bytes = torch.cat(pictures).mul(255).byte().permute(0, 2, 3, 1)
    images = Normalizer(spec.mean, spec.std, "cpu")(as_bytes)
    with torch.inference_mode():
        ours, theirs = (torch.cat([network(images[:1]), network(images[1:])]) for network in (original, exported))
        probability = (torch.sigmoid(ours) - torch.sigmoid(theirs)).abs().max()
        logit = ((ours - theirs).abs() / ours.abs().clamp(min=1)).max()
    return float(probability), float(logit)


if __name__ == "__main__":
    command_line.run_main(main)
