"""Who is the same person (dfdc/tracking.py); test_shot_cuts.py has where a shot ends."""

import cv2
import numpy as np
import pytest
import skimage.data
from scipy.optimize import linear_sum_assignment

from dfdc import tracking
from dfdc.tracking import LOOK_SIZE, Tracker, look_of, looks_of


def box(x, y, side=100):
    return [x, y, x + side, y + side]


def test_a_person_keeps_the_number_when_ranks_change():
    tracker = Tracker()
    assert tracker.update(0, np.array([box(0, 0), box(500, 0, 120)])) == [1, 0]  # the larger is numbered first
    assert tracker.update(10, np.array([box(510, 5, 90), box(30, 5)])) == [0, 1]
    assert tracker.update(20, np.array([box(60, 5)])) == [1]
    assert tracker.update(30, np.array([box(530, 5), box(80, 5), box(900, 300)])) == [0, 1, 2]


@pytest.mark.parametrize(
    ("boxes", "numbers"),
    [
        ([box(700, 0, 50), box(0, 0)], [1, 0]),
        ([box(0, 700, 50), box(0, 0)], [1, 0]),
        ([box(200 * place, 0) for place in range(40)], [*range(40)]),  # of one size: as they come
    ],
)
def test_larger_faces_are_numbered_first_wherever_they_are(boxes, numbers):
    assert Tracker().update(0, np.array(boxes)) == numbers


@pytest.mark.parametrize(
    ("before", "after", "numbers"),
    [
        # The second stands where the first would also reach; only all at once is it right.
        ([box(0, 0), box(150, 0)], [box(80, 0), box(240, 0)], [0, 1]),
        # One of 1.8 times the size about the same centre overlaps by 0.31, one beside of the same size by 0.54.
        ([box(-40, -40, 180), box(30, 0)], [box(0, 0)], [1]),
    ],
)
def test_all_are_matched_together_and_overlap_decides(before, after, numbers):
    tracker = Tracker()
    assert tracker.update(0, np.array(before)) == [0, 1]
    assert tracker.update(10, np.array(after)) == numbers


def test_long_gone_persons_are_given_up_and_far_ones_are_new():
    tracker = Tracker(max_gap=50)
    for frame in range(0, 50, 10):
        tracker.update(frame, np.array([box(0, 0)]))
    assert tracker.update(90, np.array([box(10, 0)])) == [0]
    assert tracker.update(150, np.array([box(10, 0)])) == [1]
    assert tracker.update(160, np.array([box(400, 0)])) == [2]
    assert tracker.update(170, np.zeros((0, 4))) == []


@pytest.mark.slow
def test_a_long_track_is_one_person():
    """Ten minutes in which somebody walks about, comes nearer, goes away, and looks aside for a second at times."""
    tracker, rng = Tracker(), np.random.default_rng(0)
    x, y, side = 400.0, 300.0, 100.0
    numbers = set()
    for step in range(1800):
        x, y = np.clip((x, y) + rng.uniform(-0.3, 0.3, 2) * side, 0, 1500)
        side = float(np.clip(side * rng.uniform(0.86, 1.16), 30, 400))
        if step < 5 or step % 20 not in (7, 8, 9):  # 40 frames between two sightings
            numbers |= set(tracker.update(10 * step, np.array([box(x, y, side)])))
    assert numbers == {0}


def test_a_crowd_keeps_its_numbers():
    """Thirty people about their places; a tenth of the faces is missed, and the order is another each time."""
    tracker, rng = Tracker(), np.random.default_rng(1)
    places = np.array([(x * 160.0, y * 160.0) for x in range(6) for y in range(5)])
    known = {}
    for step in range(200):
        seen = [person for person in range(30) if step < 5 or rng.random() > 0.1]
        rng.shuffle(seen)
        boxes = [box(*(places[person] + rng.uniform(-25, 25, 2)), rng.uniform(80, 100)) for person in seen]
        for person, number in zip(seen, tracker.update(10 * step, np.array(boxes)), strict=True):
            known.setdefault(person, set()).add(number)
    assert {len(numbers) for numbers in known.values()} == {1}
    assert len(set().union(*known.values())) == 30


@pytest.mark.parametrize(
    ("seen", "gap", "same"),
    [(1, 20, True), (1, 21, False), (2, 20, True), (3, 30, True), (3, 31, False), (5, 50, True), (5, 51, False)],
)
def test_patience_grows_with_the_times_that_somebody_was_seen(seen, gap, same):
    tracker = Tracker()
    for step in range(seen):
        tracker.update(step, np.array([box(0, 0)]))
    assert tracker.update(seen - 1 + gap, np.array([box(0, 0)])) == [0 if same else 1]


