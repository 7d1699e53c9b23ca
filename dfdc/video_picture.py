"""Converts decoded frames to images: colour conversion and resizing.

High dynamic range (ITU-R BT.2100) is converted to BT.709 by the relation in ITU-R BT.2408. HDR reference white
(203 cd/m2 in PQ, 75 % of the signal in HLG) becomes nearly white. Brighter values are rolled off, not clipped. HLG is
mapped by scene light, which depends on no display; PQ by display light.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

RANGES = {16: "pq", 18: "hlg"}  # transfer characteristics in ITU-T H.273; all others are "sdr"
_UNNAMED, _BT2020 = 2, 9  # matrix coefficients in ITU-T H.273
_STEPS = 1 << 16
_AT_ONCE = 1 << 20  # pixels converted at once
_PQ_WHITE = 203.0  # cd/m2
_PQ_PEAK = 1000.0  # cd/m2; nearly all HDR10 is graded for this peak; brighter values become white
_HLG_WHITE = 0.75  # HLG signal of reference white
_KNEE = 0.85  # SDR signal from which bright values are rolled off
_BT709_OF_BT2020 = np.array(
    # ITU-R BT.2087: linear light in BT.2020 primaries to BT.709 primaries
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)


def to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """RGB uint8 [height, width, 3] as from OpenCV's reader, whatever the transfer characteristic.

    `reformatter` prepares its tables once, for all frames of a video.
    """
    return _pixels(frame, "rgb24", reformatter)


def _pixels(frame: av.VideoFrame, kind: str, reformatter: VideoReformatter) -> np.ndarray:
    # By default, it starts as many threads as there are cores, which takes longer than the work.
    return reformatter.reformat(frame, format=kind, interpolation="BICUBIC", threads=1).to_ndarray()


def to_opaque(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """As `to_rgb`, but transparent pixels become white, so that invisible colours are not scored."""
    if not any(component.is_alpha for component in frame.format.components):
        return to_rgb(frame, reformatter)
    return _by_rows(_over_white, _pixels(frame, "rgba", reformatter))


def _over_white(pixels: np.ndarray) -> np.ndarray:
    picture = pixels.astype(np.float32)
    alpha = picture[..., 3:] / 255
    return np.rint(picture[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _by_rows(change: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """uint8 [height, width, 3]: `change` of some rows after the other, because its floats take much memory."""
    height, width = pixels.shape[:2]
    shown, rows = np.empty((height, width, 3), np.uint8), max(1, _AT_ONCE // width)
    for top in range(0, height, rows):
        shown[top : top + rows] = change(pixels[top : top + rows])
    return shown


def to_sdr(frame: av.VideoFrame, kind: str, reformatter: VideoReformatter) -> np.ndarray:
    """RGB uint8 [height, width, 3] in BT.709 from an HDR frame; `kind` is "pq" or "hlg"."""
    if frame.colorspace == _UNNAMED:
        frame.colorspace = _BT2020
    return _by_rows(functools.partial(_toned, kind), _pixels(frame, "rgb48le", reformatter))


def _toned(kind: str, pixels: np.ndarray) -> np.ndarray:
    deep = pixels.astype(np.uint16, copy=False)
    light = cv2.transform(_light(kind)[deep], _BT709_OF_BT2020)
    # Equal steps of the square root resolve dark values well enough for both curves.
    steps = cv2.sqrt(np.clip(light, 0, _peak(kind))) * ((_STEPS - 1) / _peak(kind) ** 0.5)
    return _grey_levels(kind)[steps.astype(np.uint16)]


def pq_light(signal: np.ndarray) -> np.ndarray:
    """Display light in cd/m2 of PQ signals in 0..1 (ITU-R BT.2100, table 4, EOTF)."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = signal ** (1 / m2)
    return 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def hlg_light(signal: np.ndarray) -> np.ndarray:
    """Scene light in 0..1 of HLG signals in 0..1 (ITU-R BT.2100, table 5, inverse OETF)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


@functools.cache
def _light(kind: str) -> np.ndarray:
    """Linear light of each 16-bit signal, 1 at reference white: float32 [65536]."""
    signal = np.linspace(0, 1, _STEPS)
    light = pq_light(signal) / _PQ_WHITE if kind == "pq" else hlg_light(signal) / hlg_light(np.array(_HLG_WHITE))
    return light.astype(np.float32)


def _peak(kind: str) -> float:
    """The brightest distinguishable light, 1 at reference white."""
    return _PQ_PEAK / _PQ_WHITE if kind == "pq" else float(1 / hlg_light(np.array(_HLG_WHITE)))


@functools.cache
def _grey_levels(kind: str) -> np.ndarray:
    """SDR signal of linear light, in equal steps of its square root from 0 to the peak: uint8 [65536]."""
    light = np.linspace(0, 1, _STEPS) ** 2 * _peak(kind)
    if kind == "pq":
        signal = light ** (1 / 2.4)  # ITU-R BT.1886, inverse EOTF
    else:
        signal = np.where(light < 0.018, 4.5 * light, 1.099 * light**0.45 - 0.099)  # ITU-R BT.709, OETF
    # Above the knee: Reinhard et al. 2002, equation 4, with slope 1 at the knee; the peak becomes 1.
    above, peak = ((value - _KNEE) / (1 - _KNEE) for value in (signal, signal[-1]))
    rolled = _KNEE + (1 - _KNEE) * above * (1 + above / peak**2) / (1 + above)
    return np.rint(255 * np.where(signal > _KNEE, rolled, signal)).astype(np.uint8)


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image to (height, width), bicubic."""
    return picture if picture.shape[:2] == size else cv2.resize(picture, size[::-1], interpolation=cv2.INTER_CUBIC)
