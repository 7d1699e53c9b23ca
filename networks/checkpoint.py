"""Checkpoints: written whole or not at all, read without running pickle code, and saying what they need.

A file holds {"epoch", "state_dict", "bce_best", ...}, as the winners' did; those load here as well. Ours add
"model" (network, encoder, size, normalize, margin_part, detector thresholds), "metrics" and "version", and where it is
known "data" (what was held out, see holdout.py); the `last` file also holds what a run needs to go on.

A safetensors file holds the weights and, in its metadata, the same description as text; see `describe`.
"""

from __future__ import annotations

import _codecs
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, Field
from safetensors import SafetensorError, safe_open
from torch import nn

from dfdc.artifacts import atomic_file
from dfdc.command_line import UserError
from dfdc.detector_settings import PREDICT_THRESHOLDS
from dfdc.imaging import IMAGENET_MEAN, IMAGENET_STD, MARGIN_PART
from networks.holdout import Holdout
from networks.model import NETWORKS, build_network
from networks.values import T, plain_values, read_values

VERSION = 1
EXPORT_VERSION = 1  # of the description in exported files
SAFETENSORS_SUFFIX = ".safetensors"

# The winners published only B7s; the others are what their code could train. Size: of their configurations.
_PUBLISHED = {
    2560: ("tf_efficientnet_b7.ns_jft_in1k", 380),
    2048: ("tf_efficientnet_b5.ns_jft_in1k", 380),
    1792: ("tf_efficientnet_b4.ns_jft_in1k", 380),
    1536: ("tf_efficientnet_b3.ns_jft_in1k", 300),
}


class CheckpointError(UserError, ValueError):
    """A checkpoint that can't be used; the message names the file and why."""


def _known(network: str) -> str:
    if network not in NETWORKS:
        raise ValueError(f"there are {', '.join(NETWORKS)}")
    return network


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Normalize:
    """What pictures (0..1) are normalised with: of red, green and blue."""

    mean: tuple[Finite, Finite, Finite] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD


@dataclass(frozen=True)
class ModelSpec:
    """What it takes to use a checkpoint: its "model"."""

    network: Annotated[str, AfterValidator(_known)]
    encoder: str  # of timm's, by name
    size: Count  # of a picture's sides, in pixels
    normalize: Normalize = Normalize()
    margin_part: Count = MARGIN_PART  # margin as a part 1/N of the face
    detector_thresholds: tuple[Finite, Finite, Finite] = PREDICT_THRESHOLDS


@dataclass
class Checkpoint:
    """A checkpoint as read: `state_dict` has plain names (no `module.`)."""

    path: Path
    spec: ModelSpec
    state_dict: dict[str, torch.Tensor]
    epoch: int
    bce_best: float
    metrics: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] | None = None  # only in a `last` file
    holdout: Holdout | None = None  # None: not known


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
    """Write a checkpoint; a full disk or a kill leaves the one that was there.

    Args:
        metrics: of these very weights; empty where they were not validated.
        training: what a run needs to go on.
        holdout: what these weights were not trained on; None where that is not known.
        average_of: names of the checkpoints whose mean this is.

    Raises:
        CheckpointError: it could not be written (the message says what to do).
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
        raise CheckpointError(f"{path} can't be written ({error}); free some space. The one before is whole") from error


def read_checkpoint(path: Path, *, mapped: bool = False) -> Checkpoint:
    """Read a checkpoint of this project, or of the winners', or a safetensors file of export_model.py.

    Args:
        mapped: leave the weights in the file until they are looked at, where its form allows it. The file must then
            stay as it is for as long as they are used.

    Raises:
        CheckpointError: not there, not a checkpoint, or of a network that is not known here.
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
        spec = _read_section(ModelSpec, content["model"], path, "model")
        if (data := content.get("data")) is not None:
            holdout = _read_section(Holdout, data, path, "data")
    else:
        spec = _guess_spec(weights, path)
        # The winners' encoders kept the ImageNet classifier, which their network never called.
        weights = {name: value for name, value in weights.items() if not name.startswith("encoder.classifier.")}
    try:
        epoch, best = int(content.get("epoch", -1)), float(content.get("bce_best", float("nan")))
        metrics = dict(content.get("metrics", {}))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its epoch, bce_best or metrics is broken ({error})") from None
    return Checkpoint(path, spec, weights, epoch, best, metrics, content.get("training"), holdout)