@pytest.mark.parametrize(
    ("gap", "moved", "grown", "same"),
    [
        (10, 99, 1.0, True),
        (10, 100, 1.0, False),
        (11, 199, 1.0, True),
        (11, 200, 1.0, False),
        (10, 0, 1.99, True),
        (10, 0, 2.0, False),
        (10, 0, 0.51, True),
        (10, 0, 0.5, False),
    ],
)
def test_how_far_a_face_may_move_and_grow(gap, moved, grown, same):
    tracker = Tracker()
    for step in range(5):
        tracker.update(step, np.array([box(0, 0)]))
    side = 100 * grown
    centre = 50 + moved
    found = tracker.update(4 + gap, np.array([[centre - side / 2, 50 - side / 2, centre + side / 2, 50 + side / 2]]))
    assert found == [0 if same else 1]


# --- looks ----------------------------------------------------------------------------------------------------


def unlike(first, second):
    return 1 - float(look_of(first) @ look_of(second))


@pytest.fixture(scope="module")
def portrait():
    return np.ascontiguousarray(skimage.data.astronaut()[30:180, 160:290])


def test_a_look_is_colours_and_shape(portrait):
    """Against NumPy's own histogram and correlation."""
    look = look_of(portrait)
    assert look.dtype == np.float32
    assert look.shape == (8 * 16 * 16 + 8 * 8 * 3,) == (LOOK_SIZE,)
    assert np.linalg.norm(look) == pytest.approx(1, abs=1e-5)
    small = cv2.resize(portrait, (32, 32), interpolation=cv2.INTER_AREA)
    pixels = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    counts, _ = np.histogramdd(pixels, bins=(8, 16, 16), range=[(0, 256)] * 3)
    assert look[:2048] == pytest.approx(np.sqrt(counts.ravel() / 1024 / 2), abs=1e-6)
    other = np.roll(portrait, 30, axis=0)
    blocks = [
        cv2.resize(p, (32, 32), interpolation=cv2.INTER_AREA).reshape(8, 4, 8, 4, 3).mean(axis=(1, 3))
        for p in (portrait, other)
    ]
    blocks = [(b - b.mean(axis=(0, 1))).ravel() for b in blocks]
    correlation = blocks[0] @ blocks[1] / np.linalg.norm(blocks[0]) / np.linalg.norm(blocks[1])
    assert 2 * look[2048:] @ look_of(other)[2048:] == pytest.approx(correlation, abs=0.01)  # bytes are rounded


def test_looks_stand_light_and_small_moves_but_no_other_picture(portrait):
    assert unlike(portrait, portrait) == pytest.approx(0, abs=1e-6)
    assert unlike(portrait, cv2.resize(portrait, None, fx=2, fy=2)) < 0.02
    assert unlike(portrait, np.roll(portrait, 6, axis=1)) < 0.12
    assert unlike(portrait, (portrait * 0.7).astype(np.uint8)) < 0.55
    assert unlike(portrait, portrait[::-1].copy()) > 0.35
    assert unlike(portrait, 255 - portrait) > 0.55
    flat = np.full((20, 20, 3), 90, np.uint8)
    assert np.linalg.norm(look_of(flat)) == pytest.approx(np.sqrt(0.5)), "no shape: half of a look"


def test_looks_of_a_frame_with_and_without_crops(portrait):
    looks = looks_of([portrait, None, portrait[:2, :2]])
    assert looks.dtype == np.float32
    assert (looks[0] == look_of(portrait)).all()
    assert np.isnan(looks[1]).all()
    assert np.isfinite(looks[2]).all()
    assert looks_of([]).shape == (0, LOOK_SIZE)


# --- tracks with looks ----------------------------------------------------------------------------------------


def look_at(distance):
    """A look so far from look_at(0)."""
    return np.array([[1 - distance, np.sqrt(1 - (1 - distance) ** 2)]], np.float32)


def seen(times=5, side=100, max_gap=50):
    """A tracker that saw one person at (0, 0), the last time in frame `times` - 1."""
    tracker = Tracker(max_gap)
    for step in range(times):
        assert tracker.update(step, np.array([box(0, 0, side)]), look_at(0)) == [0]
    return tracker


@pytest.mark.parametrize(
    ("moved", "distance", "same"),
    [
        (0, 0.54, True),
        (0, 0.56, False),
        (49, 0.54, True),
        (50, 0.36, False),
        (50, 0.34, True),
        (150, 0.34, True),
        (150, 0.36, False),
        (201, 0.19, True),  # who walks past moves far, and looks the same
        (201, 0.21, False),
        (299, 0.0, True),
        (301, 0.0, False),
    ],
)
def test_t66_a_match_needs_a_like_look(moved, distance, same):
    assert seen().update(20, np.array([box(moved, 0)]), look_at(distance)) == [0 if same else 1]


