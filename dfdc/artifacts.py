"""Artifacts are complete or absent: atomic writes, stamps that tell fresh from stale, and the failure ledger.

A folder of results carries a stamp (`.stamp.json`): the settings and the inputs it was made from. A step run
again compares the stamp with what it would write now, and redoes the folder only where they differ.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STAMP_NAME = ".stamp.json"
OUTCOMES = ("failed", "skipped", "incomplete")
_TEMP_MARK = ".part-"  # in the name of everything unfinished: .<final name>.part-<pid>


def _temp_path(path: Path) -> Path:
    return path.with_name(f".{path.name}{_TEMP_MARK}{os.getpid()}")


@contextlib.contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it is renamed into place when the block ends without an error.

    Args:
        path: the final place; its folder is made.
        durable: fsync before the rename, so that a power cut leaves the old or the new file, not an empty one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = _temp_path(path)
    try:
        yield temp
        if durable:
            with temp.open("rb+") as handle:
                os.fsync(handle.fileno())
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path`, all of it or nothing."""
    with atomic_file(path, durable=durable) as temp:
        temp.write_bytes(data)


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write `value` as JSON to `path`, all of it or nothing."""
    write_bytes(path, (json.dumps(value, indent=indent) + "\n").encode())  # ASCII: no file name can break it


@contextlib.contextmanager
def atomic_folder(path: Path, stamp: dict) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it gets `stamp` and takes the place of `path`.

    The stamp is completed with `files`, the number of files in the folder, when the block ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = _temp_path(path)
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir()
    try:
        yield temp
        stamp = {**stamp, "files": count_files(temp)}
        (temp / STAMP_NAME).write_text(json.dumps(stamp) + "\n", encoding="utf-8")
        # A folder can't be renamed over one that holds files. A kill between the two lines loses the old
        # folder only, and it was to be replaced anyway: the next run makes it again.
        remove(path)
        temp.replace(path)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove the file or folder `path`, if there is one, so that no half of it can be taken for the whole."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    doomed = _temp_path(path.with_name(f"{path.name}.old"))
    path.replace(doomed)
    shutil.rmtree(doomed)


def remove_leftovers(folder: Path) -> int:
    """Remove what killed runs left unfinished in `folder`; return how many things that were."""
    leftovers = list(folder.glob(f".*{_TEMP_MARK}*")) if folder.is_dir() else []
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(leftovers)


def count_files(folder: Path) -> int:
    """Number of entries in `folder`, hidden ones aside."""
    names = os.listdir(folder)  # noqa: PTH208 - Path.iterdir() makes a Path of each of millions of crops
    return sum([not name.startswith(".") for name in names])


def read_stamp(folder: Path) -> dict | None:
    """The stamp of a complete folder; None if it is absent, broken, or files were taken out since."""
    try:
        stamp = json.loads((folder / STAMP_NAME).read_bytes())
        if not isinstance(stamp, dict) or stamp.get("files") != count_files(folder):
            return None
    except (OSError, ValueError):
        return None
    return stamp


def stamp_digest(stamp: dict) -> str:
    """A short digest of `stamp`, by which the next step knows what it was made from."""
    return hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()[:16]


def folder_digest(folder: Path) -> str | None:
    """Digest of the stamp of a complete folder; None if it is not complete (see `read_stamp`)."""
    stamp = read_stamp(folder)
    return None if stamp is None else stamp_digest(stamp)


def is_fresh(stamp: dict | None, expected: dict) -> bool:
    """Whether every key of `expected` stands in `stamp` with the same value."""
    return stamp is not None and all(stamp.get(key) == value for key, value in expected.items())


def fingerprint(path: Path) -> dict:
    """What tells one version of a (large) file from another: size, time of change, checksum of 64 blocks of it."""
    stat = path.stat()
    crc, block, blocks = 0, 4096, 64
    with path.open("rb") as handle:
        for index in range(blocks):  # evenly, so that a hole in the middle (a download that stopped) shows
            handle.seek(max(0, stat.st_size - block) * index // (blocks - 1))
            crc = zlib.crc32(handle.read(block), crc)
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "crc": crc}


def sha256_of(path: Path) -> str:
    """Of the whole file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:  # hashlib.file_digest came with Python 3.11
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def same_file(recorded: object, path: Path) -> bool:
    """Whether `path` is still what `recorded` (a `fingerprint`) was taken of.

    A copied data set has other times, so the time only saves reading the file: equal size and time will do.
    """
    try:
        stat = path.stat()
    except OSError:
        return False
    if not isinstance(recorded, dict) or recorded.get("size") != stat.st_size:
        return False
    return recorded.get("mtime_ns") == stat.st_mtime_ns or recorded.get("crc") == fingerprint(path)["crc"]


@dataclass
class Ledger:
    """`failures/<step>.csv`: what could not be done, and why, of this run.

    Outcomes: `failed` (counts towards --max-failed), `skipped` (the data set does not hold what it takes) and
    `incomplete` (the artifact is there, but not all of what it should hold).
    """

    path: Path
    rows: dict[tuple[str, str], str] = field(default_factory=dict)
    _written: float = field(default=0.0, repr=False)

    def add(self, video: str, outcome: str, reason: str) -> None:
        """Note that `video` has `outcome` for `reason`; on disk within a second or two, and at the end."""
        if outcome not in OUTCOMES:
            raise ValueError(f"ledger outcome {outcome!r} is none of {', '.join(OUTCOMES)}")
        self.rows[(video, outcome)] = reason
        if time.monotonic() - self._written > 1.0:
            self.write()

    def write(self) -> None:
        """Write the whole ledger, sorted by video."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["video", "outcome", "reason"])
        writer.writerows([video, outcome, reason] for (video, outcome), reason in sorted(self.rows.items()))
        write_bytes(self.path, buffer.getvalue().encode(errors="backslashreplace"))
        self._written = time.monotonic()

    def counts(self) -> Counter[str]:
        """Number of rows by outcome."""
        return Counter(outcome for _, outcome in self.rows)
