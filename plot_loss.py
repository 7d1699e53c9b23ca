"""Plot the held-out loss of a run over its epochs, and name the best epochs.

    python plot_loss.py --log-file logs/<log>
    python plot_loss.py --log-file logs/b7_*.log --select 1     # five seeds in one plot, the best epoch of each

The curve is (fake_weight * fake loss + real loss) / 2. The default fake_weight is 1.4, because missed fakes cost most
in the challenge. With ema_decay, the averaged weights of each epoch are candidates too. Further validation sets are
plotted, but do not affect the choice. The plot is written as a PNG, and shown if there is a display.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dfdc import command_line
from dfdc.artifacts import write_bytes
from dfdc.command_line import UsageError
from dfdc.scoring import FAKE_WEIGHT

if TYPE_CHECKING:
    from training.loss_plot import Candidate


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    path, number = partial(parser.add_argument, type=Path), partial(parser.add_argument, type=int, metavar="N")
    logs = "plot these logs/<run>.log or .jsonl files; several runs share one plot (required)"
    path("--log-file", required=True, nargs="+", metavar="LOG", help=logs)
    parser.add_argument(
        "--fake-weight", type=float, default=FAKE_WEIGHT, help=f"weight of the fakes' loss (default: {FAKE_WEIGHT})"
    )
    first = "never choose earlier epochs, which are still plotted (default: 0); the winners started at 17, because "
    number("--first-epoch", default=0, help=f"{first}early losses are noisy")
    number("--best", default=3, help="mark the N best checkpoints (default: 3)")
    path("--output", metavar="PNG", help="write the plot to this file (default: <run>.png beside the first log)")
    number("--select", help="write the names of each run's N best checkpoints to --select-file")
    selected = Path("weights/selected.txt")
    used = f"the file of --select, for predict_folder.py --models @FILE (default: {selected})"
    path("--select-file", default=selected, metavar="FILE", help=used)
    args = parser.parse_args(argv)
    if not 0 < args.fake_weight < math.inf:
        raise UsageError(f"--fake-weight {args.fake_weight:g}: a number over 0 is expected")
    for flag, count in (("--best", args.best), ("--select", args.select)):
        if count is not None and count < 1:
            raise UsageError(f"{flag} {count}: 1 or more is expected")
    if args.output and args.output.suffix.lower() != ".png":
        raise UsageError(f"--output {args.output}: a file name ending in .png is expected")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    from training import loss_plot  # loads matplotlib, which --help does not need

    runs = {path.name.removesuffix(".log").removesuffix(".jsonl"): loss_plot.read_run(path) for path in args.log_file}
    if len(runs) < len(args.log_file):
        raise UsageError("--log-file: the same run is given twice; give each log once")
    ranked = {name: run.best(args.fake_weight, args.first_epoch) for name, run in runs.items()}
    for name, candidates in ranked.items():
        if not candidates:
            last = runs[name].candidates()[-1].epoch
            raise UsageError(
                f"--first-epoch {args.first_epoch}: the last epoch of {name} is {last}; give {last} or less"
            )
    best = {name: candidates[: args.best] for name, candidates in ranked.items()}
    output = args.output or args.log_file[0].with_name(f"{next(iter(runs))}.png")
    loss_plot.save_plot(runs, best, args.fake_weight, args.first_epoch, output)
    for name, candidates in best.items():
        if len(runs) > 1:
            print(name)
        for candidate in candidates:
            loss, parts = candidate.losses.selection(args.fake_weight), candidate.losses
            print(f"{candidate}: {loss:.4f} (fake {parts.fake:.4f}, real {parts.real:.4f})")
    print(f"plot: {output}")
    if args.select:
        write_selected({name: candidates[: args.select] for name, candidates in ranked.items()}, args.select_file)
    return 0


def write_selected(chosen: Mapping[str, Sequence[Candidate]], path: Path) -> None:
    """Write the names of the chosen checkpoints of all runs to a file, and print a command that uses them."""
    names = [name + candidate.suffix for name, candidates in chosen.items() for candidate in candidates]
    write_bytes(path, "".join(f"{name}\n" for name in names).encode())
    command = f"predict_folder.py --weights-dir {path.parent} --models @{path} --test-dir DIR"
    print(f"selected: {', '.join(names)} -> {path}; to score with them: {command}")
    gone = [name for name in names if not (path.parent / name).exists()]
    if gone:
        advice = "If they are elsewhere, put --select-file there; if training's --keep removed them, increase it"
        print(f"not in {path.parent}: {', '.join(gone)}. {advice}", file=sys.stderr)


if __name__ == "__main__":
    command_line.run_main(main)
