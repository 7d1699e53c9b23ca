"""Self-describing checkpoints, written atomically and read without running pickle code.

A file contains {"epoch", "state_dict", "bce_best", ...}, as the winners' files do; those load too. Our files add
"model" (network, encoder, size, normalize, margin_part, detector thresholds), "metrics" and "version". If known, "data"
describes the hold-out (see holdout.py). The `last` file also contains the training state for resuming a run.

A safetensors file contains the weights and, in its metadata, the same description as text; see `describe`.
"""

from __future__ import annotations

import _codecs
import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from dfdc.artifacts import atomic_file
from dfdc.identity import regular
from networks.holdout import Holdout
from networks.model import build_network
from networks.spec import EXPORT_VERSION, CheckpointError, Description, ModelSpec, read_description, read_section
from networks.values import plain_values

VERSION = 1
SAFETENSORS_SUFFIX = ".safetensors"

# Width of the last layer -> encoder and image size of the winners' configurations. They published only B7s.
_PUBLISHED = {
    2560: ("tf_efficientnet_b7.ns_jft_in1k", 380),
    2048: ("tf_efficientnet_b5.ns_jft_in1k", 380),
    1792: ("tf_efficientnet_b4.ns_jft_in1k", 380),
    1536: ("tf_efficientnet_b3.ns_jft_in1k", 300),
}


@dataclass
class Checkpoint:
    """A checkpoint in memory; the names in `state_dict` have no `module.` prefix."""

    path: Path
    spec: ModelSpec
    state_dict: dict[str, torch.Tensor]
    epoch: int
    bce_best: float
    metrics: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] | None = None  # only in a `last` file
    holdout: Holdout | None = None  # None: unknown


def save_checkpoint(
    path: Path,
    model: nn.Module,
    spec: ModelSpec,
    *,
    epoch: int,
    bce_best: float,
    metrics: dict[str, float],
    training: dict[str, Any] | None = None,
    holdout: Holdout | None = None,
    average_of: Sequence[str] = (),
) -> None:
    """Write a checkpoint atomically; if the disk is full or the process is killed, the previous file stays.

    Args:
        metrics: validation metrics of exactly these weights; empty if they were not validated.
        training: training state for resuming a run.
        holdout: videos that these weights were not trained on; None if unknown.
        average_of: names of the checkpoints that were averaged.

    Raises:
        CheckpointError: it could not be written; the message says what to do.
    """
    content: dict[str, Any] = {
        "epoch": epoch,
        "state_dict": {name: value.detach().cpu() for name, value in model.state_dict().items()},
        "bce_best": float(bce_best),
        "metrics": {name: float(value) for name, value in metrics.items()},
        "model": plain_values(spec),
        "version": VERSION,
    }
    data = holdout and plain_values(holdout)
    where_known = {"training": training, "data": data, "average_of": list(average_of) or None}
    content |= {name: value for name, value in where_known.items() if value is not None}
    try:
        with atomic_file(path) as temp:
            torch.save(content, temp)
    except (OSError, RuntimeError) as error:  # PyTorch's zip writer reports a full disk as RuntimeError
        raise CheckpointError(
            f"{path} can't be written ({error}); free disk space. The previous file is intact"
        ) from error


def read_checkpoint(path: Path, *, mapped: bool = False) -> Checkpoint:
    """Read a checkpoint of this project or the winners, or a safetensors file from export_model.py.

    Args:
        mapped: memory-map the weights if the file format allows it. The file must then stay unchanged while they
            are used.

    Raises:
        CheckpointError: the file is missing, not a checkpoint, or of an unknown network.
    """
    if is_safetensors(path):
        return _read_safetensors(path)
    content = read_file(path, mapped=mapped)
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{path} is not a checkpoint: it has no state_dict")
    weights = {str(name).removeprefix("module."): value for name, value in weights.items()}
    holdout = None
    if "model" in content:
        spec = read_section(ModelSpec, content["model"], path, "model")
        if (data := content.get("data")) is not None:
            holdout = read_section(Holdout, data, path, "data")
    else:
        spec = _guess_spec(weights, path)
        # The winners' encoders include the ImageNet classifier, which their network never used.
        weights = {name: value for name, value in weights.items() if not name.startswith("encoder.classifier.")}
    try:
        epoch, best = int(content.get("epoch", -1)), float(content.get("bce_best", float("nan")))
        metrics = dict(content.get("metrics", {}))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its epoch, bce_best or metrics is invalid ({error})") from None
    return Checkpoint(path, spec, weights, epoch, best, metrics, content.get("training"), holdout)


def is_safetensors(path: Path) -> bool:
    """Whether `path` is a safetensors file, by its suffix or its content: a length in 8 bytes, then as much JSON.

    A file with that suffix is never passed to the pickle reader, whatever its content.
    """
    if path.suffix.lower() == SAFETENSORS_SUFFIX:
        return True
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        start = handle.read(9)
    return start[8:] == b"{" and 8 + int.from_bytes(start[:8], "little") <= path.stat().st_size


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        regular(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error})") from error
    return Checkpoint(path, state_dict=weights, **read_description(metadata, path))


