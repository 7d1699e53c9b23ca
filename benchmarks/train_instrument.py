"""Train an EfficientNet-B7 on the demo dataset, to measure how numeric precision changes the scores of trained weights.

    python benchmarks/train_instrument.py demo --output-dir weights

Random weights say little: rounding grows or fades in them as it does in no trained network. The published weights are
not always at hand. This network learns from random weights: first on small images, which takes most of the steps, then
on images of the published size. Both runs resume if the command is repeated. With two CPU cores they take half an hour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from measuring import ROOT

CONFIG = ROOT / "benchmarks" / "instrument.json"  # that of the first run
FLAGS = ["--seed", "1", "--no-hardcore", "--resume", "auto", "--keep", "1"]


def train(data: Path, folder: Path, prefix: str, flags: list[object]) -> Path:
    """Run the trainer; returns the run's _last checkpoint."""
    command: list[object] = [sys.executable, ROOT / "training/train_classifier.py", "--config", CONFIG, *FLAGS]
    command += ["--data-dir", data, "--output-dir", folder, "--log-dir", folder / "logs", "--prefix", prefix, *flags]
    subprocess.run([str(part) for part in command], check=True)
    config = json.loads(CONFIG.read_text())
    return folder / f"{prefix}{config['network']}_{config['encoder']}_0_last"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_ROOT", help="the demo dataset, which ./quickstart.sh creates")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder for weights and logs")
    parser.add_argument("--steps", type=int, default=60, metavar="N", help="steps at 380 pixels (default: 60)")
    args = parser.parse_args()
    small = train(args.data, args.output_dir, "small_", ["--test-every", 8])
    epochs = 3
    overrides = {"size": 380, "batch_size": 8, "epochs": epochs, "batches_per_epoch": max(1, args.steps // epochs)}
    overrides |= {"optimizer.learning_rate": 2e-4, "schedule.warmup_steps": 5}
    sets = [part for name, value in overrides.items() for part in ("--set", f"{name}={value}")]
    last = train(args.data, args.output_dir, "instrument_", [*sets, "--init-from", small, "--test-every", epochs])
    print(f"the instrument: {last.with_name(last.name.removesuffix('last') + 'best')}")


if __name__ == "__main__":
    main()
