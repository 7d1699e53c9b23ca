"""Identity of files and folders, by modification time and size, and if those differ by their whole content.

Checking time and size needs only the folder listing; checking content needs to read the files. A copied dataset has new
times, so content decides; a file repaired in place has new content. Unreadable files raise OSError.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash


class NotAFileError(OSError):
    """The path is a folder, named pipe, socket or device instead of a file; reading a pipe could block forever."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}


def fingerprint(path: Path) -> dict[str, Any]:
    """Size in bytes, modification time in nanoseconds, and checksum (XXH3, 128 bits) of the whole file."""
    about = regular(path)  # before reading, so that a write during the read changes the time
    return {"size": about.st_size, "mtime_ns": about.st_mtime_ns, "xxh3": file_checksum(path)}


def regular(path: Path) -> os.stat_result:
    """`stat` of a regular file; NotAFileError for anything else."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        kind = _KINDS.get(stat.S_IFMT(about.st_mode), "device")
        raise NotAFileError(None, f"not a regular file but a {kind}", str(path))
    return about


def read_file(path: Path) -> bytes:
    """Content of a regular file; NotAFileError for anything else, since reading a pipe could block forever."""
    regular(path)
    return path.read_bytes()


def file_checksum(path: Path) -> str:
    """XXH3 (128 bits, hexadecimal) of the whole file."""
    return checksum_of(path, xxhash.xxh3_128())


def checksum_of(path: Path, digest: Any) -> str:
    """Checksum of the whole file with a `digest` object of hashlib or xxhash, in hexadecimal digits."""
    with path.open("rb") as handle:  # hashlib.file_digest came with Python 3.11
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def same_file(recorded: object, path: Path) -> bool:
    """Whether `path` still matches `recorded`, a `fingerprint`."""
    about = regular(path)
    if not isinstance(recorded, dict) or recorded.get("size") != about.st_size:
        return False
    return recorded.get("mtime_ns") == about.st_mtime_ns or recorded.get("xxh3") == file_checksum(path)


def same_record(first: object, second: object) -> bool:
    """Whether two fingerprints have the same content. Without both checksums (earlier versions), the time decides."""
    if not isinstance(first, dict) or not isinstance(second, dict) or first.get("size") != second.get("size"):
        return False
    key = "xxh3" if "xxh3" in first and "xxh3" in second else "mtime_ns"
    return first.get(key) == second.get(key)


class FolderChecksum:
    """An incremental checksum of the names and contents of a folder's files, independent of their order."""

    def __init__(self) -> None:
        self._sum, self.files = 0, 0

    def add(self, name: str, data: bytes) -> None:
        """Add the file `name` with the content `data`."""
        digest = xxhash.xxh3_128(os.fsencode(name) + b"\0")
        digest.update(data)
        self._sum = (self._sum + digest.intdigest()) % (1 << 128)
        self.files += 1

    def hexdigest(self) -> str:
        return f"{self._sum:032x}"


def folder_checksum(folder: Path) -> str:
    """`FolderChecksum` of the current content of `folder`; reads every file. Other entries count by name."""
    total = FolderChecksum()
    for name, size, _ in _entries(folder):
        total.add(name if size >= 0 else f"{name}/", (folder / name).read_bytes() if size >= 0 else b"")
    return total.hexdigest()


def folder_listing(folder: Path) -> str:
    """Digest of the names, sizes and times of a folder's files; reads no file."""
    return digest_of(sorted(_entries(folder)))


def _entries(folder: Path) -> Iterable[tuple[str, int, int]]:
    """(name, size, modification time) of each entry that is not hidden. Size and time are -1 if it is not a file."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_file():
                about = entry.stat()
                yield entry.name, about.st_size, about.st_mtime_ns
            else:  # a folder, a pipe, or a dangling link
                yield entry.name, -1, -1


def count_files(folder: Path) -> int:
    """Number of entries in `folder` that are not hidden."""
    names = os.listdir(folder)  # noqa: PTH208 - Path.iterdir() makes a Path of each of millions of crops
    return sum([not name.startswith(".") for name in names])


def digest_of(value: Any) -> str:
    """A short digest of lists, tuples, dicts, strings, numbers or None; equal for equal values."""
    return xxhash.xxh3_128(json.dumps(value, sort_keys=True).encode()).hexdigest()
