"""What every command shares: the base of errors meant for a person, and the exit status that each has.

A `UserError` ends a command with its message. What is wrong with one video of many ends nothing: it becomes a row of a
ledger, whatever the error's class (`dfdc.workers.outcome_of`), or the status of that video.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from dfdc.text import printable

USAGE_ERROR = 2
_command_runs = False  # in this process, so that its user knows settings by their flags


def setting(name: str) -> str:
    """How a message names the setting `name`: by its flag while a command runs in this process, else as it is."""
    return f"--{name.replace('_', '-')}" if _command_runs else name


@contextlib.contextmanager
def flags_shown() -> Generator[None]:
    """Inside, `setting` gives flags."""
    global _command_runs
    before, _command_runs = _command_runs, True
    try:
        yield
    finally:
        _command_runs = before


class UserError(Exception):
    """An error meant for a person: its message names the value and what to do, and a command ends with `status`."""

    status = USAGE_ERROR


class UsageError(UserError, ValueError):
    """A value on the command line that can't be used; the message names it and what to do."""


class SettingError(UserError, ValueError):
    """A setting that can't have this value. Library code names the setting; a command shows it as its flag.

    What other messages say of a setting, and the `advice`, names it by `setting(name)`.
    """

    def __init__(self, name: str, value: object, advice: str) -> None:
        super().__init__(name, value, advice)

    def __str__(self) -> str:
        name, value, advice = self.args
        return f"{setting(name)} {value}: {advice}"


def reason_of(error: Exception) -> str:
    """An error as a text for a person: of an OSError, the place and what is wrong with it."""
    if not isinstance(error, OSError):
        return str(error)
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"


def whole_number(least: int) -> Callable[[str], int]:
    """argparse type: a whole number of at least `least`."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least} on")
        return int(text)

    return parse


def parse_detector_scale(text: str) -> str | float:
    """argparse type: "auto", or a factor over 0 and up to 4."""
    if text == "auto":
        return text
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor <= 4:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a factor over 0 and up to 4 (0.5: half size)")
    return factor


def run_main(main: Callable[[Sequence[str] | None], int]) -> None:
    """Run a script's `main`; wrong usage and unusable data end with their message and status 2."""
    for stream in (sys.stdout, sys.stderr):  # a file name may hold bytes that are no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with flags_shown():
        status = _run(main)
    sys.exit(status)


def _run(main: Callable[[Sequence[str] | None], int]) -> int:
    """What `main` returns, or the exit status of the error it raised, whose message is printed."""
    try:
        return main(None)
    except UserError as error:
        return _end(error, error.status)
    except (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError, FileNotFoundError) as error:
        # Of places given on the command line; a video's own errors went to the ledger.
        return _end(f"{error.filename}: {error.strerror}; give a place that can be used", USAGE_ERROR)
    except OSError as error:
        return _end(reason_of(error), 1)
    except KeyboardInterrupt:
        anew = " (without --force, which would begin anew)" if "--force" in sys.argv else ""
        print(f"\nstopped; run the same command again to go on{anew}", file=sys.stderr)
        return 130


def _end(error: object, status: int) -> int:
    """Print why the script ends, and return `status`."""
    lines = map(printable, f"{Path(sys.argv[0]).name}: {error}".split("\n"))
    print("\n".join(lines), file=sys.stderr)
    return status
