"""The network of a checkpoint as a file that other programs read, checked against the original before it is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from dfdc.artifacts import atomic_file
from dfdc.command_line import UserError
from networks.checkpoint import Checkpoint, CheckpointError, describe, load_model
from networks.model import Normalizer
from networks.onnx_model import INPUT, OUTPUT, OnnxModel

OPSET = 18
# Largest difference of a probability, and of a logit as a part of its size. The same weights in the same network give
# the same bits; ONNX Runtime adds up in another order. The logit is looked at as well because a network that is sure of
# all the pictures has the same probability, 0 or 1, whatever went wrong.
TOLERANCES = {"safetensors": (0.0, 0.0), "onnx": (1e-4, 1e-3)}
_FINENESS = (2, 8, 32, 128)  # of the fixed pictures: coloured spots along a side


class ParityError(UserError):
    """The exported network does not score as the original does."""

    status = 1


def export(path: Path, form: str, output: Path) -> None:
    """Write the network of a checkpoint to `output`, all of it and checked, or nothing; and print what it is.

    Args:
        path: of a checkpoint, ours or the winners', or a safetensors file.
        form: of TOLERANCES.

    Raises:
        UserError: the checkpoint can't be used, or PyTorch can't put its network into this form.
        ParityError: the exported network scores otherwise.
    """
    network, checkpoint = load_model(path)
    with atomic_file(output) as temp:
        temp.write_bytes(to_safetensors(network, checkpoint) if form == "safetensors" else to_onnx(network, checkpoint))
        found = largest_differences(network, _load(temp, form), checkpoint)
        # Not "any is greater", so that NaN does not pass.
        if not all(value <= most for value, most in zip(found, TOLERANCES[form], strict=True)):
            raise ParityError(
                f"{path} as {form} scores otherwise: probabilities differ by up to {found[0]:.3g} "
                f"({TOLERANCES[form][0]:g} at most is expected), logits by {found[1]:.3g} of their size "
                f"({TOLERANCES[form][1]:g}); {output} was not written"
            )
    spec, opset = checkpoint.spec, f", opset {OPSET}" if form == "onnx" else ""
    print(f"{spec.network} with {spec.encoder}, {spec.size} px, epoch {checkpoint.epoch}{opset}")
    differences = f"of a probability {found[0]:.3g}, of a logit {found[1]:.3g} of its size"
    print(f"largest difference on {len(_FINENESS)} fixed pictures: {differences}")
    print(f"written: {output} ({output.stat().st_size / 1e6:.1f} MB)")


def to_safetensors(network: torch.nn.Module, checkpoint: Checkpoint) -> bytes:
    """The file: the weights under the names of the state dict, and the description."""
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    # "format" tells other readers of safetensors files which library's layout the weights have.
    return safetensors.torch.save(weights, {"format": "pt", **describe(checkpoint)})


def to_onnx(network: torch.nn.Module, checkpoint: Checkpoint) -> bytes:
    """The file: graph, weights, and the description in its metadata_props.

    Raises:
        CheckpointError: PyTorch has no ONNX form of something in this encoder.
    """
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
        raise CheckpointError(f"{checkpoint.path}: PyTorch can't put {encoder} into ONNX; take safetensors") from error
    if program is None:
        raise CheckpointError(f"{checkpoint.path}: PyTorch made no ONNX of it; take safetensors")
    program.model.metadata_props.update(describe(checkpoint))
    return program.model_proto.SerializeToString()


def _load(path: Path, form: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The exported network, by the readers that predict_folder.py has."""
    return load_model(path)[0] if form == "safetensors" else OnnxModel(path, "cpu")


def largest_differences(
    original: torch.nn.Module, exported: Callable[[torch.Tensor], torch.Tensor], checkpoint: Checkpoint
) -> tuple[float, float]:
    """How much two networks differ on fixed random pictures, scored one by itself and the others as a batch, in fp32.

    Returns:
        the largest difference of a probability, and the largest of a logit divided by its size (1 at least).
    """
    spec = checkpoint.spec
    generator = torch.Generator().manual_seed(0)
    spots = [torch.rand(1, 3, count, count, generator=generator) for count in _FINENESS]
    pictures = [torch.nn.functional.interpolate(coarse, (spec.size, spec.size)) for coarse in spots]
    as_bytes = torch.cat(pictures).mul(255).byte().permute(0, 2, 3, 1)
    images = Normalizer(spec.normalize.mean, spec.normalize.std, "cpu")(as_bytes)
    with torch.inference_mode():
        ours, theirs = (torch.cat([network(images[:1]), network(images[1:])]) for network in (original, exported))
        probability = (torch.sigmoid(ours) - torch.sigmoid(theirs)).abs().max()
        logit = ((ours - theirs).abs() / ours.abs().clamp(min=1)).max()
    return float(probability), float(logit)
