"""Videos and photos decoded in a process of its own: a decoder's crash, or one that never ends, costs one file.

This is the parent's side; the child's is decoding_child.py. They speak over a socket: a JSON object in one message, and
a frame's pixels in the next. No pickle, so that a decoder that a hostile file took over can send pixels and nothing
else. The child imports no PyTorch, and does not load the caller's `__main__`, which may have no guard.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from dfdc import limits
from dfdc.video import VideoError

_ROOT = Path(__file__).resolve().parents[1]
_CHILD = "prediction.decoding_child"  # a module, run as a program
_START_SECONDS = 120.0  # it takes a third of one, on a machine with nothing else to do


@dataclass
class Opened:
    """What is known of a file before its first frame."""

    picture: bool  # whether it is a photo
    frame_count: int  # frames that it shows
    frames_per_second: float  # 0 where it is not known
    wanted: int  # how many frames will be tried
    notes: list[str]  # how the pictures were converted, and what of the file is left out; texts for people


class DecodingError(RuntimeError):
    """An error of this program or a library, and not of the file, while it was decoded."""


class DecoderMemoryError(MemoryError):
    """There was not enough memory to decode a file; the kernel may have killed the child."""


# By which a process ends of itself, when it does what it must not. Other signals come from outside.
_CRASHES = [getattr(signal, f"SIG{name}") for name in ("SEGV", "ABRT", "BUS", "FPE", "ILL", "TRAP", "SYS")]


class Decoder:
    """A child process that decodes one file at a time; replaced where it dies or takes too long."""

    def __init__(self) -> None:
        self._child: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._stopped = False

    def read(self, path: Path, wanted: int | Sequence[int]) -> Reading:
        """Open a video or a photo.

        Args:
            wanted: how many frames, evenly over the video; or their numbers.

        Raises:
            VideoError: it can't be read, or the decoder crashed.
            DecoderMemoryError: there was not enough memory.
            TimeoutError: it took too long.
            DecodingError: an error of another kind in the child.
        """
        return Reading(self, path, wanted)

    def send(self, request: dict[str, Any]) -> None:
        """Give the child work; one is started where there is none. DecodingError: it can't be, or `stop` was called."""
        if self._stopped:
            raise DecodingError("stopped")
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._start()
        self._open().send_bytes(json.dumps(request).encode())

    def receive(self, deadline: float) -> bytes:
        """The child's next message. EOFError: it died; TimeoutError: none came before `deadline` (time.monotonic)."""
        connection, left = self._open(), deadline - time.monotonic()
        if not connection.poll(min(max(0.0, left), 1e6)):  # of more the kernel would not hear: 2**31 milliseconds
            raise TimeoutError
        return connection.recv_bytes()

    def _open(self) -> Connection:
        if self._connection is None:
            raise DecodingError("there is no decoding process")
        return self._connection

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        with theirs:
            # A session of its own, so that Ctrl-C reaches the parent alone. The child ends when its input does. It runs
            # in our folder, and not where a file of the user's might pass for one of its modules.
            self._child = subprocess.Popen(
                [sys.executable, "-m", _CHILD, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": paths},
            )
        self._connection = Connection(ours.detach())
        try:
            self.receive(time.monotonic() + _START_SECONDS)
        except (EOFError, OSError) as error:  # a TimeoutError is an OSError
            self.kill()
            raise DecodingError(f"the decoding process can't start (exit code {self.end_of_child()})") from error

    def end_of_child(self) -> int:
        """Wait for the dead child; its exit status, negative for a signal."""
        if self._child is None:
            raise DecodingError("there is no decoding process")
        return self._child.wait()

    def kill(self) -> None:
        """Have the child die; a thread that waits for it hears so."""
        if (child := self._child) is not None:  # another thread may set it to None
            child.kill()

    def stop(self) -> None:
        """As `kill`, and start no other."""
        self._stopped = True
        self.kill()

    def close(self) -> None:
        """End the child, whatever it is at."""
        if self._connection is not None:
            self._connection.close()
        if self._child is not None:
            self._child.kill()
            if self._child.stdin is not None:
                self._child.stdin.close()
            self._child.wait()
        self._child = self._connection = None


class Reading:
    """A file that is being read by a `Decoder`'s child; `opened` says what is known of it."""

    def __init__(self, decoder: Decoder, path: Path, wanted: int | Sequence[int]) -> None:
        self._decoder, self._path = decoder, path
        try:
            size = path.stat().st_size
        except OSError:  # that is for the child to say
            size = 0
        self._limit = self._left = limits.time_limit(size)  # seconds that the child may take, and still may
        self._ended = False  # the child has no more to say of this file
        self.lost: list[int] = []  # wanted frames that could not be decoded, when `frames` has ended
        numbers = wanted if isinstance(wanted, int) else sorted({int(number) for number in wanted})
        decoder.send({"path": os.path.abspath(path), "wanted": numbers})  # noqa: PTH100 - no link is followed
        self.opened = Opened(**self._message()["opened"])

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._ended:  # what the child still says must not be taken for the next file's
            self._decoder.close()

    def frames(self) -> Iterator[tuple[int, np.ndarray]]:
        """(number, RGB uint8 [h, w, 3] as shown) of frames that can be decoded, in order; raises as `Decoder.read`."""
        while True:
            message = self._message()
            if "lost" in message:
                self.lost, self._ended = message["lost"], True
                return
            pixels = np.frombuffer(bytearray(self._next()), np.uint8)  # PyTorch wants what can be written to
            yield message["number"], pixels.reshape(message["height"], message["width"], 3)

    def _next(self) -> bytes:
        began = time.monotonic()
        try:
            return self._decoder.receive(began + self._left)
        except TimeoutError:
            self._decoder.close()
            raise TimeoutError(f"decoding took longer than {self._limit:.0f} s, and was given up") from None
        except (EOFError, OSError):  # between two messages, or amid one
            raise self._fault_of_child() from None
        finally:
            self._left = max(0.0, self._left - (time.monotonic() - began))  # the caller's own time does not count

    def _fault_of_child(self) -> Exception:
        """What the end of the child means for the file: its decoder's fault, or somebody else's."""
        code = self._decoder.end_of_child()
        if code == -signal.SIGKILL:
            return DecoderMemoryError("the decoding process was killed; was the system out of memory?")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if code < 0 and -code not in _CRASHES:
            return DecodingError(f"the decoding process was ended from outside ({name})")
        return VideoError(self._path, f"its decoder crashed ({name})")

    def _message(self) -> dict[str, Any]:
        message = json.loads(self._next())
        kinds = {"unreadable": partial(VideoError, self._path), "memory": DecoderMemoryError, "error": DecodingError}
        for kind, error in kinds.items():
            if kind in message:
                self._ended = True
                raise error(message[kind])
        return message
