"""Only one process does some work (dfdc/locks.py)."""

import contextlib
import io
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from helpers import ROOT, run_script
from lock_files import far_owner, make_old, names, refusal, write_lock

from dfdc import locks
from dfdc.command_line import UserError
from dfdc.identity import NotAFileError
from dfdc.locks import Owner, only_one
from dfdc.processes import Process


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "new folder" / ".a.lock"


@pytest.fixture
def ended():
    """A process of this host that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    start = Process.own().start
    process.wait()
    return replace(Owner.own(), process=Process(Process.own().host, process.pid, start), command="the ended run")


def hold(path, seconds=60):
    """Another process that holds the lock."""
    code = (
        "import sys, time; sys.argv = ['the', 'other run']\nfrom pathlib import Path\nfrom dfdc.locks import only_one\n"
        f"with only_one(Path({str(path)!r}), None):\n    print('held', flush=True); time.sleep({seconds})\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert other.stdout.readline() == "held\n"
    return other


def test_the_second_is_refused_and_the_first_is_named(lock):
    other = hold(lock)
    try:
        said = rf"^held by process {other.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d: the other run$"
        with pytest.raises(UserError, match=said), only_one(lock, refusal):
            raise AssertionError("two at once")
        assert names(lock.parent) == [".a.lock"]
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def test_the_lock_of_a_killed_owner_is_taken_over_and_that_is_said(lock, capsys):
    other = hold(lock)
    other.kill()
    other.wait()
    other.stdout.close()
    with only_one(lock, refusal):
        assert names(lock.parent) == [".a.lock"]
        with pytest.raises(UserError, match=f"held by process {os.getpid()} "), only_one(lock, refusal):
            raise AssertionError("two at once")
    assert names(lock.parent) == []
    said = capsys.readouterr().err
    assert said.startswith(f"{lock}: its owner has ended (process {other.pid} on ")
    assert said.endswith("the other run); this run takes over\n")


def test_an_unused_lock_says_nothing_and_leaves_nothing(lock, capsys):
    for _ in range(2):
        with only_one(lock, refusal):
            pass
    with pytest.raises(RuntimeError), only_one(lock, refusal):
        raise RuntimeError
    assert names(lock.parent) == []
    assert capsys.readouterr() == ("", "")


def test_other_locks_must_be_free_too_and_are_not_taken(tmp_path, ended):
    lock, other = tmp_path / ".a.lock", tmp_path / ".b.lock"
    with only_one(lock, refusal, [other]):
        assert names(tmp_path) == [".a.lock"]
    with only_one(other, refusal):
        with pytest.raises(UserError, match=f"held by process {os.getpid()} "), only_one(lock, refusal, [other]):
            raise AssertionError("two at once")
        assert names(tmp_path) == [".b.lock"]
    write_lock(other, ended)
    with only_one(lock, refusal, [other]):
        assert names(tmp_path) == [".a.lock", ".b.lock"]


def test_other_locks_are_looked_up_after_the_own_one_is_taken(lock):
    def others():
        assert names(lock.parent) == [".a.lock"]
        yield lock.with_name("absent")

    with only_one(lock, refusal, others()):
        pass


def test_one_that_waits_gets_it_next(lock):
    order = []

    def second():
        with only_one(lock, None):
            order.append("second")

    with ThreadPoolExecutor(1) as pool:
        with only_one(lock, None):
            running = pool.submit(second)
            time.sleep(0.3)
            order.append("first")
        running.result(60)
    assert order == ["first", "second"]


def test_one_that_waits_says_once_for_whom(tmp_path):
    """It may wait for minutes for a machine that has vanished."""
    lock = write_lock(tmp_path / ".a.lock", far_owner())
    # Not capsys: asked again and again, it loses what another thread prints meanwhile.
    heard = io.StringIO()
    with contextlib.redirect_stderr(heard), ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        running = pool.submit(stack.enter_context, only_one(lock, None))
        while "\n" not in heard.getvalue():
            assert not running.done()
            time.sleep(0.01)
        lock.unlink()
        running.result(60)
    said = heard.getvalue()
    assert said.startswith(f"{lock}: waiting for process 5 on node-b since ")
    assert said.endswith(": the far run; if it has ended, its lock is free 5 minutes later\n")
    assert said.count("\n") == 1


def test_of_many_that_take_over_one_lock_only_one_holds_it_at_a_time(tmp_path, ended):
    lock = tmp_path / ".a.lock"
    inside, most, turns = 0, 0, []
    counting = threading.Lock()

    def work(_):
        nonlocal inside, most
        with only_one(lock, None):
            with counting:
                inside += 1
                most = max(most, inside)
            time.sleep(0.002)
            with counting:
                inside -= 1
            turns.append(1)

    for _ in range(5):
        write_lock(lock, ended)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(16)))
    assert (most, len(turns)) == (1, 80)
    assert names(tmp_path) == []


def test_one_that_read_the_old_owner_late_does_not_take_the_new_ones_lock(tmp_path, ended):
    """Between reading and taking over, another process has taken over and is working."""
    lock = write_lock(tmp_path / ".a.lock", ended)
    stale = lock.read_bytes()
    with only_one(lock, refusal):
        own = lock.read_bytes()
        assert not locks._take_over(lock, stale, b"mine")
        assert lock.read_bytes() == own
    assert not locks._take_over(lock, stale, b"mine")  # and when it has ended
    assert names(tmp_path) == []


def test_the_claim_of_an_owner_that_was_killed_while_taking_over_is_taken_over_too(tmp_path, ended):
    lock = write_lock(tmp_path / ".a.lock", ended)
    claim = lock.with_name(f"{lock.name}.{locks.digest_of(lock.read_bytes().hex())[:8]}")
    write_lock(claim, replace(ended, token="another"))
    with only_one(lock, refusal):
        assert names(tmp_path) == [".a.lock"]
    assert names(tmp_path) == []


def test_what_was_left_by_one_that_was_killed_while_taking_over_is_removed(tmp_path, ended, clock):
    """It may have been killed before or after it became the owner; then its files have names that nobody uses again."""
    lock = write_lock(tmp_path / ".a.lock", ended)
    dead = [".01234567", ".0123456789abcdef", ".01234567.89abcdef", ".01234567.0123456789abcdef"]
    for ending in dead:
        write_lock(lock.with_name(lock.name + ending), ended)
    for ending in (".11234567", ".1123456789abcdef"):
        make_old(write_lock(lock.with_name(lock.name + ending), far_owner()), 61)
    alive = write_lock(lock.with_name(f"{lock.name}.21234567"), Owner.own())
    make_old(alive)
    unknown = write_lock(lock.with_name(f"{lock.name}.31234567"), far_owner())
    others = [write_lock(lock.with_name(name), ended) for name in (".a.lock.txt", ".b.lock.01234567", ".a.lock.0123")]
    with only_one(lock, refusal):
        assert names(tmp_path) == sorted(path.name for path in (lock, alive, unknown, *others))


def test_ctrl_c_amid_taking_over_leaves_only_the_old_lock(tmp_path, ended, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    lock = write_lock(tmp_path / ".a.lock", ended)
    monkeypatch.setattr(locks.Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt), only_one(lock, refusal):
        raise AssertionError("without a lock")
    assert names(tmp_path) == [".a.lock"]


def test_the_owner_touches_its_lock(lock, monkeypatch):
    monkeypatch.setattr(locks, "TOUCHED_EVERY", 0.02)
    with only_one(lock, refusal):
        for _ in range(2):
            make_old(lock)
            until = time.monotonic() + 30
            while time.time() - lock.stat().st_mtime > locks.ABANDONED:
                assert time.monotonic() < until
                time.sleep(0.01)


def test_an_owner_whose_lock_is_anothers_by_now_says_so_and_leaves_it(lock, monkeypatch):
    far = far_owner()
    monkeypatch.setattr(locks, "TOUCHED_EVERY", 0.02)
    heard = io.StringIO()
    with contextlib.redirect_stderr(heard), only_one(lock, refusal):
        write_lock(lock, far)
        until = time.monotonic() + 30
        while "no longer holds it" not in heard.getvalue():
            assert time.monotonic() < until
            time.sleep(0.01)
    assert heard.getvalue().startswith(f"{lock}: this run no longer holds it; stop it unless")
    assert lock.read_bytes() == locks._OWNERS.dump_json(far)


def test_a_folder_that_cant_be_written_is_an_error_and_no_lock(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "x")

    monkeypatch.setattr(locks.os, "open", refuse)
    with pytest.raises(PermissionError), only_one(tmp_path / ".a.lock", None):
        raise AssertionError("without a lock")


@pytest.mark.parametrize("kind", ["a named pipe", "a link"])
def test_what_is_no_file_is_named_and_not_waited_for(lock, kind):
    lock.parent.mkdir()
    os.mkfifo(lock) if kind == "a named pipe" else lock.symlink_to("nowhere")
    with pytest.raises(NotAFileError, match=rf"\.a\.lock: .*{kind}"), only_one(lock, None):
        raise AssertionError("without a lock")


def test_ctrl_c_amid_the_writing_leaves_no_lock_without_an_owner(tmp_path, monkeypatch):
    def interrupt(handle, *_):
        os.close(handle)
        raise KeyboardInterrupt

    monkeypatch.setattr(locks.os, "fdopen", interrupt)
    with pytest.raises(KeyboardInterrupt), only_one(tmp_path / ".a.lock", None):
        raise AssertionError("without a lock")
    assert names(tmp_path) == []


def test_ctrl_c_leaves_no_lock_without_an_owner(tmp_path):
    """At the worst moment: between the creation of the file and its first byte."""
    code = """
