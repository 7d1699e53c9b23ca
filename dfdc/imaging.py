"""Image operations: boxes, margins, crop, isotropic resize, centre pad, SSIM difference (NumPy, OpenCV).

Images are RGB uint8 [h, w, 3]; boxes are x1, y1, x2, y2 in pixels of their image.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dfdc.identity import read_file

if TYPE_CHECKING:  # a process that decodes does without Pillow
    from PIL import Image

MIDDLE_OVERLAP = 0.2  # minimum IoU of a crop's own face with the inner 3/5 of the crop
MARGIN_PART = 3  # 1/3 of the box is added on each side; the published weights were trained on such crops
SSIM_WINDOW = 7  # side in pixels
CHANGED = 20  # mask values (0..255) above this are changed pixels; lower values are compression noise
MIN_CHANGED = 33  # minimum number of changed pixels of a changed crop; the winners: more than 32
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def margin_box(
    box: Sequence[float], width: int, height: int, part: int = MARGIN_PART
) -> tuple[int, int, int, int] | None:
    """Crop box of a face: corners truncated to int, a margin of 1/`part` of each side added, clipped to the frame.

    Corners of `box` may lie outside the frame. None if fewer than 2 x 2 pixels remain or a corner is not finite.
    """
    if not all(map(math.isfinite, box)):
        return None
    x1, y1, x2, y2 = (int(value) for value in box)
    margin_x, margin_y = (x2 - x1) // part, (y2 - y1) // part
    left, top = max(x1 - margin_x, 0), max(y1 - margin_y, 0)
    right, bottom = min(x2 + margin_x, width), min(y2 + margin_y, height)
    return (left, top, right, bottom) if right - left > 1 and bottom - top > 1 else None


def crop_face(frame: np.ndarray, box: Sequence[float], part: int = MARGIN_PART) -> np.ndarray | None:
    """The face in `box` with its margin, as a view of `frame`; None if `margin_box` returns None."""
    cut = margin_box(box, frame.shape[1], frame.shape[0], part)
    return None if cut is None else frame[cut[1] : cut[3], cut[0] : cut[2]]


def middle_box(boxes: np.ndarray, width: int, height: int) -> int | None:
    """Index of the box (float [n, 4]) of the face that a crop of this size shows; None if no box is near its centre."""
    if not len(boxes):
        return None
    # A crop is its face box plus a third on each side, so the box is the inner 3/5 of the crop. The margin may show
    # another face, even a larger one.
    inner = np.array([[width / 5, height / 5, width * 4 / 5, height * 4 / 5]])
    overlaps = box_iou(boxes, inner)[:, 0]
    best = int(np.argmax(overlaps))
    return best if overlaps[best] > MIDDLE_OVERLAP else None


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of all pairs: boxes [n, 4] and [m, 4] -> float [n, m]."""
    first, second = np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None]
    overlap = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = np.prod(np.clip(overlap, 0, None), axis=-1)
    areas = [np.prod(np.clip(b[..., 2:] - b[..., :2], 0, None), axis=-1) for b in (first, second)]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)


def isotropic_resize(
    picture: np.ndarray, size: int, down: int = cv2.INTER_AREA, up: int = cv2.INTER_CUBIC
) -> np.ndarray:
    """Resize [h, w] or [h, w, c] so that the longer side has `size` pixels; the other is truncated, at least 1.

    `down` and `up` are OpenCV's interpolation modes for shrinking and for enlarging.
    """
    height, width = picture.shape[:2]
    longer = max(height, width)
    if longer == size:
        return picture
    scale = size / longer
    # The longer side is exactly `size`; only the other is rounded (down, as in the winners' code).
    new_width = size if width == longer else max(1, int(width * scale))
    new_height = size if height == longer else max(1, int(height * scale))
    return cv2.resize(picture, (new_width, new_height), interpolation=up if scale > 1 else down)


def center_pad(picture: np.ndarray, size: int) -> np.ndarray:
    """Centre an image with sides of at most `size` pixels in a black square with side `size`."""
    height, width = picture.shape[:2]
    if height == width == size:
        return picture
    top, left = (size - height) // 2, (size - width) // 2
    square = np.zeros((size, size, *picture.shape[2:]), picture.dtype)
    square[top : top + height, left : left + width] = picture
    return square


def fit(picture: np.ndarray, size: int) -> np.ndarray:
    """RGB uint8 [h, w, 3] -> [size, size, 3]: scaled and padded, the network input for a crop without augmentation."""
    return center_pad(isotropic_resize(picture, size), size)


