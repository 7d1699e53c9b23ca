"""The log of a run: text and JSON lines for each epoch, TensorBoard, and the crops with the largest errors."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from torch.utils.tensorboard import SummaryWriter

from dfdc.artifacts import write_bytes, write_json
from dfdc.devices import package_versions
from dfdc.imaging import encode_png
from training import preview
from training.arguments import RunSettings
from training.config import TrainConfig, flatten
from training.dataset import CropDataset
from training.records import EpochRecord, Metrics, StartRecord
from training.saving import RunFiles


class RunLog:
    """Writes logs/<run>.log as text and logs/<run>.jsonl with all values; both are appended to, never overwritten."""

    def __init__(self, files: RunFiles, settings: RunSettings, config: TrainConfig) -> None:
        files.log_dir.mkdir(parents=True, exist_ok=True)
        self._text_path = files.log_dir / f"{files.name}.log"
        self._json_path = files.log_dir / f"{files.name}.jsonl"
        record = StartRecord(
            time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            config=config.model_dump(),
            arguments={name: str(v) if isinstance(v, Path) else v for name, v in asdict(settings).items()},
            versions=versions(),
        )
        self._write_line(record.to_line())
        self._wrong_path = files.log_dir / f"{files.name}_wrong.png"
        self._board = SummaryWriter(str(files.log_dir / files.name), flush_secs=10)
        write_json(files.output_dir / f"{files.name}_config.json", record.to_dict(), indent=2)

    def say(self, line: str) -> None:
        """Print a line and append it to the text log."""
        print(line, flush=True)
        with self._text_path.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")

    def epoch(self, record: EpochRecord) -> None:
        """Log an epoch as text, as JSON and in TensorBoard."""
        name = f"epoch {record.epoch}"
        self.say(
            f"{name} {_metrics_text(record.video or {})} | "
            f"train {_number(record.train_loss)} lr {record.learning_rate:.3g} "
            f"gradient {_number(record.gradient_norm)}{_left_out(record)} | "
            f"{record.images_per_second:.1f} img/s, data wait {record.data_wait:.0%}, {record.seconds:.0f} s, "
            f"{record.peak_memory_mib:.0f} MiB"
        )
        if record.video_ema is not None:
            self.say(f"{name} average {_metrics_text(record.video_ema)}")
        for other, found in (record.sets or {}).items():
            self.say(f"{name} on {other} {_metrics_text(found.video)}")
        self._write_line(record.to_line())
        numbers = {name: value for name, value in record.to_dict().items() if name != "event"}
        for tag, value in flatten(numbers).items():
            self._board.add_scalar(tag.replace(".", "/") if "." in tag else f"run/{tag}", value, record.epoch)
        self._board.flush()

    def most_wrong(
        self, epoch: int, crops: CropDataset, held_out: pd.DataFrame, rows: np.ndarray, scores: np.ndarray
    ) -> None:
        """Save a sheet of the held-out crops with the largest errors, as PNG and in TensorBoard."""
        sheet = preview.wrong_sheet(crops, held_out, rows, scores)
        write_bytes(self._wrong_path, encode_png(sheet), durable=False)
        self._board.add_image("most wrong", sheet, epoch, dataformats="HWC")

    def _write_line(self, line: str) -> None:
        with self._json_path.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _metrics_text(video: Metrics) -> str:
    fake, real, balanced, auc, accuracy = (
        _number(video.get(name)) for name in ("log_loss_fake", "log_loss_real", "log_loss_balanced", "auc", "accuracy")
    )
    return f"fake {fake} real {real} | bce {balanced} auc {auc} acc {accuracy}"


def _left_out(record: EpochRecord) -> str:
    """The numbers of skipped steps and unreadable crops, if any."""
    lost = {"steps skipped": record.skipped_steps, "crops unreadable": record.broken_training_crops}
    return "".join(f", {count} {what}" for what, count in lost.items() if count)


def versions() -> dict[str, str]:
    """Versions of Python, the main packages and the code: its git revision, with "+changes" if modified."""
    names = ("torch", "torchvision", "timm", "albumentations", "opencv-python-headless", "numpy")
    found = {"python": platform.python_version(), **package_versions(names, "unknown"), "revision": "unknown"}
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+changes", "--abbrev=12"]
        # Stays "unknown" if git is missing or has no access.
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            found["revision"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return found
