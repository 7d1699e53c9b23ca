"""Verdicts on disk as they come, so that a stopped run can go on; and the lock by which two runs never share them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from dfdc import artifacts, identity
from dfdc.command_line import SettingError, setting
from dfdc.devices import package_versions
from dfdc.text import printable
from prediction.verdict import Verdict

# Of the way from a file to its score. Raised with every change that may move one; a golden test says when.
SCORING_VERSION = 2
# Whose versions may move a score as well.
LIBRARIES = ("torch", "torchvision", "timm", "facenet-pytorch", "opencv-python-headless", "av", "numpy")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a disk without locks says


def program_version() -> dict[str, Any]:
    """What makes scores comparable: the version of the way, and of the packages that it goes by."""
    names = (*LIBRARIES, "scipy", "pillow", "pillow-heif", "onnxruntime")
    return {"scoring": SCORING_VERSION, **package_versions(names, "unknown")}


@dataclass(frozen=True)
class ProgressHeader:
    """The first line: the settings and their digest; `version` is of this layout. An earlier program wrote none."""

    run: Annotated[str, Field(pattern="^[0-9a-f]{12,}$")]
    settings: dict[str, Any]
    version: Literal[1] = 1


@dataclass(frozen=True)
class ProgressRow:
    """Any other line: the digest of the settings, the file's fingerprint when it was read, and its verdict."""

    run: str
    file: dict[str, Any] | None
    verdict: Verdict


_HEADERS, _ROWS = TypeAdapter(ProgressHeader), TypeAdapter(ProgressRow)


class Results:
    """Verdicts in memory, as they come."""

    def __init__(self, videos: dict[str, Path]) -> None:
        self.videos = videos
        self.done: dict[str, Verdict] = {}  # so far, by name
        self.files: dict[str, dict | None] = {}  # fingerprints of those that were read; None: it can't be opened

    def begin(self, name: str) -> None:
        """Hear that a video is about to be read."""

    def add(self, verdict: Verdict) -> None:
        """Keep a verdict."""
        self.done[verdict.filename] = verdict


class Progress(Results):
    """Verdicts on disk, one JSON object a line.

    The first line holds the settings, and every line their digest: checkpoints, what decides on faces, the program's
    version. Lines of another digest are not taken over; a file of other settings is set aside under the name of its
    digest, and comes back when those settings do.

    A verdict counts for the file it was made of (`identity.same_file`): a video that was added, mended or changed since
    is scored, the others are not scored again. What failed for a reason that may pass is tried again, and so is a file
    that can't be read now; its earlier verdict stays on disk, and counts when the same file is back.
    """

    def __init__(self, path: Path, settings: dict[str, Any], videos: dict[str, Path], *, anew: bool = False) -> None:
        super().__init__(videos)
        self.path = path
        self._settings = {**settings, "program": program_version()}
        self._digest = identity.digest_of(self._settings)
        self._waiting: list[
            ProgressRow
        ] = []  # rows of files that can't be read now, and of videos that this run has not
        self._aside: Path | None = None  # where the file that is there goes before ours is written
        lines, own = _lines(path), self._place_of(self._digest)
        header = _read_header(lines[0]) if lines else None
        if lines and (header is None or header.run != self._digest):
            self._aside = self._place_of(header.run if header else identity.digest_of(lines[0]))
            differs = _difference(header, self._settings)
            lines = _lines(own)
        rows = [row for row in map(_read_row, lines[1:]) if row and row.run == self._digest and row.file is not None]
        for name, row in {row.verdict.filename: row for row in rows}.items():  # the last is of the newest file
            if name not in videos:
                self._waiting.append(row)
            elif not anew:
                self._take(row)
        if self._aside is not None and videos.keys() - self.done.keys():
            what = f"left by a run with other settings{differs}"
            print(printable(f"{path}: {what}; kept as {self._aside.name} from the first new verdict on"))
        self._begun = False

    def _place_of(self, digest: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{digest[:12]}")

    def _take(self, row: ProgressRow) -> None:
        verdict = row.verdict
        if verdict.status.passing:
            return
        path = self.videos[verdict.filename]
        try:
            if identity.same_file(row.file, path):
                verdict.path = str(path)  # it may have been moved since
                self.done[verdict.filename], self.files[verdict.filename] = verdict, row.file
        except OSError:  # not known to be another: the video is tried again, and its new verdict says why that fails
            self._waiting.append(row)

    def _row(self, verdict: Verdict) -> ProgressRow:
        return ProgressRow(self._digest, self.files[verdict.filename], verdict)

    def begin(self, name: str) -> None:
        """Note what a video is like before it is read; it may be replaced meanwhile."""
        try:
            self.files[name] = identity.fingerprint(self.videos[name])
        except OSError:
            self.files[name] = None  # its verdict will say why

    def add(self, verdict: Verdict) -> None:
        if not self._begun:  # not earlier: a run that can't even begin must not cost what an earlier one left
            if self._aside is not None:
                self.path.replace(self._aside)
            first = _line(ProgressHeader(self._digest, self._settings))
            rows = [*self._waiting, *map(self._row, self.done.values())]
            artifacts.write_bytes(self.path, (first + "".join(map(_line, rows))).encode())
            self._place_of(self._digest).unlink(missing_ok=True)  # it is in ours now
            self._begun = True
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(_line(self._row(verdict)))
        super().add(verdict)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def _line(part: ProgressHeader | ProgressRow) -> str:
    return json.dumps(asdict(part)) + "\n"


def _read_header(line: str) -> ProgressHeader | None:
    """None for a line that this version can't tell the digest of."""
    try:
        return _HEADERS.validate_python(_parse(line))
    except ValidationError:
        return None


def _read_row(line: str) -> ProgressRow | None:
    """None for a line that is not just as `_line` writes it: one that a kill cut, or that somebody edited."""
    values = _parse(line)
    try:
        row = _ROWS.validate_python(values)
    except ValidationError:
        return None
    return row if _ROWS.dump_python(row) == values else None


def _parse(line: str) -> dict[str, Any]:
    """What a line holds; nothing where it is damaged."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _difference(earlier: ProgressHeader | None, settings: dict[str, Any]) -> str:
    """Which settings differ, as an addition to a sentence; nothing where that can't be told."""
    if earlier is None:
        return ""
    old = earlier.settings
    names = sorted(name for name in old.keys() | settings.keys() if old.get(name) != settings.get(name))
    return f" ({', '.join(names)})"


@contextlib.contextmanager
def only_run(output: Path) -> Generator[None]:
    """Hold the lock of an output while the block runs. It ends with the process, however that ends.

    Raises:
        SettingError: another run holds it; the message names that run.
    """
    real = output.resolve()  # a link to a file is that file, and a.csv and a.CSV share a.json
    path = real.with_name(f".{real.stem}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8", errors="replace") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(handle.fileno()), path.stat())  # else its owner just removed it
        except (BlockingIOError, FileNotFoundError):
            held = False
        except OSError as error:  # some network disks have no locks
            if error.errno not in _NO_LOCKS:
                raise
            print(f"{printable(output.parent)} can't be locked ({error.strerror}): see that no other run writes there")
            held = True
        if not held:
            handle.seek(0)
            owner = printable(handle.read()) or "it has not said which"
            advice = f"another run writes to it ({owner}); wait for its end, or take another {setting('output')}"
            raise SettingError("output", printable(output), advice)
        handle.truncate(0)
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        handle.write(f"process {os.getpid()} on {platform.node()} since {began}: {' '.join(sys.argv)}")
        handle.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is locked: nobody else can have taken it
