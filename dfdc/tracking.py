"""Face tracking: person numbers, appearance features ("looks"), and shot cuts.

Preprocessing tracks faces by their boxes alone. In scoring, frames may be minutes apart, so it also compares looks and
ends all tracks at a cut. The limits for looks and cuts were measured on 17 real videos and on every join of two.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dfdc.imaging import box_iou

_BINS = (8, 16, 16)  # histogram bins of L, a and b (OpenCV's 8-bit CIELAB)
_SHAPE_SIDE = 8  # side of a look's thumbnail in pixels
_LOOK_SIDE = 32  # side in pixels of the image for the colour histogram
_FORBIDDEN = 1e6  # larger than the cost of any match
LOOK_SIZE = _BINS[0] * _BINS[1] * _BINS[2] + 3 * _SHAPE_SIDE**2


def look_of(crop: np.ndarray) -> np.ndarray:
    """The look of a face: a feature of its colours and its coarse shape, with equal weight.

    The dot product of two looks is their similarity, at most 1; 1 - similarity is their distance, 0 to 1.5.

    Args:
        crop: RGB uint8 [h, w, 3], a face with a margin of 1/3.

    Returns:
        float32 [LOOK_SIZE] with norm 1. The first part holds square roots of a normalised histogram of 8 x 16 x 16
        colours, whose dot product is the Bhattacharyya coefficient. The second part is 8 x 8 pixels minus their mean,
        scaled to norm 1, whose dot product is the normalised correlation. A crop of one colour has no shape, so its
        norm is smaller.
    """
    small = cv2.resize(crop, (_LOOK_SIDE, _LOOK_SIDE), interpolation=cv2.INTER_AREA)
    look = np.concatenate([_colours(small), _shape(small, _SHAPE_SIDE)[0]])
    return look * np.float32(np.sqrt(0.5))


def looks_of(crops: Sequence[np.ndarray | None]) -> np.ndarray:
    """Looks of a frame's faces, float32 [n, LOOK_SIZE]; NaN for a face without a crop."""
    looks = [np.full(LOOK_SIZE, np.nan, np.float32) if crop is None else look_of(crop) for crop in crops]
    return np.array(looks, np.float32).reshape(len(crops), LOOK_SIZE)


def _colours(picture: np.ndarray) -> np.ndarray:
    """Square roots of the normalised colour histogram of an RGB uint8 image: float32 [2048], norm 1."""
    counts = cv2.calcHist([cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)], [0, 1, 2], None, _BINS, [0, 256] * 3)
    return np.sqrt(counts / counts.sum(), dtype=np.float32).ravel()


