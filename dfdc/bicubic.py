"""Pillow's bicubic resize with antialiasing, and half the time for it at half size."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

_TAPS = np.array(
    [-3, -9, 29, 111, 111, 29, -9, -3], np.float32
)  # at half size, in 256ths, of pixels 2 x - 3 .. 2 x + 4
_AT_ONCE = 50_000  # pixels, so that intermediate values stay in the cache


def resize(picture: np.ndarray, scale: float) -> np.ndarray:
    """Resize RGB uint8 [h, w, 3] by a factor; sizes are truncated, at least 1. The bytes are Pillow's."""
    height, width = picture.shape[:2]
    # Pillow begins with the width, except in tall pictures.
    if scale == 0.5 and not height % 2 and not width % 2 and 16 <= height <= 2 * width and width >= 16:
        return _halve(picture)
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _halve(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    narrow = np.empty((height, 3, width // 2), np.uint8)  # like Pillow, round between the two directions
    step = max(1, _AT_ONCE // width)
    for colour, plane in enumerate(cv2.split(picture)):
        for top in range(0, height, step):
            pairs = plane[top : top + step].view("<u2").ravel()
            filtered = _filter((pairs & 255).view(np.int16), (pairs >> 8).view(np.int16), 1)
            narrow[top : top + step, colour] = filtered.reshape(-1, width // 2)
        _filter_ends(plane, narrow[:, colour])
    rows = narrow.reshape(height, -1)
    halved = np.empty((height // 2, rows.shape[1]), np.uint8)
    step = max(1, _AT_ONCE // height)
    for left in range(0, rows.shape[1], step):
        even, odd = (rows[first::2, left : left + step].astype(np.int16) for first in (0, 1))
        halved[:, left : left + step] = _filter(even.ravel(), odd.ravel(), even.shape[1]).reshape(even.shape)
    _filter_ends(rows.T, halved.T)
    return cv2.merge([*halved.reshape(height // 2, 3, -1).swapaxes(0, 1)])


def _filter(even: np.ndarray, odd: np.ndarray, step: int) -> np.ndarray:
    """Filtered values at every second pixel of a direction, uint8; the even and the odd pixels are int16.

    All are flat. `step` is the distance of neighbours. The two values at each end of a row or column are wrong.
    """
    # The filter equals [1, 3, 3, 1], followed on every second value by [-3, 38, -3].
    blurred = even + odd
    blurred *= 3
    blurred[step:] += odd[:-step]
    blurred[:-step] += even[step:]
    sharp = blurred * 6
    around = blurred[2 * step :] + blurred[: -2 * step]
    around *= 3
    sharp[step:-step] -= around
    sharp += 128  # half of 256
    sharp >>= 5
    sharp += blurred
    sharp >>= 3
    return np.clip(sharp, 0, 255, out=sharp).astype(np.uint8)


def _filter_ends(pixels: np.ndarray, out: np.ndarray) -> None:
    """Correct the first and last two columns, whose filter consists of the taps inside; uint8 [m, 2 n] and [m, n]."""
    for column, outside in ((0, 3), (1, 1)):
        taps = _TAPS[outside:] / _TAPS[outside:].sum()
        for end, place in ((pixels, column), (pixels[:, ::-1], -1 - column)):
            out[:, place] = np.clip(np.floor(end[:, : len(taps)] @ taps + 0.5), 0, 255)
