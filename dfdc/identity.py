"""Is it the same? Files and folders by time and size, and where those differ by their whole content.

Time and size cost one look at the folder; content costs reading it. A copied data set has other times, so the content
decides there, and a file that was mended in place has another one. What can't be read raises OSError.
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
    """A folder, a named pipe or a device stands where a file should be; reading a pipe would wait for ever."""


def fingerprint(path: Path) -> dict[str, Any]:
    """Size in bytes, time of change in nanoseconds, and checksum (XXH3, 128 bits) of the whole file."""
    about = regular(path)  # before reading: what is written to it meanwhile gives it another time
    return {"size": about.st_size, "mtime_ns": about.st_mtime_ns, "xxh3": file_checksum(path)}


def regular(path: Path) -> os.stat_result:
    """What the disk says about a regular file; NotAFileError if it is something else."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise NotAFileError(None, "not a regular file", str(path))
    return about


def file_checksum(path: Path) -> str:
    """XXH3 (128 bits, hexadecimal) of the whole file."""
    return checksum_of(path, xxhash.xxh3_128())


def checksum_of(path: Path, digest: Any) -> str:
    """The whole file by a `digest` of hashlib or xxhash, in hexadecimal digits."""
    with path.open("rb") as handle:  # hashlib.file_digest came with Python 3.11
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def same_file(recorded: object, path: Path) -> bool:
    """Whether `path` is still what `recorded` (a `fingerprint`) was taken of."""
    about = regular(path)
    if not isinstance(recorded, dict) or recorded.get("size") != about.st_size:
        return False
    return recorded.get("mtime_ns") == about.st_mtime_ns or recorded.get("xxh3") == file_checksum(path)


def same_record(first: object, second: object) -> bool:
    """Whether two fingerprints are of one content. Those of earlier versions have no checksum: the time decides."""
    if not isinstance(first, dict) or not isinstance(second, dict) or first.get("size") != second.get("size"):
        return False
    key = "xxh3" if "xxh3" in first and "xxh3" in second else "mtime_ns"
    return first.get(key) == second.get(key)


class FolderChecksum:
    """Names and contents of a folder's files, added one after the other, as one checksum whatever their order."""

    def __init__(self) -> None:
        self._sum, self.files = 0, 0

    def add(self, name: str, data: bytes) -> None:
        """Count the file `name` in, whose whole content is `data`."""
        digest = xxhash.xxh3_128(os.fsencode(name) + b"\0")
        digest.update(data)
        self._sum = (self._sum + digest.intdigest()) % (1 << 128)
        self.files += 1

    def hexdigest(self) -> str:
        return f"{self._sum:032x}"


def folder_checksum(folder: Path) -> str:
    """`FolderChecksum` of what lies in `folder` now; every file is read. What is no file has a checksum of its own."""
    total = FolderChecksum()
    for name, size, _ in _entries(folder):
        total.add(name if size >= 0 else f"{name}/", (folder / name).read_bytes() if size >= 0 else b"")
    return total.hexdigest()


def folder_listing(folder: Path) -> str:
    """Digest of names, sizes and times of a folder's files; no file is read."""
    return digest_of(sorted(_entries(folder)))


def _entries(folder: Path) -> Iterable[tuple[str, int, int]]:
    """(name, size, time of change) of each entry; hidden ones aside. Size and time of what is no file are -1."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_file():
                about = entry.stat()
                yield entry.name, about.st_size, about.st_mtime_ns
            else:  # a folder, a pipe, or a link to nothing
                yield entry.name, -1, -1


def count_files(folder: Path) -> int:
    """Number of entries in `folder`, hidden ones aside."""
    names = os.listdir(folder)  # noqa: PTH208 - Path.iterdir() makes a Path of each of millions of crops
    return sum([not name.startswith(".") for name in names])


def digest_of(value: Any) -> str:
    """A short digest of lists, tuples, dicts, texts, numbers, None: equal for equal values."""
    return xxhash.xxh3_128(json.dumps(value, sort_keys=True).encode()).hexdigest()
