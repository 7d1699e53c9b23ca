"""A faster MTCNN cascade with facenet-pytorch's three networks, weights and arithmetic.

The library resizes each box in a loop and resamples the whole image for each pyramid level. Its large feature maps do
not stay in the CPU cache. Here:

- Pyramid and boxes are resampled from one summed-area table (Crow 1984, SIGGRAPH 18(3)) per image. Each pixel needs
  four look-ups, whatever the window size, and all boxes are resampled at once.
- On the CPU the proposal network processes the pyramid in tiles that fit the cache, in oneDNN's blocked layout.
- All images of a batch, even of different sizes, pass through the second and third network together.
- Only PyTorch is loaded. Importing the library and torchvision takes longer than detection in a short video.

Counts, corners and scores equal the library's except for rounding (tests/test_mtcnn.py).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.nn import functional

from dfdc.detector_settings import LAST_NMS, MIN_FACE, PYRAMID_FACTOR, PYRAMID_NMS, SECOND_NMS, STEP_NMS

_CELL, _STRIDE = 12, 2  # receptive field (12 x 12 pixels) and stride of the proposal network's output
_TILE_PIXELS = 90_000  # pyramid pixels per pass on the CPU, so that feature maps stay in the cache
_BLOCKED_FROM = 12_000  # minimum pixels of a pass for the blocked layout
_BOXES_AT_ONCE = 64

# Convolutions of each network: number, and (size, stride) of the following max pool.
_LAYERS = {
    "pnet": ((1, (2, 2)), (2, None), (3, None)),
    "rnet": ((1, (3, 2)), (2, (3, 2)), (3, None)),
    "onet": ((1, (3, 2)), (2, (3, 2)), (3, (2, 2)), (4, None)),
}
# Outputs of the heads: two logits (no face, face), box regression, facial points.
_HEADS = {
    "pnet": ("conv4_1", "conv4_2"),
    "rnet": ("dense5_1", "dense5_2"),
    "onet": ("dense6_1", "dense6_2", "dense6_3"),
}
_DENSE = {"rnet": "4", "onet": "5"}  # the hidden layer before the heads; the proposal network has none


class _Network:
    """One of the three networks, with the library's weights."""

    def __init__(self, name: str, device: str) -> None:
        package = importlib.util.find_spec("facenet_pytorch")
        if package is None or not package.submodule_search_locations:
            raise ModuleNotFoundError("facenet-pytorch is not installed; run ./setup.sh")
        path = Path(package.submodule_search_locations[0]) / "data" / f"{name}.pt"
        weights = torch.load(path, map_location=device, weights_only=True)

        def layer(*names: str) -> list[torch.Tensor]:
            return [torch.cat([weights[f"{name}.{kind}"] for name in names]) for kind in ("weight", "bias")]

        self._layers = [
            ([*layer(f"conv{number}"), weights[f"prelu{number}.weight"]], pool) for number, pool in _LAYERS[name]
        ]
        self._heads = layer(*_HEADS[name])
        self._hidden = None
        if name in _DENSE:
            self._hidden = [*layer(f"dense{_DENSE[name]}"), weights[f"prelu{_DENSE[name]}.weight"]]
        self._blocked: list | None = None
        if device == "cpu" and torch.backends.mkldnn.is_available():
            self._blocked = [([w.to_mkldnn() for w in tensors], pool) for tensors, pool in self._layers]
            self._blocked_heads = [w.to_mkldnn() for w in self._heads]

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """float [n, 3, h, w] -> outputs of the heads: pnet [n, 6, h', w'], rnet [n, 6], onet [n, 16]."""
        # oneDNN's blocked layout saves a conversion before and after each layer, but each new shape costs half a
        # millisecond. The small pyramid levels of crops have as many shapes as there are crops.
        blocked = self._blocked is not None and pictures[:, 0].numel() >= _BLOCKED_FROM
        x = pictures.to_mkldnn() if blocked else pictures
        for (weight, bias, slope), pool in self._blocked if blocked else self._layers:
            x = torch.prelu(functional.conv2d(x, weight, bias), slope)
            if pool:
                x = functional.max_pool2d(x, *pool, ceil_mode=True)
        if self._hidden is None:
            weight, bias = self._blocked_heads if blocked else self._heads
            x = functional.conv2d(x, weight, bias)
            return x.to_dense() if blocked else x
        x = x.to_dense() if blocked else x
        weight, bias, slope = self._hidden
        # The weights were trained in a framework that stores width before height.
        x = torch.prelu(functional.linear(x.permute(0, 3, 2, 1).flatten(1), weight, bias), slope)
        return functional.linear(x, *self._heads)


class _Group(NamedTuple):
    """Images of one size: indices first .. last - 1, and their tables [last - first, h + 1, (w + 1) * 3]."""

    first: int
    last: int
    height: int
    width: int
    sums: torch.Tensor


