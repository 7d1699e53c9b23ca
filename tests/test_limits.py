"""How long the work on one file may take, and how large an image may be (dfdc/limits.py)."""

import pytest

from dfdc.limits import excess, known_size, late, time_limit


@pytest.mark.parametrize(("size", "seconds"), [(0, 600.0), (10_000, 601.0), (50_000_000, 5600.0)])
def test_ten_minutes_and_a_second_for_each_10_kb(size, seconds):
    assert time_limit(size) == seconds


def test_more_pixels_than_the_limit_are_named():
    assert excess(30, 40, 1200) == ""
    assert excess(1201, 1, 1200) == "1201 x 1 pixels; the limit is 1,200 pixels"


def test_the_size_of_a_file_that_cant_be_read_is_0(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert known_size(tmp_path / "a") == 3
    assert known_size(tmp_path / "absent") == 0


def test_a_late_item_is_told_its_limit():
    assert late(50_000_000) == "it exceeded the time limit of 5600 s"
