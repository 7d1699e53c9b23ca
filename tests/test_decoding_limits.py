"""How long a decoder may take, and what its end means (prediction/decoding.py); without a process."""

import itertools
import json
import signal

import numpy as np
import pytest

from dfdc import limits
from dfdc.video import VideoError
from prediction import decoding
from prediction.decoding import Decoder, DecoderMemoryError, DecodingError, Reading


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes only where it is told to."""
    now = [1000.0]
    monkeypatch.setattr(decoding.time, "monotonic", lambda: now[0])
    return now


class Wire:
    """In place of a connection, on which something lies from the `after`th look on."""

    def __init__(self, after):
        self.looks, self.after = [], after

    def poll(self, timeout):
        self.looks.append(timeout)
        return len(self.looks) > self.after

    def recv_bytes(self):
        return b"here"


def decoder_with(wire):
    decoder = Decoder()
    decoder._connection = wire
    return decoder


@pytest.mark.parametrize(
    ("left", "waited"),
    [(10.0, 10.0), (0.0, 0.0), (-5.0, 0.0), (1e9, 1e6)],  # a wait of weeks would overflow
)
def test_a_message_is_waited_for_until_the_deadline(clock, left, waited):
    there, late = Wire(0), Wire(1)
    assert decoder_with(there).receive(clock[0] + left) == b"here"
    with pytest.raises(TimeoutError):
        decoder_with(late).receive(clock[0] + left)
    assert there.looks == late.looks == [waited]


class Stub:
    """In place of a Decoder: gives messages, each of which takes 2 s, and then fails; notes deadlines."""

    def __init__(self, clock, *messages, code=None, fault=EOFError):
        self.clock, self.messages, self.code, self.fault = clock, list(messages), code, fault
        self.deadlines, self.closed = [], 0

    def send(self, request):
        self.request = request

    def receive(self, deadline):
        self.deadlines.append(deadline)
        self.clock[0] += 2.0
        if not self.messages:
            raise self.fault
        return self.messages.pop(0)

    def end_of_child(self):
        return self.code

    def close(self):
        self.closed += 1


def said(**values):
    return json.dumps(values).encode()


OPENED = said(opened={"picture": False, "frame_count": 9, "frames_per_second": 1.0, "wanted": 2, "notes": []})
FRAME = said(number=4, height=1, width=2), bytes(range(6))


def test_the_callers_own_time_does_not_count(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "time_limit", lambda path: 9.0)
    stub = Stub(clock, OPENED, *FRAME, said(lost=[7]))
    with Reading(stub, tmp_path / "v.mp4", [7, 4, 4]) as reading:
        assert stub.request == {"path": str(tmp_path / "v.mp4"), "wanted": [4, 7]}
        for number, picture in reading.frames():
            assert (number, picture.tolist()) == (4, [[[0, 1, 2], [3, 4, 5]]])
            clock[0] += 500.0
        assert reading.lost == [7]
    begun = [1000.0, 1002.0, 1004.0, 1506.0]
    assert stub.deadlines == [began + left for began, left in zip(begun, (9.0, 7.0, 5.0, 3.0), strict=True)]
    assert stub.closed == 0


def test_what_is_left_unread_ends_the_child(clock, tmp_path):
    stub = Stub(clock, OPENED, *FRAME)
    with Reading(stub, tmp_path / "v.mp4", 2) as reading:
        next(reading.frames())
    assert stub.closed == 1


def test_too_long_is_said_with_the_limit(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "time_limit", lambda path: 9.0)
    stub = Stub(clock, OPENED, fault=TimeoutError)
    with pytest.raises(TimeoutError, match="decoding took longer than 9 s"), Reading(stub, tmp_path, 2) as reading:
        list(reading.frames())
    assert stub.closed == 2  # as it gives up, and at the end of the block
    stub = Stub(clock, fault=TimeoutError)
    with pytest.raises(TimeoutError):
        Reading(stub, tmp_path, 2)
    assert stub.closed == 1  # or it would go on for ever


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (0, VideoError, "the decoder crashed (exit code 0)"),
        (1, VideoError, "the decoder crashed (exit code 1)"),
        (-signal.SIGSEGV, VideoError, "the decoder crashed (SIGSEGV)"),
        (-signal.SIGKILL, DecoderMemoryError, "the decoding process was killed; the system may have run out of memory"),
        (-signal.SIGTERM, DecodingError, "the decoding process was terminated from outside (SIGTERM)"),
        (-signal.SIGHUP, DecodingError, "the decoding process was terminated from outside (SIGHUP)"),
    ],
)
@pytest.mark.parametrize("fault", [EOFError, ConnectionResetError])
def test_the_end_of_the_child_is_laid_to_who_caused_it(clock, tmp_path, code, kind, reason, fault):
    with pytest.raises(kind) as error:
        Reading(Stub(clock, code=code, fault=fault), tmp_path / "v.mp4", 2)
    assert str(error.value).endswith(reason)
    assert type(error.value) is kind


@pytest.mark.parametrize(
    ("word", "kind"), [("unreadable", VideoError), ("memory", DecoderMemoryError), ("error", DecodingError)]
)
def test_a_fault_that_the_child_tells_leaves_it_alive(clock, tmp_path, word, kind):
    stub = Stub(clock, OPENED, said(**{word: "why"}))
    with pytest.raises(kind, match="why"), Reading(stub, tmp_path / "v.mp4", 2) as reading:
        list(reading.frames())
    assert stub.closed == 0


def test_pixels_may_be_written_to(clock, tmp_path):
    (_, picture), *_ = itertools.islice(Reading(Stub(clock, OPENED, *FRAME), tmp_path, 2).frames(), 1)
    assert picture.flags.writeable
    assert picture.dtype == np.uint8


def test_closing_ends_the_childs_input(tmp_path):
    decoder = Decoder()
    with pytest.raises(VideoError):
        decoder.read(tmp_path / "absent.mp4", 1)
    child = decoder._child
    decoder.close()
    assert child.stdin.closed
    assert child.returncode is not None
