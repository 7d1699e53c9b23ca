"""Bars, and looking at many files (dfdc/progress.py)."""

import io
import re
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


def drawn(monkeypatch, *, terminal, interval=1e-9, steps=4, **options):
    """What a bar of `steps` steps writes."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "_LOG_INTERVAL_S", interval)
    if terminal:
        options["miniters"] = 1
    with progress.progress_bar(total=steps, desc="work", unit="video", file=stream, **options) as bar:
        for step in range(steps):
            bar.update()
            if step == 1:
                bar.write("a message", file=stream)
    return stream.getvalue()


def test_a_log_file_gets_whole_lines_with_the_time_left_and_no_blank_ones(monkeypatch):
    lines = drawn(monkeypatch, terminal=False).split("\n")
    assert lines.pop() == ""
    assert "a message" in lines
    bars = [line for line in lines if line != "a message"]
    assert [re.match(r"work: +(\d+)%", line)[1] for line in bars] == ["25", "50", "75", "100"]
    assert all(re.search(r"\d/4 \[\d\d:\d\d<\d\d:\d\d", line) and "\r" not in line for line in bars)
    assert {*map(len, bars)} == {100}


def test_a_line_is_in_the_log_file_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_LOG_INTERVAL_S", 1e-9)
    path = tmp_path / "log"
    with path.open("w") as stream, progress.LogBar(total=2, file=stream, mininterval=0, miniters=1) as bar:
        bar.update()
        assert "50%" in path.read_text()


def test_tqdms_monitor_adds_no_lines_to_a_log_file(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "_LOG_INTERVAL_S", 0.3)
    with progress.progress_bar(total=100_000, file=stream) as bar:
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            bar.update()
    assert bar.miniters == 1  # else tqdm's monitor prints a bar whose last line is ten seconds old
    assert 1 <= stream.getvalue().count("\n") <= 2


def test_a_log_file_gets_nothing_of_a_job_that_is_done_before_the_first_line_is_due(monkeypatch):
    assert drawn(monkeypatch, terminal=False, interval=60.0) == "a message\n"


@pytest.mark.parametrize(("leave", "last"), [(True, "work: 100%"), (False, "")])
def test_a_terminal_gets_a_bar_in_place_which_may_vanish(monkeypatch, leave, last):
    written = drawn(monkeypatch, terminal=True, leave=leave)
    assert "\r" in written
    assert written.rstrip().split("\r")[-1].startswith(last)
    assert written.endswith("\n" if leave else "\r")


def test_a_terminals_bar_fits_it_and_is_drawn_twice_a_second(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.progress_bar(total=1, file=io.StringIO()) as bar:
        assert bar.dynamic_ncols
        assert bar.mininterval == 0.5
