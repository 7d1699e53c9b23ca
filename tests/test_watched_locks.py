"""Locks whose owner can't be asked are watched (dfdc/locks.py)."""

import os
import re
import time
from dataclasses import replace

import pytest
from lock_files import far_owner, make_old, names, refusal, write_lock

from dfdc import locks
from dfdc.command_line import UserError
from dfdc.locks import Owner, only_one


@pytest.fixture
def elsewhere(tmp_path, clock):
    """The lock of a process on another host."""
    return write_lock(tmp_path / ".a.lock", far_owner())


def is_refused(lock, others=()):
    said = r"^held by process 5 on node-b since .*: the far run$"
    with pytest.raises(UserError, match=said), only_one(lock, refusal, others):
        raise AssertionError("two at once")
    return True


def test_a_lock_of_another_host_is_watched_until_its_owner_touches_it(elsewhere, clock, capsys):
    clock.events[30] = elsewhere.touch
    assert is_refused(elsewhere)
    assert clock.waited == 30
    (said,) = capsys.readouterr().err.splitlines()
    assert re.match(rf"{elsewhere}: watching for at most 300 s whether process 5 on node-b .* still runs$", said)


def test_a_lock_of_another_host_that_nobody_touches_is_taken_over(elsewhere, clock, capsys):
    """An unattended run goes on after the death of the machine that did the work."""
    make_old(elsewhere, 120)
    with only_one(elsewhere, refusal):
        assert names(elsewhere.parent) == [".a.lock"]
    assert locks.ABANDONED - 125 <= clock.waited <= locks.ABANDONED - 115
    watched, taken = capsys.readouterr().err.splitlines()
    assert f"{elsewhere}: watching for at most" in watched
    assert f"{elsewhere}: its owner has ended (process 5 on node-b" in taken


@pytest.mark.parametrize("age", [10 * locks.ABANDONED, locks.ABANDONED - 10])
def test_an_old_lock_of_another_host_is_watched_for_a_minute(elsewhere, clock, capsys, age):
    make_old(elsewhere, age)
    with only_one(elsewhere, refusal):
        pass
    assert clock.waited == 2 * locks.TOUCHED_EVERY
    assert "watching for at most 60 s" in capsys.readouterr().err


def test_a_lock_from_the_future_is_watched_like_a_new_one(elsewhere, clock):
    """The clock of a disk was wrong when it was touched."""
    make_old(elsewhere, -1e6)
    with only_one(elsewhere, refusal):
        pass
    assert clock.waited == locks.ABANDONED


def test_one_of_a_wrong_clock_that_is_touched_while_watched_is_kept(elsewhere, clock):
    make_old(elsewhere, 10 * locks.ABANDONED)
    clock.events[30] = lambda: make_old(elsewhere, 9 * locks.ABANDONED)
    assert is_refused(elsewhere)


def test_a_touch_that_shows_only_after_the_file_was_opened_counts(elsewhere, clock, monkeypatch):
    """NFS may show an old time for a minute, but asks the server when a file is opened."""
    make_old(elsewhere)
    read = locks._read

    def open_late(path):
        if clock.waited == 60:
            make_old(path, 0)
        return read(path)

    monkeypatch.setattr(locks, "_read", open_late)
    assert is_refused(elsewhere)


def test_a_lock_that_is_released_while_watched_is_taken(elsewhere, clock, capsys):
    clock.events[20] = elsewhere.unlink
    with only_one(elsewhere, refusal):
        assert clock.waited == 20
    assert "its owner has ended" not in capsys.readouterr().err


def test_a_lock_that_another_takes_while_watched_is_that_ones(elsewhere, clock):
    other = replace(far_owner(), machine="node-c")
    clock.events[20] = lambda: write_lock(elsewhere, other)
    with pytest.raises(UserError, match=r"^held by process 5 on node-c "), only_one(elsewhere, refusal):
        raise AssertionError("two at once")


def test_one_that_waits_is_not_put_off_by_touches(elsewhere, clock, capsys):
    for second in range(30, 301, 30):
        clock.events[second] = elsewhere.touch
    with only_one(elsewhere, None):
        assert clock.waited == pytest.approx(300 + locks.ABANDONED, abs=10)
    waiting, taken = capsys.readouterr().err.splitlines()
    assert "waiting for process 5 on node-b" in waiting
    assert "its owner has ended" in taken


def test_other_locks_of_other_hosts_are_watched_together(tmp_path, clock):
    others = [write_lock(tmp_path / f".{name}.lock", far_owner()) for name in "bcd"]
    with only_one(tmp_path / ".a.lock", refusal, others):
        assert clock.waited == locks.ABANDONED
    clock.events[clock.waited + 30] = others[2].touch
    assert is_refused(tmp_path / ".a.lock", others)
    assert clock.waited == locks.ABANDONED + 30
    assert names(tmp_path) == [".b.lock", ".c.lock", ".d.lock"]


def test_this_machines_clock_does_not_matter(elsewhere, clock, monkeypatch):
    clock.events[30] = elsewhere.touch
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert is_refused(elsewhere)


@pytest.mark.parametrize("content", [b"", b"{", b'{"process": 5}', b"\xff"])
def test_a_lock_that_is_being_written_counts_until_it_is_old(tmp_path, clock, capsys, content):
    lock = tmp_path / ".a.lock"
    lock.write_bytes(content)
    clock.events[5] = lambda: write_lock(lock, Owner.own())
    with pytest.raises(UserError, match=f"held by process {os.getpid()}"), only_one(lock, refusal):
        raise AssertionError("two at once")
    assert capsys.readouterr().err == ""
    lock.write_bytes(content)
    with only_one(lock, refusal):
        pass
    assert names(tmp_path) == []
    assert clock.waited == 5 + locks.ABANDONED