def test_the_last_look_counts():
    tracker = Tracker()
    for step in range(9):  # a head turns: 0.24 between two frames, 1 in all
        angle = step * 0.7
        look = np.array([[np.cos(angle), np.sin(angle)]])
        assert tracker.update(20 * step, np.array([box(60 * step, 0)]), look) == [0]


def test_looks_decide_where_places_do_not():
    pair = np.concatenate([look_at(0), look_at(0.3)])
    middle = np.array([box(50, 30), box(50, -30)])  # one above the other: which is which?
    for looks, expected in ((pair, [0, 1]), (pair[::-1], [1, 0])):
        tracker = Tracker()
        tracker.update(0, np.array([box(0, 0), box(100, 0)]), pair)
        assert tracker.update(11, middle, looks) == expected


def test_without_looks_places_decide():
    tracker = seen()
    assert tracker.update(10, np.array([box(60, 0)])) == [0]
    assert tracker.update(20, np.array([box(120, 0)]), look_at(0.9)) == [0], "no look is known to compare with"
    unknown = np.full((1, 2), np.nan)
    assert tracker.update(30, np.array([box(180, 0)]), unknown) == [0]
    assert tracker.update(40, np.array([box(180, 0)]), look_at(0.1)) == [0]


# --- tracks at cuts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("looks", [None, np.full((1, 2), np.nan), look_at(0.13)])
def test_t66_tracks_end_at_cuts(looks):
    assert seen().update(5, np.array([box(0, 0)]), looks, cut=True) == [1]


def test_t66_tracks_without_looks_end_at_cuts_for_good():
    tracker = Tracker()
    assert tracker.update(0, np.array([box(0, 0)])) == [0]
    assert tracker.update(1, np.array([box(0, 0)]), cut=True) == [1]
    assert tracker.update(2, np.array([box(0, 0)])) == [1]
    assert tracker.update(3, np.array([box(0, 0)]), cut=True) == [2]


@pytest.mark.parametrize(
    ("moved", "grown", "distance", "same"),
    [
        (0, 1.0, 0.0, True),
        (49, 1.0, 0.0, True),
        (50, 1.0, 0.0, False),
        (0, 1.29, 0.0, True),
        (0, 1.3, 0.0, False),
        (0, 0.78, 0.0, True),
        (0, 0.76, 0.0, False),
        (0, 1.0, 0.11, True),
        (0, 1.0, 0.13, False),
    ],
)
def test_t66_who_comes_back_after_a_cut(moved, grown, distance, same):
    """A, B, A: the last one is A again if place, size and look are nearly the same, however long it took."""
    tracker = seen(times=2)
    other = look_at(0.7)
    assert tracker.update(2, np.array([box(10, 0)]), other, cut=True) == [1]
    assert tracker.update(600, np.array([box(10, 0)]), other, cut=False) == [2], "given up, no cut between"
    side = 100 * grown
    back = np.array([box(50 + moved - side / 2, 50 - side / 2, side)])
    assert tracker.update(1200, back, look_at(distance), cut=True) == [0 if same else 3]


def test_t66_within_a_dissolve_nobody_comes_back():
    """The look turns into another one by 0.02 from frame to frame: the one of four sightings ago is compared."""
    for steps, same in ((2, True), (4, False)):
        tracker = seen()
        looks = [np.array([[np.cos(0.2 * step), np.sin(0.2 * step)]]) for step in range(1, steps + 1)]
        for step, look in enumerate(looks[:-1], 5):
            assert tracker.update(step, np.array([box(0, 0)]), look) == [0]
        assert tracker.update(9, np.array([box(0, 0)]), looks[-1], cut=True) == [0 if same else 1]
    # Long after it, the looks before are forgotten.
    tracker = seen()
    for step in range(5, 9):
        tracker.update(step, np.array([box(0, 0)]), look_at(0.5))
    assert tracker.update(9, np.array([box(0, 0)]), look_at(0.5), cut=True) == [0]


def test_who_comes_back_is_followed_as_before():
    tracker = seen()
    tracker.update(5, np.array([box(0, 0)]), look_at(0.7), cut=True)
    assert tracker.update(6, np.zeros((0, 4)), np.zeros((0, 2)), cut=True) == [], "out of the picture at first"
    assert tracker.update(7, np.array([box(10, 0)]), look_at(0)) == [0]
    assert tracker.update(20, np.array([box(150, 0)]), look_at(0.3)) == [0], "the wide limits hold again"
    assert tracker.update(90, np.array([box(150, 0)]), look_at(0.3)) == [2], "and so does the patience"


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (5, 1), (3, 4)])
def test_faces_are_assigned_at_the_lowest_cost(shape):
    cost = np.random.default_rng(0).random(shape)
    for ours, scipys in zip(tracking._assign(cost), linear_sum_assignment(cost), strict=True):
        assert np.array_equal(ours, scipys)
