"""The lines of logs/<run>.jsonl: what a start and an epoch are recorded as, how they are written and read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from dfdc.command_line import SettingError

VERSION = 1  # of the lines; raised when a key changes its meaning

Metrics = dict[str, float]


@dataclass(frozen=True)
class _Line:
    """A dataclass that is a line of JSON."""

    def to_dict(self) -> dict[str, Any]:
        """What there is, by name; without the keys whose value is None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def to_line(self) -> str:
        """The line, without its end."""
        return json.dumps(self.to_dict())


@dataclass(frozen=True, kw_only=True)
class StartRecord(_Line):
    """What a start of a run is recorded as, also in <run>_config.json."""

    event: Literal["start"] = "start"
    version: int = VERSION  # absent from logs that are older than it
    time: str  # ISO 8601 with the offset from UTC
    config: dict[str, Any]  # TrainConfig by key
    arguments: dict[str, Any]  # RunSettings by name; paths as texts
    versions: dict[str, str]  # of Python, the libraries and the code


@dataclass(frozen=True, kw_only=True)
class SetRecord:
    """What an epoch's weights gave on a further validation set; the metrics are as in `EpochRecord`."""

    frame: Metrics | None = None
    video: Metrics
    video_confident: Metrics | None = None
    broken_crops: int = 0


@dataclass(frozen=True, kw_only=True)
class EpochRecord(_Line):
    """What an epoch gave. None stands for what it did not have; it is left out of the line."""

    event: Literal["epoch"] = "epoch"
    epoch: int  # from 0
    step: int = 0  # optimizer steps since the run began
    seed: int = 0
    train_fake: float | None = None  # mean losses of the training crops, by class and of both
    train_real: float | None = None
    train_loss: float | None = None
    gradient_norm: float | None = None  # before clipping, as the largest
    largest_gradient_norm: float | None = None
    skipped_steps: int = 0  # whose loss or gradient was not finite
    broken_training_crops: int = 0
    images_per_second: float = 0.0
    data_wait: float = 0.0  # part of the time that went by waiting for crops, 0..1
    seconds: float = 0.0
    learning_rate: float = 0.0  # of the last step
    loss_scale: float | None = None  # of fp16
    frame: Metrics | None = None  # of the held-out crops and videos, see `metrics.validation_metrics`
    video: Metrics | None = None
    video_confident: Metrics | None = None
    broken_held_out_crops: int | None = None
    frame_ema: Metrics | None = None  # of the average of the weights
    video_ema: Metrics | None = None
    video_confident_ema: Metrics | None = None
    sets: dict[str, SetRecord] | None = None  # of further validation sets by name
    peak_memory_mib: float = 0.0


_EPOCH = TypeAdapter(EpochRecord)


def read_epochs(path: Path) -> list[EpochRecord]:
    """The epochs of a run, in the order in which they were trained.

    Lines that a kill cut, and lines about something else, are passed over. A log of an earlier version may have less
    in it, one of a later version more.

    Args:
        path: logs/<run>.jsonl, or logs/<run>.log, which lies beside it.

    Raises:
        SettingError: it can't be read.
    """
    lines_path = path.with_suffix(".jsonl") if path.suffix == ".log" else path
    try:
        lines = lines_path.read_bytes().splitlines()
    except OSError as error:
        advice = f"{lines_path} can't be read ({error.strerror}); training writes it, and <run>.log beside it"
        raise SettingError("log_file", path, advice) from None
    return [record for line in lines if (record := _read_epoch(line))]


def _read_epoch(line: bytes) -> EpochRecord | None:
    try:
        return _EPOCH.validate_json(line, strict=True)
    except ValidationError:  # also of a start
        return None
