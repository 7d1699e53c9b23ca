"""Write submission.csv and .json (see docs/scoring.md), print a summary, and check the output paths."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dfdc import artifacts
from dfdc.command_line import SettingError, setting
from dfdc.text import printable
from prediction.progress import program_version
from prediction.settings import FolderSettings, RunSettings
from prediction.verdict import Status, Verdict

COLUMNS = ("filename", "label", "status", "doubts", "faces", "frames")  # of submission.csv


@dataclass(frozen=True)
class Confusion:
    """Number of videos by label and prediction; a score above 0.5 predicts fake."""

    real_said_real: int
    real_said_fake: int
    fake_said_real: int
    fake_said_fake: int


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics of scores, see dfdc.label_metrics.metrics. Metrics that need a missing class are absent.

    Attributes:
        name: name of the checkpoint; absent for the verdicts.
    """

    name: str | None = None
    count: int
    reals: int
    fakes: int
    log_loss: float
    accuracy: float
    log_loss_fake: float | None = None
    log_loss_real: float | None = None
    log_loss_balanced: float | None = None
    auc: float | None = None
    average_precision: float | None = None
    equal_error_rate: float | None = None
    expected_calibration_error: float
    confusion: Confusion


@dataclass(frozen=True)
class LabelCounts:
    """Number of videos counted, of those without a verdict, and of those with a verdict but no label."""

    counted: int
    without_verdict: int
    without_label: int


@dataclass(frozen=True)
class Held:
    """What a checkpoint records about its training; the other fields are absent if `fold` is "unknown"."""

    name: str
    fold: int | Literal["unknown"]
    folds_sha256: str | None = None
    trained_on_videos: int | None = None


@dataclass(frozen=True)
class HeldOut:
    """The fold whose videos were scored, and what each checkpoint records about its training."""

    fold: int
    by: list[Held]


@dataclass(frozen=True)
class Summary:
    """Summary of all videos. Fields that need labels or a fold are absent without them.

    Attributes:
        warnings: what weakens every verdict, see `prediction.held_out.warn_of_few`; absent if there is nothing.
    """

    statuses: dict[Status, int]
    doubts: dict[str, int]
    held_out: HeldOut | None = None
    labels: LabelCounts | None = None
    metrics: Metrics | None = None
    metrics_of_parts: list[Metrics] | None = None
    warnings: list[str] | None = None


@dataclass(frozen=True)
class Submission:
    """The content of submission.json; `program` has the versions that scores depend on."""

    version: Literal[2]
    program: dict[str, str | int]
    settings: RunSettings
    summary: Summary
    videos: list[Verdict]


def plain(value: Any) -> dict[str, Any]:
    """Return a dataclass as a JSON object, without fields that are None."""
    known = asdict(value, dict_factory=lambda items: {key: part for key, part in items if part is not None})
    return json.loads(json.dumps(known))


def write_results(output: Path, verdicts: Sequence[Verdict], settings: RunSettings, summary: Summary) -> None:
    """Write submission.csv, and submission.json beside it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    quoting = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for v in verdicts:  # csv quotes names with its own line end, but not with another one
        row = quoting if "\r" in v.filename else writer
        label = "" if v.score is None else repr(v.score)  # all digits: calibrated scores near 1 must not tie
        row.writerow([v.filename, label, v.status, "; ".join(v.doubts), len(v.faces), v.frames_read])
    submission = Submission(2, program_version(), settings, summary, list(verdicts))
    details = {**asdict(submission), "settings": plain(settings), "summary": plain(summary)}
    artifacts.write_json(output.with_suffix(".json"), details, indent=1)
    artifacts.write_bytes(output, buffer.getvalue().encode(errors="backslashreplace"))


def print_summary(output: Path, verdicts: Sequence[Verdict], summary: Summary) -> None:
    """Print at most 50 verdicts, every status other than ok, the counts, and the metrics."""
    for verdict in verdicts:
        if verdict.judged and len(verdicts) <= 50:
            doubts = f"  ({', '.join(verdict.doubts)})" if verdict.doubts else ""
            print(f"  {verdict.score:.4f} {printable(verdict.filename)}{doubts}")
        if verdict.status != Status.OK:
            print(f"  {verdict.status}: {printable(verdict.filename)}: {printable(verdict.reason)}")
    width = max(len(status) for status in summary.statuses)
    print("videos by status")
    for status, number in Counter(summary.statuses).most_common():
        print(f"  {status:<{width}} {number:>8}  {'scored' if status.scored else 'no verdict'}")
    if summary.doubts:
        shown = ", ".join(f"{number} {doubt}" for doubt, number in Counter(summary.doubts).most_common())
        print(f"doubts: {shown} (docs/scoring.md explains them)")
    if summary.metrics:
        values = plain(summary.metrics)
        names = ("log_loss", "auc", "average_precision", "equal_error_rate", "accuracy")
        shown = [f"{name.replace('_', ' ')} {values[name]:.4f}" for name in names if name in values]
        print(f"on {values['count']} labelled videos ({values['fakes']} fake): {', '.join(shown)}")
    unknown = [held.name for held in summary.held_out.by if held.fold == "unknown"] if summary.held_out else []
    if unknown:
        print(f"  (unknown whether these videos were in the training sets of {', '.join(unknown)})")
    print(printable(f"written: {output} and {output.with_suffix('.json')}"))


def check_places(settings: FolderSettings, videos: Iterable[Path]) -> None:
    """Check that no file is overwritten that this program did not write.

    Raises:
        SettingError: a path holds such a file, or is also an input or another output.
    """
    output, calibrate, report = settings.output, settings.calibrate, settings.report
    details = output.with_suffix(".json")
    inputs = (settings.labels, settings.calibration, *settings.lists, *videos)
    read = {os.path.realpath(path) for path in inputs if path}
    if calibrate and os.path.realpath(calibrate) == os.path.realpath(details):
        taken = f"the details of {setting('output')} are written there"
        raise SettingError("calibrate", calibrate, f"{taken}; choose another name")
    for name, given, path in (("output", output, output), ("output", output, details), ("calibrate", *[calibrate] * 2)):
        if path is None:
            continue
        which = "" if path == given else f"its details would be written to {path.name}, which "
        if os.path.realpath(path) in read:
            raise SettingError(name, given, f"{which}is an input file; choose another name")
        if path.exists() and not (path.is_file() and (not path.stat().st_size or is_result(path))):
            raise SettingError(name, given, f"{which}was not written by this program; remove it or choose another name")
    if report and report.exists() and not report.is_dir():
        raise SettingError("report", report, "exists and is not a folder; choose another path")
    index = report and report / "index.html"
    if index and index.is_file() and "predict_folder.py --report" not in index.read_text(errors="replace"):
        raise SettingError("report", report, "its index.html was not written by this program; choose another folder")


def is_result(path: Path) -> bool:
    """Return whether a file is a submission.csv, its details or a temperature, of this or an earlier version."""
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8", errors="replace") as handle:
            header = handle.readline().rstrip("\n")
        # An earlier version's header equals that of a file of labels; the details beside it tell them apart.
        return header == ",".join(COLUMNS) or (header == "filename,label" and is_result(path.with_suffix(".json")))
    content = artifacts.read_json(path)
    return isinstance(content, dict) and ({"settings", "videos"} <= content.keys() or "temperature" in content)
