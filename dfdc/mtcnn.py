"""A faster MTCNN cascade with facenet-pytorch's three networks, weights and arithmetic.

The library resizes each box in a loop and resamples the whole image for each pyramid level. Its large feature maps do
not stay in the CPU cache. Here:

- Pyramid and boxes are resampled from one summed-area table (Crow 1984, SIGGRAPH 18(3)) per image. Each pixel needs
  four look-ups, whatever the window size, and all boxes are resampled at once.
- On the CPU the proposal network processes the pyramid in tiles that fit the cache.
- All images of a batch, even of different sizes, pass through the second and third network together.
- The networks run in OpenVINO on the CPU, and in PyTorch on a GPU or without OpenVINO. A process with OpenVINO never
  imports PyTorch, which takes longer than detection in a short video.

Counts, corners and scores equal the library's except for rounding (tests/test_mtcnn.py).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from dfdc.detector_settings import LAST_NMS, MIN_FACE, PYRAMID_FACTOR, PYRAMID_NMS, SECOND_NMS, STEP_NMS

_CELL, _STRIDE = 12, 2  # receptive field (12 x 12 pixels) and stride of the proposal network's output
_TILE_PIXELS = 90_000  # pyramid pixels per pass on the CPU, so that feature maps stay in the cache
_BOXES_AT_ONCE, _BOXES_ON_GPU = 64, 256
_OUTPUTS = {"rnet": 6, "onet": 16}  # two logits, box regression, and x and y of five points

Array = Any  # of the runner's library: numpy.ndarray or torch.Tensor, whose operators agree


class Runner(Protocol):
    """The three networks and the few array operations whose names differ between NumPy and PyTorch.

    Attributes:
        cached: whether a pass is limited to _TILE_PIXELS, and to a power of two of images or boxes.
    """

    cached: bool

    def resize(self, picture: np.ndarray, scale: float) -> np.ndarray:
        """Resize RGB uint8 [h, w, 3] by a factor: bicubic with antialiasing, within one grey level of Pillow.

        Sizes are truncated, at least 1.
        """
        ...

    def context(self) -> AbstractContextManager:
        """The methods below are called within this context."""
        ...

    def put(self, values: np.ndarray) -> Array:
        """Move an array to the device."""
        ...

    def empty(self, corners: int) -> Array:
        """Memory for tables: int32 [corners, 3]."""
        ...

    def table(self, pictures: Sequence[np.ndarray], out: Array) -> None:
        """Write summed-area tables int32 [n, h + 1, w + 1, 3] of RGB uint8 images [h, w, 3] to `out`."""
        ...

    def take(self, values: Array, places: Array, axis: int) -> Array:
        """The slices of `values` at `places` (int64 [k]) along `axis`."""
        ...

    def floats(self, values: Array) -> Array:
        """Convert to float32."""
        ...

    def propose(self, pictures: Array, least: float) -> np.ndarray:
        """Run the proposal network on float32 [n, h, w, 3], -1..1.

        Returns:
            float32 [k, 9]: image, row and column of each output whose logits differ by at least `least`; its two
            logits, and its box regression.
        """
        ...

    def judge(self, name: str, pictures: Array) -> np.ndarray:
        """Outputs of "rnet" for float32 [n, 24, 24, 3] -> [n, 6], or of "onet" for [n, 48, 48, 3] -> [n, 16]."""
        ...


def choose_runner(device: str) -> Runner:
    """OpenVINO on the CPU if it is installed, else PyTorch; `device` is a PyTorch device name."""
    # Imported here, because each library takes a while to load, and PyTorch seconds.
    if device == "cpu" and module_on_cpu() == "dfdc.mtcnn_openvino":
        from dfdc.mtcnn_openvino import OpenVinoRunner

        return OpenVinoRunner()
    from dfdc.mtcnn_torch import TorchRunner

    return TorchRunner(device)


def module_on_cpu() -> str:
    """Name of the module with the runner for the CPU, to import it before processes are forked."""
    return "dfdc.mtcnn_openvino" if importlib.util.find_spec("openvino") else "dfdc.mtcnn_torch"


class _Group(NamedTuple):
    """Images of one size: indices first .. last - 1, and their tables [last - first, h + 1, (w + 1) * 3]."""

    first: int
    last: int
    height: int
    width: int
    sums: Array


class _Tables:
    """Summed-area tables of images sorted by size: int32, the sum of all pixels above and left of each corner."""

    def __init__(self, pictures: Sequence[np.ndarray], runner: Runner) -> None:
        sides = np.array([picture.shape[:2] for picture in pictures])
        corners = (sides + 1).prod(axis=1)
        self.sizes = sides[:, ::-1]  # width, height
        self._runner = runner
        self._starts, self._strides = np.cumsum(corners) - corners, sides[:, 1] + 1
        # Sums may overflow in a huge image; a window's sum is still correct as long as it fits into int32 itself.
        self._flat = runner.empty(int(corners.sum()))
        self.groups, start, first = [], 0, 0
        for (height, width), members in groupby(pictures, key=lambda picture: picture.shape[:2]):
            same = list(members)
            end = start + len(same) * (height + 1) * (width + 1)
            table = self._flat[start:end].reshape(len(same), height + 1, width + 1, 3)
            runner.table(same, table)
            sums = table.reshape(len(same), height + 1, (width + 1) * 3)
            self.groups.append(_Group(first, first + len(same), height, width, sums))
            start, first = end, first + len(same)

    def cut(self, image: np.ndarray, low: np.ndarray, high: np.ndarray, side: int) -> Array:
        """Resize boxes to squares by area averaging.

        Args:
            image: int64 [k], image index of each box.
            low, high: int64 [k, 2], first pixel and one past the last, x and y, within the image.

        Returns:
            float [k, side, side, 3], about -1..1.
        """
        (x1, x2), (y1, y2) = (
            [edge + low[:, axis, None] for edge in _windows((high - low)[:, axis, None], side)] for axis in (0, 1)
        )
        starts, strides = self._starts[image, None], self._strides[image, None]
        left, right = (self._runner.put(x)[:, None, :] for x in (x1, x2))
        top, bottom = (self._runner.put(starts + y * strides)[:, :, None] for y in (y1, y2))

        def corner(y: Array, x: Array) -> Array:
            return self._runner.take(self._flat, (y + x).reshape(-1), 0)

        totals = corner(bottom, right)
        totals -= corner(top, right)
        totals -= corner(bottom, left)
        totals += corner(top, left)
        return self._to_input(totals.reshape(len(low), side, -1), y2 - y1, x2 - x1)

    def level(self, group: _Group, images: slice, rows: slice, size: tuple[int, int]) -> Array:
        """Rows of `images` of a group resized to `size` (height, width): float [n, rows, width, 3], about -1..1."""
        y1, y2 = (edge[rows] for edge in _windows(group.height, size[0]))
        x1, x2 = _windows(group.width, size[1])
        take, put, sums = self._runner.take, self._runner.put, group.sums[images]
        strip = take(sums, put(y2), 1)
        strip -= take(sums, put(y1), 1)
        strip = strip.reshape(len(sums), len(y1), group.width + 1, 3)
        totals = take(strip, put(x2), 2)
        totals -= take(strip, put(x1), 2)
        return self._to_input(totals.reshape(len(sums), len(y1), -1), (y2 - y1)[None], (x2 - x1)[None])

    def _to_input(self, totals: Array, heights: np.ndarray, widths: np.ndarray) -> Array:
        """Sums of colours [n, h, w * 3] over windows, heights [n or 1, h] and widths [n or 1, w] -> network input."""
        means = self._runner.floats(totals)
        means *= self._runner.put((0.0078125 / heights).astype(np.float32))[:, :, None]
        means *= self._runner.put((1 / widths).astype(np.float32).repeat(3, axis=1))[:, None, :]
        means -= 127.5 * 0.0078125
        return means.reshape(len(totals), means.shape[1], -1, 3)


def _windows(length: int | np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of PyTorch's `count` area interpolation windows over `length` pixels; [k, 1] -> [k, count]."""
    index = np.arange(count)
    return index * length // count, -(-(index + 1) * length // count)


