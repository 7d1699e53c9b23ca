"""Finding faces and following them: the only module that touches a face detector.

MTCNN (Zhang et al. 2016, IEEE SPL 23(10)) with facenet-pytorch's networks and weights; the cascade is dfdc/mtcnn.py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dfdc import mtcnn

DETECTOR_SETTINGS = mtcnn.SETTINGS  # all that decides which boxes come out, besides the thresholds

# Thresholds of MTCNN's three stages by use, as in the winners' solution.
DETECT_THRESHOLDS = (0.85, 0.95, 0.95)  # boxes of real videos: only sure faces become training data
LANDMARK_THRESHOLDS = (0.65, 0.75, 0.75)  # five points in crops, which hold a face for certain
PREDICT_THRESHOLDS = (0.7, 0.8, 0.8)  # scoring: a missed face is worse than a doubtful one

# (longer side up to this many pixels, factor): what `--detector-scale auto` does, as the winners wrote it down.
SCALE_LIMITS = ((299, 2.0), (1000, 1.0), (None, 0.5))
MIDDLE_OVERLAP = 0.2  # IoU with the inner 3/5 of a crop that its own face has at least

_CPU_PIXELS = 4 * 960 * 540  # a batch: on the CPU larger ones only take memory
_GPU_PIXELS = 32 * 960 * 540
_MOST_PICTURES = 64


@dataclass(frozen=True)
class Faces:
    """The faces of one picture, in its pixels.

    Attributes:
        boxes: float32 [n, 4], x1, y1, x2, y2; corners may lie outside the picture.
        scores: float32 [n], the last stage's probability, 0..1.
        landmarks: float32 [n, 5, 2], x, y of left eye, right eye, nose, left and right mouth corner (as seen).
    """

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


def detector_scale(setting: str | float, width: int, height: int) -> float:
    """The factor by which a frame is resized before detection.

    Args:
        setting: "auto", or a factor. "auto" follows the longer side: 2 under 300 pixels, 1 up to 1000, 0.5 above.
    """
    if setting != "auto":
        return float(setting)
    longer = max(width, height)
    return next(factor for limit, factor in SCALE_LIMITS if limit is None or longer <= limit)


def parse_detector_scale(text: str) -> str | float:
    """`--detector-scale`: "auto" or a factor over 0 and up to 4 (argparse type)."""
    import argparse

    if text == "auto":
        return text
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor <= 4:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a factor over 0 and up to 4 (0.5: half size)")
    return factor


class FaceDetector:
    """MTCNN on batches of pictures.

    Args:
        thresholds: of the three stages, each 0..1.
        device: a PyTorch device name.
    """

    def __init__(self, thresholds: tuple[float, float, float], device: str = "cpu") -> None:
        from dfdc.mtcnn import Cascade

        self._cascade = Cascade(thresholds, device)
        self._turn = threading.Lock()  # threads that share a GPU must not fill its memory together
        self._batch_pixels = _GPU_PIXELS if device.startswith("cuda") else _CPU_PIXELS

    def batch_size(self, width: int, height: int, scale: float = 1.0) -> int:
        """How many pictures of this size fit a batch, 1 to 64."""
        return int(np.clip(self._batch_pixels / max(1.0, width * height * scale * scale), 1, _MOST_PICTURES))

    def detect(self, pictures: Sequence[np.ndarray], scale: float = 1.0, smallest: float = 0.0) -> list[Faces]:
        """Faces of each picture, in its own pixels, in batches that fit the memory.

        Args:
            pictures: RGB uint8 [h, w, 3], of any sizes.
            scale: the pictures are resized by it first (bicubic, sizes truncated, as the winners did).
            smallest: as a part of a picture's shorter side; smaller faces need not be found, which saves most of the
                time in large pictures.
        """
        from dfdc.devices import run_halving

        found: list[Faces] = []
        for batch in self._batches(pictures, scale):
            resized = batch if scale == 1.0 else [_resize(picture, scale) for picture in batch]
            with self._turn:
                faces = run_halving(lambda part: self._cascade.detect(part, smallest), resized)
            found += [Faces(boxes / scale, scores, points / scale) for boxes, scores, points in faces]
        return found

    def _batches(self, pictures: Sequence[np.ndarray], scale: float) -> Iterator[Sequence[np.ndarray]]:
        batch, pixels = [], 0.0
        for picture in pictures:
            own = picture.shape[0] * picture.shape[1] * scale * scale
            if batch and (pixels + own > self._batch_pixels or len(batch) == _MOST_PICTURES):
                yield batch
                batch, pixels = [], 0.0
            batch.append(picture)
            pixels += own
        if batch:
            yield batch


def _resize(picture: np.ndarray, scale: float) -> np.ndarray:
    """Bicubic and with antialiasing: as Pillow but for one grey level in some places, and 7 times as fast."""
    import torch

    height, width = picture.shape[:2]
    size = max(1, int(height * scale)), max(1, int(width * scale))
    # [1, 3, h, w] whose colours lie together in memory is what PyTorch's fast path for bytes takes.
    colours_first = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(colours_first, size=size, mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: boxes [n, 4] and [m, 4] -> float [n, m]."""
    first, second = np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None]
    overlap = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = np.prod(np.clip(overlap, 0, None), axis=-1)
    areas = [np.prod(np.clip(b[..., 2:] - b[..., :2], 0, None), axis=-1) for b in (first, second)]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)


