"""Which crops a person does not want (DATA_ROOT/rejected.csv; dfdc/layout.py says what stands in it)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dfdc import layout

HEADER = ("video", "frame", "face")
REASON = "reason"  # a fourth column that may follow
_Crops = tuple[int | None, int | None]  # frame and face; None stands for all
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Rejection:
    """One line of rejected.csv. None means all frames, or all faces."""

    video: str  # id
    frame: int | None
    face: int | None
    reason: str = ""  # as the person gave it


@dataclass
class Rejections:
    """What a person rejected, in the order of the file; empty where there is no file."""

    rows: list[Rejection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._whole: dict[str, str] = {}  # id -> reason
        self._crops: dict[str, set[_Crops]] = {}  # by id
        for row in self.rows:
            self._crops.setdefault(row.video, set()).add((row.frame, row.face))
            if row.frame is None and row.face is None:
                self._whole[row.video] = self._whole.get(row.video) or row.reason

    def whole(self, video: layout.Video) -> str | None:
        """Why the whole of `video` is rejected, by itself or with its original; None where it is not."""
        for name, who in ((video.id, ""), (video.source, f"its original {video.source} is ")):
            reason = self._whole.get(name)
            if reason is not None:
                return f"{who}rejected in {layout.REJECTED_NAME}" + (f": {reason}" if reason else "")
        return None

    def covers(self, video: layout.Video, frame: int, face: int) -> bool:
        """Whether the crop of a frame and a person (from 0) is rejected, by itself or with its original's."""
        rows = {(frame, face), (frame, None), (None, face), (None, None)}
        return any(not rows.isdisjoint(self._crops.get(name, ())) for name in (video.id, video.source))


def load_rejections(root: Path) -> Rejections:
    """Read `root`/rejected.csv; without one nothing is rejected.

    Raises:
        DataError: it can't be read, or lines in it are not as they should be; all of them are named at once.
    """
    path = root / layout.REJECTED_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            raise layout.DataError(f"{path} is a link to a file that is not there; mend it or take it away") from None
        return Rejections()
    except OSError as error:
        raise layout.DataError(f"{path} can't be read ({error.strerror}); mend it or take it away") from None
    rows, faults = _parse(data)
    if faults:
        raise layout.DataError(f"{path} can't be used; mend it or take it away:\n  {layout.list_faults(faults)}")
    return Rejections(rows)


def _parse(data: bytes) -> tuple[list[Rejection], list[str]]:
    """The lines that are as they should be, and the faults of the others."""
    try:
        text = data.decode("utf-8-sig")  # spreadsheets put a mark in front
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return [], [f"line {line}: not UTF-8 text; save it as CSV in UTF-8"]
    rows: list[Rejection] = []
    faults: list[str] = []
    lines = _lines(text, faults)
    line, header = next(lines, (1, []))
    if tuple(header) not in (HEADER, (*HEADER, REASON)):
        wanted = f"the header {','.join(HEADER)} is expected, with or without {REASON}"
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
    """Number and fields of every line that is not blank, up to one that is no CSV: that goes to `faults`."""
    # Strict: a quote that nobody closes would make one field of the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = [value.strip() for value in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            faults.append(f"line {line}: not CSV ({error}); a value in quotes needs one at either end")
            return
        if any(fields):
            yield line, fields


def _fault(fields: list[str], columns: int) -> str | None:
    """What is wrong with a line, or None."""
    if not len(HEADER) <= len(fields) <= columns:
        return f"{len(fields)} values, {columns} are expected; put a {REASON} with commas in quotes"
    if not fields[0]:
        return "it names no video"
    for column in (1, 2):
        number = fields[column]
        if number and not _NUMBER.fullmatch(number):
            return f"{HEADER[column]} {number!r} is no number; give one from 0 on, or nothing for all"
    return None
