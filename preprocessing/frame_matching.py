"""Match the frames of a fake to those of its original: by number, or by time if the frame rates differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from dfdc.boxes import Boxes
from dfdc.video import VideoReader
from dfdc.workers import FailVideo

SAME_COUNT = 0.01  # frame counts count as equal within this fraction or within SPARE_FRAMES
SPARE_FRAMES = 2  # encoders may drop one frame at either end
SAME_LENGTH = 0.02  # durations count as equal within this fraction
SETTINGS = {"same_count": SAME_COUNT, "spare_frames": SPARE_FRAMES, "same_length": SAME_LENGTH}
LATE = 2.0  # in frames: report when timestamps of equally numbered frames differ by more


@dataclass
class Match:
    """Frames to read: frame number in the video -> matching frame numbers of the original; and notes for the user."""

    frames: dict[int, list[int]]
    notes: list[str] = field(default_factory=list)


def match_frames(boxes: Boxes, wanted: Iterable[int], reader: VideoReader, original: str) -> Match:
    """Return the frames of a video that match frames of its original.

    Args:
        boxes: boxes of the original.
        wanted: frame numbers of the original.
        reader: reader of the original itself or of a fake made from it.
        original: name of the original, for messages.

    Raises:
        FailVideo: neither frame counts nor durations match, or timestamps are missing.
    """
    wanted = sorted(wanted)
    shown = reader.times()
    if abs(reader.frame_count - boxes.frame_count) <= max(SPARE_FRAMES, SAME_COUNT * boxes.frame_count):
        by_number = Match({number: [number] for number in wanted})
        known, apart = boxes.times.keys() & wanted, 0.0
        if shown is not None:
            apart = max((abs(float(shown[n]) - boxes.times[n]) for n in known if n < len(shown)), default=0.0)
        if boxes.rate and apart > LATE / boxes.rate:
            by_number.notes.append(
                f"its presentation timestamps differ by up to {apart:.2f} s from those of {original}, but the frame "
                "counts match: frames are matched by number"
            )
        return by_number
    lengths = reader.duration, boxes.duration
    numbers = (
        f"it has {reader.frame_count} frames in {reader.duration:.2f} s ({reader.fps:.2f} a second), but "
        f"{original} has {boxes.frame_count} in {boxes.duration:.2f} s ({boxes.rate:.2f} a second)"
    )
    if shown is None or not all(lengths) or abs(lengths[0] - lengths[1]) > SAME_LENGTH * lengths[1]:
        raise FailVideo(f"{numbers}: the frames can't be matched")
    frames: dict[int, list[int]] = defaultdict(list)
    for number in wanted:
        if number in boxes.times:
            frames[int(np.argmin(np.abs(shown - boxes.times[number])))].append(number)
    if not frames:
        raise FailVideo(f"{numbers}, and {original} has no presentation timestamps")
    return Match(dict(frames), [f"{numbers}: frames are matched by time"])
