"""The winners' augmentation with albumentations 2; importing this module imports albumentations.

Each step has the distribution of albumentations 0.4.6, which the winners used; docs/recipe.md lists the differences.
Steps that version 2 samples or rounds differently are implemented here.
"""

from __future__ import annotations

import os
import random
from typing import Any

import cv2
import numpy as np

from dfdc.imaging import isotropic_resize

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # disables its update check over the network
import albumentations as A

# Without sigma, cv2.GaussianBlur uses (1, 2, 1) / 4 for bytes and a 3x3 kernel, not its formula's 0.8.
_BLUR_SIGMA = 1 / np.sqrt(2 * np.log(2))


class Augment:
    """RGB uint8 [h, w, 3] -> RGB uint8 [size, size, 3]; the same image and seed give the same result."""

    def __init__(self, size: int) -> None:
        self._compose = build_augmentation(size)

    def __call__(self, picture: np.ndarray, seed: int) -> np.ndarray:
        # One random stream for all steps. Compose.set_random_seed would seed each step alike, which would correlate
        # all random numbers of a sample.
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return self._compose(image=picture)["image"]


def build_augmentation(size: int) -> A.Compose:
    """The winners' steps with their probabilities."""
    area, linear, cubic = cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC
    ways = (area, cubic), (area, linear), (linear, linear)
    resizes: list[A.BasicTransform | A.BaseCompose] = [IsotropicResize(size, down, up) for down, up in ways]
    return A.Compose(
        [
            A.ImageCompression(quality_range=(60, 100), p=0.5),
            GaussNoise(p=0.1),
            A.GaussianBlur(blur_limit=(3, 3), sigma_limit=(_BLUR_SIGMA, _BLUR_SIGMA), p=0.05),
            A.HorizontalFlip(p=0.5),
            A.OneOf(resizes, p=1),
            A.PadIfNeeded(size, size),
            A.OneOf([A.RandomBrightnessContrast(), FancyPCA(), HueSaturationValue()], p=0.7),
            A.ToGray(p=0.2),
            ShiftScaleRotate(p=0.5),
        ]
    )


class GaussNoise(A.ImageOnlyTransform):
    """Gaussian noise per pixel and channel, with a variance of 10 to 50 (for values 0..255).

    albumentations 2 samples the standard deviation uniformly instead, and its noise generator is not seeded.
    """

    def get_params(self) -> dict[str, Any]:
        return {"variance": self.py_random.uniform(10, 50)}

    def apply(self, img: np.ndarray, variance: float, **params: Any) -> np.ndarray:
        noisy = self.random_generator.standard_normal(img.shape, np.float32)
        noisy *= np.float32(np.sqrt(variance))
        noisy += img
        return np.clip(noisy, 0, 255).astype(np.uint8)


class IsotropicResize(A.ImageOnlyTransform):
    """Resize the longer side to `size` with OpenCV's interpolation `down` or `up`; the other side is truncated."""

    def __init__(self, size: int, down: int, up: int) -> None:
        super().__init__()
        self.size, self.down, self.up = size, down, up

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        return isotropic_resize(img, self.size, self.down, self.up)


class FancyPCA(A.ImageOnlyTransform):
    """Shift all pixels alike along the principal components of the image's colours; see `fancy_pca`."""

    def get_params(self) -> dict[str, Any]:
        return {"alpha": self.py_random.gauss(0, 0.1)}

    def apply(self, img: np.ndarray, alpha: float, **params: Any) -> np.ndarray:
        return fancy_pca(img, alpha)


class HueSaturationValue(A.ImageOnlyTransform):
    """Shift hue by -20 to 20 (of 180), saturation by -30 to 30, and value by -20 to 20 (of 255)."""

    def get_params(self) -> dict[str, Any]:
        draw = self.py_random.uniform
        return {"hue": draw(-20, 20), "saturation": draw(-30, 30), "value": draw(-20, 20)}

    def apply(self, img: np.ndarray, hue: float, saturation: float, value: float, **params: Any) -> np.ndarray:
        return shift_hsv(img, hue, saturation, value)


class ShiftScaleRotate(A.ImageOnlyTransform):
    """Scale by 0.8 to 1.2, rotate by -10 to 10 degrees about the centre, then shift; the border is black.

    Each axis is shifted by -0.1 to 0.1 of its side, with subpixel precision. albumentations 2 shifts by whole pixels.
    """

    def get_params(self) -> dict[str, Any]:
        draw = self.py_random.uniform
        return {"angle": draw(-10, 10), "scale": draw(0.8, 1.2), "dx": draw(-0.1, 0.1), "dy": draw(-0.1, 0.1)}

    def apply(self, img: np.ndarray, angle: float, scale: float, dx: float, dy: float, **params: Any) -> np.ndarray:
        height, width = img.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
        matrix[:, 2] += dx * width, dy * height
        return cv2.warpAffine(img, matrix, (width, height))


def fancy_pca(picture: np.ndarray, alpha: float) -> np.ndarray:
    """Shift all pixels by the same colour, V^T (alpha * e) * 255, truncated.

    The columns of V are the eigenvectors of the colour covariance (of values 0..1); e are the eigenvalues, largest
    first. Krizhevsky et al. 2012 (NIPS, section 4.1) use V and one alpha per eigenvalue. albumentations 0.4.6 stacks
    the rows of V as columns, which transposes it, and samples a single alpha. This function does the same, because
    the published weights were trained with it. The direction of the shift does not matter.

    Args:
        picture: RGB uint8 [h, w, 3].
        alpha: sampled from N(0, 0.1).
    """
    # Computed by plane, because products of long rows are faster than those of three columns.
    part = np.float32(1 / 255)
    planes = [plane.ravel() * part - np.float32(cv2.mean(plane)[0] / 255) for plane in cv2.split(picture)]
    covariance = np.array([[float(one @ other) for other in planes] for one in planes]) / max(1, planes[0].size - 1)
    values, vectors = np.linalg.eigh(covariance)  # smallest eigenvalue first
    shift = vectors[:, ::-1].T @ (alpha * values[::-1]) * 255
    # Truncating (integer + shift) equals adding the floor of the shift.
    scalar = (*np.floor(shift).tolist(), 0)
    return cv2.add(picture, scalar)  # ty: ignore[no-matching-overload] (OpenCV's type stubs lack scalars)


def shift_hsv(picture: np.ndarray, hue: float, saturation: float, value: float) -> np.ndarray:
    """Shift hue (modulo 180), saturation and value (clipped to 0..255), truncated. Grey pixels get a colour too.

    Args:
        picture: RGB uint8 [h, w, 3].
    """
    levels = np.arange(256)
    tables = (levels + hue) % 180, np.clip(levels + saturation, 0, 255), np.clip(levels + value, 0, 255)
    hsv = cv2.LUT(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV), np.stack(tables, -1).astype(np.uint8)[:, None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
