"""A person's scores over time, by checkpoint: the coordinates of the chart's lines and marks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prediction.pages.times import time_marks
from prediction.verdict import Face

COLOURS = 6  # in style.css; further checkpoints reuse them


@dataclass(frozen=True)
class Line:
    """The scores of one checkpoint, or their mean, which has an empty `colour`."""

    colour: str
    radius: float
    pieces: Sequence[str]  # "x,y x,y ..." of consecutive dots
    dots: Sequence[Sequence[str]]  # x and y of each dot


@dataclass(frozen=True)
class LineChart:
    """Lines over time. `told` is the text for screen readers; an axis mark is a coordinate and a label."""

    name: str
    told: str
    unit: str
    levels: list[tuple[float, str]]
    times: list[tuple[float, str]]
    lines: list[Line]
    width: int = 460
    height: int = 180
    left: int = 28
    right: int = 452


def colour(model: int) -> str:
    """The CSS colour of checkpoint number `model`."""
    return f"var(--m{model % COLOURS})"


def chart(faces: Sequence[Face], frame_count: int, frames_per_second: float, name: str) -> LineChart:
    """One line per checkpoint, and with several checkpoints a bold line for their mean.

    Args:
        faces: the faces of one person, in the order of frames; at least one.
        frame_count: the number of frames of the video.
        frames_per_second: 0 if unknown; the axis then shows frame numbers.
        name: the person's name.
    """
    rate = frames_per_second if frames_per_second > 0 else 1.0
    end = max(frame_count - 1, *(face.frame for face in faces), 1) / rate
    scores = np.array([face.scores for face in faces], np.float64)
    across = np.array([_across(face.frame / rate / end) for face in faces])
    lines = [_line(across, column, colour(model), 1.8) for model, column in enumerate(scores.T)]
    mean = scores.mean(axis=1)
    if scores.shape[1] > 1:
        lines.append(_line(across, mean, "", 2.4))
    told = f"{name}: {len(faces)} faces, mean score {mean.mean():.2f}, from {mean.min():.2f} to {mean.max():.2f}"
    timed = frames_per_second > 0
    marks = time_marks(end) if timed else _frame_marks(end)
    levels = [(_height(value), f"{value:g}") for value in (0.0, 0.5, 1.0)]
    times = [(_across(value / end), label) for value, label in marks]
    return LineChart(name, told, "time (m:ss)" if timed else "frame", levels, times, lines)


def _height(score: float) -> float:
    return 8 + (1 - score) * (LineChart.height - 40)


def _across(time: float) -> float:
    return LineChart.left + time * (LineChart.right - LineChart.left)


def _line(across: np.ndarray, scores: np.ndarray, colour: str, radius: float) -> Line:
    """Dots, joined unless frames are missing between them: a line across a gap would invent scores."""
    places = [f"{x:.1f},{_height(y):.1f}" for x, y in zip(across, scores, strict=True)]
    gaps = np.diff(across)
    breaks = np.flatnonzero(gaps > 2.5 * np.median(gaps)) + 1 if len(gaps) else []
    pieces = [" ".join(piece) for piece in np.split(np.array(places), breaks) if len(piece) > 1]
    return Line(colour, radius, pieces, [place.split(",") for place in places])


def _frame_marks(end: float) -> list[tuple[float, str]]:
    """At most 8 steps of 1, 2 or 5 times a power of ten frames."""
    power = 10.0 ** np.floor(np.log10(end / 8))
    step = next(float(power * factor) for factor in (1, 2, 5, 10) if end / (power * factor) <= 8)
    step = max(step, 1.0)
    return [(index * step, f"{index * step:g}") for index in range(int(end / step + 1e-9) + 1)]
