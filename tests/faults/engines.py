"""The engines under test: how a command is told to use one, and which processes do its work."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

MARK = "FAULT_ROUND"  # environment variable that all processes of a round inherit


@dataclass(frozen=True)
class Found:
    """A process of a round."""

    pid: int
    parent: int
    command: str


class Engine(Protocol):
    """An engine of the preprocessing steps and of predict_folder.py.

    Attributes:
        flags: of a command that uses it.
        environment: further variables of a command.
    """

    flags: tuple[str, ...]
    environment: Mapping[str, str]

    def workers(self, mark: str, driver: int) -> list[int]:
        """Ids of the processes that work for the command `driver`, whose environment has `mark`."""
        ...


@dataclass(frozen=True)
class Local:
    """Processes of the command itself."""

    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def workers(self, mark: str, driver: int) -> list[int]:
        return [
            found.pid
            for found in processes(mark)
            if found.pid != driver
            and "resource_tracker" not in found.command
            and not ("forkserver" in found.command and found.parent == driver)  # it only starts the workers
        ]


# By name, for --engine. An entry is a context manager, which may start a cluster and end it.
ENGINES = {"local": lambda: contextlib.nullcontext(Local())}


def processes(mark: str) -> Iterator[Found]:
    """The running processes that inherited `mark`."""
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            if wanted not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield Found(int(folder.name), int(parent), command)


def end_orphans(mark: str, patience: float) -> list[str]:
    """Wait until no process of the round is left; kill those that are, and return their command lines."""
    deadline = time.monotonic() + patience
    while (left := list(processes(mark))) and time.monotonic() < deadline:
        time.sleep(0.05)
    for found in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGKILL)
    return [found.command for found in left]
