"""Lock files: of several processes, on one or many machines, only one does some work.

A lock file is created with O_EXCL, which also works on network file systems without locks. It names its owner, who
touches it while working. A lock is free again if its owner has ended on this host. An owner on another host, or one
that is hidden from this user, has ended if the file is older than ABANDONED, and nobody touches it while we watch.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dfdc.command_line import UserError
from dfdc.identity import NotAFileError, digest_of, regular
from dfdc.interrupts import held
from dfdc.processes import Process, disk_time
from dfdc.text import printable

TOUCHED_EVERY = 30.0  # seconds
ABANDONED = 300.0  # seconds; network file systems may show a touch a minute late


@dataclass(frozen=True)
class Owner:
    """The content of a lock file.

    Attributes:
        machine: its name, for messages.
        since: when the lock was taken, for messages.
        command: the owner's command line, for messages.
        token: random, because one process may take a lock twice.
    """

    process: Process
    machine: str
    since: str
    command: str
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def own(cls) -> Owner:
        """This process, now."""
        return cls(Process.own(), platform.node(), time.strftime("%Y-%m-%d %H:%M:%S"), printable(" ".join(sys.argv)))

    def __str__(self) -> str:
        return printable(f"process {self.process.pid} on {self.machine} since {self.since}: {self.command}")


_OWNERS = TypeAdapter(Owner)


class _LockedError(Exception):
    """Another process holds the lock; the message describes it."""


@contextlib.contextmanager
def only_one(path: Path, refusal: Callable[[str], UserError] | None, others: Iterable[Path] = ()) -> Generator[None]:
    """Hold the lock file `path` while the block runs; it is removed afterwards.

    Args:
        path: lock file. Its folder is created, and removed again if nothing else is in it then.
        refusal: makes the error to raise if another process holds the lock, from a description of that process. None
            waits until the lock is free.
        others: lock files that no process may hold either. They are looked up after `path` is taken, so that of two
            processes that start together at least one sees the other.

    Raises:
        UserError: that of `refusal`.
        OSError: the file can't be written.
    """
    is_new = not path.parent.exists()
    content = _OWNERS.dump_json(Owner.own())
    try:
        before = _take(path, content, wait=refusal is None)
    except _LockedError as error:
        if refusal is None:
            raise
        raise refusal(str(error)) from None
    if before is not None:
        print(f"{printable(path)}: its owner has ended ({_said(before)}); this run takes over", file=sys.stderr)
    done = threading.Event()
    threading.Thread(target=_touch, args=(path, content, done), name="lock", daemon=True).start()
    try:
        if refusal is not None:
            _refuse_if_held(others, refusal)
        yield
    finally:
        done.set()
        if _read(path) == content:
            path.unlink(missing_ok=True)
        if is_new:
            with contextlib.suppress(OSError):  # the block has put something into it
                path.parent.rmdir()


def _refuse_if_held(paths: Iterable[Path], refusal: Callable[[str], UserError]) -> None:
    for path in paths:
        held = _read(path)
        if held is not None and not _has_ended(path, held):
            raise refusal(_described(held))


def _touch(path: Path, content: bytes, done: threading.Event) -> None:
    """Touch the lock until `done`; say so if another process has taken it."""
    while not done.wait(TOUCHED_EVERY):
        with contextlib.suppress(OSError):  # storage that is away for a moment; the next touch may succeed
            if _read(path) == content:
                os.utime(path)  # without a time: the file system's own clock decides
            elif not done.is_set():
                said = "this run no longer holds it; stop it unless no other run writes the same files"
                print(f"{printable(path)}: {said}", file=sys.stderr, flush=True)
                return


def _take(path: Path, content: bytes, *, wait: bool) -> bytes | None:
    """Write `content` to the lock; return the content of an ended owner whose lock was taken over, else None."""
    told = False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError, FileNotFoundError):  # the latter: another process removed the folder
            _create(path, content)
            return None
        held = _read(path)
        if held is None:  # released just now
            continue
        if _has_ended(path, held):
            if _take_over(path, held, content):
                return held
        elif not wait:
            raise _LockedError(_described(held))
        elif not told:
            told = True
            print(f"{printable(path)}: waiting for {_described(held)}", file=sys.stderr, flush=True)
        time.sleep(0.1)


def _create(path: Path, content: bytes) -> None:
    created = False
    try:
        with held():  # without them, Ctrl-C could leave an incomplete lock
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            created = True
            with os.fdopen(handle, "wb") as file:
                file.write(content)
    except BaseException:  # a full disk, Ctrl-C; nobody could tell that the owner of an incomplete lock has ended
        if created:
            path.unlink()
        raise


def _take_over(path: Path, held: bytes, content: bytes) -> bool:
    """Replace the content `held` of an ended owner. False if another process was faster.

    Only the owner of a second lock, which is named after `held`, may do so.
    """
    second = path.with_name(f"{path.name}.{digest_of(held.hex())[:8]}")
    try:
        _take(second, content, wait=False)
    except _LockedError:
        return False
    try:
        if _read(path) != held:
            return False
        temp = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        _create(temp, content)
        temp.replace(path)
        return True
    finally:
        second.unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    """Its content, or None if it does not exist; NotAFileError for a pipe, or a link to nowhere."""
    try:
        regular(path)  # reading a pipe could block forever
        return path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():  # it can neither be read nor created
            raise NotAFileError(None, "a link to a file that does not exist", str(path)) from None
        return None


def _owner(content: bytes) -> Owner | None:
    """None if the content is incomplete: it is being written, or the machine crashed."""
    try:
        return _OWNERS.validate_json(content)
    except ValidationError:
        return None


def _said(content: bytes) -> str:
    return str(_owner(content) or "unknown process")


def _described(held: bytes) -> str:
    """The owner; if nobody here can tell that it has ended, also when its lock becomes free."""
    owner = _owner(held)
    if owner and owner.process.ended is not None:
        return _said(held)
    return f"{_said(held)}; if it has ended, its lock is free {ABANDONED / 60:.0f} minutes later"


def _has_ended(path: Path, held: bytes) -> bool:
    """Whether the owner that wrote `held` has ended for certain."""
    owner = _owner(held)
    ended = owner.process.ended if owner else None
    if ended is not None:
        return ended
    touched = _touched(path)
    if touched is None or disk_time(path.parent) - touched < ABANDONED:
        return False
    watched = 2 * TOUCHED_EVERY  # a clock may be wrong
    print(f"{printable(path)}: watching for {watched:.0f} s whether {_said(held)} still runs", file=sys.stderr)
    time.sleep(watched)
    return _read(path) == held and _touched(path) == touched  # in this order: opening a file refreshes its time on NFS


def _touched(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