def is_safetensors(path: Path) -> bool:
    """Whether `path` is safetensors, by its name or its content: a length in 8 bytes, then that much JSON.

    A file of that name is never given to the reader of pickles, whatever it holds.
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
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors file that can be read ({error})") from error
    return Checkpoint(path, state_dict=weights, **read_description(metadata, path))


@dataclass(frozen=True)
class Description:
    """What an exported file says of itself. A figure that is not finite is None, as JSON has no word for it."""

    version: int  # EXPORT_VERSION of who wrote it
    model: ModelSpec
    epoch: int
    bce_best: float | None
    metrics: dict[str, float | None]
    data: Holdout | None  # None: not known


def describe(checkpoint: Checkpoint) -> dict[str, str]:
    """A `Description`, name -> JSON text; "data" is absent where it is not known.

    What a run needs to go on is left out.
    """
    best, figures = checkpoint.bce_best, checkpoint.metrics
    metrics = {name: _finite(value) for name, value in figures.items()}
    said = Description(EXPORT_VERSION, checkpoint.spec, checkpoint.epoch, _finite(best), metrics, checkpoint.holdout)
    values = plain_values(said)
    if said.data is None:
        del values["data"]
    return {name: json.dumps(value, allow_nan=False) for name, value in values.items()}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def read_description(texts: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The other way round from `describe`: a Checkpoint's spec, epoch, bce_best, metrics and holdout.

    Args:
        texts: the metadata of the file `path`; other programs may have added to it.

    Raises:
        CheckpointError: there is none, it is broken, or of a later version than this.
    """
    if not {"version", "model"} <= texts.keys():
        raise CheckpointError(f"{path} does not say what network it is for; export_model.py writes files that do")
    names = [field.name for field in fields(Description)]
    try:
        values: dict[str, Any] = {"data": None} | {name: json.loads(texts[name]) for name in names if name in texts}
        version = int(values["version"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its description is broken ({error})") from None
    if version > EXPORT_VERSION:
        raise CheckpointError(f"{path} has version {version}, later than the {EXPORT_VERSION} that is known here")
    found = _read_section(Description, values, path, "description")
    metrics = {name: _number(value) for name, value in found.metrics.items()}
    known = {"epoch": found.epoch, "bce_best": _number(found.bce_best), "metrics": metrics}
    return {"spec": found.model, "holdout": found.data, **known}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def read_file(path: Path, *, mapped: bool = False) -> Any:
    """torch.load without pickle code: tensors, plain values, and the NumPy scalars of the winners' files."""
    try:
        mapped = mapped and zipfile.is_zipfile(path)  # the winners' files are older than that form
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except Exception as error:  # torch.load raises errors of pickle, zipfile, struct and its own
        # PyTorch's own message advises to run whatever code is in the file.
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely ({type(error).__name__}): it is no file of PyTorch's, "
            "is damaged or not all there, or holds more than weights and plain values"
        ) from error


def _numpy_scalars() -> list:
    """What a pickled NumPy scalar consists of, under the names of NumPy 1 and 2."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*names, np.dtype, _codecs.encode, *kinds]  # encode: how pickle's protocol 2 writes bytes


def _read_section(kind: type[T], values: Any, path: Path, name: str) -> T:
    try:
        return read_values(kind, values)
    except ValueError as error:
        raise CheckpointError(f"{path}: its {name!r} is broken ({error})") from None


def _guess_spec(weights: dict[str, torch.Tensor], path: Path) -> ModelSpec:
    """Which of the winners' networks a file without a description holds, by the width of its last layer."""
    last = weights.get("fc.weight")
    width = last.shape[-1] if isinstance(last, torch.Tensor) and last.ndim == 2 else None
    if width not in _PUBLISHED or not any(name.startswith("encoder.") for name in weights):
        found = list(last.shape) if isinstance(last, torch.Tensor) else "absent"
        said = f"{path} does not say what network it is for, and is not one of the winners' either"
        raise CheckpointError(f"{said} (fc.weight: {found})")
    encoder, size = _PUBLISHED[width]
    return ModelSpec("DeepFakeClassifier", encoder, size)


def load_weights(model: nn.Module, checkpoint: Checkpoint, *, assign: bool = False) -> None:
    """Load the weights into `model`, every one of them, in the model's own types: fp16 becomes float32.

    Args:
        assign: take the checkpoint's tensors themselves instead of copying from them, but for those of other types.

    Raises:
        CheckpointError: they are another network's, no numbers that a network computes with, or not finite.
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
    """Weights of any floating type as `dtype`, if all are finite; themselves where that is their type."""
    if not isinstance(weights, torch.Tensor) or not weights.is_floating_point():
        kind = getattr(weights, "dtype", type(weights).__name__)
        raise CheckpointError(f"{path}: {name} is {kind}, and a floating type is expected")
    converted = weights.to(dtype)
    wrong = converted.numel() - int(torch.isfinite(converted).sum())
    if wrong:
        what = f"{wrong} of the {converted.numel()} values of {name}"
        raise CheckpointError(f"{path}: {what} are not finite (nan or inf)")
    return converted


def load_model(path: Path, *, mapped: bool = False) -> tuple[nn.Module, Checkpoint]:
    """A network in evaluation mode with the weights of `path`; no pretrained weights are fetched for it.

    Args:
        mapped: as in `read_checkpoint`. The network's tensors are then the file's, so that there is but one copy of
            float32 ones.
    """
    checkpoint = read_checkpoint(path, mapped=mapped)
    spec = checkpoint.spec
    bare = _build_without_weights(spec) if mapped else None
    model = build_network(spec.network, spec.encoder) if bare is None else bare
    load_weights(model, checkpoint, assign=bare is not None)
    return model.eval(), checkpoint


def _build_without_weights(spec: ModelSpec) -> nn.Module | None:
    """The network with its tensors still to be given, or None where it can't be had so.

    It can't where the encoder computes with its weights while it is built, or has tables that no checkpoint stores.
    """
    try:
        with torch.device("meta"):
            model = build_network(spec.network, spec.encoder)
    except Exception:  # built in the plain way it may work, and if it does not, that says why
        return None
    stored = model.state_dict().keys()
    return model if all(name in stored for name, _ in model.named_buffers()) else None
