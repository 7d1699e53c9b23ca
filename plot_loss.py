"""Plot the held-out loss of a run over its epochs, and name the epochs worth keeping.

    python plot_loss.py --log-file logs/<log>

The curve is (fake_weight * fake loss + real loss) / 2, fake_weight 1.4: missed fakes were what cost most in the
challenge. The plot is written as a PNG, and shown where there is a display.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from dfdc import parallel
from dfdc.parallel import UsageError

FAKE_WEIGHT = 1.4
_LINE = re.compile(r"epoch (\d+) fake ([\d.]+|-|nan|inf) real ([\d.]+|-|nan|inf)")


def read_losses(path: Path) -> dict[int, tuple[float, float]]:
    """Epoch -> (fake loss, real loss) from a run's .log or .jsonl; a repeated epoch counts as it was last.

    Epochs without a validation, or without one of the classes, are left out.

    Raises:
        UsageError: can't be read, or no epoch stands in it.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UsageError(f"--log-file {path}: can't be read ({error.strerror})") from None
    losses = {}
    for line in lines:
        entry = _parse_json(line) if line.startswith("{") else _parse_text(line)
        if entry:
            losses[entry[0]] = entry[1:]
    if not losses:
        raise UsageError(
            f"--log-file {path}: no epoch with a held-out fake and real loss stands in it; training writes such lines "
            "to logs/<run>.log after each validation, if the hold-out has both classes"
        )
    return dict(sorted(losses.items()))


def _parse_text(line: str) -> tuple[int, float, float] | None:
    match = _LINE.match(line)
    return (int(match[1]), float(match[2]), float(match[3])) if match and "-" not in match.groups() else None


def _parse_json(line: str) -> tuple[int, float, float] | None:
    try:
        record = json.loads(line)
        return int(record["epoch"]), float(record["video"]["log_loss_fake"]), float(record["video"]["log_loss_real"])
    except (ValueError, KeyError, TypeError):
        return None  # a start record, an epoch without validation, or a line cut by a kill


def combine(fake: float, real: float, fake_weight: float = FAKE_WEIGHT) -> float:
    """The number epochs are chosen by."""
    return (fake_weight * fake + real) / 2


def best_epochs(losses: dict[int, tuple[float, float]], fake_weight: float, count: int) -> list[int]:
    """The `count` epochs with the lowest combined loss, best first."""
    return sorted(losses, key=lambda epoch: (combine(*losses[epoch], fake_weight), epoch))[:count]


def plot(losses: dict[int, tuple[float, float]], best: Sequence[int], fake_weight: float, title: str,
         output: Path, show: bool) -> None:  # fmt: skip
    import matplotlib

    if not show:
        matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    epochs = list(losses)
    combined = [combine(*losses[epoch], fake_weight) for epoch in epochs]
    figure, axis = plt.subplots(figsize=(8, 4.5))
    axis.plot(epochs, [losses[e][0] for e in epochs], color="tab:red", alpha=0.45, lw=1, label="fake videos")
    axis.plot(epochs, [losses[e][1] for e in epochs], color="tab:green", alpha=0.45, lw=1, label="real videos")
    axis.plot(epochs, combined, color="tab:blue", marker="o", ms=3, label=f"({fake_weight:g} x fake + real) / 2")
    axis.plot(best, [combine(*losses[e], fake_weight) for e in best], "o", mfc="none", mec="black", ms=10,
              label=f"best: {', '.join(map(str, best))}")  # fmt: skip
    axis.set(xlabel="epoch", ylabel="held-out log loss", title=title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110, metadata={"Software": None})
    if show:
        plt.show()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log-file", type=Path, required=True, help="logs/<run>.log or logs/<run>.jsonl")
    parser.add_argument("--fake-weight", type=float, default=FAKE_WEIGHT, help=f"({FAKE_WEIGHT})")
    parser.add_argument("--best", type=int, default=3, metavar="N", help="how many epochs to mark (3)")
    parser.add_argument("--output", type=Path, metavar="PNG", help="(beside the log: <run>.png)")
    args = parser.parse_args(argv)
    if args.fake_weight <= 0 or args.best < 1:
        raise UsageError("--fake-weight must be over 0, and --best 1 or more")
    losses = read_losses(args.log_file)
    best = best_epochs(losses, args.fake_weight, args.best)
    output = args.output or args.log_file.with_suffix(".png")
    display = sys.platform in ("win32", "darwin") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
    plot(losses, best, args.fake_weight, args.log_file.stem, output, display)
    for epoch in best:
        fake, real = losses[epoch]
        print(f"epoch {epoch}: {combine(fake, real, args.fake_weight):.4f} (fake {fake:.4f}, real {real:.4f})")
    print(f"plot: {output}")
    return 0


if __name__ == "__main__":
    parallel.run_main(main)
