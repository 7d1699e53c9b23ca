"""Where a run writes, and its log: a line for people and a line of JSON for each epoch."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfdc.artifacts import write_bytes, write_json
from dfdc.devices import package_versions
from dfdc.imaging import encode_png
from training import preview

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from training.dataset import CropDataset


@dataclass(frozen=True)
class RunFiles:
    """The files of a run. Path takes care that `weights` and `weights/` are one place."""

    output_dir: Path
    log_dir: Path
    name: str

    @property
    def last(self) -> Path:
        """Everything that it takes to go on."""
        return self.output_dir / f"{self.name}_last"

    @property
    def best(self) -> Path:
        """The weights of the epoch with the lowest held-out log loss."""
        return self.output_dir / f"{self.name}_best"

    def epoch(self, epoch: int) -> Path:
        """The weights after `epoch`."""
        return self.output_dir / f"{self.name}_{epoch}"

    def average(self, epoch: int) -> Path:
        """The average of the weights (ema_decay) after `epoch`."""
        return self.output_dir / f"{self.name}_{epoch}_ema"


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
        """One line for people, which plot_loss.py reads as well, and one of JSON."""
        video = result.get("video", {})

        def number(values: dict[str, Any], key: str) -> str:
            return f"{values[key]:.4f}" if key in values else "-"

        self.say(
            f"epoch {result['epoch']} fake {number(video, 'log_loss_fake')} real {number(video, 'log_loss_real')} | "
            f"bce {number(video, 'log_loss_balanced')} auc {number(video, 'auc')} acc {number(video, 'accuracy')} | "
            f"train {number(result, 'train_loss')} lr {result['learning_rate']:.3g} | "
            f"{result['images_per_second']:.1f} img/s, data wait {result['data_wait']:.0%}, {result['seconds']:.0f} s"
        )
        self._write_json({"event": "epoch", **result})
        for group, values in result.items():
            for name, value in values.items() if isinstance(values, dict) else ((group, values),):
                tag = f"{group}/{name}" if isinstance(values, dict) else f"run/{name}"
                self._board.add_scalar(tag, value, result["epoch"])
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
