"""How long the work on one file may take, and how large an image may be (dfdc/limits.py)."""

import pytest

from dfdc.limits import excess, time_limit


@pytest.mark.parametrize(("size", "seconds"), [(0, 600.0), (10_000, 601.0), (50_000_000, 5600.0)])
def test_ten_minutes_and_a_second_for_each_10_kb(size, seconds):
    assert time_limit(size) == seconds


def test_more_pixels_than_the_limit_are_named():
    assert excess(30, 40, 1200) == ""
    assert excess(1201, 1, 1200) == "1201 x 1 pixels; the limit is 1,200 pixels"
