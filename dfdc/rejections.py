"""Crops rejected by a user (DATA_ROOT/rejected.csv; dfdc/layout.py describes the file)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dfdc import layout
from dfdc.identity import read_file

HEADER = ("video", "frame", "face")
REASON = "reason"  # optional fourth column
_Crops = tuple[int | None, int | None]  # frame and face; None means all
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Rejection:
    """One line of rejected.csv. None means all frames, or all faces."""

    video: str  # id
    frame: int | None
    face: int | None
    reason: str = ""  # as the user wrote it


@dataclass
class Rejections:
    """The rejections, in file order; empty if there is no file."""

    rows: list[Rejection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._whole: dict[str, str] = {}  # id -> reason
        self._crops: dict[str, set[_Crops]] = {}  # by id
        for row in self.rows:
            self._crops.setdefault(row.video, set()).add((row.frame, row.face))
            if row.frame is None and row.face is None:
                self._whole[row.video] = self._whole.get(row.video) or row.reason

    def whole(self, video: layout.Video) -> str | None:
        """Why all of `video` is rejected, by its own row or its original's; None if it is not."""
        for name, who in ((video.id, ""), (video.source, f"its original {video.source} is ")):
            reason = self._whole.get(name)
            if reason is not None:
                return f"{who}rejected in {layout.REJECTED_NAME}" + (f": {reason}" if reason else "")
        return None

    def covers(self, video: layout.Video, frame: int, face: int) -> bool:
        """Whether the crop of a frame and face (from 0) is rejected, by the video's own row or its original's."""
        rows = {(frame, face), (frame, None), (None, face), (None, None)}
        return any(not rows.isdisjoint(self._crops.get(name, ())) for name in (video.id, video.source))


def load_rejections(root: Path) -> Rejections:
    """Read `root`/rejected.csv; without that file nothing is rejected.

    Raises:
        DataError: it can't be read, or has invalid lines; the message lists all of them.
    """
    path = root / layout.REJECTED_NAME
    try:
        data = read_file(path)
    except FileNotFoundError:
        if path.is_symlink():
            raise layout.DataError(f"{path} is a dangling link; correct or remove it") from None
        return Rejections()
    except OSError as error:
        raise layout.DataError(f"{path} can't be read ({error.strerror}); correct or remove it") from None
    rows, faults = _parse(data)
    if faults:
        raise layout.DataError(f"{path} is invalid; correct or remove it:\n  {layout.list_faults(faults)}")
    return Rejections(rows)


def _parse(data: bytes) -> tuple[list[Rejection], list[str]]:
    """The valid lines, and the faults of the others."""
    try:
        text = data.decode("utf-8-sig")  # spreadsheets add a byte order mark
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return [], [f"line {line}: not UTF-8 text; save it as CSV in UTF-8"]
    rows: list[Rejection] = []
    faults: list[str] = []
    lines = _lines(text, faults)
    line, header = next(lines, (1, []))
    if tuple(header) not in (HEADER, (*HEADER, REASON)):
        wanted = f"expected the header {','.join(HEADER)}, with or without {REASON}"
        return [], faults or [f"line {line}: {wanted}, not {','.join(header)!r}"]
    for line, fields in lines:
        fault = _fault(fields, len(header))
        if fault:
            faults.append(f"line {line}: {fault}")
            continue
        frame, face = (int(number) if number else None for number in fields[1:3])
        rows.append(Rejection(layout.video_id(fields[0]), frame, face, "".join(fields[3:])))
    return rows, faults


def _lines(text: str, faults: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of every non-blank line, up to the first that is not valid CSV; that one goes to `faults`."""
    # Strict, because an unclosed quote would turn the rest of the file into one field.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = [value.strip() for value in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            faults.append(f"line {line}: not CSV ({error}); a quoted value needs a quote at both ends")
            return
        if any(fields):
            yield line, fields


def _fault(fields: list[str], columns: int) -> str | None:
    """Why a line is invalid, or None."""
    if not len(HEADER) <= len(fields) <= columns:
        return f"{len(fields)} values, expected {columns}; put a {REASON} with commas in quotes"
    if not fields[0]:
        return "the video name is missing"
    for column in (1, 2):
        number = fields[column]
        if number and not _NUMBER.fullmatch(number):
            return f"{HEADER[column]} {number!r} is not a number; use a whole number of at least 0, or nothing for all"
    return None