class _Tables:
    """Summed-area tables of images sorted by size: int32, the sum of all pixels above and left of each corner."""

    def __init__(self, pictures: Sequence[np.ndarray], device: str) -> None:
        sides = np.array([picture.shape[:2] for picture in pictures])
        corners = (sides + 1).prod(axis=1)
        self.sizes = sides[:, ::-1]  # width, height
        self._starts = torch.from_numpy(np.cumsum(corners) - corners).to(device)
        self._strides = torch.from_numpy(sides[:, 1] + 1).to(device)
        # Sums may overflow in a huge image; a window's sum is still correct as long as it fits into int32 itself.
        self._flat = torch.empty((int(corners.sum()), 3), dtype=torch.int32, device=device)
        self.groups, start, first = [], 0, 0
        for (height, width), members in groupby(pictures, key=lambda picture: picture.shape[:2]):
            same = list(members)
            end = start + len(same) * (height + 1) * (width + 1)
            table = self._flat[start:end].view(len(same), height + 1, width + 1, 3)
            _sum_up(same, table)
            self.groups.append(_Group(first, first + len(same), height, width, table.flatten(2)))
            start, first = end, first + len(same)

    def cut(self, image: np.ndarray, low: np.ndarray, high: np.ndarray, side: int) -> torch.Tensor:
        """Resize boxes to squares by area averaging.

        Args:
            image: int64 [k], image index of each box.
            low, high: int64 [k, 2], first pixel and one past the last, x and y, within the image.

        Returns:
            float [k, 3, side, side], about -1..1.
        """
        device = self._flat.device
        picture, begin, end = (torch.from_numpy(values).to(device) for values in (image, low, high))
        (x1, x2), (y1, y2) = (
            [edge + begin[:, axis, None] for edge in _windows((end - begin)[:, axis, None], side, device)]
            for axis in (0, 1)
        )
        starts, strides = self._starts[picture, None], self._strides[picture, None]

        def corner(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            places = (starts + y * strides)[:, :, None] + x[:, None, :]
            return self._flat.index_select(0, places.flatten()).view(len(low), side, side, 3)

        totals = corner(y2, x2).sub_(corner(y1, x2)).sub_(corner(y2, x1)).add_(corner(y1, x1))
        return _to_input(totals.float().div_(((y2 - y1)[:, :, None] * (x2 - x1)[:, None, :])[..., None]))


def _sum_up(pictures: Sequence[np.ndarray], table: torch.Tensor) -> None:
    """Fill `table` [n, h + 1, w + 1, 3] from RGB uint8 images [h, w, 3]."""
    if table.device.type == "cpu":
        for picture, place in zip(pictures, table.numpy(), strict=True):
            cv2.integral(picture, place, cv2.CV_32S)
        return
    values = torch.from_numpy(np.stack(pictures)).to(table.device)
    table.zero_()
    table[:, 1:, 1:] = values.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)


