"""Where results may be written: never over a file that is not a result of this program."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dfdc import artifacts
from dfdc.command_line import UsageError
from prediction.results import COLUMNS
from prediction.settings import FolderSettings


def check_places(settings: FolderSettings, videos: Iterable[Path]) -> None:
    """See that nothing is written over a file that is not a result of this program.

    Raises:
        UsageError: a place holds one, or is one of the files that are read or written as well.
    """
    details, calibrate = settings.details, settings.calibrate
    written = {"--output": settings.output, "the details of --output": details, "--calibrate": calibrate}
    inputs = (settings.labels, settings.calibration, *settings.lists, *videos)
    read = {os.path.realpath(path) for path in inputs if path}
    if calibrate and os.path.realpath(calibrate) == os.path.realpath(details):
        raise UsageError(f"--calibrate {calibrate}: the details of --output go there; take another name")
    for option, path in written.items():
        if path is None:
            continue
        if os.path.realpath(path) in read:
            raise UsageError(f"{option} {path}: is one of the files that are read; take another name")
        if path.is_file() and path.stat().st_size and not is_result(path):
            raise UsageError(f"{option} {path}: holds no result of this program; remove it or take another name")
    index = settings.report and settings.report / "index.html"
    if index and index.is_file() and "predict_folder.py --report" not in index.read_text(errors="replace"):
        raise UsageError(f"--report {settings.report}: its index.html is no page of this program; take another folder")


def is_result(path: Path) -> bool:
    """Whether a file is a submission.csv, its details or a temperature, of this version or an earlier one."""
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8", errors="replace") as handle:
            header = handle.readline().rstrip("\n")
        # The header of an earlier version is that of a table of labels: the details beside it tell.
        return header == ",".join(COLUMNS) or (header == "filename,label" and is_result(path.with_suffix(".json")))
    content = artifacts.read_json(path)
    return isinstance(content, dict) and ({"settings", "videos"} <= content.keys() or "temperature" in content)
