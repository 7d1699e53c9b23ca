"""bboxes/<original>.json: the faces of a REAL video and what its frames are like; its only reader and writer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from dfdc import artifacts
from dfdc.artifacts import Stamp
from dfdc.command_line import UserError


class BoxesError(UserError, ValueError):
    """A file that is not what step 1 writes; the message says what is wrong with it."""


@dataclass(frozen=True)
class FaceBox:
    """One face on one frame.

    Attributes:
        face: number of the person, the same through the video.
        box: x1, y1, x2, y2 in pixels of the frame; corners may lie outside it.
        score: the detector's, 0..1.
    """

    face: int
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Boxes:
    """The faces of a video.

    Attributes:
        width, height: of its frames, in pixels, upright.
        frame_count: of the video.
        rate: mean frames per second; 0.0 if unknown.
        duration: seconds; 0.0 if unknown.
        times: frame number -> seconds after the first frame, for the frames below; empty where the file does not say.
        frames: frame number -> its faces, for every frame that was searched.
        stamp: made from `source` and `settings`.
    """

    width: int
    height: int
    frame_count: int
    rate: float
    duration: float
    times: dict[int, float]
    frames: dict[int, list[FaceBox]]
    stamp: Stamp

    @property
    def faces(self) -> int:
        return sum(map(len, self.frames.values()))

    def write(self, path: Path, name: str) -> None:
        """Write the file; `name` is the video's, for a person who looks into it."""
        content = asdict(self)
        frames = content.pop("frames")
        del content["stamp"]
        artifacts.write_json(path, {"video": name, **content, **self.stamp.to_json(), "frames": frames})


STAMP_KEYS = ("source", "settings", "made", "failed", "notes")


def read_boxes(path: Path) -> Boxes | None:
    """The boxes in `path`; None if there is no such file.

    Raises:
        OSError: it is there, but can't be read.
        BoxesError: it is not what step 1 writes.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        content = json.loads(text)
        frames = {int(number): [_face(row) for row in rows] for number, rows in content["frames"].items()}
        times = {int(number): float(seconds) for number, seconds in content["times"].items()}
        sizes = [int(content[key]) for key in ("width", "height", "frame_count")]
        rates = [float(content[key]) for key in ("rate", "duration")]
        stamp = Stamp.from_json({key: content[key] for key in STAMP_KEYS})
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BoxesError(f"{path} is not what step 1 writes ({type(error).__name__}: {error})") from None
    if stamp is None:
        raise BoxesError(f"{path} is not what step 1 writes (made, failed or notes)")
    return Boxes(*sizes, *rates, times, frames, stamp)


def _face(row: dict) -> FaceBox:
    x1, y1, x2, y2 = (float(corner) for corner in row["box"])
    return FaceBox(int(row["face"]), (x1, y1, x2, y2), float(row["score"]))
