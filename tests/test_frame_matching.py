"""Which frame of a fake belongs to which of its original's (preprocessing/frame_matching.py)."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from dfdc.boxes import Boxes
from dfdc.workers import FailVideo
from preprocessing.frame_matching import match_frames

WANTED = [0, 10, 100, 290]


def original(count=300, rate=30.0, times=None):
    shown = np.arange(count) / rate if times is None else times
    return Boxes(
        video="a.mp4",
        width=640,
        height=480,
        frame_count=count,
        rate=rate,
        duration=count / rate,
        times={n: float(shown[n]) for n in range(0, count, 10)},
        source={},
        settings={},
        made={},
        failed=None,
        notes=(),
        frames={},
    )


def reader(count=300, rate=30.0, times="even"):
    shown = np.arange(count) / (rate or 1.0) if isinstance(times, str) else times
    return SimpleNamespace(frame_count=count, fps=rate, duration=count / rate if rate else 0.0, times=lambda: shown)


def match(boxes, video, wanted=WANTED):
    return match_frames(boxes, wanted, video, "orig")


@pytest.mark.parametrize("count", [300, 297, 303, 299])
def test_as_many_frames_are_matched_by_number(count):
    found = match(original(), reader(count))
    assert found.frames == {number: [number] for number in WANTED}
    assert found.notes == []


def test_a_few_frames_more_or_less_are_as_many_in_a_short_video_too():
    assert match(original(30), reader(32), [0, 20]).frames == {0: [0], 20: [20]}
    with pytest.raises(FailVideo):
        match(original(30), reader(33), [0, 20])


@pytest.mark.parametrize("count", [296, 304])
def test_one_part_in_a_hundred_is_the_limit(count):
    with pytest.raises(FailVideo, match=rf"it has {count} frames in .* but orig has 300 in 10\.00 s"):
        match(original(), reader(count, 30.0, None))


@pytest.mark.parametrize(("count", "rate"), [(150, 15.0), (600, 60.0), (250, 25.0), (1500, 150.0)])
def test_another_rate_is_matched_by_time(count, rate):
    found = match(original(), reader(count, rate))
    assert found.frames == {round(number * rate / 30): [number] for number in WANTED}
    assert found.notes == [
        f"it has {count} frames in 10.00 s ({rate:.2f} a second), but orig has 300 in 10.00 s (30.00 a second): "
        "frames are matched by time"
    ]


def test_lengths_that_differ_by_less_than_a_fiftieth_are_the_same():
    assert match(original(), reader(1525, 150.0)).frames[50] == [10]
    with pytest.raises(FailVideo):
        match(original(), reader(1535, 150.0))
    with pytest.raises(FailVideo):
        match(original(), reader(1465, 150.0))


def test_two_frames_of_the_original_may_share_one_of_a_slow_fake():
    found = match(original(), reader(10, 1.0), [0, 10, 20, 30, 40])
    assert found.frames == {0: [0, 10], 1: [20, 30, 40]}


def test_a_variable_rate_against_a_constant_one():
    """The original's frames come late in its second half; the fake was made at an even rate, with more frames."""
    times = np.concatenate([np.arange(150) / 30, 5 + np.arange(120) / 24])
    found = match(original(270, 27.0, times), reader(300, 30.0), [0, 100, 150, 260])
    assert found.frames == {0: [0], 100: [100], 150: [150], round(30 * times[260]): [260]}
    assert "by time" in found.notes[0]


def test_frames_as_many_but_shown_at_other_times_are_told():
    """Made frame by frame, and written at an even rate: the number is right, and a person should know."""
    times = np.arange(300) / 30
    times[150:] += 0.5
    found = match(original(), reader(300, 30.0, times))
    assert found.frames == {number: [number] for number in WANTED}
    assert found.notes == [
        "its presentation timestamps differ by up to 0.50 s from those of orig, but the frame counts match: "
        "frames are matched by number"
    ]
    assert match(original(), reader(300, 30.0, np.arange(300) / 30 + 0.06)).notes == []  # under two frames
    double = match(original(), reader(300, 60.0))
    assert "up to 4.83 s from" in double.notes[0]


def test_without_times_there_is_nothing_to_tell():
    assert match(original(), reader(300, 30.0, None)).notes == []
    assert match(replace(original(), times={}), reader(300, 60.0)).notes == []
    assert match(replace(original(), rate=0.0), reader(300, 60.0)).notes == []


def test_a_file_that_was_cut_has_fewer_times():
    assert match(original(), reader(300, 30.0, np.arange(50) / 30)).frames == {n: [n] for n in WANTED}


@pytest.mark.parametrize(
    "video",
    [
        reader(150, 30.0),
        reader(600, 30.0),
        reader(150, 15.5),
        reader(150, 14.5),
        reader(150, 15.0, None),
        reader(150, 0.0),
    ],
)
def test_what_cant_be_said_is_refused_with_the_numbers(video):
    with pytest.raises(FailVideo) as error:
        match(original(), video)
    assert f"it has {video.frame_count} frames in {video.duration:.2f} s ({video.fps:.2f} a second)" in str(error.value)
    assert "but orig has 300 in 10.00 s (30.00 a second)" in str(error.value)
    assert "the frames can't be matched" in str(error.value)


def test_an_original_of_unknown_length_or_times_is_refused_too():
    with pytest.raises(FailVideo, match="can't be matched"):
        match(replace(original(), duration=0.0), reader(150, 15.0))
    with pytest.raises(FailVideo, match="orig has no presentation timestamps"):
        match(replace(original(), times={}), reader(150, 15.0))
