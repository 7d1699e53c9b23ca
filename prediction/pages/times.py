"""Times as m:ss, as video players show them."""

from __future__ import annotations

from collections.abc import Iterable

_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)  # seconds between two marks of an axis
_SHORT_STEPS = (0.1, 0.2, 0.5)
_MARKS = 8  # at most, on an axis


def clock(seconds: float, *, tenths: bool = False) -> str:
    """`seconds` as 0:08, 12:05 or 1:02:05, rounded down; with `tenths` as 0:08.3."""
    count = int(seconds * 10 + 1e-6)  # a frame at 0.7 s must not become 0:00.6
    minutes, second = divmod(count // 10, 60)
    hours, minute = divmod(minutes, 60)
    shown = f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
    return f"{shown}.{count % 10}" if tenths else shown


def frame_times(frames: Iterable[int], frames_per_second: float) -> dict[int, str]:
    """The time of each frame; all have tenths if two of the frames share a second."""
    times = {frame: frame / frames_per_second for frame in set(frames)}
    shared = len({clock(seconds) for seconds in times.values()}) < len(times)
    return {frame: clock(seconds, tenths=shared) for frame, seconds in times.items()}


def time_marks(end: float) -> list[tuple[float, str]]:
    """At most 9 round times from 0 to `end` (seconds, above 0) with labels; tenths if `end` is under two seconds."""
    steps = (*_SHORT_STEPS, *_STEPS) if end < 2 else _STEPS
    step = next((step for step in steps if end / step <= _MARKS), None)
    if step is None:  # of many hours
        step = 3600 * max(1, round(end / 3600 / _MARKS + 0.5))
    counted = range(int(end / step + 1e-9) + 1)
    return [(index * step, clock(index * step, tenths=step < 1)) for index in counted]
