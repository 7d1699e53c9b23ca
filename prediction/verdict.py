"""What is known of a video, on the way to its verdict and after it. docs/scoring.md says what of it users see."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from dfdc.devices import is_out_of_memory


class Status(str, Enum):
    """How the work on a file ended. It is equal to its text, which is what files hold.

    Attributes:
        meaning: what happened, for people.
        scored: whether there is a verdict.
        passing: whether it may go better another time, so that a repeated run tries again.
    """

    meaning: str
    scored: bool
    passing: bool

    def __new__(cls, text: str, meaning: str, scored: bool = False, passing: bool = False) -> Status:
        status = str.__new__(cls, text)
        status._value_, status.meaning, status.scored, status.passing = text, meaning, scored, passing
        return status

    OK = "ok", "all frames that were wanted could be read", True
    TOO_SHORT = "too short", "the clip has fewer than 32 frames; all were read", True
    PARTIAL = "partial", "some frames could not be decoded; the rest was scored", True
    DAMAGED = "damaged", "too few frames could be decoded to judge by"
    NO_FACE = "no face", "no face was found, and only faces are judged"
    UNREADABLE = "unreadable", "the file can’t be read as a video or a picture"
    OUT_OF_MEMORY = "out of memory", "the memory ran out; the same command tries again", False, True
    ERROR = "error", "the work on it ended with an error; the same command tries again", False, True

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Face:
    """A face in a frame.

    Attributes:
        frame: its number, from 0 on, in the order of showing.
        person: who it is, see `dfdc.tracking.Tracker`.
        box: x1, y1, x2, y2 in pixels of the frame as shown; corners may lie outside.
        detector: the face detector's probability that it is a face, 0..1.
        inside: the part of the box that lies within the frame, 0..1.
        scores: probability of fake, one for each checkpoint in the order of `Verdict.models`.
    """

    frame: int
    person: int
    box: list[float]
    detector: float
    inside: float = 1.0
    scores: list[float] = field(default_factory=list)

    @property
    def side(self) -> float:
        """Geometric mean of the box's sides, in pixels."""
        x1, y1, x2, y2 = self.box
        return (max(0.0, x2 - x1) * max(0.0, y2 - y1)) ** 0.5


@dataclass(frozen=True)
class Thumbnail:
    """The frame and the box, as in `Face`, to show a person by."""

    frame: int
    box: list[float]


@dataclass(frozen=True)
class Person:
    """One person of a video.

    Attributes:
        person: the number.
        frames, faces: in how many frames the person was seen, and in how many faces.
        weight: 0..1, how much the person counts for `person-max` and `smooth`: 0 for passers-by.
        side: median side of the faces, in pixels.
        score: of the person's faces alone, the mean over the checkpoints.
    """

    person: int
    frames: int
    faces: int
    weight: float
    side: float
    score: float
    thumbnail: Thumbnail


@dataclass(frozen=True)
class ModelScore:
    """What one checkpoint makes of a video, and the rule that made it."""

    name: str
    score: float
    rule: str


@dataclass
class Grounds:
    """What a verdict rests on: counts of the faces that decide.

    These are the most suspicious faces of a photo; with `person-max` and `smooth` all faces of the person who decides;
    else the faces of all who count. Where checkpoints differ in that, those of each.

    Attributes:
        faces, frames, persons: how many faces, in how many frames, of how many persons.
        side: median side of the faces, in pixels.
        small, cut, unsure: how many are smaller than the floor, cut by the frame's edge, and doubtful to the detector.
        one_face: the most by which one face, left out or counted twice, moves a checkpoint's score; mean over them.
        left_out: faces of persons who weigh nothing.
        if_joined: what the score would be if those were one person; None where none are.
    """

    faces: int = 0
    frames: int = 0
    persons: int = 0
    side: float = 0.0
    small: int = 0
    cut: int = 0
    unsure: int = 0
    one_face: float = 0.0
    left_out: int = 0
    if_joined: float | None = None


@dataclass
class Verdict:
    """What is known of one video. `score` is None where there are no grounds for one.

    Attributes:
        filename: the name it was given by, `path` where it lies.
        status, reason: how the work on it ended; the reason is for people.
        score: probability of being fake, the mean over the checkpoints; calibrated where `--calibration` is given.
        score_uncalibrated: what it was before, None without a calibration.
        doubts: what weakens the score, of prediction.conclusion.DOUBTS; empty without a score.
        grounds: the counts behind `doubts`.
        notes: how the pictures were converted, and what of the file was left out; texts for people.
        picture: whether it is a photo, which has a rule of its own.
        sizes: [frame, width, height] for the first frame read and for each after which the size is another; in pixels,
            as shown.
        frame_count: frames that the file shows; `frames_per_second` 0 where it is not known.
        frames_read: how many were searched for faces; `frames_lost` are the numbers of those that could not be decoded.
        models: a score for each checkpoint, in the order in which they were given.
        persons: the most suspicious first.
        faces: in the order of frames.
    """

    filename: str
    status: Status
    reason: str = ""
    score: float | None = None
    score_uncalibrated: float | None = None
    doubts: list[str] = field(default_factory=list)
    grounds: Grounds | None = None
    notes: list[str] = field(default_factory=list)
    path: str = ""
    picture: bool = False
    sizes: list[list[int]] = field(default_factory=list)
    frame_count: int = 0
    frames_per_second: float = 0.0
    frames_read: int = 0
    frames_lost: list[int] = field(default_factory=list)
    models: list[ModelScore] = field(default_factory=list)
    persons: list[Person] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.status = Status(self.status)  # a text will do

    @property
    def judged(self) -> bool:
        return self.score is not None

    def end(self, status: Status, reason: str) -> None:
        """Note why there is no verdict; faces found so far are no grounds."""
        self.status, self.reason = Status(status), reason
        self.score, self.score_uncalibrated, self.grounds = None, None, None
        self.doubts, self.models, self.persons, self.faces = [], [], [], []

    def fail(self, error: BaseException, doing: str = "") -> None:
        """Note an error that ends the work on this video."""
        status = Status.OUT_OF_MEMORY if is_out_of_memory(error) else Status.ERROR
        self.end(status, f"{doing}{type(error).__name__}: {error}")
