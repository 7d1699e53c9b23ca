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
    assert imaging.margin_box((5, 5, 7, 7), 100, 100) == (5, 5, 7, 7)  # the smallest


def test_a_crop_is_the_box_with_its_margin_in_a_frame_of_any_shape():
    frame = np.arange(40 * 90 * 3, dtype=np.uint16).reshape(40, 90, 3)
    assert np.array_equal(imaging.crop_face(frame, (60, 10, 72, 19)), frame[7:22, 56:76])
    assert np.array_equal(imaging.crop_face(frame, (60, 10, 72, 19), part=12), frame[10:19, 59:73])
    crop = imaging.crop_face(frame, (80, 30, 95, 60))
    assert np.array_equal(crop, frame[20:, 75:])
    assert np.shares_memory(crop, frame)
    assert imaging.crop_face(frame, (60, 45, 72, 60)) is None  # below the frame, though it is wider than that


@pytest.mark.parametrize(
    "box",
    [
        (5, 5, 5, 5),
        (5, 5, 6, 90),
        (5, 5, 90, 6),
        (200, 5, 300, 50),
        (-90, 5, -50, 50),
        (50, 5, 20, 90),
        (float("nan"), 0, 9, 9),
        (0, 0, float("inf"), 9),
    ],
)
def test_t4_boxes_without_a_picture_are_none(box):
    assert imaging.crop_face(np.zeros((100, 100, 3), np.uint8), box) is None


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        *(((50, 100), 380, (190, 380)), ((301, 97), 128, (128, 41)), ((128, 128), 128, (128, 128))),
        *(((2, 900), 64, (1, 64)), ((900, 2), 64, (64, 1))),
        *(((10, 49), 128, (26, 128)), ((49, 10), 128, (128, 26))),  # 49 * (128 / 49) is a little under 128
    ],
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
    dark = [rng.integers(0, 8, base.shape, dtype=np.uint8) for _ in range(2)]
    yield from (
        (base, base),
        (base, noisy),
        (base, patched),
        (flat, nearly),
        (flat * 0, flat * 0 + np.uint8(3)),  # its SSIM is all K1
        (static, 255 - static),
        (base[:7, :7], noisy[:7, :7]),
        dark,  # its SSIM is mostly K2
    )


@pytest.mark.parametrize("pair", range(8))
def test_t18_ssim_is_scikit_images_within_a_grey_level(pair):
    first, second = list(pairs())[pair]
    _, ssim = structural_similarity(first, second, channel_axis=2, full=True)
    expected = cv2.cvtColor(np.clip(255 * (1 - ssim), 0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
    off = np.abs(imaging.ssim_difference(first, second).astype(int) - expected)
    assert off.max() <= 1
    assert np.count_nonzero(off) <= 0.002 * off.size  # float32 is truncated to the level below now and then


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
    with pytest.raises(ValueError, match="20x6 pixels"):
        imaging.ssim_difference(np.zeros((6, 20, 3), np.uint8), np.zeros((6, 20, 3), np.uint8))


def test_tighten_leaves_the_asked_for_margin():
    face, part = 100, 6
    crop = np.arange(166 * 166).reshape(166, 166)  # 100 + 2 * 33
    tight = imaging.tighten(crop, part)
    assert abs(tight.shape[0] - (face + 2 * (face // part))) <= 2
    assert tight[tight.shape[0] // 2, tight.shape[1] // 2] == crop[83, 83]
    assert imaging.tighten(crop, 3) is not None
    assert imaging.tighten(crop, 3).shape == crop.shape
    assert imaging.tighten(crop, 10**6).shape == (100, 100)
    wide = np.zeros((50, 110, 3), np.uint8)
    assert imaging.tighten(wide, 6).shape == (40, 88, 3)  # 5 of 50 and 11 of 110 at each end
    assert imaging.tighten_offset(110, 6) == 11
    assert {imaging.tighten_offset(side, imaging.MARGIN_PART) for side in range(1, 3000)} == {0}


def test_shows_change_needs_enough_changed_pixels():
    mask = np.zeros((50, 50), np.uint8)
    mask[:, :] = 20  # compression noise all over
    assert not imaging.shows_change(mask)
    mask[0, :33] = 21
    assert imaging.shows_change(mask)
    mask[0, 0] = 0
    assert not imaging.shows_change(mask)


def test_the_fast_png_is_level_1_only():
    picture = np.random.default_rng(0).integers(0, 4, (40, 30), dtype=np.uint8)
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):
        options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    assert imaging.encode_png(picture) == cv2.imencode(".png", picture, options)[1].tobytes()
    for level in (0, 9):
        plain = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes()
        assert imaging.encode_png(picture, level) == plain


def test_jpeg_keeps_colours_and_its_quality():
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, :8] = (200, 40, 10)
    data = imaging.encode_jpeg(picture)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]  # RGB
    assert np.abs(decoded.astype(int) - picture).mean() < 3
    stored = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 84])[1]
    assert data == stored.tobytes()
    assert data != imaging.encode_jpeg(picture, 50)


def test_an_encoder_that_gives_up_is_told(monkeypatch):
    monkeypatch.setattr(cv2, "imencode", lambda *arguments: (False, None))
    for encode in (imaging.encode_png, imaging.encode_jpeg):
        with pytest.raises(ValueError, match=r"shape \[4, 5, 3\] can't be encoded"):
            encode(np.zeros((4, 5, 3), np.uint8))


def test_what_the_decoder_refuses_names_the_file(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise cv2.error("too large")

    (tmp_path / "a.png").write_bytes(imaging.encode_png(np.zeros((4, 5), np.uint8)))
    monkeypatch.setattr(cv2, "imdecode", refuse)
    with pytest.raises(OSError, match=r"a\.png can't be decoded as an image \(too large\)"):
        imaging.read_picture(tmp_path / "a.png")


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
        with pytest.raises(OSError, match=r"a\.png is not a readable image"):
            imaging.read_picture(path)


def test_iou():
    first, second = [[0, 0, 100, 100], [50, 0, 150, 100]], [[0, 0, 100, 100], [300, 0, 400, 100]]
    values = imaging.box_iou(np.array(first), np.array(second))
    assert values == pytest.approx(np.array([[1, 0], [1 / 3, 0]]))
    assert imaging.box_iou(np.array([[0, 10, 100, 60]]), np.array([[50, 10, 150, 60]])) == pytest.approx(1 / 3)
    inside = np.array([[0, 0, 50, 50]])
    assert imaging.box_iou(np.array(first), inside) == pytest.approx(np.array([[1 / 4], [0]]))
