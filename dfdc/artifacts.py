"""Artifacts are complete or absent: atomic writes, and stamps that tell fresh from stale.

Each result folder has a stamp (`.stamp.json`) that records its settings, inputs and contents. When a step is run again,
it compares the stamp with the current settings and inputs, and rebuilds the folder only if they differ.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfdc.identity import FolderChecksum, checksum_of, folder_checksum, folder_listing, read_file, same_record
from dfdc.processes import Process, disk_time

STAMP_NAME = ".stamp.json"
_RESULT_KEYS = ("made", "failed", "notes")
_FOLDER_KEYS = ("files", "content", "listing")
# Unfinished files: .<final name, or its start>.part-<host>-<process id>-<its start time>-<random digits>
_TEMP_MARK = ".part-"
_NAME_BYTES = 80  # of the final name; most disks take names of 255 bytes
_OWNER = re.compile(rf"{re.escape(_TEMP_MARK)}([0-9a-f]{{8}})-(\d+)-(\d+)-[0-9a-f]{{8}}$")
ABANDONED = 24 * 3600.0  # seconds after which an unfinished file of another host is removed
_THERE = (errno.ENOTEMPTY, errno.EEXIST)
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def _temp_path(path: Path) -> Path:
    own = Process.own()
    return path.with_name(f"{_temp_start(path.name)}{own.host}-{own.pid}-{own.start}-{secrets.token_hex(4)}")


def _temp_start(name: str) -> str:
    """The first part of the name of an unfinished file."""
    return f".{os.fsencode(name)[:_NAME_BYTES].decode(errors='ignore')}{_TEMP_MARK}"


@contextlib.contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Generator[Path]:
    """Yield a path beside `path` to write to; it is renamed into place when the block ends without an error.

    Args:
        path: final path; its parent folder is created.
        durable: flush the file to disk before the rename, and its name after it. A power cut leaves the old or the new
            file, not an empty one. After the block it leaves the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = _temp_path(path)
    try:
        yield temp
        if durable:
            with temp.open("rb+") as handle:
                os.fsync(handle.fileno())
        temp.replace(path)
        if durable:
            sync_folder(path.parent)
    finally:
        temp.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_file(path: Path, text: str) -> Generator[Path]:
    """Yield a new file beside `path` that holds `text`; it is removed at the end, or by `remove_leftovers`."""
    temp = _temp_path(path)
    try:
        temp.write_text(text, encoding="ascii")
        yield temp
    finally:
        temp.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to disk; without effect on file systems that can't flush a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path` atomically."""
    with atomic_file(path, durable=durable) as temp:
        temp.write_bytes(data)


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write `value` as JSON to `path` atomically."""
    write_bytes(path, (json.dumps(value, indent=indent) + "\n").encode())  # ASCII, so any file name can be encoded


@dataclass(frozen=True)
class Stamp:
    """A step's record of an artifact.

    Attributes:
        made_from: settings and inputs by key; the artifact is fresh while these are unchanged.
        made: number of items created, by kind.
        failed: why the artifact exists but is unusable; None if it is usable.
        notes: what is missing from it.
        looks: data that step 2 stores for some crops (preprocessing/likeness.py); None in other steps.
        content: checksum of a folder's file names and contents; "" before they are written, and for a single file.
    """

    made_from: Mapping[str, Any]
    made: Mapping[str, int]
    failed: str | None = None
    notes: tuple[str, ...] = ()
    looks: tuple[dict[str, str | None], ...] | None = None
    content: str = ""

    def is_fresh(self, expected: Mapping[str, Any]) -> bool:
        """Whether `made_from` contains every key of `expected` with the same value."""
        return all(self.made_from.get(key) == value for key, value in expected.items())

    def to_json(self) -> dict[str, Any]:
        """The content of the stamp file, without the keys that `atomic_folder` adds."""
        looks = {} if self.looks is None else {"looks": list(self.looks)}
        return {**self.made_from, "made": self.made, "failed": self.failed, "notes": list(self.notes), **looks}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Stamp | None:
        """Parse the content of a stamp file; None if the result keys are missing or have the wrong types."""
        if not is_result(kept):
            return None
        result = (*_RESULT_KEYS, *_FOLDER_KEYS, "looks")
        made_from = {key: value for key, value in kept.items() if key not in result}
        looks = tuple(kept["looks"]) if isinstance(kept.get("looks"), list) else None
        return cls(made_from, kept["made"], kept.get("failed"), tuple(kept["notes"]), looks, kept.get("content", ""))


class NewFolder:
    """A folder under construction. Set its `stamp` before the end of the block; see `atomic_folder`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = FolderChecksum()
        self.stamp: Stamp | None = None

    def write(self, name: str, data: bytes) -> None:
        """Write `data` to the new file `name` and add it to the folder's checksum."""
        (self.path / name).write_bytes(data)
        self.content.add(name, data)

    def finish(self) -> None:
        """Flush every file and its name to disk, then write the stamp; ValueError if no stamp was set."""
        if self.stamp is None:
            raise ValueError(f"{self.path} has no stamp")
        for path in self.path.iterdir():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
        sync_folder(self.path)
        held = self.content.files, self.content.hexdigest(), folder_listing(self.path)
        write_json(self.path / STAMP_NAME, {**self.stamp.to_json(), **dict(zip(_FOLDER_KEYS, held, strict=True))})


