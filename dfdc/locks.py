"""Lock files: of several processes, on one or many machines, only one does some work.

A lock file is created with O_EXCL, which also works on network file systems without locks. It names its owner, who
touches it while working. A lock is free again if its owner has ended on this host. An owner on another host, or one
that is hidden from this user, can't be asked. Its lock is watched until somebody touches it, or until nobody has for
ABANDONED seconds.
"""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dfdc.command_line import UserError
from dfdc.identity import NotAFileError, digest_of, read_file
from dfdc.interrupts import held
from dfdc.processes import Process, disk_time
from dfdc.text import printable

TOUCHED_EVERY = 30.0  # seconds
ABANDONED = 300.0  # seconds; network file systems may show a touch a minute late
_LEAST_WATCHED = 2 * TOUCHED_EVERY  # seconds, also of an old lock, whose time may be wrong
_LOOK_EVERY = 0.1  # seconds
_OF_TAKE_OVER = re.compile(r"(\.([0-9a-f]{8}){1,2})+")  # endings of the files that `_take_over` adds to a lock's name


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


class _Watch:
    """Finds out whether the owner of the lock file `path` has ended; `held` is its content, None if it is free.

    This machine's clock does not decide: the disk's says how old the lock is, and `time.monotonic` how long we watch.
    """

    def __init__(self, path: Path, *, quiet: bool = False) -> None:
        self.path, self._told = path, quiet
        self.held: bytes | None = None
        self._seen: tuple[bytes, float] | None = None  # content, and time of the last touch
        self._seconds = self._until = 0.0  # how long to watch, and until when

    def has_ended(self) -> bool | None:
        """Look at the lock. None: its owner can't be asked and has not shown that it lives; look again soon."""
        self.held = _read(self.path)  # first, since NFS asks the server for the time of a file that is opened
        touched = None if self.held is None else _touched(self.path)
        if self.held is None or touched is None:  # released just now
            self.held = None
            return True
        ended = _ended(self.held)
        if ended is not None:
            return ended
        now, seen = time.monotonic(), (self.held, touched)
        if seen == self._seen:
            if not self._told:  # only now: another process might just have been writing its lock
                self._told = True
                what = f"watching for at most {self._seconds:.0f} s whether {_said(self.held)} still runs"
                print(f"{printable(self.path)}: {what}", file=sys.stderr, flush=True)
            return now >= self._until or None
        first, self._seen = self._seen is None, seen
        age = min(max(disk_time(self.path.parent) - touched, 0), ABANDONED)
        self._seconds = max(ABANDONED - age, _LEAST_WATCHED)
        self._until = now + self._seconds
        return None if first else False


@contextlib.contextmanager
def only_one(path: Path, refusal: Callable[[str], UserError] | None, others: Iterable[Path] = ()) -> Generator[None]:
    """Hold the lock file `path` while the block runs; it is removed afterwards.

    Args:
        path: lock file. Its folder is created, and removed again if nothing else is in it then.
        refusal: makes the error to raise if another process holds the lock, from a description of that process. If
            nobody here can tell whether that process still runs, its lock is watched first, for minutes at most. None
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
        if before is not None:
            _remove_leftovers(path)
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
    watches = [_Watch(path) for path in paths]
    while watches:
        for watch in watches.copy():
            ended = watch.has_ended()
            if ended or watch.held is None:
                watches.remove(watch)
            elif ended is False:
                raise refusal(_said(watch.held))
        if watches:
            time.sleep(_LOOK_EVERY)


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
    told, watch = False, _Watch(path, quiet=wait)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError, FileNotFoundError):  # the latter: another process removed the folder
            _create(path, content)
            return None
        ended = watch.has_ended()
        if watch.held is None:
            continue
        if ended:
            if _take_over(path, watch.held, content):
                return watch.held
        elif not wait and ended is False:
            raise _LockedError(_said(watch.held))
        elif wait and not told:
            told = True
            free = "" if ended is False else f"; if it has ended, its lock is free {ABANDONED / 60:.0f} minutes later"
            print(f"{printable(path)}: waiting for {_said(watch.held)}{free}", file=sys.stderr, flush=True)
        time.sleep(_LOOK_EVERY)


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
    temp = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        _take(second, content, wait=False)
    except _LockedError:
        return False
    try:
        if _read(path) != held:
            return False
        _create(temp, content)
        temp.replace(path)
        return True
    finally:
        temp.unlink(missing_ok=True)
        second.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Remove what processes left that were killed while they took over the lock `path`, which is ours now.

    Nobody needs such a file any more: it is for an earlier content of `path`, and a content never comes back.
    """
    for other in path.parent.glob(f"{glob.escape(path.name)}.*"):
        held = _read(other) if _OF_TAKE_OVER.fullmatch(other.name[len(path.name) :]) else None
        touched = _touched(other)
        if held is None or touched is None:
            continue
        ended = _ended(held)
        if ended is None:  # taking over takes milliseconds
            ended = disk_time(path.parent) - touched >= _LEAST_WATCHED
        if ended:
            other.unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    """Its content, or None if it does not exist; NotAFileError for a pipe, or a link to nowhere."""
    try:
        return read_file(path)
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


def _ended(content: bytes) -> bool | None:
    """Whether the owner that wrote `content` has ended; None if nobody here can tell."""
    owner = _owner(content)
    return owner.process.ended if owner else None


def _said(content: bytes) -> str:
    return str(_owner(content) or "unknown process")


def _touched(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
