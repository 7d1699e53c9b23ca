"""Following faces through a video: who is the same person, what a face looks like, where a shot ends.

Preprocessing follows faces by their boxes alone. Scoring, whose frames may lie minutes apart, also compares looks and
ends all tracks at a cut. The limits of looks and cuts were measured on 17 real videos and on every join of two of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from dfdc.imaging import box_iou

_BINS = (8, 16, 16)  # of L, a and b (OpenCV's 8-bit CIELAB)
_SHAPE_SIDE = 8  # pixels a side of a look's thumbnail
_LOOK_SIDE = 32  # pixels a side of the picture whose colours are counted
_FORBIDDEN = 1e6  # a cost that no match has
LOOK_SIZE = _BINS[0] * _BINS[1] * _BINS[2] + 3 * _SHAPE_SIDE**2


def look_of(crop: np.ndarray) -> np.ndarray:
    """What a face looks like: its colours and its coarse shape, each half of the feature.

    The dot product of two looks is their likeness, at most 1; 1 - likeness is their distance, 0 to 1.5.

    Args:
        crop: RGB uint8 [h, w, 3], a face with its margin of a third.

    Returns:
        float32 [LOOK_SIZE], of length 1: roots of the shares of 8 x 16 x 16 colours (their dot product is the
        Bhattacharyya coefficient), and 8 x 8 pixels less their mean, scaled to length 1 (normalised correlation).
        A crop of one colour has no shape: its length is less.
    """
    small = cv2.resize(crop, (_LOOK_SIDE, _LOOK_SIDE), interpolation=cv2.INTER_AREA)
    look = np.concatenate([_colours(small), _shape(small, _SHAPE_SIDE)[0]])
    return look * np.float32(np.sqrt(0.5))


def looks_of(crops: Sequence[np.ndarray | None]) -> np.ndarray:
    """The looks of a frame's faces, float32 [n, LOOK_SIZE]; NaN for a face without a crop."""
    looks = [np.full(LOOK_SIZE, np.nan, np.float32) if crop is None else look_of(crop) for crop in crops]
    return np.array(looks, np.float32).reshape(len(crops), LOOK_SIZE)


def _colours(picture: np.ndarray) -> np.ndarray:
    """Roots of the shares of the colours of a picture (RGB uint8): float32 [2048], of length 1."""
    counts = cv2.calcHist([cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)], [0, 1, 2], None, _BINS, [0, 256] * 3)
    return np.sqrt(counts / counts.sum(), dtype=np.float32).ravel()


def _shape(picture: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """`side` x `side` pixels less the mean of each colour, of length 1: float32 [3 side²]; and their deviation."""
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= small.mean(axis=(0, 1))
    length = float(np.linalg.norm(small))
    return small.ravel() / max(length, 1e-6), length / float(np.sqrt(small.size))


class ShotCuts:
    """Tells from sampled frames where another shot begins.

    A frame begins a shot if its colours and its coarse shape both differ from one of the last frames of the shot
    before. A pan keeps the colours, a change of light the shape, and a dissolve takes a few frames. Colours are
    compared after the brightness was evened out. Frames of one colour, as within a fade, are passed over.

    Two people in the same studio, one after the other, stay one shot.
    """

    # Measured: 17 real videos stay under 0.9 of the limits within a shot, 180 of 182 joins of two lie over 1.2.
    COLOURS = 0.42  # Hellinger distance, 0 to 1
    SHAPE = 0.37  # 1 - correlation, 0 to 2
    FRAMES = 4  # how many of the last frames; a dissolve over 3 frames between is seen
    SAMPLED = 256  # pixels a side, at least, are looked at; all of a large frame take ten times as long
    SIDES = (64, 16)  # pixels a side of the pictures for colours and shape
    FLAT = 4.0  # grey levels of deviation; real frames have 30 and more
    BRIGHT = 220.0  # what the 95th percentile of the brightest colour becomes

    def __init__(self) -> None:
        self._last: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=self.FRAMES)

    def is_cut(self, frame: np.ndarray) -> bool:
        """Whether `frame` (RGB uint8 [h, w, 3]) belongs to another shot than the frame of the call before."""
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
    looks: deque[np.ndarray | None]  # of the last sightings; None where not known
    seen: int = 1
    ended: bool = False  # by a cut


