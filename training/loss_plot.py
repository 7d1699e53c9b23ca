"""The losses of a run by epoch: read from its log, ranked, and drawn. The work behind plot_loss.py."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dfdc.command_line import SettingError, setting
from dfdc.plotting import Axes, Figure, MaxNLocator, plt
from dfdc.scoring import selection_loss
from training.records import Metrics, read_epochs


@dataclass(frozen=True)
class Losses:
    """Mean log losses of the fake and of the real held-out videos, in nats."""

    fake: float
    real: float

    def selection(self, fake_weight: float) -> float:
        """What epochs are chosen by, see `dfdc.scoring.selection_loss`."""
        return selection_loss(self.fake, self.real, fake_weight)


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
    """A run's losses by epoch. An epoch is absent where it has no finite loss of both classes."""

    held_out: dict[int, Losses] = field(default_factory=dict)  # of the weights after each epoch, on the held-out fold
    average: dict[int, Losses] = field(default_factory=dict)  # of the average of the weights, on the same videos
    sets: dict[str, dict[int, Losses]] = field(default_factory=dict)  # of the weights, on further sets by their names

    def forget(self, epoch: int) -> None:
        """Drop an epoch that a resumed run trains again."""
        for losses in (self.held_out, self.average, *self.sets.values()):
            losses.pop(epoch, None)

    def candidates(self) -> list[Candidate]:
        """All checkpoints that have a loss, by epoch, an epoch's own weights first."""
        found = [Candidate(epoch, False, losses) for epoch, losses in self.held_out.items()]
        found += [Candidate(epoch, True, losses) for epoch, losses in self.average.items()]
        return sorted(found, key=lambda candidate: (candidate.epoch, candidate.averaged))

    def best(self, fake_weight: float, first_epoch: int = 0) -> list[Candidate]:
        """The candidates from `first_epoch` on, the lowest selection loss first; of equals the earlier one."""
        chosen = [candidate for candidate in self.candidates() if candidate.epoch >= first_epoch]
        return sorted(chosen, key=lambda candidate: candidate.losses.selection(fake_weight))


def read_run(path: Path) -> Run:
    """Read a run's losses; a repeated epoch counts as it was last.

    Args:
        path: see `read_epochs`.

    Raises:
        SettingError: it can't be read, or no epoch with both losses stands in it.
    """
    run = Run()
    for record in read_epochs(path):
        run.forget(record.epoch)
        _add(run.held_out, record.epoch, record.video)
        _add(run.average, record.epoch, record.video_ema)
        for name, found in (record.sets or {}).items():
            _add(run.sets.setdefault(name, {}), record.epoch, found.video)
    if not run.candidates():
        advice = "no epoch with a held-out fake and real loss stands in it; training writes them after each validation"
        raise SettingError("log_file", path, f"{advice}, if the hold-out has both classes")
    return run


def _add(series: dict[int, Losses], epoch: int, video: Metrics | None) -> None:
    """Add an epoch's losses, unless one of them is missing or not finite."""
    fake, real = ((video or {}).get(f"log_loss_{name}", math.nan) for name in ("fake", "real"))
    if math.isfinite(fake) and math.isfinite(real):
        series[epoch] = Losses(fake, real)


def save_plot(
    runs: Mapping[str, Run], best: Mapping[str, Sequence[Candidate]], fake_weight: float, first_epoch: int, output: Path
) -> None:
    """Write the picture of `draw` as a PNG, and show it where there is a display."""
    display = sys.platform in ("win32", "darwin") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
    if not display:
        plt.switch_backend("Agg")  # whatever MPLBACKEND says
    figure = draw(runs, best, fake_weight, first_epoch)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110, metadata={"Software": None})
    if display:
        plt.show()


def draw(
    runs: Mapping[str, Run], best: Mapping[str, Sequence[Candidate]], fake_weight: float, first_epoch: int = 0
) -> Figure:
    """One picture of a run with all its losses, or of several runs with their selection losses alone.

    Args:
        best: the candidates of each run that get a ring, by the run's name.
        first_epoch: the epochs before it are shaded.
    """
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
        told = f"never chosen ({setting('first_epoch')} {first_epoch})"
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
    own, average = ("weights", "tab:blue", run.held_out, False), ("averaged weights", "tab:orange", run.average, True)
    for label, colour, series, averaged in (own, average):
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


def _curve(
    axis: Axes, series: Mapping[int, Losses], fake_weight: float, marks: str, *, color: str, label: str | None = None
) -> None:
    """The selection losses as a line, if there are any."""
    if series:
        epochs = sorted(series)
        losses = [series[epoch].selection(fake_weight) for epoch in epochs]
        axis.plot(epochs, losses, marks, ms=3, color=color, label=label)


def _rings(axis: Axes, candidates: Sequence[Candidate], fake_weight: float, colour: str) -> None:
    losses = [candidate.losses.selection(fake_weight) for candidate in candidates]
    axis.plot([candidate.epoch for candidate in candidates], losses, "o", mfc="none", ms=10, mec=colour)
