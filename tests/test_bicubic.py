"""Bicubic resize (dfdc/bicubic.py): every byte is Pillow's."""

import numpy as np
import pytest
import skimage.data
from PIL import Image

from dfdc import bicubic


def by_pillow(picture, size):
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


# Half size has a path of its own, except for odd, small and tall pictures.
@pytest.mark.parametrize(
    "size", [(16, 16), (18, 22), (200, 100), (360, 642), (512, 512), (70, 202), (14, 40), (33, 64)]
)
@pytest.mark.parametrize("kind", ["noise", "black and white", "portrait"])
def test_half_size_is_pillows(size, kind):
    random = np.random.default_rng(0)
    picture = {
        "noise": random.integers(0, 256, (*size, 3), np.uint8),
        "black and white": 255 * random.integers(0, 2, (*size, 3), np.uint8),
        "portrait": np.ascontiguousarray(skimage.data.astronaut()[: size[0], : size[1]]),
    }[kind]
    height, width = picture.shape[:2]
    assert np.array_equal(bicubic.resize(picture, 0.5), by_pillow(picture, (width // 2, height // 2)))


@pytest.mark.parametrize(("scale", "size"), [(0.33, (69, 42)), (2.0, (420, 256)), (0.001, (1, 1))])
def test_other_sizes_are_pillows_and_truncated(scale, size):
    picture = np.ascontiguousarray(skimage.data.astronaut()[:128, :210])
    assert np.array_equal(bicubic.resize(picture, scale), by_pillow(picture, size))


def test_a_view_is_resized_like_its_copy():
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    assert np.array_equal(bicubic.resize(picture[::-1], 0.5), bicubic.resize(picture[::-1].copy(), 0.5))
