"""bboxes/<original>.json: the faces of a REAL video and what its frames are like; its only reader and writer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from dfdc import artifacts
from dfdc.artifacts import Stamp
from dfdc.command_line import UserError
from dfdc.text import list_wrong


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


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """The faces of a video, and what they were made of; the fields are the keys of the file, in this order.

    Attributes:
        video: its file name, for a person who looks into the file.
        width, height: of its frames, in pixels, upright.
        frame_count: of the video.
        rate: mean frames per second; 0.0 if unknown.
        duration: seconds; 0.0 if unknown.
        times: frame number -> seconds after the first frame, for the frames below; empty where the file does not say.
        source: `identity.fingerprint` of the video.
        settings: those of step 1.
        made, failed, notes: see `dfdc.artifacts.Stamp`.
        frames: frame number -> its faces, for every frame that was searched.
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
    frames: dict[int, list[FaceBox]]

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
        OSError: it is there, but can't be read.
        BoxesError: it is not what step 1 writes.
    """
    try:
        return _FILE.validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise BoxesError(f"{path} is not what step 1 writes ({list_wrong(error)})") from None