def middle_face(faces: Faces, width: int, height: int) -> int | None:
    """Index of the face that a crop of this size was cut for; None if no face lies in its middle.

    A crop is its face box with a third added on each side, so the box is the inner 3/5 of it. Its padding may
    hold a neighbour's face, even a larger one.
    """
    if not len(faces):
        return None
    inner = np.array([[width / 5, height / 5, width * 4 / 5, height * 4 / 5]])
    overlaps = box_iou(faces.boxes, inner)[:, 0]
    best = int(np.argmax(overlaps))
    return best if overlaps[best] > MIDDLE_OVERLAP else None


@dataclass
class _Track:
    number: int
    box: np.ndarray
    frame: int
    seen: int = 1


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


class Tracker:
    """Gives the same person the same number through a video.

    Faces of a frame are matched to the last known box of each person, all at once (Hungarian method), by overlap
    and by how far the centre moved in units of the face's size. A person may be unseen for a while; the longer,
    the more room to have moved. Who was seen once or twice is given up sooner: a passer-by, whose place another takes.
    New faces take the next number, larger ones first.
    """

    def __init__(self, max_gap: int = TrackerSettings.max_gap) -> None:
        """`max_gap`: see `TrackerSettings`."""
        self._tracks: list[_Track] = []
        self._next = 0
        self._settings = TrackerSettings(max_gap)

    def update(self, frame: int, boxes: np.ndarray) -> list[int]:
        """The person number of each box.

        Args:
            frame: number of the frame, larger than in the call before.
            boxes: float [n, 4].
        """
        from scipy.optimize import linear_sum_assignment

        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        self._tracks = [track for track in self._tracks if frame - track.frame <= self._patience(track)]
        numbers: list[int | None] = [None] * len(boxes)
        if len(boxes) and self._tracks:
            known = np.stack([track.box for track in self._tracks])
            allowed, cost = self._costs(frame, known, boxes)
            for row, column in zip(*linear_sum_assignment(np.where(allowed, cost, 1e6)), strict=True):
                if allowed[row, column]:
                    track = self._tracks[row]
                    track.box, track.frame, track.seen = boxes[column], frame, track.seen + 1
                    numbers[column] = track.number
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        for index in np.argsort(-areas, kind="stable"):
            if numbers[index] is None:
                numbers[index] = self._next
                self._tracks.append(_Track(self._next, boxes[index], frame))
                self._next += 1
        return [int(number) for number in numbers if number is not None]

    def _patience(self, track: _Track) -> float:
        """Frames for which `track` may be unseen."""
        values = self._settings
        return values.max_gap * float(np.clip(track.seen / values.trusted, values.least_gap, 1))

    def _costs(self, frame: int, known: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        def centres_and_sizes(b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return (b[:, :2] + b[:, 2:]) / 2, np.sqrt(np.clip((b[:, 2:] - b[:, :2]).prod(axis=1), 1, None))

        (centres_k, sizes_k), (centres_b, sizes_b) = centres_and_sizes(known), centres_and_sizes(boxes)
        size = np.maximum(sizes_k[:, None], sizes_b[None])
        moved = np.linalg.norm(centres_k[:, None] - centres_b[None], axis=-1) / size
        grown = size / np.minimum(sizes_k[:, None], sizes_b[None])
        values = self._settings
        near = [frame - track.frame <= values.near for track in self._tracks]
        reach = np.where(near, values.reach_near, values.reach_far)[:, None]
        overlap = box_iou(known, boxes)
        return (moved < reach) & (grown < values.most_growth), moved + (1.0 - overlap) + 0.5 * np.log(grown)
