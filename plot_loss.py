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
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dfdc import command_line
from dfdc.artifacts import write_bytes
from dfdc.command_line import UsageError
from dfdc.scoring import FAKE_WEIGHT, selection_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUMBER = r"(\d+\.\d+|-|nan|inf)"
# The " |" at the end tells a whole line from one that was cut within a number.
_LINE = re.compile(rf"epoch (\d+) (?:(average) |on ([A-Za-z0-9_-]+) )?fake {_NUMBER} real {_NUMBER} \|")


@dataclass(frozen=True)
class Losses:
    """Mean log losses of the fake and of the real held-out videos, in nats."""

    fake: float
    real: float


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that can be chosen: an epoch's own weights, or its averaged ones."""

    epoch: int
    averaged: bool
    losses: Losses

    @property
    def suffix(self) -> str:
        """What training puts behind the run's name for this checkpoint's file."""
        return f"_{self.epoch}_ema" if self.averaged else f"_{self.epoch}"

    def __str__(self) -> str:
        return f"epoch {self.epoch}, averaged weights" if self.averaged else f"epoch {self.epoch}"


@dataclass
class Run:
    """A run's losses by epoch. An epoch is absent where it has no finite loss of both classes.

    Attributes:
        held_out: of the weights after each epoch, on the held-out fold.
        average: of the average of the weights, on the same videos.
        sets: of the weights after each epoch, on each further validation set by its name.
    """

    held_out: dict[int, Losses] = field(default_factory=dict)
    average: dict[int, Losses] = field(default_factory=dict)
    sets: dict[str, dict[int, Losses]] = field(default_factory=dict)

    def forget(self, epoch: int) -> None:
        """Drop an epoch that a resumed run trains again."""
        for losses in (self.held_out, self.average, *self.sets.values()):
            losses.pop(epoch, None)

    def candidates(self) -> list[Candidate]:
        """All checkpoints that have a loss, by epoch, an epoch's own weights first."""
        found = [
            Candidate(epoch, averaged, losses)
            for averaged, series in ((False, self.held_out), (True, self.average))
            for epoch, losses in series.items()
        ]
        return sorted(found, key=lambda candidate: (candidate.epoch, candidate.averaged))

    def best(self, fake_weight: float, first_epoch: int = 0) -> list[Candidate]:
        """The candidates from `first_epoch` on, the lowest selection loss first; of equals the earlier one."""
        chosen = [candidate for candidate in self.candidates() if candidate.epoch >= first_epoch]
        return sorted(chosen, key=lambda candidate: _selection(candidate.losses, fake_weight))


def _selection(losses: Losses, fake_weight: float) -> float:
    return selection_loss(losses.fake, losses.real, fake_weight)


def read_run(path: Path) -> Run:
    """Read a run's .log or .jsonl; a repeated epoch counts as it was last.

    Raises:
        UsageError: can't be read, or no epoch stands in it.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UsageError(f"--log-file {path}: can't be read ({error.strerror})") from None
    run = Run()
    for line in lines:
        (_add_json if line.startswith("{") else _add_text)(run, line)
    if not run.candidates():
        raise UsageError(
            f"--log-file {path}: no epoch with a held-out fake and real loss stands in it; training writes such lines "
            "to logs/<run>.log after each validation, if the hold-out has both classes"
        )
    return run


def _add_text(run: Run, line: str) -> None:
    match = _LINE.match(line)
    if not match:
        return
    epoch, fake, real = int(match[1]), *(float(number.replace("-", "nan")) for number in match.group(4, 5))
    if match[2]:
        _add(run.average, epoch, fake, real)
    elif match[3]:
        _add(run.sets.setdefault(match[3], {}), epoch, fake, real)
    else:  # the line that an epoch begins with
        run.forget(epoch)
        _add(run.held_out, epoch, fake, real)


def _add_json(run: Run, line: str) -> None:
    try:
        record = json.loads(line)
        if record["event"] != "epoch":
            return
        epoch, series = int(record["epoch"]), {("video",): record.get("video", {})}
        series[("average",)] = record.get("video_ema", {})
        series |= {("set", name): found["video"] for name, found in record.get("sets", {}).items()}
        losses = {kind: (_loss(metrics, "fake"), _loss(metrics, "real")) for kind, metrics in series.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # a line that was cut by a kill, or is not of the trainer's
    run.forget(epoch)
    _add(run.held_out, epoch, *losses[("video",)])
    _add(run.average, epoch, *losses[("average",)])
    for kind, pair in losses.items():
        if kind[0] == "set":
            _add(run.sets.setdefault(kind[1], {}), epoch, *pair)


def _loss(metrics: Mapping[str, float], name: str) -> float:
    return float(metrics.get(f"log_loss_{name}", math.nan))


def _add(series: dict[int, Losses], epoch: int, fake: float, real: float) -> None:
    """Add an epoch's losses, unless one of them is missing or not finite."""
    if math.isfinite(fake) and math.isfinite(real):
        series[epoch] = Losses(fake, real)


