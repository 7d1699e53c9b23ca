"""Bars, and looking at many files (dfdc/progress.py)."""

import sys
import threading
import time

import pytest

from dfdc import progress


def test_disk_map_keeps_the_order_and_uses_threads():
    seen = set()

    def look(number):
        seen.add(threading.get_ident())
        time.sleep(0.002)
        return -number

    assert list(progress.disk_map(look, range(1000))) == [-number for number in range(1000)]
    assert 2 <= len(seen) <= 8
    assert list(progress.disk_map(look, [])) == []


def test_disk_map_raises_at_the_items_turn_and_leaves_the_rest():
    begun, got = [], []

    def look(number):
        begun.append(number)
        time.sleep(0.001)
        return 600 // (600 - number)

    with pytest.raises(ZeroDivisionError):
        for value in progress.disk_map(look, range(20_000)):
            got.append(value)
    assert got == [600 // (600 - number) for number in range(len(got))]
    assert 500 < len(got) <= 600
    assert len(begun) < 20_000


def test_a_look_that_is_stopped_leaves_the_rest():
    begun = []
    looks = progress.disk_map(lambda number: begun.append(number) or time.sleep(0.001), range(20_000))
    next(looks)
    looks.close()
    assert len(begun) < 20_000


@pytest.mark.parametrize(
    ("terminal", "given", "expected"),
    [
        (True, {}, {"mininterval": 0.5}),
        (False, {}, {"mininterval": 15.0}),
        (False, {"mininterval": 2}, {"mininterval": 2}),
        (False, {"leave": False}, {"mininterval": 15.0, "leave": False, "disable": True}),
        (True, {"leave": False}, {"mininterval": 0.5, "leave": False}),
        (False, {"leave": True}, {"mininterval": 15.0, "leave": True}),
    ],
)
def test_a_log_file_gets_a_line_now_and_then(monkeypatch, terminal, given, expected):
    monkeypatch.setattr(progress, "tqdm", lambda iterable=None, **options: (iterable, options))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert progress.progress_bar([1], **given) == ([1], {"dynamic_ncols": True, **expected})
