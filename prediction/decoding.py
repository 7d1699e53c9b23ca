"""Decode videos and photos in a separate process, so that a crash or hang of the decoder costs only one file.

This is the parent's side; the child's is decoding_child.py. They communicate over a socket: a JSON object in one
message, and a frame's pixels in the next. Pickle is not used: a decoder compromised by a hostile file can send only
data. The child imports no PyTorch, and does not load the caller's `__main__`, which may lack a guard.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from dfdc import limits
from dfdc.children import start_module
from dfdc.video import VideoError

_CHILD = "prediction.decoding_child"  # a module, run as a program
_START_SECONDS = 120.0  # a start takes a third of a second on an idle machine


@dataclass
class Opened:
    """The properties of a file that are known before its first frame."""

    picture: bool  # whether it is a photo
    frame_count: int  # number of frames that the file shows
    frames_per_second: float  # 0 if unknown
    wanted: int  # number of frames to decode
    notes: list[str]  # how the frames are converted, and which parts of the file are not read; texts for users


class DecodingError(RuntimeError):
    """A decoding error caused by this program or a library, not by the file."""


class DecoderMemoryError(MemoryError):
    """Not enough memory to decode a file; the kernel may have killed the child."""


# Signals caused by a fault of the process itself. Other signals come from outside.
_CRASHES = [getattr(signal, f"SIG{name}") for name in ("SEGV", "ABRT", "BUS", "FPE", "ILL", "TRAP", "SYS")]


class Decoder:
    """A child process that decodes one file at a time. It is replaced if it dies or exceeds the time limit."""

    def __init__(self) -> None:
        self._child: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._stopped = False

    def read(self, path: Path, wanted: int | Sequence[int]) -> Reading:
        """Open a video or a photo.

        Args:
            wanted: number of frames, spread evenly over the video; or the frame numbers.

        Raises:
            VideoError: the file can't be read, or the decoder crashed.
            DecoderMemoryError: not enough memory.
            TimeoutError: decoding exceeded the time limit.
            DecodingError: any other error in the child.
        """
        return Reading(self, path, wanted)

    def send(self, request: dict[str, Any]) -> None:
        """Send the child a request; start a child if none runs. DecodingError: it can't start, or `stop` was called."""
        if self._stopped:
            raise DecodingError("stopped")
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._start()
        self._open().send_bytes(json.dumps(request).encode())

    def receive(self, deadline: float) -> bytes:
        """Return the child's next message. EOFError: it died; TimeoutError: none before `deadline` (time.monotonic)."""
        connection, left = self._open(), deadline - time.monotonic()
        if not connection.poll(min(max(0.0, left), 1e6)):  # poll takes less than 2**31 milliseconds
            raise TimeoutError
        return connection.recv_bytes()

    def _open(self) -> Connection:
        if self._connection is None:
            raise DecodingError("there is no decoding process")
        return self._connection

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            given = theirs.fileno()
            self._child = start_module(_CHILD, [given], stdout=subprocess.DEVNULL, pass_fds=[given])
        self._connection = Connection(ours.detach())
        try:
            self.receive(time.monotonic() + _START_SECONDS)
        except (EOFError, OSError) as error:  # a TimeoutError is an OSError
            self.kill()
            raise DecodingError(f"the decoding process could not start (exit code {self.end_of_child()})") from error

    def end_of_child(self) -> int:
        """Wait for the dead child; return its exit status, negative for a signal."""
        if self._child is None:
            raise DecodingError("there is no decoding process")
        return self._child.wait()

    def kill(self) -> None:
        """Kill the child; `receive` in another thread then raises EOFError."""
        if (child := self._child) is not None:  # another thread may set it to None
            child.kill()

    def stop(self) -> None:
        """Kill the child, and start no other."""
        self._stopped = True
        self.kill()

    def close(self) -> None:
        """Kill the child, even while it works, and wait for its end."""
        if self._connection is not None:
            self._connection.close()
        if self._child is not None:
            self._child.kill()
            if self._child.stdin is not None:
                self._child.stdin.close()
            self._child.wait()
        self._child = self._connection = None


class Reading:
    """A file that a `Decoder`'s child is reading; `opened` has its properties."""

    def __init__(self, decoder: Decoder, path: Path, wanted: int | Sequence[int]) -> None:
        self._decoder, self._path = decoder, path
        self._limit = self._left = limits.time_limit(limits.known_size(path))  # seconds: the limit, and what is left
        self._ended = False  # True after the child's last message about this file
        self.lost: list[int] = []  # frames that could not be decoded; set at the end of `frames`
        numbers = wanted if isinstance(wanted, int) else sorted({int(number) for number in wanted})
        decoder.send({"path": os.path.abspath(path), "wanted": numbers})  # noqa: PTH100 - keeps links
        self.opened = Opened(**self._message()["opened"])

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._ended:  # the remaining messages must not be taken for the next file's
            self._decoder.close()

    def frames(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, RGB uint8 [h, w, 3] as shown) of the decoded frames, in order; raises as `Decoder.read`."""
        while True:
            message = self._message()
            if "lost" in message:
                self.lost, self._ended = message["lost"], True
                return
            pixels = np.frombuffer(bytearray(self._next()), np.uint8)  # PyTorch needs writable memory
            yield message["number"], pixels.reshape(message["height"], message["width"], 3)

    def _next(self) -> bytes:
        began = time.monotonic()
        try:
            return self._decoder.receive(began + self._left)
        except TimeoutError:
            self._decoder.close()
            raise TimeoutError(f"decoding took longer than {self._limit:.0f} s and was stopped") from None
        except (EOFError, OSError):  # between two messages, or in the middle of one
            raise self._fault_of_child() from None
        finally:
            self._left = max(0.0, self._left - (time.monotonic() - began))  # the caller's own time does not count

    def _fault_of_child(self) -> Exception:
        """Return the error for a dead child: its decoder crashed, or it was killed from outside."""
        code = self._decoder.end_of_child()
        if code == -signal.SIGKILL:
            return DecoderMemoryError("the decoding process was killed; the system may have run out of memory")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if code < 0 and -code not in _CRASHES:
            return DecodingError(f"the decoding process was terminated from outside ({name})")
        return VideoError(self._path, f"the decoder crashed ({name})")

    def _message(self) -> dict[str, Any]:
        message = json.loads(self._next())
        kinds = {"unreadable": partial(VideoError, self._path), "memory": DecoderMemoryError, "error": DecodingError}
        for kind, error in kinds.items():
            if kind in message:
                self._ended = True
                raise error(message[kind])
        return message
