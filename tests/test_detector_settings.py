"""Thresholds and scale of the face detector (dfdc/detector_settings.py)."""

import argparse

import pytest

from dfdc import detector_settings
from dfdc.command_line import parse_detector_scale


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
    assert detector_settings.detector_scale("auto", width, height) == scale
    assert detector_settings.detector_scale(0.33, width, height) == 0.33


@pytest.mark.parametrize("text", ["", "0", "-1", "5", "nan", "half"])
def test_t9_bad_factors_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected auto, or a factor"):
        parse_detector_scale(text)


@pytest.mark.parametrize(("text", "factor"), [("auto", "auto"), ("0.5", 0.5), ("0.01", 0.01), ("4", 4.0)])
def test_t9_factors_are_taken(text, factor):
    assert parse_detector_scale(text) == factor


def test_thresholds_are_the_winners():
    assert detector_settings.DETECT_THRESHOLDS == (0.85, 0.95, 0.95)
    assert detector_settings.LANDMARK_THRESHOLDS == (0.65, 0.75, 0.75)
    assert detector_settings.PREDICT_THRESHOLDS == (0.7, 0.8, 0.8)
