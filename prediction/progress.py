"""Save each verdict to disk, so that a stopped run can resume; and lock an output, so that two runs never share it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from dfdc import artifacts, identity, locks
from dfdc.command_line import SettingError, UsageError, setting
from dfdc.devices import package_versions
from dfdc.shards import WHOLE, Shard
from dfdc.text import printable
from prediction.verdict import Verdict

# Version of the code between a file and its score. Raise it with every change that may alter a score; a golden test
# detects such changes.
SCORING_VERSION = 2
# Packages whose version may alter a score.
LIBRARIES = ("torch", "torchvision", "timm", "facenet-pytorch", "opencv-python-headless", "av", "numpy", "openvino")


def program_version() -> dict[str, Any]:
    """Return the versions that scores depend on: of the scoring code and of its packages."""
    names = (*LIBRARIES, "scipy", "pillow", "pillow-heif", "onnxruntime")
    return {"scoring": SCORING_VERSION, **package_versions(names, "unknown")}


@dataclass(frozen=True)
class ProgressHeader:
    """The first line: the settings and their digest; `version` of the layout, which old files lack."""

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
    """Verdicts in memory, in order of completion."""

    def __init__(self, videos: dict[str, Path]) -> None:
        self.videos = videos
        self.done: dict[str, Verdict] = {}  # by name
        self.files: dict[str, dict | None] = {}  # fingerprints of the files read; None if unreadable

    def begin(self, name: str) -> None:
        """Prepare for the reading of a video; called just before."""

    def add(self, verdict: Verdict) -> None:
        """Store a verdict."""
        self.done[verdict.filename] = verdict


class FileResults(Results):
    """Verdicts in memory, and the fingerprints of their files."""

    def begin(self, name: str) -> None:
        """Record the fingerprint of a video before it is read; it may be replaced meanwhile."""
        try:
            self.files[name] = identity.fingerprint(self.videos[name])
        except OSError:
            self.files[name] = None  # its verdict will have the error


class Progress(FileResults):
    """Verdicts on disk, one JSON object per line.

    The first line holds the settings: checkpoints, face detection and program version. Every line holds their digest.
    Lines with another digest are ignored. A file of other settings is renamed after its digest, and used again when
    those settings return.

    A verdict is valid for the file that it was made from (`identity.same_file`). Only new, repaired and changed videos
    are scored again. Transient failures are retried, and so are files that can't be read now. The earlier verdict of
    such a file stays on disk, and is valid again when the same file is back.

    A shard has its own file. It looks into the whole run's file, which later takes in those of all shards.
    """

    def __init__(self, path: Path, settings: dict[str, Any], videos: dict[str, Path], *, anew: bool = False) -> None:
        super().__init__(videos)
        self.path = path
        self._settings = {**settings, "program": program_version()}
        self._digest = identity.digest_of(self._settings)
        self._anew = anew
        # Rows of files that can't be read now, and of videos that are not in this run.
        self._waiting: list[ProgressRow] = []
        self._aside: Path | None = None  # new path of an existing file of other settings
        self._shards: Sequence[Path] = ()  # files of shards, whose rows are in our file once it is written
        lines, own = _lines(path), self._place_of(self._digest)
        header = _read_header(lines[0]) if lines else None
        if header is None or header.run != self._digest:
            if lines:  # else there is no file; perhaps a run was killed after it had renamed one
                self._aside = self._place_of(header.run if header else identity.digest_of(lines[0]))
                differs = _difference(header, self._settings)
            lines = _lines(own)
        self._take_all(self._rows_of(lines))
        if self._aside is not None and videos.keys() - self.done.keys():
            what = f"written by a run with other settings{differs}"
            print(printable(f"{path}: {what}; renamed to {self._aside.name} at the first new verdict"))
        self._begun = False

    def look_into(self, path: Path) -> None:
        """Use the verdicts of our videos in another file of the same settings; that file stays as it is."""
        todo = self.videos.keys() - self.done.keys()
        self._take_all(row for row in self._rows_of(_lines(path)) if row.verdict.filename in todo)

    def merge(self, files: Sequence[Path]) -> None:
        """Take in the files of shards, and remove them. A run that scores anew removes them at its first verdict.

        Raises:
            UsageError: a shard had other settings.
        """
        rows: list[ProgressRow] = []
        for path in files:
            lines = _lines(path)
            header = _read_header(lines[0]) if lines else None
            if header is None or header.run != self._digest:
                other = f"written by a run with other settings{_difference(header, self._settings)}"
                advice = "use the settings of that run, or remove this file to score its videos again"
                raise UsageError(printable(f"{path}: {other}; {advice}"))
            rows += self._rows_of(lines)
        self._take_all(rows)
        self._shards = files
        if files and not self._anew:
            self._begin()

    def _rows_of(self, lines: Sequence[str]) -> list[ProgressRow]:
        rows = map(_read_row, lines[1:])
        return [row for row in rows if row and row.run == self._digest and row.file is not None]

    def _take_all(self, rows: Iterable[ProgressRow]) -> None:
        for name, row in {row.verdict.filename: row for row in rows}.items():  # the last row is the newest
            if name not in self.videos:
                self._waiting.append(row)
            elif not self._anew:
                self._take(row)

    def _place_of(self, digest: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{digest[:12]}")

    def _take(self, row: ProgressRow) -> None:
        verdict = row.verdict
        if verdict.status.passing:
            return
        path = self.videos[verdict.filename]
        try:
            if identity.same_file(row.file, path):
                verdict.path = str(path)  # the file may have been moved
                self.done[verdict.filename], self.files[verdict.filename] = verdict, row.file
        except OSError:  # perhaps the same file: the video is tried again, and its new verdict has the error
            self._waiting.append(row)

    def _row(self, verdict: Verdict) -> ProgressRow:
        return ProgressRow(self._digest, self.files[verdict.filename], verdict)

    def add(self, verdict: Verdict) -> None:
        if not self._begun:  # only now: a run that fails to start must keep the earlier results
            self._begin()
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(_line(self._row(verdict)))
        super().add(verdict)

    def _begin(self) -> None:
        """Write our file with the verdicts so far; a file of other settings is renamed first."""
        if self._aside is not None:
            self.path.replace(self._aside)
        first = _line(ProgressHeader(self._digest, self._settings))
        rows = [*self._waiting, *map(self._row, self.done.values())]
        artifacts.write_bytes(self.path, (first + "".join(map(_line, rows))).encode())
        for path in (self._place_of(self._digest), *self._shards):
            path.unlink(missing_ok=True)  # its rows are in our file now
        self._begun = True


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def _line(part: ProgressHeader | ProgressRow) -> str:
    return json.dumps(asdict(part)) + "\n"


def _read_header(line: str) -> ProgressHeader | None:
    """Return None for a header that this version can't read."""
    try:
        return _HEADERS.validate_python(_parse(line))
    except ValidationError:
        return None


