"""Artifacts are complete or absent: atomic writes, and stamps that tell fresh from stale.

A folder of results carries a stamp (`.stamp.json`): the settings and the inputs it was made from, and what it holds. A
step run again compares the stamp with what it would write now, and redoes the folder only where they differ.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfdc.identity import FolderChecksum, checksum_of, folder_checksum, folder_listing, same_record

STAMP_NAME = ".stamp.json"
_RESULT_KEYS = ("made", "failed", "notes")
_FOLDER_KEYS = ("files", "content", "listing")
_TEMP_MARK = ".part-"  # in the name of everything unfinished: .<final name>.part-<process>-<when that began>


def _temp_path(path: Path) -> Path:
    own = os.getpid()
    return path.with_name(f".{path.name}{_TEMP_MARK}{own}-{process_start(own)}")


@contextlib.contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Generator[Path]:
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


@dataclass(frozen=True)
class Stamp:
    """What a step says of an artifact that it made.

    Attributes:
        made_from: the settings and the inputs, by their keys; an artifact is fresh as long as these are the same.
        made: counts by kind.
        failed: why the artifact is of no use, though it is there; None if it is.
        notes: what it lacks.
        looks: what step 2 keeps of some crops (preprocessing/likeness.py); None in other steps.
        content: checksum of a folder's names and contents; "" before they are written, and of a single file.
    """

    made_from: Mapping[str, Any]
    made: Mapping[str, int]
    failed: str | None = None
    notes: tuple[str, ...] = ()
    looks: tuple[dict[str, str | None], ...] | None = None
    content: str = ""

    def is_fresh(self, expected: Mapping[str, Any]) -> bool:
        """Whether it was made from what is `expected`: every key stands in it with the same value."""
        return all(self.made_from.get(key) == value for key, value in expected.items())

    def to_json(self) -> dict[str, Any]:
        """What stands in the file, less what `atomic_folder` adds of a folder's files."""
        looks = {} if self.looks is None else {"looks": list(self.looks)}
        return {**self.made_from, "made": self.made, "failed": self.failed, "notes": list(self.notes), **looks}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Stamp | None:
        """The stamp that a file holds; None if it does not say, in the right types, what came of the work."""
        if not is_result(kept):
            return None
        result = (*_RESULT_KEYS, *_FOLDER_KEYS, "looks")
        made_from = {key: value for key, value in kept.items() if key not in result}
        looks = tuple(kept["looks"]) if isinstance(kept.get("looks"), list) else None
        return cls(made_from, kept["made"], kept.get("failed"), tuple(kept["notes"]), looks, kept.get("content", ""))


class NewFolder:
    """A folder that is being filled, and its stamp, to be set before the end; see `atomic_folder`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = FolderChecksum()
        self.stamp: Stamp | None = None

    def write(self, name: str, data: bytes) -> None:
        """Write `data` to the new file `name`; its content counts towards the folder's checksum."""
        (self.path / name).write_bytes(data)
        self.content.add(name, data)

    def finish(self) -> None:
        """Wait until the disk holds every file, then write the stamp, which must be set: before that it would lie."""
        if self.stamp is None:
            raise ValueError(f"{self.path} was given no stamp")
        for path in self.path.iterdir():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
        held = self.content.files, self.content.hexdigest(), folder_listing(self.path)
        write_json(self.path / STAMP_NAME, {**self.stamp.to_json(), **dict(zip(_FOLDER_KEYS, held, strict=True))})


