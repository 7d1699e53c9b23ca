"""Whether two crops show the same place (preprocessing/border.py)."""

import cv2
import numpy as np
import pytest

from preprocessing.border import BorderSettings, border_differs, compare_borders


@pytest.fixture
def crop():
    rng = np.random.default_rng(4)
    return cv2.resize(rng.integers(0, 256, (7, 6, 3), dtype=np.uint8), (200, 240), interpolation=cv2.INTER_CUBIC)


def test_a_swapped_face_is_no_other_border(crop):
    fake = crop.copy()
    fake[48:192, 40:160] = 255 - fake[48:192, 40:160]  # the face: the inner three fifths
    assert compare_borders(crop, fake, BorderSettings()) == (0.0, pytest.approx(1.0))
    assert not border_differs(crop, fake)
    assert not border_differs(crop, crop)


def test_compression_noise_and_light_are_no_other_border(crop):
    rng = np.random.default_rng(5)
    noisy = np.clip(crop + rng.normal(0, 25, crop.shape), 0, 255).astype(np.uint8)
    lighter = np.clip(crop.astype(int) + 30, 0, 255).astype(np.uint8)
    assert not border_differs(crop, noisy)
    difference, likeness = compare_borders(crop, lighter, BorderSettings())
    assert difference > BorderSettings().difference
    assert likeness > 0.95
    assert not border_differs(crop, lighter)


@pytest.mark.parametrize(
    "turned", [lambda p: p[::-1, ::-1], lambda p: p[:, ::-1], lambda p: 255 - p, lambda p: np.roll(p, 60, 0)]
)
def test_another_place_is_another_border(crop, turned):
    assert border_differs(crop, np.ascontiguousarray(turned(crop)))


def test_flat_walls_are_alike_unless_their_brightness_differs():
    wall = np.full((50, 40, 3), 100, np.uint8)
    assert compare_borders(wall, wall, BorderSettings()) == (0.0, 0.0)
    assert not border_differs(wall, wall)
    assert not border_differs(wall, wall + np.uint8(10))  # at the limit
    assert border_differs(wall, wall + np.uint8(11))


def test_the_border_is_a_tenth_and_nothing_of_the_inside_counts():
    small = np.zeros((40, 30, 3), np.uint8)  # not shrunk: 4 rows and 3 columns are the border
    inside = small.copy()
    inside[4:-4, 3:-3] = 255
    assert compare_borders(small, inside, BorderSettings())[0] == 0
    for rows, columns in (((3, 4), (0, 30)), ((36, 37), (0, 30)), ((0, 40), (2, 3)), ((0, 40), (27, 28))):
        line = small.copy()
        line[rows[0] : rows[1], columns[0] : columns[1]] = 255
        assert compare_borders(small, line, BorderSettings())[0] > 10


def test_it_is_the_correlation_of_the_grey_pixels(crop):
    first, second = crop[:40, :30], crop[60:100, 50:80]
    border = np.ones((40, 30), bool)
    border[4:-4, 3:-3] = False
    one, other = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[border].astype(float) for p in (first, second))
    expected = np.abs(one - other).mean(), np.corrcoef(one, other)[0, 1]
    assert compare_borders(first, second, BorderSettings()) == pytest.approx(expected)


def test_small_crops_are_not_enlarged_and_large_ones_are_averaged():
    settings = BorderSettings()
    crop = np.random.default_rng(6).integers(0, 256, (110, 100, 3), dtype=np.uint8)
    for height, width in ((20, 15), (10, 10), (40, 30), (31, 40)):
        first, second = crop[:height, :width], crop[60 : 60 + height, 50 : 50 + width]
        border = np.ones((height, width), bool)
        y, x = max(1, round(height / 10)), max(1, round(width / 10))
        border[y:-y, x:-x] = False
        one, other = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY)[border].astype(float) for p in (first, second))
        expected = np.abs(one - other).mean(), np.corrcoef(one, other)[0, 1]
        assert compare_borders(first, second, settings) == pytest.approx(expected)
    # Four by four pixels of one colour each, and on them what only their average takes away.
    first, second = np.clip(crop[:40, :30], 20, 235), np.clip(crop[60:100, 50:80], 20, 235)
    block = np.full((4, 4, 1), -6)
    block[1:3, 1:3] = 18
    noise = np.tile(block, (40, 30, 1))
    large = [np.kron(picture, np.ones((4, 4, 1), int)) + sign * noise for picture, sign in ((first, 1), (second, -1))]
    found = compare_borders(*(picture.astype(np.uint8) for picture in large), settings)
    assert found == pytest.approx(compare_borders(first, second, settings), abs=0.6)


def test_both_limits_must_be_passed():
    wall = np.full((50, 40, 3), 100, np.uint8)
    assert not border_differs(wall, wall + np.uint8(50), BorderSettings(likeness=0.0))
    assert border_differs(wall, wall + np.uint8(50), BorderSettings(likeness=0.01))
    assert not border_differs(wall, wall + np.uint8(50), BorderSettings(difference=50.0))


@pytest.mark.parametrize("size", [(2, 2), (3, 900), (900, 3), (7, 7)])
def test_any_size_of_crop_can_be_compared(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert not border_differs(picture, picture)


def test_a_large_crop_is_looked_at_as_a_small_one(crop):
    large = cv2.resize(crop, (800, 960), interpolation=cv2.INTER_CUBIC)
    other = np.ascontiguousarray(large[::-1])
    settings = BorderSettings()
    assert compare_borders(large, other, settings) == pytest.approx(
        compare_borders(crop, np.ascontiguousarray(crop[::-1]), settings), abs=3
    )