import os, signal, sys
from pathlib import Path
from dfdc.locks import only_one
signal.signal(signal.SIGINT, signal.default_int_handler)
opened = os.open
def open_and_stop(path, *way):
    handle = opened(path, *way)
    if Path(path).name == ".a.lock":
        signal.raise_signal(signal.SIGINT)
    return handle
os.open = open_and_stop
try:
    with only_one(Path(sys.argv[1]), None):
        print("without a lock")
except KeyboardInterrupt:
    print("stopped")
"""
    done = run_script("-c", code, tmp_path / ".a.lock")
    assert (done.stdout, done.stderr) == ("stopped\n", "")
    assert names(tmp_path) == []


def test_a_full_disk_leaves_no_lock_without_an_owner(tmp_path):
    """A limit on the size of files stands in for a full disk; it would refuse the next run for minutes."""
    code = (
        "import resource; from pathlib import Path; from dfdc.locks import only_one\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        f"with only_one(Path({str(tmp_path / '.a.lock')!r}), None): pass"
    )
    done = run_script("-c", code)
    assert "OSError: [Errno 27] File too large" in done.stderr
    assert names(tmp_path) == []


def test_a_new_folder_stays_only_with_something_in_it(lock):
    with only_one(lock, refusal):
        pass
    assert not lock.parent.exists()
    with only_one(lock, refusal):
        (lock.parent / "result").write_text("")
    assert names(lock.parent) == ["result"]
    (lock.parent / "result").unlink()
    with only_one(lock, refusal):
        pass
    assert lock.parent.exists()  # it was there before