def ssim_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Difference of two images: 255 * (1 - SSIM) per channel, clipped to 0..255, then converted to grey.

    SSIM uses the defaults of scikit-image's structural_similarity (Wang et al. 2004, IEEE TIP 13(4)): a 7 x 7 uniform
    window, sample covariances, K1 = 0.01, K2 = 0.03, mirrored borders. SSIM lies in [-1, 1], so 1 - SSIM reaches 2;
    it is clipped before conversion to uint8.

    Args:
        first, second: RGB uint8 [h, w, 3] of equal size, with sides of at least 7 pixels.

    Returns:
        uint8 [h, w].

    Raises:
        ValueError: the sizes differ, or a side is shorter than 7 pixels.
    """
    if first.shape != second.shape:
        raise ValueError(f"crops have different sizes: {list(first.shape)} and {list(second.shape)}")
    if min(first.shape[:2]) < SSIM_WINDOW:
        raise ValueError(f"a crop of {first.shape[1]}x{first.shape[0]} pixels is smaller than the 7x7 SSIM window")
    # With s = a + b and d = a - b, four window means suffice instead of five.
    # 2 ab = (s^2 - d^2) / 2 and a^2 + b^2 = (s^2 + d^2) / 2.
    # Every sum of squares in a window is a whole number below 2^24, exact in float32.
    # Numerator and denominator are both doubled twice, and divided by 49/48 (from mean square to sample variance).
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
    """Whether a mask (uint8 [h, w], from `ssim_difference`) shows a visible change."""
    return int(np.count_nonzero(mask > CHANGED)) >= MIN_CHANGED


def tighten(picture: np.ndarray, part: int) -> np.ndarray:
    """A view of a crop [h, w] or [h, w, c] with its margin reduced from 1/3 to 1/`part` of the face.

    The crop comes from `crop_face` with the default margin, so the face is its inner 3/5. `part` must be at least
    MARGIN_PART; MARGIN_PART leaves the crop unchanged.
    """
    left, top = tighten_offset(picture.shape[1], part), tighten_offset(picture.shape[0], part)
    return picture[top : picture.shape[0] - top, left : picture.shape[1] - left]


def tighten_offset(side: int, part: int) -> int:
    """Pixels that `tighten` removes at each end of a side: 1/5 of it minus 1/`part` of its inner 3/5."""
    return side // 5 - 3 * side // (5 * part)


def encode_png(picture: np.ndarray, level: int = 1) -> bytes:
    """Encode RGB [h, w, 3] or grey [h, w] uint8 as PNG; `level` is zlib's, 0 to 9.

    Level 1 uses the "up" filter and run-length encoding. Real crops take half the time of zlib's own level 1 to write,
    a third less to read, and the same number of bytes.
    """
    stored = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    options = [cv2.IMWRITE_PNG_COMPRESSION, level]
    if level == 1:
        options += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
        if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV before 4.11 can't choose filters
            options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    ok, data = cv2.imencode(".png", stored, options)
    if not ok:
        raise ValueError(f"an image of shape {list(picture.shape)} can't be encoded as PNG")
    return data.tobytes()


def encode_jpeg(picture: np.ndarray, quality: int = 84) -> bytes:
    """Encode RGB uint8 [h, w, 3] as JPEG."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"an image of shape {list(picture.shape)} can't be encoded as JPEG")
    return data.tobytes()


def read_picture(path: Path, *, grey: bool = False) -> np.ndarray:
    """Read an image file as RGB uint8 [h, w, 3], or with `grey` as [h, w].

    Raises:
        OSError: the file is missing or not a valid image; the message names it.
    """
    # Not cv2.imread: it can't distinguish a missing file from a corrupt one, and it prints to stderr.
    data = np.frombuffer(read_file(path), np.uint8)
    try:
        picture = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR) if data.size else None
    except cv2.error as error:
        raise OSError(f"{path} can't be decoded as an image ({error.err or error})") from error
    if picture is None:
        raise OSError(f"{path} is not a readable image ({data.size} bytes)")
    return picture if grey else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def encode_small_png(image: Image.Image) -> bytes:
    """An RGB image as PNG with 256 colours, about a third of the size: for images in documentation."""
    data = io.BytesIO()
    image.quantize(256, kmeans=3).save(data, "PNG", optimize=True)
    return data.getvalue()