def _read_row(line: str) -> ProgressRow | None:
    """Return None for a line that differs from what `_line` writes: truncated by a kill, or edited."""
    values = _parse(line)
    try:
        row = _ROWS.validate_python(values)
    except ValidationError:
        return None
    return row if _ROWS.dump_python(row) == values else None


def _parse(line: str) -> dict[str, Any]:
    """Return the object in a line; empty if the line is corrupt."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _difference(earlier: ProgressHeader | None, settings: dict[str, Any]) -> str:
    """Return the names of the settings that differ, in parentheses; empty if unknown."""
    if earlier is None:
        return ""
    old = earlier.settings
    names = sorted(name for name in old.keys() | settings.keys() if old.get(name) != settings.get(name))
    return f" ({', '.join(names)})"


def only_run(output: Path, shard: Shard = WHOLE) -> contextlib.AbstractContextManager[None]:
    """Hold the lock of an output, or of a shard of it, while a block runs.

    Raises:
        SettingError: another run holds it, or works on the same videos; the message names that run.
    """

    def refusal(owner: str) -> SettingError:
        advice = f"another run writes to it ({owner}); wait until it ends, or choose another {setting('output')}"
        return SettingError("output", printable(output), advice)

    real = output.resolve()  # follows links; a.csv and a.CSV share a.json
    whole = real.with_name(f".{real.stem}.lock")
    return locks.only_one(shard.file(whole), refusal, shard.overlapping(whole))
