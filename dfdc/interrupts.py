"""Ctrl-C and SIGTERM end a command in order: it stops its processes, says how to resume, and shows no traceback."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """Raised by a SIGTERM in the main thread, as `KeyboardInterrupt` is by Ctrl-C."""


def raise_on_sigterm() -> None:
    """Make a SIGTERM raise `Terminated`, so that the command stops its processes before it ends."""
    signal.signal(signal.SIGTERM, _terminate)


def end_at_once() -> None:
    """Make both signals end the process without a Python exception: nothing is left to stop."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def handler_kept() -> Generator[None]:
    """Put the handler of SIGTERM back after the block, which calls a library that sets its own."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # in others, nobody can set one
            signal.signal(signal.SIGTERM, handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


@contextlib.contextmanager
def held() -> Generator[None]:
    """Hold back both signals until the block ends, for a block that starts processes.

    A process that is only half started when its parent stops ends with a traceback. Processes started in the block
    never receive Ctrl-C; their parent stops them. In other threads than the main one, Python raises no exception for a
    signal, so nothing is held back there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _SIGNALS}
    # A child process inherits the blocked signals of the thread that starts it, also through exec.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)
