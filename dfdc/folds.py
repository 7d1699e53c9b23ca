"""Columns and reader of folds.csv, which assigns each crop to a fold.

preprocessing/folds_file.py writes it. training/dataset.py loads the whole table faster, with pandas, and uses the
columns and errors of this module.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dfdc.command_line import UserError
from dfdc.identity import regular

COLUMNS = ("video", "file", "label", "original", "frame", "fold")
_NUMBER = re.compile(r"-?[0-9]{1,18}")  # fits 64 bits
READ_ROWS = 512  # at a time; with more, Python's garbage collector scans them and reading takes three times as long


class FoldsError(UserError, ValueError):
    """Invalid folds.csv, or unusable crops that it lists; the message names the file and says what to do."""


class FoldsFileError(FoldsError):
    """A file that is not valid output of step 5; `reason` says why, without the file's name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both, so that it can be pickled
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; preprocessing step 5 (generate_folds.py) writes it"


@dataclass(frozen=True, slots=True)
class FoldsRow:
    """The values that many rows share; `face` is the end of the file name, such as `0.png`, and `label` is 0 or 1."""

    video: str
    face: str
    label: int
    original: str
    fold: int


def check_columns(path: Path, header: Iterable[str], wanted: Sequence[str]) -> None:
    """Raise FoldsFileError if columns of `wanted` are missing from the `header` of a file."""
    absent = [name for name in wanted if name not in header]
    if absent:
        raise FoldsFileError(path, f"it lacks the column {' and '.join(absent)}")


def read_columns(path: Path, names: Sequence[str] = COLUMNS, *, exact: bool = False) -> Iterator[list[tuple[str, ...]]]:
    """Yield the columns `names`, in this order, as strings, for up to READ_ROWS rows at a time; skip blank lines.

    Labels are 0 or 1; frames and folds are strings of whole numbers.

    Args:
        exact: require exactly the columns that step 5 writes, in its order.

    Raises:
        OSError: it can't be read.
        FoldsFileError: it is not valid output of step 5. The message names the invalid line, if there is one.
    """
    # Not pandas: loading it takes seconds, and it parses video names such as 007 as numbers.
    regular(path)
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.reader(handle)
            header = next(reader, [])
            if exact and header != list(COLUMNS):
                raise FoldsFileError(path, f"its first line is not {','.join(COLUMNS)}")
            check_columns(path, header, names)
            while rows := list(itertools.islice(reader, READ_ROWS)):
                line = reader.line_num - len(rows) + 1
                blanks = not all(rows)
                pieces = [(line + at, [row]) for at, row in enumerate(rows) if row] if blanks else [(line, rows)]
                for first, piece in pieces:
                    yield _transposed(path, first, piece, header, names)
    except (UnicodeDecodeError, csv.Error) as error:
        raise FoldsFileError(path, f"it can't be read ({error})") from None


def _transposed(
    path: Path, line: int, rows: list[list[str]], header: list[str], names: Sequence[str]
) -> list[tuple[str, ...]]:
    """Transpose `rows` into columns; raise FoldsFileError for an invalid row. `line` is the number of the first."""
    if {*map(len, rows)} != {len(header)}:
        at, row = next((at, row) for at, row in enumerate(rows) if len(row) != len(header))
        raise FoldsFileError(path, f"line {line + at} has {len(row)} values, not {len(header)}")
    by_place = list(zip(*rows, strict=True))
    columns = [by_place[header.index(name)] for name in names]
    for name, texts in zip(names, columns, strict=True):
        wrong = [text for text in {*texts} if _fault(name, text)]
        if wrong:
            at = min(map(texts.index, wrong))
            raise FoldsFileError(path, f"line {line + at}: {name} {texts[at]!r} is {_fault(name, texts[at])}")
    return columns


def _fault(column: str, text: str) -> str:
    """Why a value is invalid; empty if it is valid."""
    if column == "label" and text not in ("0", "1"):
        return "neither 0 (real) nor 1 (fake)"
    if column in ("frame", "fold") and not _NUMBER.fullmatch(text):
        return "not a whole number of up to 18 digits"
    return ""


def read_video_folds(path: Path) -> dict[str, int]:
    """The fold of each video, in file order; raises the errors of `read_columns`."""
    folds: dict[str, int] = {}
    for videos, numbers in read_columns(path, ("video", "fold")):
        folds.update(zip(videos, map(int, numbers), strict=True))
    return folds


def read_distinct(path: Path) -> list[FoldsRow]:
    """The distinct `FoldsRow`s of a file, in order of first occurrence.

    Raises the errors of `read_columns`.
    """
    names = ("video", "file", "label", "original", "fold")
    codes: list[dict[str, int]] = [defaultdict(itertools.count().__next__) for _ in names]  # string -> code
    pieces: list[list[np.ndarray]] = [[np.zeros(0, np.int32)] for _ in names]
    for columns in read_columns(path, names, exact=True):
        for texts, code, piece in zip(columns, codes, pieces, strict=True):
            piece.append(np.fromiter(map(code.__getitem__, texts), np.int32, len(texts)))
    video, file, label, original, fold = map(np.concatenate, pieces)
    videos, files, labels, originals, folds = map(list, codes)
    if not videos:
        return []
    ends = [name.rpartition("_")[2] for name in files]
    faces = {end: number for number, end in enumerate(dict.fromkeys(ends))}
    face = np.array([faces[end] for end in ends], np.int64)[file]
    shape = (len(videos), len(faces), len(labels), len(originals), len(folds))
    _, rows_of_first = np.unique(np.ravel_multi_index((video, face, label, original, fold), shape), return_index=True)
    rows_of_first.sort()
    said = zip(*(column[rows_of_first].tolist() for column in (video, file, label, original, fold)), strict=True)
    return [FoldsRow(videos[v], ends[f], int(labels[n]), originals[o], int(folds[k])) for v, f, n, o, k in said]
