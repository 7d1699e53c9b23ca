"""The engines under test: how a command is told to use one, and which processes do its work."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

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
        name: for --engine.
        options: further options of a command that uses it.
    """

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> Sequence[str]: ...

    def processes(self, mark: str) -> Iterator[Found]:
        """What runs for the command whose environment has `mark`; nothing of it may outlive the command."""
        ...

    def workers(self, mark: str, driver: int) -> list[int]:
        """Ids of the processes that work for the command `driver`."""
        ...


@runtime_checkable
class HasNodes(Protocol):
    """An engine with several nodes."""

    def kill_raylet(self, rng: random.Random) -> None:
        """SIGKILL one of the raylets."""
        ...

    def restore(self) -> None:
        """Have all nodes again."""
        ...


class Local:
    """Processes of the command itself."""

    name = "local"
    options = ()

    def processes(self, mark: str) -> Iterator[Found]:
        return processes(mark)

    def workers(self, mark: str, driver: int) -> list[int]:
        return [
            found.pid
            for found in processes(mark)
            if found.pid != driver
            and "resource_tracker" not in found.command
            and not ("forkserver" in found.command and found.parent == driver)  # it only starts the workers
        ]


def _ray() -> AbstractContextManager[Engine]:
    from tests.faults.ray_engine import ray_engine  # here, because Ray is optional

    return ray_engine()


# By name, for --engine. An entry is a context manager, which may start a cluster and end it.
ENGINES: dict[str, Callable[[], AbstractContextManager[Engine]]] = {
    "local": lambda: contextlib.nullcontext(Local()),
    "ray": _ray,
}


def processes(mark: str) -> Iterator[Found]:
    """The running processes that inherited `mark`."""
    wanted = f"{MARK}={mark}".encode()
    for found in all_processes():
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
            if wanted in Path(f"/proc/{found.pid}/environ").read_bytes().split(b"\0"):
                yield found


def all_processes() -> Iterator[Found]:
    """The running processes of this machine."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield Found(int(folder.name), int(parent), command)


def end_orphans(engine: Engine, mark: str, patience: float) -> list[str]:
    """Wait until no process of the round is left; kill those that are, and return their command lines."""
    deadline = time.monotonic() + patience
    while (left := list(engine.processes(mark))) and time.monotonic() < deadline:
        time.sleep(0.05)
    for found in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGKILL)
    return [found.command for found in left]