def describe(checkpoint: Checkpoint) -> dict[str, str]:
    """A checkpoint's `Description`, name -> JSON text, without the training state; "data" is omitted if unknown."""
    best, figures = checkpoint.bce_best, checkpoint.metrics
    metrics = {name: _finite(value) for name, value in figures.items()}
    said = Description(EXPORT_VERSION, checkpoint.spec, checkpoint.epoch, _finite(best), metrics, checkpoint.holdout)
    values = plain_values(said)
    if said.data is None:
        del values["data"]
    return {name: json.dumps(value, allow_nan=False) for name, value in values.items()}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def read_file(path: Path, *, mapped: bool = False) -> Any:
    """torch.load restricted to tensors, plain values, and the NumPy scalars of the winners' files."""
    try:
        regular(path)
        mapped = mapped and zipfile.is_zipfile(path)  # the winners' files predate the zip format
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as error:  # torch.load raises errors of pickle, zipfile, struct and its own
        # PyTorch's own message advises running the code in the file.
        raise CheckpointError(
            f"{path} can't be read safely as a checkpoint ({type(error).__name__}). It is not a PyTorch file, is "
            "corrupt or incomplete, or contains more than weights and plain values"
        ) from error


def _numpy_scalars() -> list:
    """The globals in a pickled NumPy scalar, under their names in NumPy 1 and 2."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*names, np.dtype, _codecs.encode, *kinds]  # pickle protocol 2 stores bytes with encode


def _guess_spec(weights: dict[str, torch.Tensor], path: Path) -> ModelSpec:
    """Identify the winners' network in a file without a description, by the width of its last layer."""
    last = weights.get("fc.weight")
    width = last.shape[-1] if isinstance(last, torch.Tensor) and last.ndim == 2 else None
    if width not in _PUBLISHED or not any(name.startswith("encoder.") for name in weights):
        found = list(last.shape) if isinstance(last, torch.Tensor) else "missing"
        said = f"{path} does not describe its network, and is not one of the winners' checkpoints"
        raise CheckpointError(f"{said} (fc.weight: {found})")
    encoder, size = _PUBLISHED[width]
    return ModelSpec("DeepFakeClassifier", encoder, size)


def load_weights(model: nn.Module, checkpoint: Checkpoint, *, assign: bool = False) -> None:
    """Load all weights into `model`, converted to the model's types, such as fp16 to float32.

    Args:
        assign: use the checkpoint's tensors themselves instead of copies, unless their type must be converted.

    Raises:
        CheckpointError: the weights do not fit the network, are not floating-point, or are not finite.
    """
    weights = dict(checkpoint.state_dict)
    for name, own in model.state_dict().items():
        if name in weights and own.is_floating_point():
            weights[name] = _as(own.dtype, weights[name], name, checkpoint.path)
    try:
        model.load_state_dict(weights, strict=True, assign=assign)
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:3])[:400]
        kind = f"{checkpoint.spec.network} with {checkpoint.spec.encoder}"
        raise CheckpointError(f"{checkpoint.path} does not fit {kind}: {reason}") from None


def _as(dtype: torch.dtype, weights: Any, name: str, path: Path) -> torch.Tensor:
    """Convert floating-point weights to `dtype` and check that all are finite; no copy if the type is the same."""
    if not isinstance(weights, torch.Tensor) or not weights.is_floating_point():
        kind = getattr(weights, "dtype", type(weights).__name__)
        raise CheckpointError(f"{path}: {name} is {kind}, expected a floating-point type")
    converted = weights.to(dtype)
    wrong = converted.numel() - int(torch.isfinite(converted).sum())
    if wrong:
        what = f"{wrong} of the {converted.numel()} values of {name}"
        raise CheckpointError(f"{path}: {what} are not finite (nan or inf)")
    return converted


def load_model(path: Path, *, mapped: bool = False) -> tuple[nn.Module, Checkpoint]:
    """A network in evaluation mode with the weights of `path`; no pretrained weights are downloaded.

    Args:
        mapped: as in `read_checkpoint`. The network then shares the file's tensors, without a second copy of float32
            weights.
    """
    checkpoint = read_checkpoint(path, mapped=mapped)
    spec = checkpoint.spec
    bare = _build_without_weights(spec) if mapped else None
    model = build_network(spec.network, spec.encoder) if bare is None else bare
    load_weights(model, checkpoint, assign=bare is not None)
    return model.eval(), checkpoint


def _build_without_weights(spec: ModelSpec) -> nn.Module | None:
    """The network without allocated tensors (on the meta device), or None if it can't be built that way.

    It can't if the encoder computes with its weights during construction, or has buffers outside the state dict.
    """
    try:
        with torch.device("meta"):
            model = build_network(spec.network, spec.encoder)
    except Exception:  # the normal construction may work, or reports the error
        return None
    stored = model.state_dict().keys()
    return model if all(name in stored for name, _ in model.named_buffers()) else None
