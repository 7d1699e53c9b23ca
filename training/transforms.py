"""Augmentation as the winners published it, with today's albumentations, and the picture a network takes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from dfdc.imaging import center_pad, isotropic_resize

if TYPE_CHECKING:
    import albumentations


class Augment:
    """RGB uint8 [h, w, 3] -> RGB uint8 [size, size, 3], by a seed: the same picture and seed give the same result."""

    def __init__(self, size: int) -> None:
        self._compose = build_augmentation(size)

    def __call__(self, picture: np.ndarray, seed: int) -> np.ndarray:
        self._compose.set_random_seed(seed)
        return self._compose(image=picture)["image"]


def fancy_pca(picture: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """albumentations' FancyPCA within a grey level, 100 times as fast: as one 3x4 colour matrix.

    After Krizhevsky et al. 2012 (NIPS), in the library's reading: with the eigenvectors V and eigenvalues e of the
    colours' covariance, each colour c becomes c + V diag(alphas * e) (c - mean).

    Args:
        picture: RGB uint8 [h, w, 3].
        alphas: [3].
    """
    # Plane by plane: products of long rows are fast, of three columns slow.
    mean = np.array(cv2.mean(picture)[:3]) / 255
    planes = [
        plane.ravel() * np.float32(1 / 255) - np.float32(centre)
        for plane, centre in zip(cv2.split(picture), mean, strict=True)
    ]
    covariance = np.array([[float(one @ other) for other in planes] for one in planes]) / max(1, planes[0].size - 1)
    values, vectors = np.linalg.eigh(covariance)
    order = values[::-1].argsort()  # as the library sorts them
    values, vectors = values[order], vectors[:, order]
    stretch = vectors @ np.diag(alphas * values)
    matrix = np.hstack([np.eye(3) + stretch, -(stretch @ mean)[:, None] * 255])
    return cv2.transform(picture, matrix)


def build_augmentation(size: int) -> albumentations.Compose:
    """The list of the DFDC winning solution; names and units are albumentations 2's.

    Its noise had a variance of 10-50 on 0..255, which is a standard deviation of 0.0124-0.0277 on 0..1. The two
    shrinkings by area differ from the third in aliasing, the enlargings in sharpness.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would look for a newer version on the network
    import albumentations as A

    class FancyPCA(A.FancyPCA):
        def apply(self, img: np.ndarray, alpha_vector: np.ndarray, **params: Any) -> np.ndarray:
            return fancy_pca(img, alpha_vector)

    return A.Compose(
        [
            A.ImageCompression(quality_range=(60, 100), p=0.5),
            A.GaussNoise(std_range=(0.0124, 0.0277), p=0.1),
            A.GaussianBlur(blur_limit=(3, 3), p=0.05),
            A.HorizontalFlip(p=0.5),
            A.OneOf(
                [
                    A.LongestMaxSize(size, interpolation=cv2.INTER_CUBIC, area_for_downscale="image"),
                    A.LongestMaxSize(size, interpolation=cv2.INTER_LINEAR, area_for_downscale="image"),
                    A.LongestMaxSize(size, interpolation=cv2.INTER_LINEAR),
                ],
                p=1,
            ),
            A.PadIfNeeded(size, size, border_mode=cv2.BORDER_CONSTANT),
            A.OneOf([A.RandomBrightnessContrast(), FancyPCA(), A.HueSaturationValue()], p=0.7),
            A.ToGray(p=0.2),
            A.Affine(
                translate_percent=(-0.1, 0.1),
                scale=(0.8, 1.2),
                keep_ratio=True,
                rotate=(-10, 10),
                border_mode=cv2.BORDER_CONSTANT,
                p=0.5,
            ),
        ]
    )


def fit(picture: np.ndarray, size: int) -> np.ndarray:
    """RGB uint8 [h, w, 3] -> [size, size, 3] without augmentation, as validation and prediction see it."""
    return center_pad(isotropic_resize(picture, size), size)
