"""Broken videos end with a verdict or a named status; by hand, tests/broken_videos.py tries thousands."""

from collections import Counter

import pytest

from dfdc import limits
from tests.broken_videos import draw, score
from tests.sound_videos import KINDS, compare, make, reference

FILES = [draw(0, number) for number in range(40)]


@pytest.mark.slow
def test_each_broken_video_ends_with_a_named_status(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "_LEAST_SECONDS", 60.0)  # what hangs ends with an error
    ended = score(FILES, tmp_path, real_each=20)
    assert sorted((one.file for one in ended), key=lambda file: file.number) == FILES  # a file may overtake another
    assert [f"{one.file.about}: {one.verdict.reason}" for one in ended if one.fault] == []
    assert max(one.peak for one in ended) < 1500  # MiB
    found = Counter(one.verdict.status.value for one in ended)
    assert found.keys() >= {"ok", "partial", "unreadable"}, found  # or the corpus tests nothing
    assert list(tmp_path.iterdir()) == []


def test_the_same_number_is_the_same_file():
    assert draw(0, 7) == FILES[7]
    small = next(file for file in FILES if file.kind.height < 200 and file.kind.count < 100)
    assert small.data() == draw(0, small.number).data()
    assert small.data() != draw(1, small.number).data()


def test_frames_are_told_apart(tmp_path):
    kind = KINDS[0]
    assert make(kind, tmp_path).suffix == ".mp4"
    frames = reference(kind)
    assert compare(kind, 5, frames[5]) == "right"
    assert compare(kind, 5, frames[7]) == "elsewhere"
    assert compare(kind, 5, frames[5] // 2) == "wrong"
    assert compare(kind, 5, frames[5][1:]) == "wrong"
