"""A step's failed, skipped and incomplete videos (failures/<step>.csv) and its progress (failures/<step>.json)."""

from __future__ import annotations

import contextlib
import csv
import io
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dfdc import artifacts
from dfdc.identity import read_file, regular
from dfdc.shards import shard_files

OUTCOMES = ("failed", "skipped", "incomplete")
HEADER = ["video", "outcome", "reason"]


@dataclass
class StepRun:
    """Progress of a step's last run.

    Attributes:
        videos: number of videos of the run.
        looked_at: number of videos handled so far: already complete, processed or failed.
        finished: whether the run reached its end; False while it runs and after it was killed.
    """

    videos: int
    looked_at: int = 0
    finished: bool = False


_RECORD = TypeAdapter(StepRun)


def read_run(ledger: Path) -> StepRun | None:
    """The record beside a ledger; None if it is missing or invalid.

    Args:
        ledger: failures/<step>.csv.
    """
    try:
        return _RECORD.validate_json(read_file(ledger.with_suffix(".json")), strict=True)
    except (OSError, ValidationError):
        return None


def read_rows(path: Path) -> list[tuple[str, str, str]]:
    """(video, outcome, reason) of every row of a ledger.

    Raises:
        OSError: it can't be read.
        ValueError, csv.Error: it is not a valid ledger.
    """
    regular(path)
    with path.open(encoding="utf-8", newline="") as handle:
        rows = csv.reader(handle)
        if next(rows, None) != HEADER:
            raise ValueError(f"its first line is not {','.join(HEADER)}")
        found = []
        for row in rows:
            if len(row) != 3:
                raise ValueError(f"line {rows.line_num} has {len(row)} values, not 3")
            found.append((row[0], row[1], row[2]))
    return found


class Ledger:
    """The ledger rows of a step, and the record of its run.

    Rows of an earlier run are kept until their video is handled again, so a killed step hides nothing.

    Outcomes: `failed` (counts towards --max-failed), `skipped` (the dataset lacks something the video needs) and
    `incomplete` (the artifact exists, but part of it is missing).
    """

    def __init__(self, path: Path, videos: int) -> None:
        """Load the rows in `path`, and record the start of a run over `videos` videos."""
        self.path = path
        self.run = StepRun(videos)
        self._rows: dict[tuple[str, str], str] = {}
        self._new: set[tuple[str, str]] = set()  # of this run
        with contextlib.suppress(OSError, ValueError, csv.Error):  # missing or corrupt: this run writes a new one
            self._rows = {(video, outcome): reason for video, outcome, reason in read_rows(path)}
        self.write()

    def looked_at(self, video: str) -> None:
        """Count `video` as handled and drop its rows from earlier runs. Add new rows after this call."""
        for outcome in OUTCOMES:
            self._rows.pop((video, outcome), None)
        self.run.looked_at += 1
        self._write_now_and_then()

    def add(self, video: str, outcome: str, reason: str) -> None:
        """Add a row; it is written to disk within a second or two, and at the end."""
        if outcome not in OUTCOMES:
            raise ValueError(f"ledger outcome {outcome!r} is none of {', '.join(OUTCOMES)}")
        self._rows[(video, outcome)] = reason
        self._new.add((video, outcome))
        self._write_now_and_then()

    def skip(self, skipped: Iterable[tuple[str, str]]) -> None:
        """Add a `skipped` row for each (video, reason); drop earlier rows of these videos."""
        for video, reason in skipped:
            for outcome in OUTCOMES:
                self._rows.pop((video, outcome), None)
            self._rows[(video, "skipped")] = reason
            self._new.add((video, "skipped"))

    def finish(self) -> None:
        """End the run: keep only the rows of this run, and write them.

        The ledgers of shards are removed, because this one has the rows of all videos.
        """
        self._rows = {key: reason for key, reason in self._rows.items() if key in self._new}
        self.run.finished = True
        self.write()
        for path in (self.path, self.path.with_suffix(".json")):
            for _, file in shard_files(path):
                file.unlink(missing_ok=True)

    def rows(self, outcome: str) -> list[tuple[str, str]]:
        """(video, reason) of every row with `outcome`, in order of insertion."""
        return [(video, reason) for (video, kind), reason in self._rows.items() if kind == outcome]

    def counts(self) -> Counter[str]:
        """Number of rows by outcome."""
        return Counter(outcome for _, outcome in self._rows)

    def write(self) -> None:
        """Write the whole ledger, sorted by video, and the record."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows([video, outcome, reason] for (video, outcome), reason in sorted(self._rows.items()))
        artifacts.write_json(self.path.with_suffix(".json"), asdict(self.run))
        artifacts.write_bytes(self.path, buffer.getvalue().encode(errors="backslashreplace"))
        self._written = time.monotonic()

    def _write_now_and_then(self) -> None:
        if time.monotonic() - self._written > 1.0:
            self.write()
