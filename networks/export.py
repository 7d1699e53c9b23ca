"""Exports the network of a checkpoint for other programs, after comparing it with the original."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from dfdc.artifacts import atomic_file
from dfdc.command_line import UserError
from networks.checkpoint import Checkpoint, describe, load_model
from networks.onnx_model import INPUT, OUTPUT, OnnxModel
from networks.parity import Difference, difference, in_two_batches
from networks.sample_faces import sample_faces
from networks.spec import CheckpointError
from networks.torch_model import TorchModel

OPSET = 18
# The largest allowed differences. Equal weights in the same network produce equal bits; ONNX Runtime sums in another
# order.
TOLERANCES = {"safetensors": Difference(0.0, 0.0), "onnx": Difference(1e-4, 1e-3)}


class ParityError(UserError):
    """The scores of the exported network differ from the original's."""

    status = 1


def export(path: Path, form: str, output: Path) -> None:
    """Write the network of a checkpoint to `output` atomically after checking it, and print a summary.

    Args:
        path: a checkpoint of this project or the winners, or a safetensors file.
        form: a key of TOLERANCES.

    Raises:
        UserError: the checkpoint is unusable, or PyTorch can't export its network to this format.
        ParityError: the scores of the exported network differ.
    """
    network, checkpoint = load_model(path)
    with atomic_file(output) as temp:
        temp.write_bytes(to_safetensors(network, checkpoint) if form == "safetensors" else to_onnx(network, checkpoint))
        images = sample_faces(checkpoint.spec.size)
        ours, theirs = (in_two_batches(_load(*one), images) for one in ((path, "checkpoint"), (temp, form)))
        found, most = difference(ours, theirs), TOLERANCES[form]
        if not found.within(most):
            raise ParityError(
                f"{path}: the scores of the {form} export differ, so {output} was not written. Largest difference of "
                f"probabilities {found.probability:.3g} (allowed: {most.probability:g}), relative difference of logits "
                f"{found.logit:.3g} (allowed: {most.logit:g})"
            )
    spec, opset = checkpoint.spec, f", opset {OPSET}" if form == "onnx" else ""
    print(f"{spec.network} with {spec.encoder}, {spec.size} px, epoch {checkpoint.epoch}{opset}")
    differences = f"probability {found.probability:.3g}, logit {found.logit:.3g} (relative)"
    print(f"largest difference on {len(images)} images of a face: {differences}")
    print(f"written: {output} ({output.stat().st_size / 1e6:.1f} MB)")


def to_safetensors(network: torch.nn.Module, checkpoint: Checkpoint) -> bytes:
    """The file content: the weights under their state dict names, and the description."""
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    # "format" tells other safetensors readers which library's layout the weights have.
    return safetensors.torch.save(weights, {"format": "pt", **describe(checkpoint)})


def to_onnx(network: torch.nn.Module, checkpoint: Checkpoint) -> bytes:
    """The file content: graph, weights, and the description in its metadata_props.

    Raises:
        CheckpointError: PyTorch can't export this encoder to ONNX.
    """
    size = checkpoint.spec.size
    # Two images, because with one the exporter treats the batch size as a constant.
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
        raise CheckpointError(f"{checkpoint.path}: PyTorch can't export {encoder} to ONNX; use safetensors") from error
    if program is None:
        raise CheckpointError(f"{checkpoint.path}: PyTorch's ONNX export returned nothing; use safetensors")
    program.model.metadata_props.update(describe(checkpoint))
    return program.model_proto.SerializeToString()


def _load(path: Path, form: str) -> Callable[[np.ndarray], np.ndarray]:
    """The logits of a checkpoint or exported file, loaded as in predict_folder.py."""
    return OnnxModel(path, "cpu").logits if form == "onnx" else TorchModel(path, "cpu", "fp32").logits
