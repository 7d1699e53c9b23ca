"""Read the losses of a run by epoch from its log, rank and plot them, for plot_loss.py."""

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
    """Mean log losses of the fake and the real held-out videos, in nats."""

    fake: float
    real: float

    def selection(self, fake_weight: float) -> float:
        """The loss that ranks checkpoints, see `dfdc.scoring.selection_loss`."""
        return selection_loss(self.fake, self.real, fake_weight)


@dataclass(frozen=True)
class Candidate:
    """A checkpoint to choose from: the weights of an epoch, or their moving average."""

    epoch: int
    averaged: bool
    losses: Losses

    @property
    def suffix(self) -> str:
        """The text that follows the run's name in the checkpoint's file name."""
        return f"_{self.epoch}_ema" if self.averaged else f"_{self.epoch}"

    def __str__(self) -> str:
        return f"epoch {self.epoch}, averaged weights" if self.averaged else f"epoch {self.epoch}"


@dataclass
class Run:
    """The losses of a run by epoch. Only epochs with finite losses of both classes are included."""

    held_out: dict[int, Losses] = field(default_factory=dict)  # the weights, on the held-out fold
    average: dict[int, Losses] = field(default_factory=dict)  # their moving average, on the same videos
    sets: dict[str, dict[int, Losses]] = field(default_factory=dict)  # the weights, on further sets by name

    def forget(self, epoch: int) -> None:
        """Remove an epoch that a resumed run repeats."""
        for losses in (self.held_out, self.average, *self.sets.values()):
            losses.pop(epoch, None)

    def candidates(self) -> list[Candidate]:
        """All checkpoints with a loss, sorted by epoch; the weights precede their average."""
        found = [Candidate(epoch, False, losses) for epoch, losses in self.held_out.items()]
        found += [Candidate(epoch, True, losses) for epoch, losses in self.average.items()]
        return sorted(found, key=lambda candidate: (candidate.epoch, candidate.averaged))

    def best(self, fake_weight: float, first_epoch: int = 0) -> list[Candidate]:
        """The candidates from `first_epoch` on, sorted by selection loss; the earlier one wins a tie."""
        chosen = [candidate for candidate in self.candidates() if candidate.epoch >= first_epoch]
        return sorted(chosen, key=lambda candidate: candidate.losses.selection(fake_weight))


def read_run(path: Path) -> Run:
    """Read the losses of a run; the last record of a repeated epoch counts.

    Args:
        path: see `read_epochs`.

    Raises:
        SettingError: the log can't be read, or contains no epoch with both losses.
    """
    run = Run()
    for record in read_epochs(path):
        run.forget(record.epoch)
        _add(run.held_out, record.epoch, record.video)
        _add(run.average, record.epoch, record.video_ema)
        for name, found in (record.sets or {}).items():
            _add(run.sets.setdefault(name, {}), record.epoch, found.video)
    if not run.candidates():
        advice = "it contains no epoch with a held-out fake and real loss; training logs both after each validation"
        raise SettingError("log_file", path, f"{advice}, if the hold-out has both classes")
    return run


def _add(series: dict[int, Losses], epoch: int, video: Metrics | None) -> None:
    """Add the losses of an epoch, unless one of them is missing or not finite."""
    fake, real = ((video or {}).get(f"log_loss_{name}", math.nan) for name in ("fake", "real"))
    if math.isfinite(fake) and math.isfinite(real):
        series[epoch] = Losses(fake, real)


def save_plot(
    runs: Mapping[str, Run], best: Mapping[str, Sequence[Candidate]], fake_weight: float, first_epoch: int, output: Path
) -> None:
    """Write the plot of `draw` as a PNG, and show it if there is a display."""
    display = sys.platform in ("win32", "darwin") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
    if not display:
        plt.switch_backend("Agg")  # overrides MPLBACKEND
    figure = draw(runs, best, fake_weight, first_epoch)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110, metadata={"Software": None})
    if display:
        plt.show()


def draw(
    runs: Mapping[str, Run], best: Mapping[str, Sequence[Candidate]], fake_weight: float, first_epoch: int = 0
) -> Figure:
    """Plot all losses of a single run, or the selection losses of several runs.

    Args:
        best: the candidates to mark with a ring, by run name.
        first_epoch: earlier epochs are shaded.
    """
    # The legend has one line per run.
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
        axis.plot([], [], ":", color="black", label="averaged weights of the run in the same colour")


def _curve(
    axis: Axes, series: Mapping[int, Losses], fake_weight: float, marks: str, *, color: str, label: str | None = None
) -> None:
    """Plot the selection losses as a line, if there are any."""
    if series:
        epochs = sorted(series)
        losses = [series[epoch].selection(fake_weight) for epoch in epochs]
        axis.plot(epochs, losses, marks, ms=3, color=color, label=label)


def _rings(axis: Axes, candidates: Sequence[Candidate], fake_weight: float, colour: str) -> None:
    losses = [candidate.losses.selection(fake_weight) for candidate in candidates]
    axis.plot([candidate.epoch for candidate in candidates], losses, "o", mfc="none", ms=10, mec=colour)
