"""Reads and writes bboxes/<original>.json: the faces of a REAL video, and its frame size, rate and times."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from dfdc import artifacts
from dfdc.artifacts import Stamp
from dfdc.command_line import UserError
from dfdc.identity import read_file
from dfdc.text import list_wrong


class BoxesError(UserError, ValueError):
    """A file that is not valid output of step 1; the message says why."""


Number = Annotated[int, Field(ge=0, lt=10**9)]  # of a frame or a person; names of crops hold both


@dataclass(frozen=True)
class FaceBox:
    """One face in one frame.

    Attributes:
        face: person number, constant throughout the video.
        box: x1, y1, x2, y2 in frame pixels; corners may lie outside the frame.
        score: detector score, 0..1.
    """

    face: Number
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """The faces of a video, with their inputs and settings. The fields are the keys of the file, in this order.

    Attributes:
        video: file name of the video, for human readers.
        width, height: frame size in pixels, after rotation.
        frame_count: number of frames in the video.
        rate: mean frames per second; 0.0 if unknown.
        duration: seconds; 0.0 if unknown.
        times: frame number -> seconds after the first frame, for the keys of `frames`; empty without timestamps.
        source: `identity.fingerprint` of the video.
        settings: settings of step 1.
        made, failed, notes: see `dfdc.artifacts.Stamp`.
        frames: frame number -> detected faces, for every processed frame.
    """

    video: str
    width: int
    height: int
    frame_count: int
    rate: float
    duration: float
    times: dict[int, float]
    source: dict[str, Any]
    settings: dict[str, Any]
    made: dict[str, Annotated[int, Field(ge=0)]]
    failed: str | None
    notes: tuple[str, ...]
    frames: dict[Number, list[FaceBox]]

    @property
    def faces(self) -> int:
        return sum(map(len, self.frames.values()))

    @property
    def stamp(self) -> Stamp:
        return Stamp({"source": self.source, "settings": self.settings}, self.made, self.failed, self.notes)

    def write(self, path: Path) -> None:
        artifacts.write_json(path, asdict(self))


_FILE = TypeAdapter(Boxes)


def read_boxes(path: Path) -> Boxes | None:
    """The boxes in `path`; None if there is no such file.

    Raises:
        OSError: it exists, but can't be read.
        BoxesError: it is not valid output of step 1.
    """
    try:
        return _FILE.validate_json(read_file(path), strict=True)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise BoxesError(f"{path} is not valid output of step 1 ({list_wrong(error)})") from None
