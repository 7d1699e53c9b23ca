"""Finding faces: the only module that touches a face detector. dfdc/tracking.py follows them through a video.

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
