"""Decoding in a process of its own (prediction/decoding.py, prediction/decoding_child.py)."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, read_number
from scoring_runs import FakeDetector, predict_with

from dfdc import limits
from dfdc.imaging import encode_png
from dfdc.video import VideoReader
from prediction import decoding
from prediction.decoding import Decoder


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setattr(decoding, "_CHILD", "faulty_child")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def test_frames_are_the_readers_own(decoder, clip):
    with decoder.read(clip, 7) as reading:
        assert (reading.opened.frame_count, reading.opened.frames_per_second, reading.opened.wanted) == (40, 25.0, 7)
        assert not reading.opened.picture
        assert reading.opened.notes == []
        found = list(reading.frames())
    with VideoReader(clip) as reader:
        expected = list(reader.frames([0, 6, 13, 19, 26, 32, 39]))
    assert [number for number, _ in found] == [number for number, _ in expected]
    for (number, picture), (_, other) in zip(found, expected, strict=True):
        assert read_number(picture) == number
        assert np.array_equal(picture, other)
        assert picture.flags.writeable
    assert reading.lost == []


@pytest.mark.slow
def test_one_child_reads_file_after_file_and_what_was_left_unread_is_not_the_next_ones(decoder, clip, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    photo = tmp_path / "p.png"
    photo.write_bytes(encode_png(picture))
    with decoder.read(clip, [5, 3]) as reading:
        assert [number for number, _ in reading.frames()] == [3, 5]
    child = decoder._child.pid
    with decoder.read(photo, 32) as reading:
        assert (reading.opened.picture, reading.opened.wanted, reading.opened.frame_count) == (True, 1, 1)
        ((number, seen),) = reading.frames()
    assert (number, decoder._child.pid) == (0, child)
    assert np.array_equal(seen, picture)
    with decoder.read(clip, 32) as reading:
        next(reading.frames())
    with decoder.read(photo, 32) as reading:
        assert reading.opened.picture
        assert len(list(reading.frames())) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("SIGSEGV.mp4", "unreadable", "the decoder crashed (SIGSEGV)"),
        ("later SIGSEGV.mp4", "unreadable", "the decoder crashed (SIGSEGV)"),
        ("exits.mp4", "unreadable", "the decoder crashed (exit code 7)"),
        ("amid SIGKILL.mp4", "out of memory", "the decoding process was killed; the system may have run out of memory"),
        ("amid SIGSEGV.mp4", "unreadable", "the decoder crashed (SIGSEGV)"),
        ("SIGTERM.mp4", "error", "the decoding process was terminated from outside (SIGTERM)"),
        ("memory.mp4", "out of memory", "not enough memory to decode the file"),
        ("enomem.mp4", "out of memory", "can't be decoded: Cannot allocate memory"),
        ("later SIGKILL.mp4", "out of memory", "process was killed; the system may have run out of memory"),
        ("hangs.mp4", "timed out", "decoding took longer than 2 s and was stopped"),
        ("raises.mp4", "error", "KeyError: 'a bug'"),
    ],
)
def test_a_decoder_that_dies_costs_one_video(weights, faulty, clip, tmp_path, monkeypatch, name, status, said):
    monkeypatch.setattr(limits, "_LEAST_SECONDS", 2.0)
    paths = [tmp_path / "a.mp4", tmp_path / name, tmp_path / "z.mp4"]
    for path in paths:
        shutil.copy(clip, path)
    verdicts = predict_with(FakeDetector([[10, 10, 40, 50]]), paths, weights, tmp_path)
    assert [verdict.status for verdict in verdicts] == ["ok", status, "ok"]
    assert said in verdicts[1].reason
    assert verdicts[1].faces == []
    assert [len(verdict.faces) for verdict in verdicts] == [32, 0, 32]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blow", "status", "said"),
    [
        (signal.SIGKILL, "out of memory", "the decoding process was killed"),
        (signal.SIGSEGV, "unreadable", "the decoder crashed (SIGSEGV)"),
        (signal.SIGSTOP, "timed out", "decoding took longer than 2 s and was stopped"),  # it hangs
    ],
)
def test_a_blow_amid_the_decoding_of_a_video_costs_that_video_only(
    weights, clip, tmp_path, monkeypatch, blow, status, said
):
    """The project's own decoding process, between two frames of the second of three videos."""
    monkeypatch.setattr(limits, "_LEAST_SECONDS", 2.0)
    children, start = [], decoding.start_module
    monkeypatch.setattr(
        decoding, "start_module", lambda *way, **more: children.append(start(*way, **more)) or children[-1]
    )

    class Striking(FakeDetector):
        calls = 0

        def detect(self, pictures, scale):
            self.calls += 1
            if self.calls == 10:  # 8 for each video
                children[0].send_signal(blow)
            return super().detect(pictures, scale)

    paths = [tmp_path / name for name in ("a.mp4", "b.mp4", "c.mp4")]
    for path in paths:
        shutil.copy(clip, path)
    verdicts = predict_with(Striking([[10, 10, 40, 50]]), paths, weights, tmp_path)
    assert [verdict.status for verdict in verdicts] == ["ok", status, "ok"]
    assert said in verdicts[1].reason
    assert verdicts[1].score is None
    assert verdicts[0].faces == verdicts[2].faces
    assert len(children) == 2
    assert children[0].returncode is not None


