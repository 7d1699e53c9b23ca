"""What a checkpoint says about its network, without loading PyTorch.

A network that was converted for another engine needs only this description to score.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from dfdc.command_line import UserError
from dfdc.detector_settings import PREDICT_THRESHOLDS
from dfdc.imaging import IMAGENET_MEAN, IMAGENET_STD, MARGIN_PART
from networks.holdout import Holdout
from networks.values import T, read_values

EXPORT_VERSION = 1  # version of the description in exported files
NETWORK_NAMES = ("DeepFakeClassifier", "DeepFakeClassifierGWAP", "DeepFakeClassifierSRM")  # classes of model.py


class CheckpointError(UserError, ValueError):
    """An unusable checkpoint; the message names the file and says why."""


def _known(network: str) -> str:
    if network not in NETWORK_NAMES:
        raise ValueError(f"unknown network; choose {', '.join(NETWORK_NAMES)}")
    return network


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=1, le=2048)]  # of an image; a larger one would fill the memory


@dataclass(frozen=True)
class Normalize:
    """Mean and standard deviation of red, green and blue, for normalising images in 0..1."""

    mean: tuple[Finite, Finite, Finite] = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD

    def to_input(self, images: np.ndarray) -> np.ndarray:
        """RGB uint8 [n, h, w, 3] -> float32 [n, 3, h, w], equal in every bit to `networks.model.Normalizer`."""
        mean, std = (np.float32(255) * np.asarray(values, np.float32) for values in (self.mean, self.std))
        return np.ascontiguousarray(((images.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class ModelSpec:
    """The "model" section of a checkpoint: everything needed to use it."""

    network: Annotated[str, AfterValidator(_known)]
    encoder: str  # timm model name
    size: Side  # image side in pixels
    normalize: Normalize = Normalize()
    margin_part: Count = MARGIN_PART  # N: the margin is 1/N of the face
    detector_thresholds: tuple[Finite, Finite, Finite] = PREDICT_THRESHOLDS


@dataclass(frozen=True)
class Description:
    """The metadata of an exported file. Numbers that are not finite are None, because JSON can't express them."""

    version: int  # EXPORT_VERSION of the program that wrote it
    model: ModelSpec
    epoch: int
    bce_best: float | None
    metrics: dict[str, float | None]
    data: Holdout | None  # None: unknown


def read_description(texts: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The inverse of `describe`: spec, epoch, bce_best, metrics and holdout of a Checkpoint.

    Args:
        texts: the metadata of the file `path`; keys added by other programs are ignored.

    Raises:
        CheckpointError: the metadata is missing, invalid, or of a later version than this program supports.
    """
    if not {"version", "model"} <= texts.keys():
        raise CheckpointError(f"{path} does not describe its network; create the file with export_model.py")
    names = [field.name for field in fields(Description)]
    try:
        values: dict[str, Any] = {"data": None} | {name: json.loads(texts[name]) for name in names if name in texts}
        version = int(values["version"])
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: its description is invalid ({error})") from None
    if version > EXPORT_VERSION:
        raise CheckpointError(f"{path} has version {version}, but this program supports only up to {EXPORT_VERSION}")
    found = read_section(Description, values, path, "description")
    metrics = {name: _number(value) for name, value in found.metrics.items()}
    known = {"epoch": found.epoch, "bce_best": _number(found.bce_best), "metrics": metrics}
    return {"spec": found.model, "holdout": found.data, **known}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def read_section(kind: type[T], values: Any, path: Path, name: str) -> T:
    """A section of the file `path` as the dataclass `kind`; CheckpointError if it is invalid."""
    try:
        return read_values(kind, values)
    except ValueError as error:
        raise CheckpointError(f"{path}: its {name!r} is invalid ({error})") from None
