"""Ctrl-C and SIGTERM end a command in order: it stops its processes, says how to resume, and shows no traceback.

For a signal, Python raises an exception in the main thread, wherever this thread is. In a callback of the garbage
collector or of an import, it drops the exception and calls `sys.unraisablehook`. The signal is then sent again.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PAUSE = 2.0  # seconds after a signal in which another one does nothing, because the command is stopping
_SOON = 0.05  # seconds until a lost signal is sent again


class Terminated(KeyboardInterrupt):
    """Raised by a SIGTERM in the main thread, as `KeyboardInterrupt` is by Ctrl-C."""


@dataclass
class _Last:
    """The last signal: what it raised, and when, by time.monotonic()."""

    error: type[KeyboardInterrupt] | None = None
    at: float = float("-inf")


_last = _Last()


def raise_on_signals() -> None:
    """Make a SIGTERM raise `Terminated`, and Ctrl-C `KeyboardInterrupt`, so that the command stops its processes.

    A signal soon after another one does nothing: it would interrupt what the first one has begun. A process that was
    started to ignore Ctrl-C goes on to ignore it.
    """
    _last.error, _last.at = None, float("-inf")
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    sys.unraisablehook = _send_again


def _stop(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if now - _last.at < _PAUSE:
        return
    _last.error, _last.at = Terminated if number == signal.SIGTERM else KeyboardInterrupt, now
    raise _last.error


def _send_again(lost: sys.UnraisableHookArgs) -> None:
    """The hook for exceptions that Python drops. Sends a lost signal again; prints any other one as usual."""
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    number = signal.SIGTERM if issubclass(lost.exc_type, Terminated) else signal.SIGINT
    _thread.start_new_thread(_send, (number,))  # not `threading`, in the middle of which the exception may be dropped


def _send(number: int) -> None:
    time.sleep(_SOON)
    _last.at = float("-inf")
    signal.pthread_kill(threading.main_thread().ident or 0, number)  # which ends its waiting, unlike os.kill


@contextlib.contextmanager
def errors_as_stops() -> Generator[None]:
    """After a signal, an error that leaves the block is its consequence: raise what the signal raised instead.

    A library may turn the one into the other; Ray turns `Terminated` into `KeyboardInterrupt`.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if _last.error is None or type(error) is _last.error:
            raise
        raise _last.error from error


def end_at_once() -> None:
    """Make both signals end the process without a Python exception: nothing is left to stop."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


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
    interrupt, terminate = map(signal.getsignal, _SIGNALS)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        for number in _SIGNALS:
            signal.signal(number, lambda number, _: came.append(number))
        # A child process inherits the blocked signals of the thread that starts it, also through exec.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:  # a signal may come between the two
            signal.signal(signal.SIGTERM, terminate)
        finally:
            signal.signal(signal.SIGINT, interrupt)
        for number in came[:1]:
            signal.raise_signal(number)
