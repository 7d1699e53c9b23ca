"""Face detection; the only module that uses a face detector. dfdc/tracking.py tracks faces through a video.

MTCNN (Zhang et al. 2016, IEEE SPL 23(10)) with facenet-pytorch's networks and weights; the cascade is dfdc/mtcnn.py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from dfdc import mtcnn
from dfdc.devices import run_halving

_CPU_PIXELS = 4 * 960 * 540  # per batch; on the CPU larger batches only use more memory
_GPU_PIXELS = 32 * 960 * 540
_MOST_PICTURES = 64


@dataclass(frozen=True)
class Faces:
    """The faces of one image, in its pixel coordinates.

    Attributes:
        boxes: float32 [n, 4], x1, y1, x2, y2; corners may lie outside the image.
        scores: float32 [n], probability from the last stage, 0..1.
        landmarks: float32 [n, 5, 2], x, y of left eye, right eye, nose, left and right mouth corner (as seen).
    """

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


class FaceDetector:
    """MTCNN on batches of images.

    Args:
        thresholds: see `mtcnn.Cascade`.
        device: a PyTorch device name.
    """

    def __init__(self, thresholds: tuple[float, float, float], device: str = "cpu") -> None:
        self._runner = mtcnn.choose_runner(device)
        self._cascade = mtcnn.Cascade(thresholds, self._runner)
        on_gpu = device.startswith("cuda")
        self._batch_pixels = _GPU_PIXELS if on_gpu else _CPU_PIXELS
        self._turn = threading.Lock()
        # Threads share a GPU. PyTorch chooses kernels for each thread anew, which takes longer than a detection.
        self._gpu_thread = ThreadPoolExecutor(1) if on_gpu else None

    def batch_size(self, width: int, height: int, scale: float = 1.0) -> int:
        """Number of images of this size per batch, 1 to 64."""
        return int(np.clip(self._batch_pixels / max(1.0, width * height * scale * scale), 1, _MOST_PICTURES))

    def detect(self, pictures: Sequence[np.ndarray], scale: float = 1.0, smallest: float = 0.0) -> list[Faces]:
        """Detect the faces of each image, in its own pixel coordinates; batches are sized to fit into memory.

        Args:
            pictures: RGB uint8 [h, w, 3], of any sizes.
            scale: factor by which images are resized first (bicubic, sizes truncated, as the winners did).
            smallest: size of the smallest face to detect, as a fraction of the image's shorter side. Skipping
                smaller faces saves most of the time in large images.
        """
        found: list[Faces] = []
        for batch in self._batches(pictures, scale):
            resized = batch if scale == 1.0 else [self._runner.resize(picture, scale) for picture in batch]
            detect = partial(run_halving, lambda part: self._cascade.detect(part, smallest), resized)
            if self._gpu_thread:
                faces = self._gpu_thread.submit(detect).result()
            else:
                with self._turn:
                    faces = detect()
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
