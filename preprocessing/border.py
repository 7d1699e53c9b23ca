"""Compare two crops outside the face: a fake differs from its original only in the face."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class BorderSettings:
    """Thresholds for treating the borders of two crops as different.

    Attributes:
        part: width of the border as a fraction of the side; the face stays a fifth of the side away from the edge.
        side: longer side in pixels of the downscaled crops, which hide compression artifacts and noise.
        difference: borders can differ only if their mean absolute brightness difference (0..255) exceeds this.
        likeness: borders can differ only if their correlation is below this. Both conditions are required: a fake that
            is brighter everywhere still correlates, and flat walls correlate with nothing.
    """

    part: float = 0.1
    side: int = 40
    difference: float = 10.0
    likeness: float = 0.8


def compare_borders(first: np.ndarray, second: np.ndarray, settings: BorderSettings) -> tuple[float, float]:
    """Return mean absolute difference (0..255) and correlation (-1..1) of two crops' borders; RGB uint8 [h, w, 3]."""
    height, width = first.shape[:2]
    scale = min(1.0, settings.side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    grey = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (first, second))
    small = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.float64) for picture in grey]
    inner_y, inner_x = (max(1, round(side * settings.part)) for side in (size[1], size[0]))
    border = np.ones((size[1], size[0]), bool)
    border[inner_y:-inner_y, inner_x:-inner_x] = False
    one, other = (picture[border] for picture in small)
    spread = float(one.std() * other.std())
    covariance = float((one * other).mean() - one.mean() * other.mean())
    return float(np.abs(one - other).mean()), covariance / spread if spread else 0.0


def border_differs(first: np.ndarray, second: np.ndarray, settings: BorderSettings | None = None) -> bool:
    """Return whether two crops (RGB uint8 [h, w, 3], same size) differ outside the face."""
    settings = settings or BorderSettings()
    difference, likeness = compare_borders(first, second, settings)
    return difference > settings.difference and likeness < settings.likeness
