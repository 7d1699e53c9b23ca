"""What could not be done, and why (failures/<step>.csv), and how far the step came (failures/<step>.json)."""

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

OUTCOMES = ("failed", "skipped", "incomplete")
HEADER = ["video", "outcome", "reason"]


@dataclass
class StepRun:
    """How far a step came the last time it ran.

    Attributes:
        videos: how many it was to do.
        looked_at: how many of them it found complete, or did, or failed to do.
        finished: whether it came to its end; False while it runs, and for ever if it was killed.
    """

    videos: int
    looked_at: int = 0
    finished: bool = False


_RECORD = TypeAdapter(StepRun)


def read_run(ledger: Path) -> StepRun | None:
    """The record beside a ledger; None if there is none, or it is not what a step writes.

    Args:
        ledger: failures/<step>.csv.
    """
    try:
        return _RECORD.validate_json(ledger.with_suffix(".json").read_bytes(), strict=True)
    except (OSError, ValidationError):
        return None


def read_rows(path: Path) -> list[tuple[str, str, str]]:
    """(video, outcome, reason) of every row of a ledger.

    Raises:
        OSError: it can't be read.
        ValueError, csv.Error: it is not what a step writes.
    """
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
    """The rows of a step, and its record.

    Rows of an earlier run stay until their video is looked at again, so that a killed step hides nothing.

    Outcomes: `failed` (counts towards --max-failed), `skipped` (the data set does not hold what it takes) and
    `incomplete` (the artifact is there, but not all of what it should hold).
    """

    def __init__(self, path: Path, videos: int) -> None:
        """Take over what stands in `path`, and note that a run over so many `videos` has begun."""
        self.path = path
        self.run = StepRun(videos)
        self._rows: dict[tuple[str, str], str] = {}
        self._new: set[tuple[str, str]] = set()  # of this run
        with contextlib.suppress(OSError, ValueError, csv.Error):  # none, or broken: this run writes it anew
            self._rows = {(video, outcome): reason for video, outcome, reason in read_rows(path)}
        self.write()

    def looked_at(self, video: str) -> None:
        """`video` was looked at: what an earlier run said of it is past. Rows are added after this call."""
        for outcome in OUTCOMES:
            self._rows.pop((video, outcome), None)
        self.run.looked_at += 1
        self._write_now_and_then()

    def add(self, video: str, outcome: str, reason: str) -> None:
        """Note that `video` has `outcome` for `reason`; on disk within a second or two, and at the end."""
        if outcome not in OUTCOMES:
            raise ValueError(f"ledger outcome {outcome!r} is none of {', '.join(OUTCOMES)}")
        self._rows[(video, outcome)] = reason
        self._new.add((video, outcome))
        self._write_now_and_then()

    def skip(self, skipped: Iterable[tuple[str, str]]) -> None:
        """Note (video, reason) of all that the data set does not allow; earlier rows of these videos go."""
        for video, reason in skipped:
            for outcome in OUTCOMES:
                self._rows.pop((video, outcome), None)
            self._rows[(video, "skipped")] = reason
            self._new.add((video, "skipped"))

    def finish(self) -> None:
        """The step came to its end: only what this run said is left."""
        self._rows = {key: reason for key, reason in self._rows.items() if key in self._new}
        self.run.finished = True
        self.write()

    def rows(self, outcome: str) -> list[tuple[str, str]]:
        """(video, reason) of every row with `outcome`, in the order of coming."""
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
