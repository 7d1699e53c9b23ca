"""Times as m:ss (prediction/pages/times.py)."""

import pytest

from prediction.pages.times import clock, frame_times, time_marks


@pytest.mark.parametrize(
    ("seconds", "plain", "tenths"),
    [
        (0, "0:00", "0:00.0"),
        (0.7, "0:00", "0:00.7"),
        (8.04, "0:08", "0:08.0"),
        (59.99, "0:59", "0:59.9"),
        (725, "12:05", "12:05.0"),
        (3725.5, "1:02:05", "1:02:05.5"),
    ],
)
def test_times_are_minutes_and_seconds(seconds, plain, tenths):
    assert clock(seconds) == plain
    assert clock(seconds, tenths=True) == tenths


def test_every_frame_of_common_rates_has_the_right_tenth():
    for rate in (24.0, 25.0, 30.0, 50.0, 30000 / 1001):
        for frame in range(0, 5000, 7):
            assert abs(float(clock(frame / rate, tenths=True).split(":")[1]) - frame / rate % 60) < 0.1 + 1e-6


def test_all_frames_have_tenths_if_two_share_a_second():
    assert frame_times([0, 50, 60, 75, 60], 25.0) == {0: "0:00.0", 50: "0:02.0", 60: "0:02.4", 75: "0:03.0"}
    assert frame_times([0, 50, 75, 75], 25.0) == {0: "0:00", 50: "0:02", 75: "0:03"}


@pytest.mark.parametrize(
    ("end", "first", "last", "count"),
    [
        (0.04, "0:00.0", "0:00.0", 1),
        (1.5, "0:00.0", "0:01.4", 8),
        (3.2, "0:00", "0:03", 4),
        (12.0, "0:00", "0:12", 7),
        (725.0, "0:00", "12:00", 7),
        (7300.0, "0:00", "2:00:00", 5),
        (500_000.0, "0:00", "126:00:00", 8),
    ],
)
def test_marks_are_round_times_and_few(end, first, last, count):
    marks = time_marks(end)
    assert (marks[0][1], marks[-1][1], len(marks)) == (first, last, count)
    assert all(value <= end for value, _ in marks)
