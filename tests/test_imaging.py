"""Crops, sizes and SSIM (dfdc/imaging.py)."""

import cv2
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from dfdc import imaging


def test_margin_is_integer_arithmetic_and_clipped():
    assert imaging.margin_box((100.9, 50.9, 170.9, 151.9), 1000, 1000) == (77, 17, 193, 184)  # 70 // 3, 101 // 3
    assert imaging.margin_box((-5.7, 2.2, 61.8, 98.9), 80, 110) == (0, 0, 80, 110)
    assert imaging.margin_box((10, 10, 20, 20), 100, 100, part=10**9) == (10, 10, 20, 20)


@pytest.mark.parametrize(
    "box",
    [(5, 5, 5, 5), (5, 5, 6, 90), (5, 5, 90, 6), (200, 5, 300, 50), (-90, 5, -50, 50), (50, 5, 20, 90),
     (float("nan"), 0, 9, 9), (0, 0, float("inf"), 9)],
)  # fmt: skip
def test_t4_boxes_without_a_picture_are_none(box):
    assert imaging.crop_face(np.zeros((100, 100, 3), np.uint8), box) is None


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [((50, 100), 380, (190, 380)), ((301, 97), 128, (128, 41)), ((128, 128), 128, (128, 128)), ((2, 900), 64, (1, 64))],
)
def test_isotropic_resize_truncates(shape, size, expected):
    picture = np.zeros((*shape, 3), np.uint8)
    assert imaging.isotropic_resize(picture, size).shape[:2] == expected
    assert imaging.center_pad(imaging.isotropic_resize(picture, size), size).shape == (size, size, 3)


def test_shrinks_by_area_and_enlarges_by_cubic():
    picture = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    small, large = imaging.isotropic_resize(picture, 50), imaging.isotropic_resize(picture, 150)
    assert np.array_equal(small, cv2.resize(picture, (50, 50), interpolation=cv2.INTER_AREA))
    assert np.array_equal(large, cv2.resize(picture, (150, 150), interpolation=cv2.INTER_CUBIC))


def test_padding_is_centred_on_black():
    square = imaging.center_pad(np.full((2, 5, 3), 9, np.uint8), 7)
    assert square[2:4, 1:6].min() == 9
    assert square.sum() == 2 * 5 * 3 * 9


def pairs():
    rng = np.random.default_rng(1)
    base = cv2.resize(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8), (83, 121), interpolation=cv2.INTER_CUBIC)
    noisy = np.clip(base.astype(int) + rng.integers(-9, 10, base.shape), 0, 255).astype(np.uint8)
    patched = base.copy()
    patched[30:70, 20:60] = patched[30:70, 20:60][:, ::-1]
    flat, nearly = np.full_like(base, 250), np.full_like(base, 251)
    static = rng.integers(0, 256, base.shape, dtype=np.uint8)
    yield from (
        (base, base),
        (base, noisy),
        (base, patched),
        (flat, nearly),
        (static, 255 - static),
        (base[:7, :7], noisy[:7, :7]),
    )


@pytest.mark.parametrize("pair", range(6))
def test_t18_ssim_is_scikit_images_within_a_grey_level(pair):
    first, second = list(pairs())[pair]
    _, ssim = structural_similarity(first, second, channel_axis=2, full=True)
    expected = cv2.cvtColor(np.clip(255 * (1 - ssim), 0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
    assert np.abs(imaging.ssim_difference(first, second).astype(int) - expected).max() <= 1


def test_t18_negative_ssim_is_clipped_not_wrapped():
    board = (np.indices((40, 40)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    _, ssim = structural_similarity(board, 255 - board, channel_axis=2, full=True)
    assert ssim.min() < -0.9, "the pair does not test what it should"
    assert imaging.ssim_difference(board, 255 - board).min() == 255


def test_ssim_refuses_other_sizes_and_tiny_crops():
    with pytest.raises(ValueError, match="different size"):
        imaging.ssim_difference(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="6x20 pixels"):
        imaging.ssim_difference(np.zeros((20, 6, 3), np.uint8), np.zeros((20, 6, 3), np.uint8))


def test_tighten_leaves_the_asked_for_margin():
    face, part = 100, 6
    crop = np.arange(166 * 166).reshape(166, 166)  # 100 + 2 * 33
    tight = imaging.tighten(crop, part)
    assert abs(tight.shape[0] - (face + 2 * (face // part))) <= 2
    assert tight[tight.shape[0] // 2, tight.shape[1] // 2] == crop[83, 83]
    assert imaging.tighten(crop, 3) is not None
    assert imaging.tighten(crop, 3).shape == crop.shape
    assert imaging.tighten(crop, 10**6).shape == (100, 100)


def test_shows_change_needs_enough_changed_pixels():
    mask = np.zeros((50, 50), np.uint8)
    mask[:, :] = 20  # compression noise all over
    assert not imaging.shows_change(mask)
    mask[0, :33] = 21
    assert imaging.shows_change(mask)
    mask[0, 0] = 0
    assert not imaging.shows_change(mask)


def test_png_is_lossless_and_bad_pictures_are_named(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    for level in range(10):
        path.write_bytes(imaging.encode_png(picture, level))
        assert np.array_equal(imaging.read_picture(path), picture)
    path.write_bytes(imaging.encode_png(picture[..., 0]))
    assert np.array_equal(imaging.read_picture(path, grey=True), picture[..., 0])
    for data in (b"", b"no picture"):
        path.write_bytes(data)
        with pytest.raises(OSError, match=r"a\.png is not a readable picture"):
            imaging.read_picture(path)
