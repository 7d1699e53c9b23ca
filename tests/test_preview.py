"""Pictures for people (training/preview.py)."""

import cv2
import numpy as np
import pytest

from dfdc.imaging import fit
from training import preview
from training.config import OcclusionConfig

COLOUR_STEPS = ("RandomBrightnessContrast", "FancyPCA", "HueSaturationValue")


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    return cv2.resize(
        rng.integers(1, 256, (20, 16, 3), dtype=np.uint8), (100, 140), interpolation=cv2.INTER_CUBIC
    ).clip(1)


def only(**shares):
    return OcclusionConfig(**(dict.fromkeys(OcclusionConfig.model_fields, 0) | shares))


def tiles_of(picture, shares, seed=3):
    mask = np.full(picture.shape[:2], 200, np.uint8)
    points = np.array([(35, 50), (65, 50), (50, 68), (38, 85), (62, 85)])
    return preview.grid_tiles(picture, mask, points, shares, 64, seed)


def names_of(tiles):
    return [name for name, _ in tiles if name != "all together"]


def test_the_preview_shows_what_can_happen_and_nothing_else(picture):
    plain = [
        "crop of a fake",
        "its SSIM mask",
        "five landmarks",
        "ImageCompression",
        "GaussNoise",
        "GaussianBlur",
        "HorizontalFlip",
        *COLOUR_STEPS,
        "ToGray",
        "ShiftScaleRotate",
    ]
    published = ["eyes", "nose", "mouth", *["half of the face"] * 3, *["half or two quadrants"] * 3]
    assert names_of(tiles_of(picture, None)) == plain
    assert names_of(tiles_of(picture, OcclusionConfig())) == plain + published
    assert names_of(tiles_of(picture, OcclusionConfig(random_half=0.1))) == [*plain, *published, *["random half"] * 3]
    assert names_of(tiles_of(picture, only(mouth=0.3))) == [*plain, "mouth"]


def test_the_previews_tiles_differ_from_the_crop_and_fill_whole_rows(picture):
    tiles = tiles_of(picture, OcclusionConfig(random_half=0.1))
    assert len(tiles) % 6 == 0
    assert {(tile.shape, tile.dtype.name) for _, tile in tiles} == {((64, 64, 3), "uint8")}
    assert np.array_equal(tiles[0][1], fit(picture, 64))
    assert np.array_equal(tiles[1][1], fit(np.full((140, 100, 3), 200, np.uint8), 64))
    assert all(not np.array_equal(tile, tiles[0][1]) for _, tile in tiles[1:])  # each step happens
    together = [tile.tobytes() for name, tile in tiles if name == "all together"]
    assert len(together) >= 6
    assert len(set(together)) == len(together)
    again = tiles_of(picture, OcclusionConfig(random_half=0.1))
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(tiles, again, strict=True))
    others = tiles_of(picture, OcclusionConfig(random_half=0.1), seed=4)
    changed = {name for (name, one), (_, other) in zip(tiles, others, strict=True) if not np.array_equal(one, other)}
    assert {"GaussNoise", "ShiftScaleRotate", "all together"} <= changed


def test_all_together_occludes_as_the_configuration_says(picture):
    hidden = tiles_of(picture, only(half_picture=1))
    shares = [(tile.max(axis=2) < 80).mean() for name, tile in hidden if name == "all together"]
    assert min(shares) > 0.55  # half of the picture, and the bars
    plain = [(tile.max(axis=2) < 80).mean() for name, tile in tiles_of(picture, None) if name == "all together"]
    assert max(plain) < 0.5