@pytest.mark.slow
def test_time_that_the_caller_takes_does_not_count(faulty, decoder, clip, monkeypatch):
    monkeypatch.setattr(limits, "_LEAST_SECONDS", 2.0)
    frames = []
    with decoder.read(clip, 4) as reading:
        for number, _ in reading.frames():
            frames.append(number)
            time.sleep(0.8)
    assert len(frames) == 4


@pytest.mark.slow
def test_the_child_ends_with_its_parent_even_amid_an_endless_loop(tmp_path, clip):
    shutil.copy(clip, tmp_path / "hangs.mp4")
    code = (
        "import os, pathlib, sys, threading, time\n"
        f"sys.path[:0] = [{str(ROOT)!r}]\n"
        "from prediction import decoding\n"
        "decoding._CHILD = 'faulty_child'\n"
        "decoder = decoding.Decoder()\n"
        f"path = pathlib.Path({str(tmp_path / 'hangs.mp4')!r})\n"
        "threading.Thread(target=decoder.read, args=(path, 3), daemon=True).start()\n"
        "while decoder._child is None: time.sleep(0.05)\n"
        "time.sleep(1)\n"
        "print(decoder._child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parent), "PATH": "/usr/bin:/bin"},
        check=False,
        timeout=60,
    )
    child = Path("/proc") / done.stdout.strip()
    for _ in range(100):
        if not child.exists() or child.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError(f"the child still runs: {done.stdout} {done.stderr}")


@pytest.mark.slow
def test_a_child_that_cant_start_is_no_fault_of_the_video(weights, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_CHILD", "no_such_module")
    (verdict,) = predict_with(FakeDetector([[10, 10, 40, 50]]), [clip], weights, tmp_path)
    assert (verdict.status, verdict.reason) == (
        "error",
        "DecodingError: the decoding process could not start (exit code 1)",
    )
    monkeypatch.undo()
    (verdict,) = predict_with(FakeDetector([[10, 10, 40, 50]]), [clip], weights, tmp_path)
    assert verdict.status == "ok"


def test_the_users_folder_is_not_where_modules_are_looked_for(decoder, clip, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with decoder.read(Path("clip.mp4"), 2) as reading:
        assert len(list(reading.frames())) == 2


def test_a_decoder_that_was_stopped_starts_no_child(decoder, clip):
    with decoder.read(clip, 2) as reading:
        list(reading.frames())
    decoder.stop()
    with pytest.raises(decoding.DecodingError, match="stopped"):
        decoder.read(clip, 2)


def test_a_child_that_ends_leaves_no_zombie(decoder, clip):
    with decoder.read(clip, 2) as reading:
        list(reading.frames())
    child = decoder._child
    decoder.close()
    assert not Path(f"/proc/{child.pid}").exists()


def test_a_child_that_was_closed_is_replaced(decoder, clip):
    for _ in range(2):
        with decoder.read(clip, 2) as reading:
            assert len(list(reading.frames())) == 2
        decoder.close()


def test_a_decoder_that_never_read_can_be_ended():
    for end in (Decoder.kill, Decoder.stop, Decoder.close):
        end(Decoder())


def test_the_terminal_speaks_to_the_parent_alone(decoder, clip, capfd):
    with decoder.read(clip, 2) as reading:
        list(reading.frames())
        child = decoder._child.pid
        assert os.getsid(child) == child  # Ctrl-C goes to another session
        assert Path(f"/proc/{child}/fd/1").resolve() == Path(os.devnull)
        assert Path(f"/proc/{child}/cwd").resolve() == ROOT
