"""Pictures as arrays: boxes, margins, crop, isotropic resize, centre pad, SSIM difference (NumPy, OpenCV).

Pictures are RGB uint8 [h, w, 3]; boxes are x1, y1, x2, y2 in pixels of the picture they belong to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

MIDDLE_OVERLAP = 0.2  # IoU with the inner 3/5 of a crop that its own face has at least
MARGIN_PART = 3  # a third of the box is added on each side; published weights were trained on such crops
SSIM_WINDOW = 7  # pixels a side
CHANGED = 20  # a mask value (0..255) over this is a changed pixel; below lies compression noise
MIN_CHANGED = 33  # changed pixels a crop must have to count as changed; the winners: more than 32
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def margin_box(
    box: Sequence[float], width: int, height: int, part: int = MARGIN_PART
) -> tuple[int, int, int, int] | None:
    """The pixels to cut for a face: corners truncated to int, 1/`part` of the sides added, clipped to the frame.

    Corners of `box` may lie outside the frame. None where less than 2 x 2 pixels are left or a corner is not finite.
    """
    if not all(map(math.isfinite, box)):
        return None
    x1, y1, x2, y2 = (int(value) for value in box)
    margin_x, margin_y = (x2 - x1) // part, (y2 - y1) // part
    left, top = max(x1 - margin_x, 0), max(y1 - margin_y, 0)
    right, bottom = min(x2 + margin_x, width), min(y2 + margin_y, height)
    return (left, top, right, bottom) if right - left > 1 and bottom - top > 1 else None


def crop_face(frame: np.ndarray, box: Sequence[float], part: int = MARGIN_PART) -> np.ndarray | None:
    """The face in `box` with its margin, as a view into `frame`; None as in `margin_box`."""
    cut = margin_box(box, frame.shape[1], frame.shape[0], part)
    return None if cut is None else frame[cut[1] : cut[3], cut[0] : cut[2]]


def middle_box(boxes: np.ndarray, width: int, height: int) -> int | None:
    """Index of the box (float [n, 4]) that a crop of this size was cut for; None if none lies in its middle."""
    if not len(boxes):
        return None
    # A crop is its face box with a third added on each side, so the box is the inner 3/5 of it. Its padding may hold
    # a neighbour's face, even a larger one.
    inner = np.array([[width / 5, height / 5, width * 4 / 5, height * 4 / 5]])
    overlaps = box_iou(boxes, inner)[:, 0]
    best = int(np.argmax(overlaps))
    return best if overlaps[best] > MIDDLE_OVERLAP else None


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: boxes [n, 4] and [m, 4] -> float [n, m]."""
    first, second = np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None]
    overlap = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = np.prod(np.clip(overlap, 0, None), axis=-1)
    areas = [np.prod(np.clip(b[..., 2:] - b[..., :2], 0, None), axis=-1) for b in (first, second)]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)


def isotropic_resize(
    picture: np.ndarray, size: int, down: int = cv2.INTER_AREA, up: int = cv2.INTER_CUBIC
) -> np.ndarray:
    """Resize [h, w] or [h, w, c] so that the longer side has `size` pixels; the other is truncated, at least 1.

    `down` and `up` are OpenCV's interpolations for shrinking and for enlarging.
    """
    height, width = picture.shape[:2]
    longer = max(height, width)
    if longer == size:
        return picture
    scale = size / longer
    # The longer side is `size` exactly; only the other is rounded (down, as the winners' code did).
    new_width = size if width == longer else max(1, int(width * scale))
    new_height = size if height == longer else max(1, int(height * scale))
    return cv2.resize(picture, (new_width, new_height), interpolation=up if scale > 1 else down)


def center_pad(picture: np.ndarray, size: int) -> np.ndarray:
    """Put a picture of at most `size` pixels a side in the middle of a black square of `size`."""
    height, width = picture.shape[:2]
    if height == width == size:
        return picture
    top, left = (size - height) // 2, (size - width) // 2
    square = np.zeros((size, size, *picture.shape[2:]), picture.dtype)
    square[top : top + height, left : left + width] = picture
    return square


def fit(picture: np.ndarray, size: int) -> np.ndarray:
    """RGB uint8 [h, w, 3] -> [size, size, 3]: scaled and padded, as networks see a crop that is not augmented."""
    return center_pad(isotropic_resize(picture, size), size)


