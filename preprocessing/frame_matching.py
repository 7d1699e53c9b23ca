"""Which frame of a fake shows what a frame of its original shows: by number, or by time where their rates differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from dfdc.boxes import Boxes
from dfdc.video import VideoReader
from dfdc.workers import FailVideo

SAME_COUNT = 0.01  # numbers of frames that differ by this part, or by SPARE_FRAMES, are the same
SPARE_FRAMES = 2  # encoders lose one at either end
SAME_LENGTH = 0.02  # durations that differ by this part are the same
SETTINGS = {"same_count": SAME_COUNT, "spare_frames": SPARE_FRAMES, "same_length": SAME_LENGTH}
LATE = 2.0  # frames by which two frames of one number may be shown apart before that is told


@dataclass
class Match:
    """Frames to take: number in the video -> those of the original that it stands for; and notes for a person."""

    frames: dict[int, list[int]]
    notes: list[str] = field(default_factory=list)


def match_frames(boxes: Boxes, wanted: Iterable[int], reader: VideoReader, original: str) -> Match:
    """Find the frames of a video for those of its original.

    Args:
        boxes: the original's.
        wanted: numbers of the original's frames.
        reader: of the video: the original itself, or a fake made from it.
        original: the original's name, for messages.

    Raises:
        FailVideo: they have neither as many frames nor the same length, so that nothing can be said.
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
                f"its frames are shown up to {apart:.2f} s away from those of {original}, but are as many: they are "
                "taken by number"
            )
        return by_number
    lengths = reader.duration, boxes.duration
    numbers = (
        f"it has {reader.frame_count} frames in {reader.duration:.2f} s ({reader.fps:.2f} a second), but "
        f"{original} has {boxes.frame_count} in {boxes.duration:.2f} s ({boxes.rate:.2f} a second)"
    )
    if shown is None or not all(lengths) or abs(lengths[0] - lengths[1]) > SAME_LENGTH * lengths[1]:
        raise FailVideo(f"{numbers}: which of its frames belong together can't be said")
    frames: dict[int, list[int]] = defaultdict(list)
    for number in wanted:
        if number in boxes.times:
            frames[int(np.argmin(np.abs(shown - boxes.times[number])))].append(number)
    if not frames:
        raise FailVideo(f"{numbers}, and {original} does not say when its frames are shown")
    return Match(dict(frames), [f"{numbers}: frames are taken by time"])
