"""A person's scores over time as an SVG, by checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dfdc.page import esc
from prediction.verdict import Face

MOST_LINES = 6  # colours; further checkpoints take them again
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _FOOT = 460, 180, 28, 8, 8, 32


def chart(faces: Sequence[Face], frame_count: int, frames_per_second: float, name: str) -> str:
    """A line per checkpoint, and a bold one for their mean where there are several.

    Args:
        faces: of one person, in the order of frames; at least one.
        frame_count: of the video.
        frames_per_second: 0 where it is not known; the axis is then the frame number.
        name: of the person, for those who can't see the picture.

    Returns:
        an <svg> element.
    """
    rate = frames_per_second if frames_per_second > 0 else 1.0
    end = max(frame_count - 1, *(face.frame for face in faces), 1) / rate
    times = np.array([face.frame / rate for face in faces])
    scores = np.array([face.scores for face in faces], np.float64)
    across = _LEFT + times / end * (_WIDTH - _LEFT - _RIGHT)
    shapes = [_grid(end, "seconds" if frames_per_second > 0 else "frame")]
    for index, column in enumerate(scores.T):
        colour = f"var(--m{index % MOST_LINES})"
        shapes.append(_line(across, column, f'style="stroke:{colour}"', f'style="fill:{colour}"', 1.8))
    mean = scores.mean(axis=1)
    if scores.shape[1] > 1:
        shapes.append(_line(across, mean, 'class="mean"', 'class="mean"', 2.4))
    told = f"{name}: {len(faces)} faces, mean score {mean.mean():.2f}, from {mean.min():.2f} to {mean.max():.2f}"
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{esc(told)}">{"".join(shapes)}</svg>'


def _height(score: float) -> float:
    return _TOP + (1 - score) * (_HEIGHT - _TOP - _FOOT)


def _line(across: np.ndarray, scores: np.ndarray, stroke: str, fill: str, radius: float) -> str:
    """Dots, joined where no frames are missing in between: a line over a gap would show what nobody saw."""
    places = [f"{x:.1f},{_height(y):.1f}" for x, y in zip(across, scores, strict=True)]
    gaps = np.diff(across)
    breaks = np.flatnonzero(gaps > 2.5 * np.median(gaps)) + 1 if len(gaps) else []
    lines = [piece for piece in np.split(np.array(places), breaks) if len(piece) > 1]
    dots = (place.split(",") for place in places)
    return "".join(f'<polyline {stroke} points="{" ".join(piece)}"/>' for piece in lines) + "".join(
        f'<circle cx="{x}" cy="{y}" r="{radius}" {fill}/>' for x, y in dots
    )


def _grid(end: float, unit: str) -> str:
    shapes = []
    for value in (0.0, 0.5, 1.0):
        y = _height(value)
        kind = ' class="half"' if value == 0.5 else ""
        shapes.append(
            f'<line{kind} x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="axis y" x="{_LEFT - 6}" y="{y + 4:.1f}">{value:g}</text>'
        )
    step = _nice_step(end, unit)
    for index in range(int(end / step + 1e-9) + 1):
        x = _LEFT + index * step / end * (_WIDTH - _LEFT - _RIGHT)
        shapes.append(f'<text class="axis" x="{x:.1f}" y="{_HEIGHT - 17}">{index * step:g}</text>')
    shapes.append(f'<text class="axis unit" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}">{unit}</text>')
    return "".join(shapes)


def _nice_step(end: float, unit: str) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that makes at most 8 marks; frames are whole."""
    power = 10.0 ** np.floor(np.log10(end / 8))
    step = next(float(power * factor) for factor in (1, 2, 5, 10) if end / (power * factor) <= 8)
    return max(step, 1.0) if unit == "frame" else step
