"""Settings of a run (prediction/settings.py)."""

import pytest

from dfdc import scoring
from networks.files import ModelFile
from prediction.results import plain
from prediction.settings import STRATEGIES, Floors, RunSettings


@pytest.mark.parametrize("floors", [(-1, 5), (8, -0.1), (8, float("nan")), (8, float("inf")), (float("nan"), 5)])
def test_floors_are_numbers(floors):
    with pytest.raises(ValueError, match=r"the floor of .*; give a finite number"):
        Floors(*floors)


def test_a_floor_of_0_is_none():
    assert Floors(0, 0.0) == Floors(faces=0, side=0)


def test_the_names_of_strategies_are_those_that_there_are():
    assert tuple(scoring.STRATEGIES) == STRATEGIES


def test_a_temperature_stands_in_the_settings_where_there_is_one():
    settings = [[ModelFile("a", 1, "2")], 32, "auto", 3, "mean", Floors(), "fp32", (0.7, 0.8, 0.8)]
    assert "temperature" not in plain(RunSettings(*settings))
    found = plain(RunSettings(*settings, 1.5))
    assert found["temperature"] == 1.5
    assert found["models"] == [{"name": "a", "size": 1, "xxh3": "2"}]
    assert found["detector_thresholds"] == [0.7, 0.8, 0.8]
