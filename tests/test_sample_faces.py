"""Images of a face, to compare two forms of a network (networks/sample_faces.py)."""

import itertools

import numpy as np

from dfdc.detector_settings import PREDICT_THRESHOLDS
from dfdc.faces import FaceDetector
from dfdc.imaging import middle_box
from networks.sample_faces import sample_faces


def test_each_shows_a_face_in_its_middle():
    images = sample_faces(380)
    assert (images.shape, images.dtype) == ((13, 380, 380, 3), np.uint8)
    found = FaceDetector(PREDICT_THRESHOLDS, "cpu").detect(list(images), 1.0)
    assert [middle_box(faces.boxes, 380, 380) for faces in found] == [0] * 13


def test_they_are_of_any_size_always_the_same_and_all_different():
    images = sample_faces(64)
    assert images.shape == (13, 64, 64, 3)
    assert np.array_equal(images, sample_faces(64))
    differences = [np.abs(a - b.astype(int)).mean() for a, b in itertools.combinations(images, 2)]
    assert min(differences) > 0.5  # grey levels
