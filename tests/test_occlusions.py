"""Occlusions (training/occlusions.py). Shares and shapes are those of the winners' published code."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion
from skimage.draw import polygon2mask

from dfdc.imaging import shows_change
from training import occlusions
from training.config import OcclusionConfig

POINTS = np.array([(35, 50), (65, 50), (50, 68), (38, 85), (62, 85)])
TILTED = np.array([(33, 42), (66, 57), (42, 68), (28, 80), (54, 90)])
SAMPLES = 4000


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(1, 256, (140, 100, 3), dtype=np.uint8)


def only(kind):
    """The configuration in which this always happens, and nothing else."""
    nothing = dict.fromkeys(occlusions.KINDS, 0.0)
    return OcclusionConfig(**(nothing | {kind: 1.0}))


def hidden(kind, seed=0, points=POINTS, height=140, width=100):
    """What `occlude` blacks out of a white picture."""
    white = np.full((height, width, 3), 255, np.uint8)
    shown, _ = occlusions.occlude(white, None, points, np.random.default_rng(seed), only(kind))
    return ~shown.any(axis=2)


def share_of(count):
    return pytest.approx(count, abs=4 * np.sqrt(count * (1 - count) / SAMPLES))


def drawn_kinds(picture, points, shares, monkeypatch):
    """{kind: its share in SAMPLES calls}, and the share of pictures that were changed."""
    calls = []
    original = occlusions.hidden_pixels
    monkeypatch.setattr(occlusions, "hidden_pixels", lambda kind, *rest: calls.append(kind) or original(kind, *rest))
    changed = 0
    for seed in range(SAMPLES):
        before = len(calls)
        shown, _ = occlusions.occlude(picture, None, points, np.random.default_rng(seed), shares)
        assert len(calls) - before == int(shown is not picture)  # one thing in a crop at most
        changed += not np.array_equal(shown, picture)
    return {kind: calls.count(kind) / SAMPLES for kind in set(calls)}, changed / SAMPLES


def test_t33_every_kind_happens_with_the_published_share(picture, monkeypatch):
    shares, changed = drawn_kinds(picture[:40, :30], POINTS * 0.3, OcclusionConfig(), monkeypatch)
    published = {"eyes": 0.35, "mouth": 0.175, "nose": 0.0875, "half_face": 0.06, "half_picture": 0.024}
    assert shares == {kind: share_of(share) for kind, share in published.items()}
    assert changed == share_of(0.6965)


def test_without_landmarks_a_kind_that_needs_them_leaves_the_crop_alone(picture, monkeypatch):
    shares, changed = drawn_kinds(picture[:40, :30], None, OcclusionConfig(random_half=0.25), monkeypatch)
    assert shares == {"half_picture": share_of(0.024), "random_half": share_of(0.25)}
    assert changed == share_of(0.274)


def test_shares_of_0_touch_nothing(picture):
    nothing = OcclusionConfig(**dict.fromkeys(occlusions.KINDS, 0))
    for seed in range(300):
        shown, _ = occlusions.occlude(picture, None, POINTS, np.random.default_rng(seed), nothing)
        assert shown is picture


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["eyes", "mouth", "nose", "half_face", "half_picture", "random_half"])
def test_a_share_of_1_always_happens_to_picture_and_mask(picture, kind):
    mask = np.full(picture.shape[:2], 200, np.uint8)
    untouched = picture.copy()
    for seed in range(200):
        shown, covered = occlusions.occlude(picture, mask, POINTS, np.random.default_rng(seed), only(kind))
        gone = (shown == 0).all(axis=2)
        assert 50 < gone.sum() < 0.75 * gone.size
        assert np.array_equal(shown[~gone], picture[~gone])
        assert np.array_equal(covered, np.where(gone, 0, 200))
    assert np.array_equal(picture, untouched)
    assert mask.min() == 200


def winners_stroke(start, end, steps, height=140, width=100):
    """A line 2 pixels thick, dilated by SciPy with its default structure."""
    line = np.zeros((height, width), np.uint8)
    cv2.line(line, start, end, 1, 2)
    return binary_dilation(line, iterations=steps) if steps else line.astype(bool)


@pytest.mark.parametrize("points", [POINTS, TILTED, POINTS * 2 - 40, POINTS * 0.5 + 20, np.add(POINTS, (38, -40))])
def test_eyes_nose_and_mouth_are_the_winners_shapes(points):
    points = points.astype(int)
    left, right, nose, left_mouth, right_mouth = (tuple(point) for point in points.tolist())
    eyes_apart = int(np.hypot(right[0] - left[0], right[1] - left[1]) // 4)
    mouth_wide = int(np.hypot(right_mouth[0] - left_mouth[0], right_mouth[1] - left_mouth[1]) // 3)
    between = (int((left[0] + right[0]) / 2), int((left[1] + right[1]) / 2))
    for kind, start, end, steps in (
        ("eyes", left, right, eyes_apart),
        ("nose", nose, between, eyes_apart),
        ("mouth", left_mouth, right_mouth, mouth_wide),
    ):
        ours, theirs = hidden(kind, points=points), winners_stroke(start, end, steps)
        assert (ours & theirs).sum() > 0.85 * (ours | theirs).sum(), kind
        assert all(np.array_equal(hidden(kind, seed, points), ours) for seed in range(1, 4))  # nothing in it is drawn


@pytest.mark.slow
@pytest.mark.parametrize("points", [POINTS, TILTED, np.add(POINTS, (30, 30))])
def test_half_face_is_one_of_four_sides_of_the_outlines_centroid(points):
    outline = occlusions.face_outline(points)
    inner = polygon2mask((240, 200), outline[:, ::-1])  # larger than the crop: the outline may leave it
    around = binary_dilation(inner, np.ones((3, 3)))
    face = cv2.fillPoly(np.zeros((140, 100), np.uint8), [outline], 1) > 0
    assert not (binary_erosion(inner)[:140, :100] & ~face).any()
    assert not (face & ~around[:140, :100]).any()  # pixels on the outline may count or not
    rows, columns = np.mgrid[:140, :100]
    row, column = int(rows[face].mean()), int(columns[face].mean())
    sides = [columns < column, columns >= column, rows < row, rows >= row]
    seen = []
    for seed in range(400):
        matches = [np.array_equal(hidden("half_face", seed, points), side & face) for side in sides]
        assert sum(matches) == 1
        seen.append(matches.index(True))
    for side in range(4):
        assert seen.count(side) / 400 == pytest.approx(0.25, abs=4 * np.sqrt(0.1875 / 400))


def test_the_outline_holds_the_face_and_not_the_whole_crop():
    for points in (POINTS, TILTED):
        outline = occlusions.face_outline(points).reshape(-1, 1, 2)
        for x, y in points.tolist():
            assert cv2.pointPolygonTest(outline, (x, y), True) > 5
        assert 60 * 80 < cv2.contourArea(outline) < 140 * 100 * 0.6
    # A mean face with its eyes 100 pixels apart: the outline is 210 wide, from 120 above the eyes to 195 below.
    mean_face = np.array([(450, 300), (550, 300), (500, 360), (460, 405), (540, 405)])
    outline = occlusions.face_outline(mean_face)
    assert np.abs(np.concatenate([outline.min(0), outline.max(0)]) - (395, 180, 605, 495)).max() <= 1
    turned = occlusions.face_outline(POINTS @ np.array([(0, 1), (-1, 0)]) + (120, 0))
    straight = occlusions.face_outline(POINTS) @ np.array([(0, 1), (-1, 0)]) + (120, 0)
    assert np.abs(turned - straight).max() <= 1


@pytest.mark.slow
def test_t32_half_pictures_use_height_for_rows_and_width_for_columns():
    rows, columns = np.mgrid[:141, :60]
    upper, left = rows < 70, columns < 30
    across = (upper & left) | (~upper & ~left)
    kinds = [left, ~left, upper, ~upper, across, ~across]
    seen = []
    for seed in range(600):
        matches = [np.array_equal(hidden("half_picture", seed, None, 141, 60), kind) for kind in kinds]
        assert sum(matches) == 1
        seen.append(matches.index(True))
    for kind in range(6):
        assert seen.count(kind) / 600 == pytest.approx(1 / 6, abs=4 * np.sqrt(5 / 36 / 600))


@pytest.mark.slow
def test_random_halves_are_of_any_direction_through_the_middle_fifth():
    halves = [hidden("random_half", seed, None) for seed in range(400)]
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert sum(half[corner] for half in halves) / 400 == pytest.approx(0.5, abs=0.1)
    shares = np.array([half.mean() for half in halves])
    assert 0.33 < shares.min() < 0.4
    assert 0.6 < shares.max() < 0.67
    small = [hidden("random_half", seed, None, 20, 20).mean() for seed in range(400)]
    assert np.mean(small) == pytest.approx(0.5, abs=0.02)
    # The line's direction: from the centre of what is seen to that of what is hidden, in units of the sides.
    between = np.array([np.argwhere(half).mean(0) - np.argwhere(~half).mean(0) for half in halves]) / (140, 100)
    counts = np.histogram(np.arctan2(*between.T), 8, (-np.pi, np.pi))[0]
    assert counts.min() > 25
    assert all(half[45:95, 32:68].any() and not half[45:95, 32:68].all() for half in halves)


def test_t34_a_fake_never_loses_all_that_was_forged(picture):
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[45:56, 30:42] = 200  # only the left eye
    shares = OcclusionConfig(**dict(zip(occlusions.KINDS, (0.3, 0.1, 0.1, 0.2, 0.2, 0.1), strict=True)))
    kept = []
    for seed in range(300):
        shown, covered = occlusions.occlude(picture, mask, POINTS, np.random.default_rng(seed), shares)
        assert shows_change(covered)
        assert (shown is picture) == (covered is mask)
        kept.append(shown is picture)
    assert 0.3 < np.mean(kept) < 0.8


def test_a_fake_in_which_nothing_shows_is_occluded_as_a_real(picture):
    mask = np.full(picture.shape[:2], 5, np.uint8)
    shown, covered = occlusions.occlude(picture, mask, POINTS, np.random.default_rng(0), only("eyes"))
    assert shown is not picture
    assert np.array_equal(covered == 0, (shown == 0).all(axis=2))


@pytest.mark.parametrize("points", [np.zeros((5, 2), int), np.full((5, 2), 50), POINTS - 60, POINTS * 5, -9 * POINTS])
def test_strange_landmarks_do_no_harm(picture, points):
    for kind in occlusions.NEED_LANDMARKS:
        for seed in range(8):
            shown, _ = occlusions.occlude(picture, None, points, np.random.default_rng(seed), only(kind))
            assert shown.shape == picture.shape
            assert shown.dtype == np.uint8
            assert np.array_equal(shown[shown.any(axis=2)], picture[shown.any(axis=2)])
    if len(np.unique(points, axis=0)) == 1:
        assert hidden("eyes", points=points).sum() < 20  # a dot, not the whole picture
