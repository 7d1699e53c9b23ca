"""Augmentation and occlusions (training/transforms.py, training/occlusions.py)."""

import albumentations as A
import cv2
import numpy as np
import pytest

from dfdc.imaging import shows_change
from training import occlusions
from training.transforms import Augment, build_augmentation, fancy_pca, fit

POINTS = np.array([(35, 50), (65, 50), (50, 68), (38, 85), (62, 85)])


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    return cv2.resize(
        rng.integers(1, 256, (20, 16, 3), dtype=np.uint8), (100, 140), interpolation=cv2.INTER_CUBIC
    ).clip(1)


def test_augmentation_is_by_the_seed(picture):
    augment = Augment(64)
    first = augment(picture, 5)
    other = augment(picture, 6)
    assert np.array_equal(first, augment(picture, 5))
    assert np.array_equal(first, Augment(64)(picture, 5))
    assert not np.array_equal(first, other)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8


def test_the_list_is_the_published_one():
    found = []
    for transform in build_augmentation(64):
        names = (
            "/".join(type(t).__name__ for t in transform)
            if isinstance(transform, A.OneOf)
            else type(transform).__name__
        )
        found.append((names, transform.p))
    assert found == [
        ("ImageCompression", 0.5), ("GaussNoise", 0.1), ("GaussianBlur", 0.05), ("HorizontalFlip", 0.5),
        ("LongestMaxSize/LongestMaxSize/LongestMaxSize", 1), ("PadIfNeeded", 1.0),
        ("RandomBrightnessContrast/FancyPCA/HueSaturationValue", 0.7), ("ToGray", 0.2), ("Affine", 0.5),
    ]  # fmt: skip


def test_our_fancy_pca_is_the_librarys_within_a_grey_level(picture):
    from albumentations.augmentations.pixel.functional import fancy_pca as library

    rng = np.random.default_rng(3)
    for scale in (0.1, 1.0, 5.0):
        for _ in range(5):
            alphas = rng.normal(0, scale, 3).astype(np.float32)
            assert np.abs(fancy_pca(picture, alphas).astype(int) - library(picture, alphas)).max() <= 1
    assert not np.array_equal(fancy_pca(picture, np.array([9.0, 9.0, 9.0])), picture)
    flat = np.full((9, 9, 3), 77, np.uint8)
    assert np.array_equal(fancy_pca(flat, np.ones(3)), flat)


def test_t31_the_three_resizes_differ(picture):
    resizes = list(build_augmentation(64)[4])
    shrunk = [A.Compose([t])(image=picture)["image"] for t in resizes]
    enlarged = [A.Compose([t])(image=picture[:40, :30])["image"] for t in resizes]
    assert np.array_equal(shrunk[0], shrunk[1])  # by area, both
    assert not np.array_equal(shrunk[0], shrunk[2])
    assert not np.array_equal(enlarged[0], enlarged[1])  # cubic and linear
    assert np.array_equal(enlarged[1], enlarged[2])


def test_fit_is_what_prediction_sees(picture):
    assert fit(picture, 64).shape == (64, 64, 3)
    assert fit(picture, 64)[:, :9].sum() == 0  # 140 x 100 becomes 64 x 45, in the middle


def test_t32_half_masks_use_height_for_rows_and_width_for_columns():
    seen = set()
    for seed in range(60):
        hidden = occlusions.half_picture(140, 60, np.random.default_rng(seed))
        assert hidden.shape == (140, 60)
        rows, columns = hidden.any(axis=1), hidden.any(axis=0)
        assert hidden.sum() == rows.sum() * columns.sum()
        seen.add((int(rows.sum()), int(columns.sum()), bool(rows[0]), bool(columns[0])))
    halves = {(70, 60, True, True), (70, 60, False, True), (140, 30, True, True), (140, 30, True, False)}
    quadrants = {(70, 30, upper, left) for upper in (True, False) for left in (True, False)}
    assert seen == halves | quadrants


def test_t33_every_occlusion_happens_with_its_probability(picture, monkeypatch):
    calls = []
    for name in ("face_part", "half_face", "half_picture", "random_half"):
        original = getattr(occlusions, name)
        monkeypatch.setattr(occlusions, name, lambda *a, n=name, f=original: calls.append(n) or f(*a))
    for seed in range(3000):
        occlusions.occlude(picture, None, POINTS, np.random.default_rng(seed))
    shares = {name: calls.count(name) / 3000 for name in set(calls)}
    left = 1 - occlusions.PART_PROBABILITY - occlusions.HALF_FACE_PROBABILITY
    assert shares["face_part"] == pytest.approx(occlusions.PART_PROBABILITY, abs=0.03)
    assert shares["half_face"] == pytest.approx(occlusions.HALF_FACE_PROBABILITY, abs=0.03)
    assert shares["half_picture"] == pytest.approx(occlusions.HALF_PICTURE_PROBABILITY * left, abs=0.02)
    assert shares["random_half"] == pytest.approx(occlusions.RANDOM_HALF_PROBABILITY * left, abs=0.02)


def test_t33_eyes_nose_and_mouth_are_each_hidden():
    hidden = [occlusions.face_part(140, 100, POINTS, np.random.default_rng(seed)) for seed in range(40)]
    for x, y in POINTS:
        assert any(mask[y, x] for mask in hidden)
        assert not all(mask[y, x] for mask in hidden)


def test_half_face_is_one_side_of_the_outline():
    for seed in range(20):
        hidden = occlusions.half_face(140, 100, POINTS, np.random.default_rng(seed))
        rows, columns = np.nonzero(hidden)
        nose_x, nose_y = POINTS[2]
        sides = [columns.max() < nose_x, columns.min() >= nose_x, rows.max() < nose_y, rows.min() >= nose_y]
        assert sum(sides) == 1
        assert 200 < hidden.sum() < 140 * 100 / 2


def test_random_halves_are_of_any_direction_and_near_half():
    halves = [occlusions.random_half(140, 100, np.random.default_rng(seed)) for seed in range(40)]
    assert all(0.3 < half.mean() < 0.7 for half in halves)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert 5 < sum(half[corner] for half in halves) < 35


def test_t34_the_mask_is_blacked_out_with_the_picture(picture):
    mask = np.full(picture.shape[:2], 200, np.uint8)
    changed = 0
    for seed in range(100):
        shown, covered = occlusions.occlude(picture, mask, POINTS, np.random.default_rng(seed))
        assert np.array_equal(covered == 0, (shown == 0).all(axis=2))
        changed += shown is not picture
    assert changed > 30


def test_t34_a_fake_never_loses_all_that_was_forged(picture):
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[45:56, 30:42] = 200  # only the left eye
    for seed in range(300):
        _, covered = occlusions.occlude(picture, mask, POINTS, np.random.default_rng(seed))
        assert shows_change(covered)


@pytest.mark.parametrize("points", [np.zeros((5, 2), int), np.full((5, 2), 50), POINTS - 60, POINTS * 5])
def test_strange_landmarks_do_no_harm(picture, points):
    for seed in range(30):
        shown, _ = occlusions.occlude(picture, None, points, np.random.default_rng(seed))
        assert shown.shape == picture.shape
        assert shown.dtype == np.uint8
