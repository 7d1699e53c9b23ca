"""The lines of logs/<run>.jsonl: records of starts and epochs, written and read as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from dfdc.command_line import SettingError
from dfdc.identity import regular

VERSION = 1  # of the format; incremented when a key changes its meaning

Metrics = dict[str, float]


@dataclass(frozen=True)
class _Line:
    """A dataclass that is stored as one line of JSON."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, without those that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def to_line(self) -> str:
        """The JSON text, without a newline."""
        return json.dumps(self.to_dict())


@dataclass(frozen=True, kw_only=True)
class StartRecord(_Line):
    """The record of a start or resume of a run; also stored in <run>_config.json."""

    event: Literal["start"] = "start"
    version: int = VERSION  # missing in older logs
    time: str  # ISO 8601 with UTC offset
    config: dict[str, Any]  # the values of TrainConfig
    arguments: dict[str, Any]  # the values of RunSettings; paths as strings
    versions: dict[str, str]  # of Python, the packages and the code


@dataclass(frozen=True, kw_only=True)
class SetRecord:
    """The metrics of an epoch on a further validation set, as in `EpochRecord`."""

    frame: Metrics | None = None
    video: Metrics
    video_confident: Metrics | None = None
    broken_crops: int = 0


@dataclass(frozen=True, kw_only=True)
class EpochRecord(_Line):
    """The record of an epoch. Fields that do not apply are None, and are omitted from the line."""

    event: Literal["epoch"] = "epoch"
    epoch: int  # from 0
    step: int = 0  # optimizer steps since the start of the run
    seed: int = 0
    train_fake: float | None = None  # mean training losses, by class and of both
    train_real: float | None = None
    train_loss: float | None = None
    gradient_norm: float | None = None  # mean over the steps, before clipping
    largest_gradient_norm: float | None = None  # before clipping
    skipped_steps: int = 0  # steps with a non-finite loss or gradient
    broken_training_crops: int = 0
    images_per_second: float = 0.0
    data_wait: float = 0.0  # fraction of the time spent waiting for crops, 0..1
    seconds: float = 0.0
    learning_rate: float = 0.0  # of the last step
    loss_scale: float | None = None  # fp16 only
    frame: Metrics | None = None  # held-out metrics, see `metrics.validation_metrics`
    video: Metrics | None = None
    video_confident: Metrics | None = None
    broken_held_out_crops: int | None = None
    frame_ema: Metrics | None = None  # held-out metrics of the averaged weights
    video_ema: Metrics | None = None
    video_confident_ema: Metrics | None = None
    sets: dict[str, SetRecord] | None = None  # further validation sets, by name
    peak_memory_mib: float = 0.0


_EPOCH = TypeAdapter(EpochRecord)


def read_epochs(path: Path) -> list[EpochRecord]:
    """Read the epoch records of a run, in training order.

    Truncated lines and other records are skipped. Logs of earlier versions may lack fields; logs of later versions may
    have additional ones.

    Args:
        path: logs/<run>.jsonl, or logs/<run>.log in the same folder.

    Raises:
        SettingError: the log can't be read.
    """
    lines_path = path.with_suffix(".jsonl") if path.suffix == ".log" else path
    try:
        regular(lines_path)
        lines = lines_path.read_bytes().splitlines()
    except OSError as error:
        advice = f"{lines_path} can't be read ({error.strerror}); training writes it beside <run>.log"
        raise SettingError("log_file", path, advice) from None
    return [record for line in lines if (record := _read_epoch(line))]


def _read_epoch(line: bytes) -> EpochRecord | None:
    try:
        return _EPOCH.validate_json(line, strict=True)
    except ValidationError:  # includes records of starts
        return None
