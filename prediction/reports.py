"""The reports of a run: metrics, a fitted temperature, and HTML pages.

This module needs scikit-learn, Matplotlib and Grad-CAM: 100 MiB and a second that scoring alone avoids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dfdc.text import printable
from networks.ensemble import Ensemble
from networks.files import ModelFile
from prediction.calibration import fit_to_file
from prediction.metrics_report import evaluate, print_report
from prediction.pages.report import make_report
from prediction.results import plain
from prediction.settings import FolderSettings, RunSettings
from prediction.verdict import Verdict


class Reports:
    """The reports on these verdicts that `settings` request.

    Args:
        labels: 0 (real) or 1 (fake) by file name; None without labels.
    """

    def __init__(self, settings: FolderSettings, verdicts: Sequence[Verdict], labels: dict[str, int] | None) -> None:
        self._settings, self._verdicts = settings, verdicts
        self._evaluation = None if labels is None else evaluate(verdicts, labels)

    def summary(self) -> dict[str, Any]:
        """Return the fields of a `prediction.results.Summary` that need labels."""
        return self._evaluation.summary() if self._evaluation else {}

    def measure(self, plot: Path, models: list[ModelFile]) -> None:
        """Print the metrics, draw the reliability plot, and fit a temperature; do nothing without labels."""
        if self._evaluation is None:
            return
        print_report(self._evaluation, plot)
        if self._settings.calibrate:
            labels, scores = self._evaluation.labels.tolist(), self._evaluation.verdict_scores.tolist()
            fit_to_file(self._settings.calibrate, labels, scores, models, self._settings.strategy)

    def show(
        self,
        folder: Path,
        made: RunSettings,
        warnings: Sequence[str],
        checkpoints: Mapping[str, Path],
        load: Callable[[], Ensemble],
        files: Mapping[str, Any],
    ) -> None:
        """Write the pages, see `make_report`."""
        page = make_report(folder, self._verdicts, plain(made), warnings, checkpoints, load, files)
        print(printable(f"report: {page}"))
