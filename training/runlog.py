"""The log of a run: a line or more for people and a line of JSON for each epoch, TensorBoard, the most wrong crops."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfdc.artifacts import write_bytes, write_json
from dfdc.devices import package_versions
from dfdc.imaging import encode_png
from training import preview
from training.config import flatten

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from training.dataset import CropDataset
    from training.saving import RunFiles


class RunLog:
    """logs/<run>.log for people and logs/<run>.jsonl with everything; both are appended to, never overwritten."""

    def __init__(self, files: RunFiles, arguments: dict[str, Any], config: dict[str, Any]) -> None:
        files.log_dir.mkdir(parents=True, exist_ok=True)
        self._text_path = files.log_dir / f"{files.name}.log"
        self._json_path = files.log_dir / f"{files.name}.jsonl"
        record = {
            "event": "start",
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "config": config,
            "arguments": {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()},
            "versions": versions(),
        }
        self._write_json(record)
        self._wrong_path = files.log_dir / f"{files.name}_wrong.png"
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(files.log_dir / files.name), flush_secs=10)
        write_json(files.output_dir / f"{files.name}_config.json", record, indent=2)

    def say(self, line: str) -> None:
        """Print a line, and keep it."""
        print(line, flush=True)
        with self._text_path.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")

    def epoch(self, result: dict[str, Any]) -> None:
        """Lines for people, which plot_loss.py reads as well, and one of JSON.

        Args:
            result: of the epoch; "video" are the metrics of the held-out videos, "video_ema" those of the averaged
                weights, "sets" those of further validation sets by name.
        """
        name = f"epoch {result['epoch']}"
        self.say(
            f"{name} {_metrics_text(result.get('video', {}))} | "
            f"train {_number(result, 'train_loss')} lr {result['learning_rate']:.3g} "
            f"gradient {_number(result, 'gradient_norm')}{_left_out(result)} | "
            f"{result['images_per_second']:.1f} img/s, data wait {result['data_wait']:.0%}, {result['seconds']:.0f} s, "
            f"{result['peak_memory_mib']:.0f} MiB"
        )
        if "video_ema" in result:
            self.say(f"{name} average {_metrics_text(result['video_ema'])}")
        for other, found in result.get("sets", {}).items():
            self.say(f"{name} on {other} {_metrics_text(found['video'])}")
        self._write_json({"event": "epoch", **result})
        for tag, value in flatten(result).items():
            self._board.add_scalar(tag.replace(".", "/") if "." in tag else f"run/{tag}", value, result["epoch"])
        self._board.flush()

    def most_wrong(
        self, epoch: int, crops: CropDataset, held_out: pd.DataFrame, rows: np.ndarray, scores: np.ndarray
    ) -> None:
        """A sheet of the held-out crops whose scores are farthest from their labels: a PNG, and in TensorBoard."""
        sheet = preview.wrong_sheet(crops, held_out, rows, scores)
        write_bytes(self._wrong_path, encode_png(sheet), durable=False)
        self._board.add_image("most wrong", sheet, epoch, dataformats="HWC")

    def _write_json(self, record: dict[str, Any]) -> None:
        with self._json_path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")


def _number(values: dict[str, Any], key: str) -> str:
    return f"{values[key]:.4f}" if key in values else "-"


def _metrics_text(video: dict[str, float]) -> str:
    return (
        f"fake {_number(video, 'log_loss_fake')} real {_number(video, 'log_loss_real')} | "
        f"bce {_number(video, 'log_loss_balanced')} auc {_number(video, 'auc')} acc {_number(video, 'accuracy')}"
    )


def _left_out(result: dict[str, Any]) -> str:
    """What an epoch lost, if anything."""
    lost = {"steps skipped": result["skipped_steps"], "crops unreadable": result["broken_training_crops"]}
    return "".join(f", {count} {what}" for what, count in lost.items() if count)


def versions() -> dict[str, str]:
    """Python, the libraries that matter, and the git revision (with "+changes" where the tree has some)."""
    names = ("torch", "torchvision", "timm", "albumentations", "opencv-python-headless", "numpy")
    found = {"python": platform.python_version(), **package_versions(names, "unknown"), "revision": "unknown"}
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+changes", "--abbrev=12"]
        try:
            git = subprocess.run(command, capture_output=True, text=True, check=True)
            found["revision"] = git.stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass  # no git here, or not allowed to look: "unknown" says so
    return found