def _shape(picture: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """`side` x `side` pixels minus each channel's mean, norm 1: float32 [3 side²]; and their standard deviation."""
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= small.mean(axis=(0, 1))
    length = float(np.linalg.norm(small))
    return small.ravel() / max(length, 1e-6), length / float(np.sqrt(small.size))


def _assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows and columns of the assignment with the lowest total cost."""
    if 1 in cost.shape:
        row, column = np.unravel_index([cost.argmin()], cost.shape)
        return row, column
    from scipy.optimize import linear_sum_assignment  # here: it takes half a second, and only several faces need it

    return linear_sum_assignment(cost)


class ShotCuts:
    """Detects shot cuts in sampled frames.

    A frame starts a new shot if both its colours and its coarse shape differ from one of the previous shot's last
    frames. A pan keeps the colours, a change of light keeps the shape, and a dissolve takes a few frames. Brightness is
    normalised before colours are compared. Frames of one colour, as in a fade, are skipped.

    A cut between two people in the same studio is not detected.
    """

    # Measured: within a shot, 17 real videos stay below 0.9 of the limits; 180 of 182 joins of two exceed 1.2.
    COLOURS = 0.42  # Hellinger distance, 0 to 1
    SHAPE = 0.37  # 1 - correlation, 0 to 2
    FRAMES = 4  # number of last frames compared; a dissolve over 3 frames between them is detected
    SAMPLED = 256  # minimum pixels sampled per side; sampling all of a large frame takes ten times as long
    SIDES = (64, 16)  # side in pixels of the images for colours and shape
    FLAT = 4.0  # standard deviation in grey levels of a flat frame; real frames have at least 30
    BRIGHT = 220.0  # target for the 95th percentile of the brightest channel

    def __init__(self) -> None:
        self._last: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=self.FRAMES)

    def is_cut(self, frame: np.ndarray) -> bool:
        """Whether `frame` (RGB uint8 [h, w, 3]) belongs to another shot than the frame of the previous call."""
        step, side = max(1, min(frame.shape[:2]) // self.SAMPLED), self.SIDES[0]
        small = cv2.resize(frame[::step, ::step], (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
        bright = max(float(np.percentile(small.max(axis=2), 95)), 1.0)
        small = np.minimum(small * (self.BRIGHT / bright), 255)
        shape, deviation = _shape(small, self.SIDES[1])
        if deviation < self.FLAT:
            return False
        colours = _colours(small.astype(np.uint8))
        distances = [(np.sqrt(max(0.0, 1 - float(colours @ c))), 1 - float(shape @ s)) for c, s in self._last]
        cut = any(colour > self.COLOURS and form > self.SHAPE for colour, form in distances)
        if cut:
            self._last.clear()
        self._last.append((colours, shape))
        return cut


@dataclass
class _Track:
    number: int
    box: np.ndarray
    frame: int
    looks: deque[np.ndarray | None]  # of the last detections; None if unknown
    seen: int = 1
    ended: bool = False  # by a cut


@dataclass(frozen=True)
class TrackerSettings:
    """Limits for matching faces to persons.

    Attributes:
        max_gap: a track ends after this many frames without a detection.
        trusted: number of detections from which the full `max_gap` applies; with fewer it is shortened in proportion.
        least_gap: minimum gap as a fraction of `max_gap`.
        near: gap in frames up to which a face may move by `reach_near` times its size; after that, by `reach_far`.
        most_growth: factor by which a face may grow or shrink between two detections.
    """

    max_gap: int = 50
    trusted: int = 5
    least_gap: float = 0.4
    near: int = 10
    # In 10 frames (1/3 s) a head moves by less than its own size; after 20 or more, by less than twice its size.
    reach_near: float = 1.0
    reach_far: float = 2.0
    most_growth: float = 2.0


@dataclass(frozen=True)
class LookLimits:
    """Maximum distances between looks of one person (see `look_of`), used if looks are given.

    Measured between samples of one person: median 0.02, maximum 0.45, and maximum 0.20 if the face moved by half its
    size. Between two people: median 0.67, minimum 0.36, except for two men in one studio (0.14).

    Attributes:
        still: movement, relative to its size, up to which a face counts as still.
        still_look: limit for a still face; turning, hands and light change looks.
        moved_look: limit for a face that moved further.
        far_reach, far_look: limits for a face that moved further than `TrackerSettings` allows, like a person walking.
        return_reach, return_growth, return_look: limits for recognising a person from before a cut.
    """

    still: float = 0.5
    still_look: float = 0.55
    moved_look: float = 0.35
    far_reach: float = 3.0
    far_look: float = 0.2
    return_reach: float = 0.5
    return_growth: float = 1.3
    return_look: float = 0.12


class Tracker:
    """Assigns the same number to the same person throughout a video.

    Faces of a frame are matched jointly to the last known box of each person (Hungarian method). The cost combines
    overlap and movement of the centre relative to the face size. Undetected persons may move further the longer they
    are absent. Persons detected only once or twice are dropped sooner, because another may take their place. New faces
    get the next numbers, larger ones first.

    With looks, a match also needs a similar look. At a cut all tracks end. A person gets the old number back, after any
    time, only with nearly the same position, size and look (`LookLimits`).
    """

    def __init__(self, max_gap: int = TrackerSettings.max_gap) -> None:
        """`max_gap`: see `TrackerSettings`."""
        self._tracks: list[_Track] = []
        self._next = 0
        self._settings = TrackerSettings(max_gap)
        self._limits = LookLimits()

    def update(self, frame: int, boxes: np.ndarray, looks: np.ndarray | None = None, cut: bool = False) -> list[int]:
        """The person number of each box.

        Args:
            frame: frame number, larger than in the previous call.
            boxes: float [n, 4].
            looks: float [n, d], each of norm 1, from `looks_of`; a row of NaN for an unknown look.
            cut: whether this frame belongs to another shot than the previous one.
        """
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        self._tracks = [track for track in self._tracks if track.ended or frame - track.frame <= self._patience(track)]
        if cut:
            for track in self._tracks:
                track.ended = True
        numbers: list[int | None] = [None] * len(boxes)
        if len(boxes) and self._tracks:
            allowed, cost = self._costs(frame, boxes, looks)
            for row, column in zip(*_assign(np.where(allowed, cost, _FORBIDDEN)), strict=True):
                if allowed[row, column]:
                    track = self._tracks[row]
                    track.box, track.frame, track.seen = boxes[column], frame, track.seen + 1
                    track.looks.append(None if looks is None else looks[column])
                    track.ended = False
                    numbers[column] = track.number
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        for index in np.argsort(-areas, kind="stable"):
            if numbers[index] is None:
                numbers[index] = self._next
                known = deque([None if looks is None else looks[index]], maxlen=ShotCuts.FRAMES)
                self._tracks.append(_Track(self._next, boxes[index], frame, known))
                self._next += 1
        return [int(number) for number in numbers if number is not None]

    def _patience(self, track: _Track) -> float:
        """Number of frames that `track` survives without a detection."""
        values = self._settings
        return values.max_gap * float(np.clip(track.seen / values.trusted, values.least_gap, 1))

    def _costs(self, frame: int, boxes: np.ndarray, looks: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Allowed matches, bool [tracks, boxes], and their costs, float [tracks, boxes]."""

        def centres_and_sizes(b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return (b[:, :2] + b[:, 2:]) / 2, np.sqrt(np.clip((b[:, 2:] - b[:, :2]).prod(axis=1), 1, None))

        known = np.stack([track.box for track in self._tracks])
        (centres_k, sizes_k), (centres_b, sizes_b) = centres_and_sizes(known), centres_and_sizes(boxes)
        size = np.maximum(sizes_k[:, None], sizes_b[None])
        moved = np.linalg.norm(centres_k[:, None] - centres_b[None], axis=-1) / size
        grown = size / np.minimum(sizes_k[:, None], sizes_b[None])
        values, limits = self._settings, self._limits
        near = [frame - track.frame <= values.near for track in self._tracks]
        reach = np.where(near, values.reach_near, values.reach_far)[:, None]
        unlike = self._unlike(boxes, looks)
        # Comparisons with NaN are false: an unknown look forbids no match, but prevents a return after a cut.
        other = unlike > np.where(moved < limits.still, limits.still_look, limits.moved_look)
        reached = ((moved < reach) & ~other) | ((moved < limits.far_reach) & (unlike < limits.far_look))
        follows = reached & (grown < values.most_growth)
        returns = (moved < limits.return_reach) & (grown < limits.return_growth) & (unlike < limits.return_look)
        ended = np.array([track.ended for track in self._tracks])[:, None]
        cost = moved + (1.0 - box_iou(known, boxes)) + 0.5 * np.log(grown) + np.nan_to_num(unlike)
        return np.where(ended, returns, follows), cost

    def _unlike(self, boxes: np.ndarray, looks: np.ndarray | None) -> np.ndarray:
        """Distance between the looks of every track and box, float [tracks, boxes]; NaN if one is unknown."""
        # The last look counts; at a cut, the oldest one kept, because a dissolve gradually changes one face to another.
        unlike = np.full((len(self._tracks), len(boxes)), np.nan)
        if looks is not None:
            for row, track in enumerate(self._tracks):
                look = track.looks[0 if track.ended else -1]
                if look is not None:
                    unlike[row] = 1 - looks @ look
        return unlike