@contextlib.contextmanager
def atomic_folder(path: Path) -> Generator[NewFolder]:
    """Yield an empty folder beside `path`, which takes the place of `path` once the block has filled it.

    The block sets its `stamp`. In the file this is completed with `files`, their number, `content`, a checksum of their
    names and contents, and `listing`, a digest of their names, sizes and times. All are on the disk before they have
    their name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = _temp_path(path)
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir()
    try:
        folder = NewFolder(temp)
        yield folder
        folder.finish()
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
    shutil.rmtree(doomed, ignore_errors=True)
    path.replace(doomed)
    shutil.rmtree(doomed)


def remove_unless(folder: Path, inputs: Mapping[str, Any], source: Mapping[str, Any] | None = None) -> None:
    """Remove `folder` if its stamp names other inputs than `inputs`, which were just read: it is of something else.

    So that it can't be taken for good, should its successor fail.

    Args:
        source: the fingerprint of the video it must be of, where it is made from one.
    """
    stamp = read_json(folder / STAMP_NAME)
    if (
        not isinstance(stamp, dict)
        or any(stamp.get(key) != value for key, value in inputs.items())
        or (source is not None and not same_record(stamp.get("source"), source))
    ):
        remove(folder)


def remove_leftovers(folder: Path, of: str | None = None) -> int:
    """Remove what killed runs left unfinished in `folder`; return how many things that were.

    What belongs to a process that still runs stays.

    Args:
        of: the name of one file or folder, whose leftovers alone go.
    """
    if not folder.is_dir():
        return 0
    name = "*" if of is None else glob.escape(of)
    leftovers = [path for path in folder.glob(f".{name}{_TEMP_MARK}*") if not _in_use(path)]
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(leftovers)


def _in_use(path: Path) -> bool:
    """Whether the process that makes `path`, which is in the name, is another one that still runs."""
    name = re.search(rf"{re.escape(_TEMP_MARK)}(\d+)-(\d+)$", path.name)
    return name is not None and int(name[1]) != os.getpid() and process_start(int(name[1])) == int(name[2])


def process_start(number: int) -> int | None:
    """When the process with this number began, in ticks of Linux's clock; None if there is none, or it has ended.

    Numbers are given anew, above all in a container; with this, two processes are told apart. A process that has ended
    keeps its number until its parent asks for it, and in a container nobody may. On other systems it is 0.
    """
    if not Path("/proc/self/stat").exists():
        return 0 if _has_number(number) else None
    try:
        fields = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # man 5 proc: state is field 3, starttime field 22


def _has_number(number: int) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError, PermissionError) as error:
        return isinstance(error, PermissionError)  # somebody else's
    return True


def read_stamp(folder: Path) -> Stamp | None:
    """The stamp of a complete folder; None if it is absent, broken, or not of what lies there now.

    Raises:
        OSError: the files are there, but can't be read.
    """
    kept = _read_true(folder)
    return None if kept is None else Stamp.from_json(kept)


def _read_true(folder: Path) -> dict[str, Any] | None:
    """What a folder's stamp file holds, if it is of what lies there now: by the content, where times are others."""
    kept = read_json(folder / STAMP_NAME)
    if not isinstance(kept, dict) or not isinstance(kept.get("content"), str):
        return None
    listing = folder_listing(folder)
    if kept.get("listing") == listing:
        return kept
    if folder_checksum(folder) != kept["content"]:
        return None
    kept["listing"] = listing  # noted, so that reading a copied data set costs once
    with contextlib.suppress(OSError):  # a disk that is read-only: looked at again each time
        write_json(folder / STAMP_NAME, kept)
    return kept


def read_json(path: Path) -> Any:
    """What a JSON file holds; None if it is not there, or broken.

    Raises:
        OSError: it is there, but can't be read.
    """
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


def folder_identity(folder: Path) -> str | None:
    """What the next step knows of a folder it reads: its content, or what is listed if that is not what its stamp says.

    None if there is no such folder.
    """
    kept = _read_true(folder)
    if kept is not None:
        return kept["content"]
    return f"unstamped {folder_listing(folder)}" if folder.is_dir() else None


def is_result(kept: Mapping[str, Any]) -> bool:
    """Whether a stamp's file says, in the right types, what was made, what it lacks, and why it failed."""
    made, failed, notes = map(kept.get, _RESULT_KEYS)
    return (
        isinstance(made, dict)
        and all(type(count) is int and count >= 0 for count in made.values())
        and isinstance(notes, list)
        and all(isinstance(note, str) for note in notes)
        and (failed is None or isinstance(failed, str))
    )


def sha256_of(path: Path) -> str:
    """Of the whole file, in hexadecimal digits."""
    return checksum_of(path, hashlib.sha256())
