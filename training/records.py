"""The record of an epoch: a line of JSON in logs/<run>.jsonl, written by training and read by plot_loss.py."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

Metrics = dict[str, float]


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch gave. None stands for what it did not have; it is left out of the line."""

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
    sets: dict[str, dict[str, Any]] | None = None  # of further validation sets by name, each with its "broken_crops"
    peak_memory_mib: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """What the epoch had, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def to_line(self) -> str:
        """A line of the log, without its end."""
        return json.dumps({"event": "epoch", **self.to_dict()})

    @classmethod
    def from_line(cls, line: str) -> EpochRecord | None:
        """The record in a line of the log; None for lines about something else.

        A log of an earlier version may have less in it, one of a later version more.

        Raises:
            ValueError, KeyError, TypeError: it is no line of the log, or was cut.
        """
        values = json.loads(line)
        if values["event"] != "epoch":
            return None
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})
