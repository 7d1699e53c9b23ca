"""Plot the held-out loss of a run over its epochs, and name the epochs worth keeping.

    python plot_loss.py --log-file logs/<log>
    python plot_loss.py --log-file logs/b7_*.log --select 1     # five seeds in one picture, the best epoch of each

The curve is (fake_weight * fake loss + real loss) / 2, fake_weight 1.4: missed fakes were what cost most in the
challenge. The plot is written as a PNG, and shown where there is a display.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from dfdc import parallel
from dfdc.artifacts import write_bytes
from dfdc.parallel import UsageError

FAKE_WEIGHT = 1.4
_LINE = re.compile(r"epoch (\d+) fake ([\d.]+|-|nan|inf) real ([\d.]+|-|nan|inf)")


def read_losses(path: Path) -> dict[int, tuple[float, float]]:
    """Epoch -> (fake loss, real loss) from a run's .log or .jsonl; a repeated epoch counts as it was last.

    Epochs without a validation, without one of the classes, or with a loss that is not finite are left out.

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
        if entry and all(math.isfinite(loss) for loss in entry[1:]):
            losses[entry[0]] = entry[1:]  # (fake, real)
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


def plot(runs: dict[str, dict[int, tuple[float, float]]], best: dict[str, list[int]], fake_weight: float,
         output: Path, show: bool) -> None:  # fmt: skip
    """One picture: a run's fake and real loss and their combination, or the combinations of several runs."""
    import matplotlib

    if not show:
        matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axis = plt.subplots(figsize=(8, 4.5))
    for name, losses in runs.items():
        epochs = list(losses)
        if len(runs) == 1:
            axis.plot(epochs, [losses[e][0] for e in epochs], color="tab:red", alpha=0.45, lw=1, label="fake videos")
            axis.plot(epochs, [losses[e][1] for e in epochs], color="tab:green", alpha=0.45, lw=1, label="real videos")
        combined = [combine(*losses[epoch], fake_weight) for epoch in epochs]
        label = f"best: {', '.join(map(str, best[name]))}"
        (line,) = axis.plot(epochs, combined, marker="o", ms=3, label=label if len(runs) == 1 else f"{name}, {label}")
        axis.plot(best[name], [combine(*losses[e], fake_weight) for e in best[name]], "o", mfc="none", ms=10,
                  mec=line.get_color())  # fmt: skip
    axis.set(xlabel="epoch", ylabel=f"held-out log loss, ({fake_weight:g} x fake + real) / 2")
    axis.set_title(next(iter(runs)) if len(runs) == 1 else f"{len(runs)} runs")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110, metadata={"Software": None})
    if show:
        plt.show()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log-file", type=Path, required=True, nargs="+", metavar="LOG",
                        help="logs/<run>.log or .jsonl; several (five seeds, say) come into one picture")  # fmt: skip
    parser.add_argument("--fake-weight", type=float, default=FAKE_WEIGHT, help=f"({FAKE_WEIGHT})")
    parser.add_argument("--best", type=int, default=3, metavar="N", help="how many epochs to mark (3)")
    parser.add_argument("--output", type=Path, metavar="PNG", help="(beside the first log: <run>.png)")
    parser.add_argument("--select", type=int, metavar="N",
                        help="write the names of each run's N best checkpoints to --select-file")  # fmt: skip
    parser.add_argument("--select-file", type=Path, default=Path("weights/selected.txt"), metavar="FILE",
                        help="for predict_folder.py --models @FILE (weights/selected.txt)")  # fmt: skip
    args = parser.parse_args(argv)
    if not args.fake_weight > 0 or args.best < 1 or (args.select is not None and args.select < 1):
        raise UsageError("--fake-weight must be over 0, --best and --select 1 or more")
    runs = {path.name.removesuffix(".log").removesuffix(".jsonl"): read_losses(path) for path in args.log_file}
    if len(runs) < len(args.log_file):
        raise UsageError("--log-file: the same run is given twice")
    if args.output and args.output.suffix.lower() != ".png":
        raise UsageError(f"--output {args.output}: a name that ends in .png is expected")
    best = {name: best_epochs(losses, args.fake_weight, args.best) for name, losses in runs.items()}
    first = next(iter(runs))
    output = args.output or args.log_file[0].with_name(f"{first}.png")
    display = sys.platform in ("win32", "darwin") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
    plot(runs, best, args.fake_weight, output, display)
    for name, epochs in best.items():
        if len(runs) > 1:
            print(name)
        for epoch in epochs:
            fake, real = runs[name][epoch]
            print(f"epoch {epoch}: {combine(fake, real, args.fake_weight):.4f} (fake {fake:.4f}, real {real:.4f})")
    print(f"plot: {output}")
    if args.select:
        chosen = {name: best_epochs(losses, args.fake_weight, args.select) for name, losses in runs.items()}
        names = [f"{name}_{epoch}" for name, epochs in chosen.items() for epoch in epochs]
        write_bytes(args.select_file, "".join(f"{name}\n" for name in names).encode())
        print(
            f"selected: {', '.join(names)} -> {args.select_file}; predict_folder.py takes --models @{args.select_file}"
        )
    return 0


if __name__ == "__main__":
    parallel.run_main(main)
