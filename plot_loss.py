"""Plot the held-out loss of a run over its epochs, and name the epochs worth keeping.

    python plot_loss.py --log-file logs/<log>
    python plot_loss.py --log-file logs/b7_*.log --select 1     # five seeds in one picture, the best epoch of each

The curve is (fake_weight * fake loss + real loss) / 2, fake_weight 1.4: missed fakes were what cost most in the
challenge. Where training kept an average of the weights (ema_decay), the averaged weights of an epoch are chosen from
as well. Further validation sets are drawn, but not chosen by. The plot is written as a PNG, and shown where there is
a display.
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
    logs = "logs/<run>.log or .jsonl; several (five seeds, say) come into one picture"
    path("--log-file", required=True, nargs="+", metavar="LOG", help=logs)
    parser.add_argument("--fake-weight", type=float, default=FAKE_WEIGHT, help=f"({FAKE_WEIGHT})")
    first = "draw earlier epochs, but never choose them (0); the winners' plot never chose epochs before 17, because "
    number("--first-epoch", default=0, help=f"{first}early losses are noisy")
    number("--best", default=3, help="how many checkpoints to mark (3)")
    path("--output", metavar="PNG", help="(beside the first log: <run>.png)")
    number("--select", help="write the names of each run's N best checkpoints to --select-file")
    selected, used = Path("weights/selected.txt"), "for predict_folder.py --models @FILE (weights/selected.txt)"
    path("--select-file", default=selected, metavar="FILE", help=used)
    args = parser.parse_args(argv)
    if not 0 < args.fake_weight < math.inf:
        raise UsageError(f"--fake-weight {args.fake_weight:g}: a number over 0 is expected")
    for flag, count in (("--best", args.best), ("--select", args.select)):
        if count is not None and count < 1:
            raise UsageError(f"{flag} {count}: 1 or more is expected")
    if args.output and args.output.suffix.lower() != ".png":
        raise UsageError(f"--output {args.output}: a name that ends in .png is expected")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    from training import loss_plot  # loads matplotlib, which --help does without

    runs = {path.name.removesuffix(".log").removesuffix(".jsonl"): loss_plot.read_run(path) for path in args.log_file}
    if len(runs) < len(args.log_file):
        raise UsageError("--log-file: the same run is given twice")
    ranked = {name: run.best(args.fake_weight, args.first_epoch) for name, run in runs.items()}
    for name, candidates in ranked.items():
        if not candidates:
            last = runs[name].candidates()[-1].epoch
            raise UsageError(f"--first-epoch {args.first_epoch}: the last epoch of {name} is {last}; give that or less")
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
    """Write the names of the chosen checkpoints of each run to a file, and say how to score with them."""
    names = [name + candidate.suffix for name, candidates in chosen.items() for candidate in candidates]
    write_bytes(path, "".join(f"{name}\n" for name in names).encode())
    command = f"predict_folder.py --weights-dir {path.parent} --models @{path} --test-dir DIR"
    print(f"selected: {', '.join(names)} -> {path}; to score with them: {command}")
    gone = [name for name in names if not (path.parent / name).exists()]
    if gone:
        advice = "If they lie elsewhere, put --select-file there; if training's --keep removed them, give it more"
        print(f"not in {path.parent}: {', '.join(gone)}. {advice}", file=sys.stderr)


if __name__ == "__main__":
    command_line.run_main(main)
