"""Detection, persons and landmarks (dfdc/faces.py)."""

import argparse

import numpy as np
import pytest
import skimage.data
from conftest import no_faces
from facenet_pytorch import MTCNN
from PIL import Image

from dfdc import faces


@pytest.fixture(scope="module")
def portrait():
    return np.ascontiguousarray(skimage.data.astronaut())


@pytest.fixture(scope="module")
def detector():
    return faces.FaceDetector(faces.DETECT_THRESHOLDS)


@pytest.mark.parametrize(
    ("width", "height", "scale"),
    [
        (160, 299, 2),
        (300, 200, 1),
        (640, 480, 1),
        (1000, 562, 1),
        (1001, 600, 0.5),
        (1080, 1920, 0.5),
        (3840, 2160, 0.5),
    ],
)
def test_t9_scale_follows_the_longer_side(width, height, scale):
    assert faces.detector_scale("auto", width, height) == scale
    assert faces.detector_scale(0.33, width, height) == 0.33


@pytest.mark.parametrize("text", ["", "0", "-1", "5", "nan", "half"])
def test_t9_bad_factors_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="neither auto nor a factor"):
        faces.parse_detector_scale(text)


def test_thresholds_are_the_winners():
    assert faces.DETECT_THRESHOLDS == (0.85, 0.95, 0.95)
    assert faces.LANDMARK_THRESHOLDS == (0.65, 0.75, 0.75)
    assert faces.PREDICT_THRESHOLDS == (0.7, 0.8, 0.8)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_faces_are_the_librarys(portrait, detector, scale):
    library = MTCNN(margin=0, thresholds=[0.85, 0.95, 0.95], device="cpu")
    size = (int(portrait.shape[1] * scale), int(portrait.shape[0] * scale))
    boxes, scores, points = library.detect(Image.fromarray(portrait).resize(size, Image.BICUBIC), landmarks=True)
    found = detector.detect([portrait], scale)[0]
    assert len(found) == len(boxes) == 1
    assert found.boxes == pytest.approx(boxes.astype(float) / scale, abs=0.5)
    assert found.scores == pytest.approx(scores.astype(float), abs=1e-3)
    assert found.landmarks == pytest.approx(points.astype(float) / scale, abs=0.5)


def test_t26_arrays_are_numbers_also_in_ragged_batches(portrait, detector):
    nobody = np.zeros_like(portrait)
    double = np.concatenate([portrait[:, 100:356], portrait[:, 100:356]], axis=1)
    found = detector.detect([portrait, nobody, double])
    assert [len(item) for item in found] == [1, 0, 2]
    for item in found:
        assert item.boxes.dtype == item.scores.dtype == item.landmarks.dtype == np.float32
        assert item.landmarks.shape == (len(item), 5, 2)


def test_a_batch_finds_what_single_pictures_do(portrait, detector):
    pictures = [np.roll(portrait, shift, axis=1) for shift in (0, 20, 40, 60, 80)]
    together = detector.detect(pictures)
    for picture, item in zip(pictures, together, strict=True):
        assert detector.detect([picture])[0].boxes == pytest.approx(item.boxes, abs=0.1)


def test_pictures_under_the_smallest_face_have_none(detector):
    assert [len(item) for item in detector.detect([np.zeros((12, 300, 3), np.uint8)])] == [0]
    assert detector.detect([]) == []


def test_t26_the_face_in_the_middle_not_the_largest():
    boxes = np.array([[60, 0, 160, 120], [20, 20, 80, 80], [0, 0, 10, 10]], np.float32)
    found = faces.Faces(boxes, np.ones(3, np.float32), np.zeros((3, 5, 2), np.float32))
    assert faces.middle_face(found, 100, 100) == 1
    beside = faces.Faces(boxes[2:], np.ones(1, np.float32), np.zeros((1, 5, 2), np.float32))
    assert faces.middle_face(beside, 100, 100) is None
    assert faces.middle_face(no_faces(), 100, 100) is None


def box(x, y, side=100):
    return [x, y, x + side, y + side]


