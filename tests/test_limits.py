"""How long the work on one file may take (dfdc/limits.py)."""

import pytest

from dfdc.limits import time_limit


@pytest.mark.parametrize(("size", "seconds"), [(0, 600.0), (10_000, 601.0), (50_000_000, 5600.0)])
def test_ten_minutes_and_a_second_for_each_10_kb(size, seconds):
    assert time_limit(size) == seconds