@contextlib.contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """Yield an empty folder beside `path`; it replaces `path` when the block ends without an error.

    If another process puts a folder with an equal stamp there first, that one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = _temp_path(path)
    temp.mkdir()
    try:
        yield temp
        _put(temp, path)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _put(temp: Path, path: Path) -> None:
    """Rename the folder `temp` to `path`, which it replaces."""
    while True:
        # A folder can't be renamed over a non-empty folder. If the process is killed between the next two lines, only
        # the old folder is lost; the next run rebuilds it.
        remove(path)
        try:
            temp.replace(path)
        except OSError as error:
            if error.errno not in _THERE:
                raise
            if _same_stamp(temp, path):  # a task that was tried again may have a twin
                return
        else:
            return


def _same_stamp(one: Path, other: Path) -> bool:
    """Whether two folders have equal stamps, apart from the times of their files."""
    stamps = []
    for folder in (one, other):
        kept = read_json(folder / STAMP_NAME)
        stamps.append({key: kept[key] for key in kept if key != "listing"} if isinstance(kept, dict) else None)
    return stamps[0] is not None and stamps[0] == stamps[1]


@contextlib.contextmanager
def atomic_folder(path: Path) -> Generator[NewFolder]:
    """Yield an empty folder as `new_folder` does, for an artifact.

    The block sets its `stamp`. The stamp file also records `files` (their number), `content` (a checksum of names and
    contents) and `listing` (a digest of names, sizes and times). Everything is flushed to disk before the rename, and
    the new name after it.
    """
    with new_folder(path) as temp:
        folder = NewFolder(temp)
        yield folder
        folder.finish()
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove the file or folder `path` if it exists; a partly removed folder never keeps its name."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    doomed = _temp_path(path.with_name(f"{path.name}.old"))
    try:
        path.replace(doomed)
    except FileNotFoundError:  # another process has just removed it
        return
    shutil.rmtree(doomed)


def remove_unless(folder: Path, inputs: Mapping[str, Any], source: Mapping[str, Any] | None = None) -> None:
    """Remove `folder` if its stamp is missing, or records inputs other than the current `inputs` and `source`.

    Then an outdated folder can't be mistaken for a valid one if rebuilding it fails.

    Args:
        source: expected fingerprint of the source video; None if the folder has no source video.
    """
    stamp = read_json(folder / STAMP_NAME)
    if (
        not isinstance(stamp, dict)
        or any(stamp.get(key) != value for key, value in inputs.items())
        or (source is not None and not same_record(stamp.get("source"), source))
    ):
        remove(folder)


def remove_leftovers(folder: Path, of: str | None = None) -> int:
    """Remove unfinished files and folders that killed runs left in `folder`; return how many were removed.

    Files of running processes are kept. Those of other hosts are kept until they are older than ABANDONED.

    Args:
        of: remove only the leftovers of the file or folder with this name.
    """
    if not folder.is_dir():
        return 0
    start = f".*{_TEMP_MARK}" if of is None else glob.escape(_temp_start(of))
    leftovers = [path for path in folder.glob(f"{start}*") if not _in_use(path)]
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(leftovers)


def _in_use(path: Path) -> bool:
    """Whether a process may be writing `path`; its name says which."""
    name = _OWNER.search(path.name)
    if name is None:  # of an earlier version
        return False
    ended = Process(name[1], int(name[2]), int(name[3])).ended
    if ended is not None:
        return not ended
    try:
        return disk_time(path.parent) - path.stat().st_mtime < ABANDONED
    except FileNotFoundError:  # finished just now
        return True


def read_stamp(folder: Path) -> Stamp | None:
    """The stamp of a complete folder; None if it is missing, corrupt, or does not match the folder's current content.

    Raises:
        OSError: the files exist, but can't be read.
    """
    kept = _read_true(folder)
    return None if kept is None else Stamp.from_json(kept)


def _read_true(folder: Path) -> dict[str, Any] | None:
    """Content of a folder's stamp file if it matches the files; contents are compared if the listing differs."""
    kept = read_json(folder / STAMP_NAME)
    if not isinstance(kept, dict) or not isinstance(kept.get("content"), str):
        return None
    listing = folder_listing(folder)
    if kept.get("listing") == listing:
        return kept
    if folder_checksum(folder) != kept["content"]:
        return None
    kept["listing"] = listing  # update it, so that the files of a copied dataset are read only once
    with contextlib.suppress(OSError):  # on a read-only disk they are read each time
        write_json(folder / STAMP_NAME, kept)
    return kept


def read_json(path: Path) -> Any:
    """Content of a JSON file; None if it is missing or corrupt.

    Raises:
        OSError: it exists, but can't be read.
    """
    try:
        return json.loads(read_file(path))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


def folder_identity(folder: Path) -> str | None:
    """Identity of an input folder: its content checksum, or a digest of its listing if its stamp does not match.

    None if there is no such folder.
    """
    kept = _read_true(folder)
    if kept is not None:
        return kept["content"]
    return f"unstamped {folder_listing(folder)}" if folder.is_dir() else None


def is_result(kept: Mapping[str, Any]) -> bool:
    """Whether the content of a stamp file has `made`, `failed` and `notes` with the right types."""
    made, failed, notes = map(kept.get, _RESULT_KEYS)
    return (
        isinstance(made, dict)
        and all(type(count) is int and count >= 0 for count in made.values())
        and isinstance(notes, list)
        and all(isinstance(note, str) for note in notes)
        and (failed is None or isinstance(failed, str))
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of the whole file, in hexadecimal digits."""
    return checksum_of(path, hashlib.sha256())