def draw(
    runs: Mapping[str, Run], best: Mapping[str, Sequence[Candidate]], fake_weight: float, first_epoch: int = 0
) -> Figure:
    """One picture of a run with all its losses, or of several runs with their selection losses alone.

    Args:
        runs: the runs by name.
        best: the candidates of each run that get a ring, by the run's name.
        fake_weight: see selection_loss.
        first_epoch: the epochs before it are shaded.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    # Each run is a line of the legend.
    figure, axis = plt.subplots(figsize=(8, 4.8 + 0.2 * len(runs)), layout="constrained")
    if len(runs) == 1:
        ((name, run),) = runs.items()
        _draw_run(axis, run, best[name], fake_weight)
        axis.set_title(name)
    else:
        _draw_runs(axis, runs, best, fake_weight)
        axis.set_title(f"{len(runs)} runs")
    drawn = min(candidate.epoch for run in runs.values() for candidate in run.candidates())
    if drawn < first_epoch:
        told = f"never chosen (--first-epoch {first_epoch})"
        axis.axvspan(drawn - 0.5, first_epoch - 0.5, color="0.93", label=told)
    axis.set(xlabel="epoch", ylabel=f"log loss, ({fake_weight:g} x fake + real) / 2")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small", ncols=3 if len(runs) == 1 else 1)
    return figure


def _draw_run(axis: Axes, run: Run, best: Sequence[Candidate], fake_weight: float) -> None:
    epochs = sorted(run.held_out)
    for part, colour in (("fake", "tab:red"), ("real", "tab:green")):
        losses = [getattr(run.held_out[epoch], part) for epoch in epochs]
        axis.plot(epochs, losses, color=colour, alpha=0.45, lw=1, label=f"{part} videos alone")
    for label, colour, series, averaged in (
        ("weights", "tab:blue", run.held_out, False),
        ("averaged weights", "tab:orange", run.average, True),
    ):
        chosen = [candidate for candidate in best if candidate.averaged == averaged]
        if chosen:
            label += f", best: {', '.join(str(candidate.epoch) for candidate in chosen)}"
        _curve(axis, series, fake_weight, "o-", color=colour, label=label)
        _rings(axis, chosen, fake_weight, colour)
    for number, (name, series) in enumerate(run.sets.items()):
        _curve(axis, series, fake_weight, "o--", color=f"C{4 + number}", label=f"on {name}")


def _draw_runs(
    axis: Axes, runs: Mapping[str, Run], best: Mapping[str, Sequence[Candidate]], fake_weight: float
) -> None:
    for number, (name, run) in enumerate(runs.items()):
        told = ", ".join(f"{candidate.epoch}{' averaged' * candidate.averaged}" for candidate in best[name])
        _curve(axis, run.held_out, fake_weight, "o-", color=f"C{number}", label=f"{name}, best: {told}")
        _curve(axis, run.average, fake_weight, ":", color=f"C{number}")
        _rings(axis, best[name], fake_weight, f"C{number}")
    if any(run.average for run in runs.values()):
        axis.plot([], [], ":", color="black", label="averaged weights of the run with that colour")


def _curve(axis: Axes, series: Mapping[int, Losses], fake_weight: float, marks: str, **style: str) -> None:
    """The selection losses as a line, if there are any."""
    if series:
        epochs = sorted(series)
        axis.plot(epochs, [_selection(series[epoch], fake_weight) for epoch in epochs], marks, ms=3, **style)


def _rings(axis: Axes, candidates: Sequence[Candidate], fake_weight: float, colour: str) -> None:
    losses = [_selection(candidate.losses, fake_weight) for candidate in candidates]
    axis.plot([candidate.epoch for candidate in candidates], losses, "o", mfc="none", ms=10, mec=colour)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log-file", type=Path, required=True, nargs="+", metavar="LOG",
                        help="logs/<run>.log or .jsonl; several (five seeds, say) come into one picture")  # fmt: skip
    parser.add_argument("--fake-weight", type=float, default=FAKE_WEIGHT, help=f"({FAKE_WEIGHT})")
    parser.add_argument("--first-epoch", type=int, default=0, metavar="N",
                        help="draw earlier epochs, but never choose them (0); the winners' plot never chose epochs "
                        "before 17, because early losses are noisy")  # fmt: skip
    parser.add_argument("--best", type=int, default=3, metavar="N", help="how many checkpoints to mark (3)")
    parser.add_argument("--output", type=Path, metavar="PNG", help="(beside the first log: <run>.png)")
    parser.add_argument("--select", type=int, metavar="N",
                        help="write the names of each run's N best checkpoints to --select-file")  # fmt: skip
    parser.add_argument("--select-file", type=Path, default=Path("weights/selected.txt"), metavar="FILE",
                        help="for predict_folder.py --models @FILE (weights/selected.txt)")  # fmt: skip
    args = parser.parse_args(argv)
    if not 0 < args.fake_weight < math.inf:
        raise UsageError(f"--fake-weight {args.fake_weight:g}: a number over 0 is expected")
    if args.best < 1:
        raise UsageError(f"--best {args.best}: 1 or more is expected")
    if args.select is not None and args.select < 1:
        raise UsageError(f"--select {args.select}: 1 or more is expected")
    runs = {path.name.removesuffix(".log").removesuffix(".jsonl"): read_run(path) for path in args.log_file}
    if len(runs) < len(args.log_file):
        raise UsageError("--log-file: the same run is given twice")
    if args.output and args.output.suffix.lower() != ".png":
        raise UsageError(f"--output {args.output}: a name that ends in .png is expected")
    ranked = {name: run.best(args.fake_weight, args.first_epoch) for name, run in runs.items()}
    for name, candidates in ranked.items():
        if not candidates:
            last = runs[name].candidates()[-1].epoch
            raise UsageError(f"--first-epoch {args.first_epoch}: the last epoch of {name} is {last}; give that or less")
    best = {name: candidates[: args.best] for name, candidates in ranked.items()}
    output = args.output or args.log_file[0].with_name(f"{next(iter(runs))}.png")
    display = sys.platform in ("win32", "darwin") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
    import matplotlib

    if not display:
        matplotlib.use("Agg")  # whatever MPLBACKEND says: a notebook's has no module here
    figure = draw(runs, best, args.fake_weight, args.first_epoch)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110, metadata={"Software": None})
    if display:
        import matplotlib.pyplot as plt

        plt.show()
    for name, candidates in best.items():
        if len(runs) > 1:
            print(name)
        for candidate in candidates:
            loss, parts = _selection(candidate.losses, args.fake_weight), candidate.losses
            print(f"{candidate}: {loss:.4f} (fake {parts.fake:.4f}, real {parts.real:.4f})")
    print(f"plot: {output}")
    if args.select:
        names = [name + candidate.suffix for name in runs for candidate in ranked[name][: args.select]]
        write_bytes(args.select_file, "".join(f"{name}\n" for name in names).encode())
        print(
            f"selected: {', '.join(names)} -> {args.select_file}; to score with them: "
            f"predict_folder.py --weights-dir {args.select_file.parent} --models @{args.select_file} --test-dir DIR"
        )
        folder = args.select_file.parent
        gone = [name for name in names if not (folder / name).exists()]
        if gone:
            print(
                f"not in {folder}: {', '.join(gone)}. If they lie elsewhere, put --select-file there; if training's "
                "--keep removed them, give it more",
                file=sys.stderr,
            )
    return 0


if __name__ == "__main__":
    command_line.run_main(main)