def test_a_person_keeps_the_number_when_ranks_change():
    tracker = faces.Tracker()
    assert tracker.update(0, np.array([box(0, 0), box(500, 0, 120)])) == [1, 0]  # the larger is numbered first
    assert tracker.update(10, np.array([box(510, 5, 90), box(30, 5)])) == [0, 1]
    assert tracker.update(20, np.array([box(60, 5)])) == [1]
    assert tracker.update(30, np.array([box(530, 5), box(80, 5), box(900, 300)])) == [0, 1, 2]


def test_crossing_persons_are_matched_together():
    tracker = faces.Tracker()
    tracker.update(0, np.array([box(0, 0), box(150, 0)]))
    # The second stands where the first would also reach; only all at once is it right.
    assert tracker.update(10, np.array([box(80, 0), box(240, 0)])) == [0, 1]


def test_long_gone_persons_are_given_up_and_far_ones_are_new():
    tracker = faces.Tracker(max_gap=50)
    for frame in range(0, 50, 10):
        tracker.update(frame, np.array([box(0, 0)]))
    assert tracker.update(90, np.array([box(10, 0)])) == [0]
    assert tracker.update(150, np.array([box(10, 0)])) == [1]
    assert tracker.update(160, np.array([box(400, 0)])) == [2]
    assert tracker.update(170, np.zeros((0, 4))) == []


def test_a_passer_by_does_not_become_the_next_one():
    tracker = faces.Tracker(max_gap=50)
    tracker.update(0, np.array([box(0, 0)]))
    assert tracker.update(20, np.array([box(10, 0)])) == [0]  # missed once
    tracker = faces.Tracker(max_gap=50)
    tracker.update(0, np.array([box(0, 0)]))
    assert tracker.update(30, np.array([box(10, 0)])) == [1]


def test_a_long_track_is_one_person():
    """Ten minutes in which somebody walks about, comes nearer, goes away, and looks aside for a second at times."""
    tracker, rng = faces.Tracker(), np.random.default_rng(0)
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
    tracker, rng = faces.Tracker(), np.random.default_rng(1)
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


@pytest.mark.parametrize(("seen", "gap", "same"), [(1, 20, True), (1, 21, False), (2, 20, True), (3, 30, True),
                                                   (3, 31, False), (5, 50, True), (5, 51, False)])  # fmt: skip
def test_patience_grows_with_the_times_that_somebody_was_seen(seen, gap, same):
    tracker = faces.Tracker()
    for step in range(seen):
        tracker.update(step, np.array([box(0, 0)]))
    assert tracker.update(seen - 1 + gap, np.array([box(0, 0)])) == [0 if same else 1]


@pytest.mark.parametrize(("gap", "moved", "grown", "same"), [(10, 99, 1.0, True), (10, 100, 1.0, False),
                                                             (11, 199, 1.0, True), (11, 200, 1.0, False),
                                                             (10, 0, 1.99, True), (10, 0, 2.0, False),
                                                             (10, 0, 0.51, True), (10, 0, 0.5, False)])  # fmt: skip
def test_how_far_a_face_may_move_and_grow(gap, moved, grown, same):
    tracker = faces.Tracker()
    for step in range(5):
        tracker.update(step, np.array([box(0, 0)]))
    side = 100 * grown
    centre = 50 + moved
    found = tracker.update(4 + gap, np.array([[centre - side / 2, 50 - side / 2, centre + side / 2, 50 + side / 2]]))
    assert found == [0 if same else 1]


def test_iou():
    values = faces.box_iou(np.array([box(0, 0), box(50, 0)]), np.array([box(0, 0), box(300, 0)]))
    assert values == pytest.approx(np.array([[1, 0], [1 / 3, 0]]))


@pytest.mark.skipif(not __import__("torch").cuda.is_available(), reason="needs a CUDA GPU")
def test_gpu_finds_what_the_cpu_does(portrait, detector):
    on_gpu = faces.FaceDetector(faces.DETECT_THRESHOLDS, "cuda").detect([portrait] * 3)
    for item in on_gpu:
        assert item.boxes == pytest.approx(detector.detect([portrait])[0].boxes, abs=0.5)
