"""The verdict on a video, and everything that it rests on. docs/scoring.md describes what users see of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from dfdc.devices import is_out_of_memory


class Status(str, Enum):
    """How the processing of a file ended. A status equals its text, which is what files store.

    Attributes:
        meaning: what happened, as a text for users.
        scored: whether there is a score.
        passing: True for transient failures, which are retried on the next run.
    """

    meaning: str
    scored: bool
    passing: bool

    def __new__(cls, text: str, meaning: str, scored: bool = False, passing: bool = False) -> Status:
        status = str.__new__(cls, text)
        status._value_, status.meaning, status.scored, status.passing = text, meaning, scored, passing
        return status

    OK = "ok", "all requested frames were read", True
    TOO_SHORT = "too short", "the clip has fewer than 32 frames; all were read", True
    PARTIAL = "partial", "some frames could not be decoded; the rest was scored", True
    DAMAGED = "damaged", "too few frames could be decoded for a verdict"
    NO_FACE = "no face", "no face was detected, and only faces are scored"
    UNREADABLE = "unreadable", "the file could not be read as a video or a photo"
    TIMED_OUT = "timed out", "decoding exceeded the time limit; retried on the next run", False, True
    OUT_OF_MEMORY = "out of memory", "the memory ran out; retried on the next run", False, True
    ERROR = "error", "the processing ended with an error; retried on the next run", False, True

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Face:
    """A face in a frame.

    Attributes:
        frame: its number from 0, in order of presentation timestamps.
        person: the person's number, see `dfdc.tracking.Tracker`.
        box: x1, y1, x2, y2 in pixels of the frame as shown; corners may lie outside the frame.
        detector: the face detector's probability that it is a face, 0..1.
        inside: share of the box within the frame, 0..1.
        scores: probability of fake per checkpoint, in the order of `Verdict.models`.
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
    """Frame and box, as in `Face`, of the face that represents a person."""

    frame: int
    box: list[float]


@dataclass(frozen=True)
class Person:
    """One person of a video.

    Attributes:
        person: the person's number.
        frames, faces: number of frames that show the person, and of the person's faces.
        weight: how much the person counts for `person-max` and `smooth`, 0..1; 0 for passers-by.
        side: median side of the faces, in pixels.
        score: score of the person's faces alone; mean over the checkpoints.
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
    """One checkpoint's score of a video, and the rule that produced it."""

    name: str
    score: float
    rule: str


@dataclass
class Grounds:
    """Counts of the faces that decide a verdict.

    For a photo, these are its most suspicious faces. For `person-max` and `smooth`, they are all faces of the deciding
    person; else the faces of all persons with a weight above 0. If the checkpoints disagree, the faces of each count.

    Attributes:
        faces, frames, persons: number of deciding faces, of the frames that show them, and of their persons.
        side: median side of the faces, in pixels.
        small, cut, unsure: number smaller than the floor, cut by the frame's edge, and with low detector confidence.
        one_face: largest change of a checkpoint's score if one face is removed or counted twice; mean over checkpoints.
        left_out: number of faces of persons with weight 0.
        if_joined: the score if those persons were one person; None if there are none.
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
    """The verdict on one video. `score` is None if the video could not be scored.

    Attributes:
        filename: the name in submission.csv; `path` is the path of the file.
        status, reason: how the processing ended; the reason is a text for users.
        score: probability of fake, the mean over the checkpoints; calibrated with `--calibration`.
        score_uncalibrated: the score before calibration; None without a calibration.
        doubts: keys of prediction.conclusion.DOUBTS; empty without a score.
        grounds: the counts behind `doubts`.
        notes: how the frames were converted, and which parts of the file were not read; texts for users.
        picture: True for a photo, which is scored by a separate rule.
        sizes: [frame, width, height] of the first frame read and of each change of size; in pixels, as shown.
        frame_count: number of frames that the file shows; `frames_per_second` is 0 if unknown.
        frames_read: number of frames searched for faces; `frames_lost` has the numbers of those not decoded.
        models: one score per checkpoint, in the order given.
        persons: the most suspicious first.
        faces: in frame order.
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
        """Record why there is no verdict, and discard the faces detected so far."""
        self.status, self.reason = Status(status), reason
        self.score, self.score_uncalibrated, self.grounds = None, None, None
        self.doubts, self.models, self.persons, self.faces = [], [], [], []

    def fail(self, error: BaseException, doing: str = "") -> None:
        """Record an error that ended the processing of this video."""
        status = Status.OUT_OF_MEMORY if is_out_of_memory(error) else Status.ERROR
        self.end(status, f"{doing}{type(error).__name__}: {error}")