class Cascade:
    """The MTCNN detector.

    Args:
        thresholds: score thresholds of the three stages, each 0..1.
        runner: see `choose_runner`.
    """

    def __init__(self, thresholds: tuple[float, float, float], runner: Runner) -> None:
        self._thresholds, self._runner = thresholds, runner

    def detect(
        self, pictures: Sequence[np.ndarray], smallest: float = 0.0
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Boxes float32 [k, 4], scores [k] and points [k, 5, 2] of each image, larger faces first.

        `pictures`: RGB uint8 [h, w, 3], at least one, of any sizes. `smallest`: fraction of the shorter side; pyramid
        levels with a smaller cell are skipped. Faces of at least twice that size are still detected.
        """
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32)
        found = [nothing] * len(pictures)
        order = [number for number, picture in enumerate(pictures) if min(picture.shape[:2]) >= MIN_FACE]
        order.sort(key=lambda number: pictures[number].shape)
        if not order:
            return found
        with self._runner.context():
            tables = _Tables([pictures[number] for number in order], self._runner)
            boxes, scores, points, image = self._decide(tables, *self._refine(tables, *self._propose(tables, smallest)))
        for index, number in enumerate(order):
            own = np.flatnonzero(image == index)
            own = own[_nms_by_smaller(boxes[own], scores[own], LAST_NMS)]
            own = own[np.argsort((boxes[own, 2] - boxes[own, 0]) * (boxes[own, 3] - boxes[own, 1]))[::-1]]
            found[number] = boxes[own], scores[own], points[own]
        return found

    def _propose(self, tables: _Tables, smallest: float) -> tuple[np.ndarray, np.ndarray]:
        """First stage: square boxes [k, 4] from the whole pyramid, and the image index of each."""
        boxes, image = [], []
        for group in tables.groups:
            steps = []
            for scale in _scales(group.height, group.width, smallest):
                size = int(group.height * scale + 1), int(group.width * scale + 1)
                found = []
                for images, rows in _tiles(group.last - group.first, *size, whole=not self._runner.cached):
                    tile = tables.level(group, images, rows, size)
                    found.append(self._candidates(tile, scale, images.start, rows.start))
                step = np.concatenate(found)
                steps.append(step[_nms(step[:, :4], step[:, 4], step[:, 9], STEP_NMS)])
            pyramid = np.concatenate(steps)
            kept = pyramid[_nms(pyramid[:, :4], pyramid[:, 4], pyramid[:, 9], PYRAMID_NMS)]
            # Only in this stage, a side is the difference of the corners, without one added pixel.
            sides = np.tile(kept[:, 2:4] - kept[:, :2], 2)
            boxes.append(_square(kept[:, :4] + kept[:, 5:9] * sides))
            image.append(kept[:, 9].astype(np.int64) + group.first)
        return np.concatenate(boxes), np.concatenate(image)

    def _candidates(self, part: Array, scale: float, begin: int, top: int) -> np.ndarray:
        """Candidates that reach the threshold: float32 [k, 10], corners, score, box regression, image index."""
        threshold = self._thresholds[0]
        least = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.copysign(math.inf, threshold - 0.5)
        found = self._runner.propose(part, least)
        place = found[:, 2:0:-1] * _STRIDE + np.array([0, top], np.float32)
        corners = [np.floor((place + 1) / scale), np.floor((place + _CELL) / scale)]
        return np.hstack([*corners, _face_scores(found[:, 3:5])[:, None], found[:, 5:], found[:, :1] + begin])

    def _refine(self, tables: _Tables, boxes: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Second stage: remaining boxes [k, 4] after box regression, made square, and the image index of each."""
        boxes, image, scores, heads = self._look("rnet", self._thresholds[1], tables, boxes, image, 24)
        kept = _nms(boxes, scores, image, SECOND_NMS)
        return _square(_move(boxes[kept], heads[kept, 2:6])), image[kept]

    def _decide(
        self, tables: _Tables, boxes: np.ndarray, image: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Third stage: boxes [k, 4], scores, points [k, 5, 2] and image indices, possibly several per face."""
        boxes, image, scores, heads = self._look("onet", self._thresholds[2], tables, boxes, image, 48)
        sides = boxes[:, None, 2:] - boxes[:, None, :2] + 1
        points = heads[:, 6:].reshape(-1, 2, 5).transpose(0, 2, 1)  # five x, then five y
        return _move(boxes, heads[:, 2:6]), scores, points * sides + boxes[:, None, :2] - 1, image

    def _look(
        self, network: str, threshold: float, tables: _Tables, boxes: np.ndarray, image: np.ndarray, side: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Boxes above the threshold of `network`: boxes [k, 4], image indices [k], scores [k], outputs of the heads."""
        corners = boxes.astype(np.int64)  # truncated
        low, high = np.maximum(corners[:, :2], 1) - 1, np.minimum(corners[:, 2:], tables.sizes[image])
        inside = (high > low).all(axis=1)
        boxes, image, low, high = boxes[inside], image[inside], low[inside], high[inside]
        most = _BOXES_AT_ONCE if self._runner.cached else _BOXES_ON_GPU
        parts = _parts(len(boxes), most, even=not self._runner.cached)
        cuts = (tables.cut(image[part], low[part], high[part], side) for part in parts)
        nothing = np.zeros((0, _OUTPUTS[network]), np.float32)
        heads = np.concatenate([nothing, *(self._runner.judge(network, cut) for cut in cuts)])
        scores = _face_scores(heads[:, :2])
        sure = scores > threshold
        return boxes[sure], image[sure], scores[sure], heads[sure]


def _scales(height: int, width: int, smallest: float = 0.0) -> list[float]:
    """Scales of the pyramid; at the largest, a face of MIN_FACE pixels fills a cell. For `smallest` see `detect`."""
    scale = _CELL / MIN_FACE
    shorter = min(height, width) * scale
    scales = []
    while shorter >= _CELL:
        scales.append(scale)
        scale *= PYRAMID_FACTOR
        shorter *= PYRAMID_FACTOR
    return [scale for scale in scales if _CELL / scale >= smallest * min(height, width)]


def _parts(count: int, most: int, *, even: bool) -> Iterator[slice]:
    """Divide `count` items into parts of `most` and the rest, or without `even` into powers of two up to `most`.

    Powers of two keep the number of different sizes small.
    """
    first = 0
    while first < count:
        size = min(most, count - first)
        part = slice(first, first + (size if even else 1 << size.bit_length() - 1))
        yield part
        first = part.stop


def _tiles(count: int, height: int, width: int, *, whole: bool) -> Iterator[tuple[slice, slice]]:
    """The images and the rows of each pass through the proposal network.

    Tiles of one image begin at even rows and overlap by 10 rows, the receptive field minus the stride.
    """
    if whole:
        yield slice(0, count), slice(0, height)
    elif height * width <= _TILE_PIXELS:
        for images in _parts(count, _TILE_PIXELS // (height * width), even=False):
            yield images, slice(0, height)
    else:
        rows = max(_TILE_PIXELS // width // 2 * 2 - 10, 16)
        for index in range(count):
            for top in range(0, height - 10, rows):
                yield slice(index, index + 1), slice(top, min(top + rows + 10, height))


def _face_scores(logits: np.ndarray) -> np.ndarray:
    """Softmax of two logits [k, 2] (no face, face): the score of a face [k]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers[:, 1] / powers.sum(axis=1)


def _square(boxes: np.ndarray) -> np.ndarray:
    """Boxes [k, 4] extended to squares with the longer side, around the same centres."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True)
    corners = boxes[:, :2] + sides * np.float32(0.5) - longer * np.float32(0.5)
    return np.concatenate([corners, corners + longer], axis=1)


def _move(boxes: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Boxes [k, 4] after box regression: each corner moves by a fraction of the side."""
    return boxes + moves * np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)


def _nms(boxes: np.ndarray, scores: np.ndarray, image: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the boxes that non-maximum suppression keeps, per image, best first; `threshold` is an IoU."""
    corners_and_sides = boxes.astype(np.float64)
    corners_and_sides[:, 2:] -= corners_and_sides[:, :2]
    kept = []
    for number in np.unique(image):
        own = np.flatnonzero(image == number)
        best = cv2.dnn.NMSBoxes(corners_and_sides[own].tolist(), scores[own].tolist(), 0.0, threshold)
        kept.append(own[np.asarray(best, int).ravel()])
    return np.concatenate(kept) if kept else np.zeros(0, int)


def _nms_by_smaller(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """As `_nms` for one image, but `threshold` is the intersection over the area of the smaller box."""
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    order, kept = np.argsort(scores)[::-1], []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2]) + 1
        shared = np.clip(sides, 0, None).prod(axis=1)
        order = rest[shared / np.minimum(areas[best], areas[rest]) <= threshold]
    return np.array(kept, int)