@dataclass(frozen=True)
class TrackerSettings:
    """What decides who is the same person.

    Attributes:
        max_gap: frames after which a person not seen any more is given up.
        trusted: sightings of a person from which on `max_gap` holds in full; below it is shortened in proportion.
        least_gap: the part of `max_gap` that holds for anybody.
        near: frames up to which a face may move by `reach_near` of its own size; `reach_far` after more.
        most_growth: by which a face may grow or shrink between two sightings.
    """

    max_gap: int = 50
    trusted: int = 5
    least_gap: float = 0.4
    near: int = 10
    # In 10 frames (a third of a second) a head moves by less than its own size; twice that after 20 and more.
    reach_near: float = 1.0
    reach_far: float = 2.0
    most_growth: float = 2.0


@dataclass(frozen=True)
class LookLimits:
    """How far looks may lie apart for one person (distances of `look_of`), where looks are given.

    Measured: of one person from sample to sample 0.02 in the middle, 0.45 at most, and 0.20 at most where the face
    moved by half its size; of two people 0.67 in the middle, 0.36 at least but for two men in one studio (0.14).

    Attributes:
        still: part of its size by which a face may move and count as still.
        still_look: limit for a face that is still; turning, hands and light change looks.
        moved_look: limit for one that moved further.
        far_reach, far_look: limits for one that moved further than `TrackerSettings` lets it, as who walks past.
        return_reach, return_growth, return_look: limits for somebody seen before a cut, to come back as the same.
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
    """Gives the same person the same number through a video.

    Faces of a frame are matched to the last known box of each person, all at once (Hungarian method), by overlap
    and by how far the centre moved in units of the face's size. A person may be unseen for a while; the longer,
    the more room to have moved. Who was seen once or twice is given up sooner: a passer-by, whose place another takes.
    New faces take the next number, larger ones first.

    With looks, a match needs a like look as well. At a cut all tracks end; a person comes back under the old number
    only with nearly the same place, size and look (`LookLimits`), however long that takes.
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
            frame: number of the frame, larger than in the call before.
            boxes: float [n, 4].
            looks: float [n, d], of length 1 each, as `looks_of` makes them; a row of NaN where a look is not known.
            cut: whether this frame belongs to another shot than the one before.
        """
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        self._tracks = [track for track in self._tracks if track.ended or frame - track.frame <= self._patience(track)]
        if cut:
            for track in self._tracks:
                track.ended = True
        numbers: list[int | None] = [None] * len(boxes)
        if len(boxes) and self._tracks:
            allowed, cost = self._costs(frame, boxes, looks)
            for row, column in zip(*linear_sum_assignment(np.where(allowed, cost, _FORBIDDEN)), strict=True):
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
        """Frames for which `track` may be unseen."""
        values = self._settings
        return values.max_gap * float(np.clip(track.seen / values.trusted, values.least_gap, 1))

    def _costs(self, frame: int, boxes: np.ndarray, looks: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Which track may be which box, bool [tracks, boxes], and how badly they fit, float of the same shape."""

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
        # A comparison with NaN is false: a look that is not known forbids nothing, but lets nobody come back.
        other = unlike > np.where(moved < limits.still, limits.still_look, limits.moved_look)
        reached = ((moved < reach) & ~other) | ((moved < limits.far_reach) & (unlike < limits.far_look))
        follows = reached & (grown < values.most_growth)
        returns = (moved < limits.return_reach) & (grown < limits.return_growth) & (unlike < limits.return_look)
        ended = np.array([track.ended for track in self._tracks])[:, None]
        cost = moved + (1.0 - box_iou(known, boxes)) + 0.5 * np.log(grown) + np.nan_to_num(unlike)
        return np.where(ended, returns, follows), cost

    def _unlike(self, boxes: np.ndarray, looks: np.ndarray | None) -> np.ndarray:
        """Distance of looks of every track and box, float [tracks, boxes]; NaN where one is not known."""
        # The last look counts, but at a cut the oldest that is kept: a dissolve turns one face into another bit by bit.
        unlike = np.full((len(self._tracks), len(boxes)), np.nan)
        if looks is not None:
            for row, track in enumerate(self._tracks):
                look = track.looks[0 if track.ended else -1]
                if look is not None:
                    unlike[row] = 1 - looks @ look
        return unlike
