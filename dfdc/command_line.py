"""Shared by all commands: the base class of user-facing errors, and their exit statuses.

A `UserError` ends a command with its message. An error in one of many videos does not end the command. Whatever its
class, it becomes a ledger row (`dfdc.workers.outcome_of`) or the status of that video.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from dfdc import interrupts
from dfdc.identity import NotAFileError
from dfdc.text import shown

USAGE_ERROR = 2
PLACES = ("local", "ray")  # where work runs: on this machine, or on a Ray cluster
_command_runs = False  # in this process; then messages name settings by their flags


def setting(name: str) -> str:
    """The name of a setting in messages: its flag while a command runs in this process, else `name` itself."""
    return f"--{name.replace('_', '-')}" if _command_runs else name


@contextlib.contextmanager
def flags_shown() -> Generator[None]:
    """Within this context, `setting` returns flags."""
    global _command_runs
    before, _command_runs = _command_runs, True
    try:
        yield
    finally:
        _command_runs = before


class UserError(Exception):
    """A user-facing error: the message names the value and what to do, and the command exits with `status`."""

    status = USAGE_ERROR


class UsageError(UserError, ValueError):
    """An invalid command-line value; the message names it and says what to do."""


class SettingError(UserError, ValueError):
    """An invalid value of a setting. Library code passes the setting's name; a command shows its flag.

    `advice` and other messages that mention a setting use `setting(name)`.
    """

    def __init__(self, name: str, value: object, advice: str) -> None:
        super().__init__(name, value, advice)

    def __str__(self) -> str:
        name, value, advice = self.args
        return f"{setting(name)} {value}: {advice}"


def reason_of(error: Exception) -> str:
    """The error as a user-facing message; for an OSError, the path and the reason."""
    if not isinstance(error, OSError):
        return str(error)
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"


def whole_number(least: int) -> Callable[[str], int]:
    """argparse type: a whole number of at least `least`."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least {least}")
        return int(text)

    return parse


def parse_detector_scale(text: str) -> str | float:
    """argparse type: "auto", or a factor greater than 0 and at most 4."""
    if text == "auto":
        return text
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor <= 4:
        raise argparse.ArgumentTypeError(f"{text!r}: expected auto, or a factor above 0 and up to 4 (0.5: half size)")
    return factor


def add_ray_address(add: Callable[..., object]) -> None:
    """Add the argument --ray-address with `add`, the `add_argument` of a parser or group."""
    address = (
        "the Ray cluster: HOST:PORT of its head; auto, if it runs on this machine; or local, to start Ray here "
        "(default: that of RAY_ADDRESS, else auto)"
    )
    add("--ray-address", metavar="ADDRESS", help=address)


def check_ray_address(place: str, address: str | None) -> None:
    """Raise SettingError if `place` is none of PLACES, or if there is an address that is none or has no use."""
    if place not in PLACES:
        raise SettingError("engine", place, f"choose {' or '.join(PLACES)}")
    if address is None:
        return
    if place != "ray":
        raise SettingError("ray_address", address, f"it is for {setting('engine')} ray")
    host, _, port = address.rpartition(":")
    if address not in ("auto", "local") and (not host or not port.isdecimal() or "//" in host):
        raise SettingError("ray_address", address, "expected HOST:PORT of the cluster's head, auto or local")


def run_main(main: Callable[[Sequence[str] | None], int]) -> None:
    """Run a script's `main` and exit; invalid usage and invalid data print a message and exit with status 2."""
    for stream in (sys.stdout, sys.stderr):  # a file name may contain bytes that are not valid text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    interrupts.raise_on_signals()
    try:
        with flags_shown():
            status = _run(main)
        interrupts.end_at_once()
    except KeyboardInterrupt as stop:
        anew = " (without --force, which would start over)" if "--force" in sys.argv else ""
        print(f"\nstopped; run the same command again to resume{anew}", file=sys.stderr)
        status = 128 + (signal.SIGTERM if isinstance(stop, interrupts.Terminated) else signal.SIGINT)
        interrupts.end_at_once()  # a KeyboardInterrupt during the exit of Python would show a traceback
    sys.exit(status)


def _run(main: Callable[[Sequence[str] | None], int]) -> int:
    """The return value of `main`, or the exit status of its error after printing the message."""
    try:
        with interrupts.errors_as_stops():
            return main(None)
    except UserError as error:
        return _end(error, error.status)
    except NotAFileError as error:
        return _end(f"{error}; give a file", USAGE_ERROR)
    except (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError, FileNotFoundError) as error:
        # These concern paths on the command line; errors of single videos went to the ledger.
        return _end(f"{error.filename}: {error.strerror}; choose a path that exists and is writable", USAGE_ERROR)
    except OSError as error:
        return _end(reason_of(error), USAGE_ERROR if error.errno == errno.ENAMETOOLONG else 1)


def _end(error: object, status: int) -> int:
    """Print `error` after the script's name; return `status`."""
    print("\n".join(map(shown, f"{Path(sys.argv[0]).name}: {error}".split("\n"))), file=sys.stderr)
    return status
