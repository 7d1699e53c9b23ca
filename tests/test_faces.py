"""Detection and landmarks (dfdc/faces.py)."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import skimage.data
from facenet_pytorch import MTCNN
from helpers import no_faces
from PIL import Image

from dfdc import detector_settings, faces, imaging


@pytest.fixture(scope="module")
def portrait():
    return np.ascontiguousarray(skimage.data.astronaut())


@pytest.fixture(scope="module")
def detector():
    return faces.FaceDetector(detector_settings.DETECT_THRESHOLDS)


@pytest.mark.parametrize(
    ("width", "height", "scale", "pictures"),
    [(960, 540, 1, 4), (1920, 1080, 0.5, 4), (480, 270, 2, 4), (1920, 1080, 1, 1), (3840, 2160, 1, 1), (90, 90, 1, 64)],
)
def test_t12_batches_fit_the_memory(detector, width, height, scale, pictures):
    assert detector.batch_size(width, height, scale) == pictures


def test_t12_pictures_are_searched_in_batches_of_that_size(monkeypatch):
    sizes = []

    class Nobody:
        def detect(self, pictures, smallest):
            sizes.append(len(pictures))
            return [(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2))) for _ in pictures]

    finder = faces.FaceDetector(detector_settings.DETECT_THRESHOLDS)
    monkeypatch.setattr(finder, "_cascade", Nobody())
    assert len(finder.detect([np.zeros((540, 960, 3), np.uint8)] * 20, 0.5)) == 20
    assert sizes == [16, 4]


def test_on_a_gpu_one_thread_detects_for_all(monkeypatch):
    """cuDNN chooses its kernels for each thread anew."""
    threads = []

    class Nobody:
        def detect(self, pictures, smallest):
            threads.append(threading.get_ident())
            if len(pictures) == 2:
                raise ArithmeticError("two")
            return [(np.full((1, 4), smallest), np.ones(1), np.zeros((1, 5, 2))) for _ in pictures]

    monkeypatch.setattr(faces.mtcnn, "choose_runner", lambda device: None)
    finder = faces.FaceDetector(detector_settings.DETECT_THRESHOLDS, "cuda:1")
    monkeypatch.setattr(finder, "_cascade", Nobody())
    assert finder.batch_size(960, 540) == 32
    picture = np.zeros((90, 90, 3), np.uint8)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda part: finder.detect([picture], 1.0, part), [0.1, 0.2, 0.3, 0.4]))
    assert [faces_[0].boxes[0, 0] for faces_ in found] == [0.1, 0.2, 0.3, 0.4]
    with pytest.raises(ArithmeticError, match="two"):
        finder.detect([picture] * 2)
    assert len(threads) == 5
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


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


@pytest.mark.slow
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
    assert imaging.middle_box(found.boxes, 100, 100) == 1
    beside = faces.Faces(boxes[2:], np.ones(1, np.float32), np.zeros((1, 5, 2), np.float32))
    assert imaging.middle_box(beside.boxes, 100, 100) is None
    assert imaging.middle_box(no_faces().boxes, 100, 100) is None


@pytest.mark.parametrize(("part", "found"), [(0.21, 0), (0.19, None)])
def test_the_middle_is_the_inner_three_fifths(part, found):
    """Strips along each side of it, that are `part` of it: of a crop of 100 x 200 it is 20..80, 40..160."""
    wide, high = 60 * part, 120 * part
    strips = [[20, 40, 20 + wide, 160], [80 - wide, 40, 80, 160], [20, 40, 80, 40 + high], [20, 160 - high, 80, 160]]
    for strip in strips:
        one = faces.Faces(np.array([strip], np.float32), np.ones(1, np.float32), np.zeros((1, 5, 2), np.float32))
        assert imaging.middle_box(one.boxes, 100, 200) == found


@pytest.mark.skipif(not __import__("torch").cuda.is_available(), reason="needs a CUDA GPU")
def test_gpu_finds_what_the_cpu_does(portrait, detector):
    on_gpu = faces.FaceDetector(detector_settings.DETECT_THRESHOLDS, "cuda").detect([portrait] * 3)
    for item in on_gpu:
        assert item.boxes == pytest.approx(detector.detect([portrait])[0].boxes, abs=0.5)