def ssim_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where two pictures differ: 255 * (1 - SSIM), clipped to 0..255, each colour by itself and then grey.

    SSIM as scikit-image's structural_similarity computes it by default (Wang et al. 2004, IEEE TIP 13(4), with
    a 7 x 7 uniform window, sample covariances, K1 = 0.01, K2 = 0.03, mirrored borders). SSIM lies in [-1, 1],
    so 1 - SSIM reaches 2, and is clipped before it becomes uint8.

    Args:
        first, second: RGB uint8 [h, w, 3] of one size, at least 7 pixels a side.

    Returns:
        uint8 [h, w].

    Raises:
        ValueError: the sizes differ, or a side is under 7 pixels.
    """
    if first.shape != second.shape:
        raise ValueError(f"crops of different size: {list(first.shape)} and {list(second.shape)}")
    if min(first.shape[:2]) < SSIM_WINDOW:
        raise ValueError(f"a crop of {first.shape[1]}x{first.shape[0]} pixels is smaller than the 7x7 SSIM window")
    # With s = a + b and d = a - b, four window means do instead of five, and every sum of squares in a window is a
    # whole number under 2^24, exact in float32: 2 ab = (s^2 - d^2) / 2, a^2 + b^2 = (s^2 + d^2) / 2. Numerator and
    # denominator are both doubled twice, and divided by 49/48 (from a window's mean square to the sample variance).
    c1, c2 = 2 * (0.01 * 255) ** 2, 2 * (0.03 * 255) ** 2 * 48 / 49

    def window_mean(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values, -1, (SSIM_WINDOW, SSIM_WINDOW), borderType=cv2.BORDER_REFLECT)

    s, d = cv2.add(first, second, dtype=cv2.CV_32F), cv2.subtract(first, second, dtype=cv2.CV_32F)
    variance_s, variance_d = window_mean(s * s), window_mean(d * d)
    mean_s, mean_d = window_mean(s), window_mean(d)
    mean_s *= mean_s
    mean_d *= mean_d
    variance_s -= mean_s
    variance_d -= mean_d
    ssim = mean_s - mean_d + c1
    ssim *= variance_s - variance_d + c2
    mean_s += mean_d
    mean_s += c1
    variance_s += variance_d
    variance_s += c2
    mean_s *= variance_s
    ssim /= mean_s
    difference = np.clip(np.multiply(np.subtract(1, ssim, out=ssim), 255, out=ssim), 0, 255, out=ssim)
    return cv2.cvtColor(difference.astype(np.uint8), cv2.COLOR_RGB2GRAY)


def shows_change(mask: np.ndarray) -> bool:
    """Whether a mask (uint8 [h, w], from `ssim_difference`) shows a change that can be seen."""
    return int(np.count_nonzero(mask > CHANGED)) >= MIN_CHANGED


def tighten(picture: np.ndarray, part: int) -> np.ndarray:
    """A view of a crop [h, w] or [h, w, c], with its margin of a third of the face cut down to a `part`-th of it.

    The crop is `crop_face`'s, so that the face is its inner 3/5; MARGIN_PART changes nothing, and less is not allowed.
    """
    left, top = tighten_offset(picture.shape[1], part), tighten_offset(picture.shape[0], part)
    return picture[top : picture.shape[0] - top, left : picture.shape[1] - left]


def tighten_offset(side: int, part: int) -> int:
    """How many pixels `tighten` takes off each end of a side: a fifth of it, less a `part`-th of its inner 3/5."""
    return side // 5 - 3 * side // (5 * part)


def encode_png(picture: np.ndarray, level: int = 1) -> bytes:
    """RGB [h, w, 3] or grey [h, w] uint8 as PNG; `level` is zlib's, 0 to 9.

    Level 1 is the fast way: differences to the row above, and run lengths. Real crops take half the time of zlib's own
    level 1 to write, a third less to read, and as many bytes.
    """
    stored = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    options = [cv2.IMWRITE_PNG_COMPRESSION, level]
    if level == 1:
        options += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
        if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV before 4.11 has no choice of filters
            options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    ok, data = cv2.imencode(".png", stored, options)
    if not ok:
        raise ValueError(f"a picture of shape {list(picture.shape)} can't be encoded as PNG")
    return data.tobytes()


def encode_jpeg(picture: np.ndarray, quality: int = 84) -> bytes:
    """RGB uint8 [h, w, 3] as JPEG."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"a picture of shape {list(picture.shape)} can't be encoded as JPEG")
    return data.tobytes()


def read_picture(path: Path, *, grey: bool = False) -> np.ndarray:
    """RGB uint8 [h, w, 3], or [h, w] where `grey`, from a picture file.

    Raises:
        OSError: not there, or not a picture; the message names it.
    """
    # Not cv2.imread: it can't tell "absent" from "broken", and prints to stderr of its own accord.
    data = np.frombuffer(path.read_bytes(), np.uint8)
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:
        raise OSError(f"{path} is no picture that can be decoded ({error.err or error})") from error
    if picture is None:
        raise OSError(f"{path} is not a readable picture ({data.size} bytes)")
    return picture if grey else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