def _windows(length: int | torch.Tensor, count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and end of PyTorch's `count` area interpolation windows over `length` pixels; [k, 1] -> [k, count]."""
    index = torch.arange(count, device=device)
    return index * length // count, -(-(index + 1) * length // count)


def _to_input(means: torch.Tensor) -> torch.Tensor:
    """Mean colours [n, h, w, 3], 0..255 -> network input [n, 3, h, w], -1..1, in place."""
    return means.sub_(127.5).mul_(0.0078125).permute(0, 3, 1, 2)


class Cascade:
    """The MTCNN detector.

    Args:
        thresholds: score thresholds of the three stages, each 0..1.
        device: a PyTorch device name.
    """

    def __init__(self, thresholds: tuple[float, float, float], device: str) -> None:
        self._thresholds, self._device = thresholds, device
        self._pnet, self._rnet, self._onet = (_Network(name, device) for name in ("pnet", "rnet", "onet"))

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
        # Full float32 as on the CPU, not TF32, which is cuDNN's default.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            tables = _Tables([pictures[number] for number in order], self._device)
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
        for first, last, height, width, sums in tables.groups:
            steps = []
            for scale in _scales(height, width, smallest):
                size = int(height * scale + 1), int(width * scale + 1)
                found = []
                for begin, end, top, bottom in _tiles(last - first, *size, whole=self._device != "cpu"):
                    tile = _resize(sums[begin:end], height, width, size, top, bottom)
                    found.append(self._candidates(tile, scale, begin, top))
                step = np.concatenate(found)
                steps.append(step[_nms(step[:, :4], step[:, 4], step[:, 9], STEP_NMS)])
            pyramid = np.concatenate(steps)
            kept = pyramid[_nms(pyramid[:, :4], pyramid[:, 4], pyramid[:, 9], PYRAMID_NMS)]
            # Only in this stage, a side is the difference of the corners, without one added pixel.
            sides = np.tile(kept[:, 2:4] - kept[:, :2], 2)
            boxes.append(_square(kept[:, :4] + kept[:, 5:9] * sides))
            image.append(kept[:, 9].astype(np.int64) + first)
        return np.concatenate(boxes), np.concatenate(image)

    def _candidates(self, part: torch.Tensor, scale: float, begin: int, top: int) -> np.ndarray:
        """Candidates that reach the threshold: float32 [k, 10], corners, score, box regression, image index."""
        heads = self._pnet(part)
        scores = torch.softmax(heads[:, :2], 1)[:, 1]
        image, y, x = torch.nonzero(scores >= self._thresholds[0], as_tuple=True)
        place = torch.stack([x, y + top // _STRIDE], 1).float() * _STRIDE
        corners = [((place + 1) / scale).floor(), ((place + _CELL) / scale).floor()]
        rest = [scores[image, y, x, None], heads[image, 2:, y, x], (image + begin)[:, None].float()]
        return torch.cat(corners + rest, 1).cpu().numpy()

    def _refine(self, tables: _Tables, boxes: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Second stage: remaining boxes [k, 4] after box regression, made square, and the image index of each."""
        boxes, image, scores, heads = self._look(self._rnet, self._thresholds[1], tables, boxes, image, 24)
        kept = _nms(boxes, scores, image, SECOND_NMS)
        return _square(_move(boxes[kept], heads[kept, 2:6])), image[kept]

    def _decide(
        self, tables: _Tables, boxes: np.ndarray, image: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Third stage: boxes [k, 4], scores, points [k, 5, 2] and image indices, possibly several per face."""
        boxes, image, scores, heads = self._look(self._onet, self._thresholds[2], tables, boxes, image, 48)
        sides = boxes[:, None, 2:] - boxes[:, None, :2] + 1
        points = heads[:, 6:].reshape(-1, 2, 5).transpose(0, 2, 1)  # five x, then five y
        return _move(boxes, heads[:, 2:6]), scores, points * sides + boxes[:, None, :2] - 1, image

    def _look(
        self, network: _Network, threshold: float, tables: _Tables, boxes: np.ndarray, image: np.ndarray, side: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Boxes above the threshold of `network`: boxes [k, 4], image indices [k], scores [k], outputs of the heads."""
        corners = boxes.astype(np.int64)  # truncated
        low, high = np.maximum(corners[:, :2], 1) - 1, np.minimum(corners[:, 2:], tables.sizes[image])
        inside = (high > low).all(axis=1)
        boxes, image, low, high = boxes[inside], image[inside], low[inside], high[inside]
        parts = [slice(start, start + _BOXES_AT_ONCE) for start in range(0, max(len(boxes), 1), _BOXES_AT_ONCE)]
        cuts = (tables.cut(image[part], low[part], high[part], side) for part in parts)
        heads = np.concatenate([network(cut).cpu().numpy() for cut in cuts])
        scores = torch.softmax(torch.from_numpy(heads[:, :2]), 1)[:, 1].numpy()
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


def _tiles(count: int, height: int, width: int, *, whole: bool) -> Iterator[tuple[int, int, int, int]]:
    """(first image, last image + 1, top row, bottom row) of each pass through the proposal network.

    Tiles of one image begin at even rows and overlap by 10 rows, the receptive field minus the stride.
    """
    if whole:
        yield 0, count, 0, height
    elif height * width <= _TILE_PIXELS:
        group = _TILE_PIXELS // (height * width)
        for first in range(0, count, group):
            yield first, min(first + group, count), 0, height
    else:
        rows = max(_TILE_PIXELS // width // 2 * 2 - 10, 16)
        for index in range(count):
            for top in range(0, height - 10, rows):
                yield index, index + 1, top, min(top + rows + 10, height)


def _resize(sums: torch.Tensor, height: int, width: int, size: tuple[int, int], top: int, bottom: int) -> torch.Tensor:
    """Rows `top` to `bottom` of a `_Group`'s images resized to `size` (height, width): float [n, 3, rows, w], -1..1."""
    y1, y2 = (edge[top:bottom] for edge in _windows(height, size[0], sums.device))
    x1, x2 = _windows(width, size[1], sums.device)
    rows = sums.index_select(1, y2).sub_(sums.index_select(1, y1))
    colours = torch.arange(3, device=sums.device)

    def columns(x: torch.Tensor) -> torch.Tensor:
        return rows.gather(2, (x[:, None] * 3 + colours).flatten().expand(*rows.shape[:2], -1))

    totals = columns(x2).sub_(columns(x1)).float()
    totals.mul_(1 / (y2 - y1)[:, None]).mul_((1 / (x2 - x1)).repeat_interleave(3))
    return _to_input(totals.unflatten(2, (size[1], 3)))


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
