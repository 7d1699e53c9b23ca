"""Metrics of verdicts on labelled videos, of each checkpoint and the ensemble: a table and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from dfdc.artifacts import atomic_file
from dfdc.label_metrics import metrics
from dfdc.plotting import Axes, Figure, MaxNLocator
from dfdc.text import printable
from prediction.results import Confusion, LabelCounts, Metrics, plain
from prediction.verdict import Verdict

BINS = 10
_COLUMNS = {
    "log_loss": "log loss",
    "auc": "AUC",
    "average_precision": "avg. precision",
    "equal_error_rate": "EER",
    "accuracy": "accuracy",
    "expected_calibration_error": "ECE",
}
_CONFUSION = [item.name for item in fields(Confusion)]


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of a run's scores by labels."""

    labels: np.ndarray  # 0 or 1, of the videos with a verdict and a label, [n]
    scores: list[tuple[str, np.ndarray]]  # per checkpoint and ensemble, float64 [n]; the verdict is last
    values: list[Metrics]  # in the order of `scores`
    without_verdict: int
    without_label: int  # but with a verdict

    @property
    def verdict_scores(self) -> np.ndarray:
        """The ensemble's scores, float64 [n]; calibrated if there is a calibration."""
        return self.scores[-1][1] if self.scores else np.zeros(0)

    def summary(self) -> dict[str, Any]:
        """Return the fields of a `prediction.results.Summary` that need labels."""
        counts = {"labels": LabelCounts(len(self.labels), self.without_verdict, self.without_label)}
        if not self.values:
            return counts
        return {**counts, "metrics": replace(self.values[-1], name=None), "metrics_of_parts": self.values[:-1]}


def evaluate(verdicts: Sequence[Verdict], labels: dict[str, int]) -> Evaluation:
    """Compute the metrics of each checkpoint, of the ensemble, and of the calibrated scores if there are any.

    Args:
        labels: 0 (real) or 1 (fake) by file name.
    """
    judged = [verdict for verdict in verdicts if verdict.judged]
    counted = [verdict for verdict in judged if verdict.filename in labels]
    y = np.array([labels[verdict.filename] for verdict in counted], int)
    scores: list[tuple[str, np.ndarray]] = []
    if counted:
        for index, model in enumerate(counted[0].models):
            scores.append((model.name, np.array([verdict.models[index].score for verdict in counted])))
        calibrated = counted[0].score_uncalibrated is not None
        if calibrated:
            scores.append(("ensemble", np.array([verdict.score_uncalibrated for verdict in counted])))
        scores.append(("ensemble, calibrated" if calibrated else "ensemble", np.array([v.score for v in counted])))
    values = [_values(name, y, p) for name, p in scores]
    return Evaluation(y, scores, values, len(verdicts) - len(judged), len(judged) - len(counted))


def _values(name: str, labels: np.ndarray, scores: np.ndarray) -> Metrics:
    said_fake = scores > 0.5  # as dfdc.label_metrics.metrics counts its accuracy
    counts = [int(np.sum((labels == label) & (said_fake == said))) for label in (0, 1) for said in (False, True)]
    known: dict[str, Any] = metrics(labels, scores)
    error = expected_calibration_error(labels, scores)
    return Metrics(name=name, **known, expected_calibration_error=error, confusion=Confusion(*counts))


def reliability(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group scores into BINS bins of equal width, (a, b] as in Guo et al. 2017; 0 is in the first.

    Returns:
        of the bins that are not empty, in order: mean score, share of fakes (float64 [bins], 0..1) and count
        (int [bins]).
    """
    scores = np.asarray(scores, np.float64)
    bins = _bins(scores)
    counts = np.bincount(bins, minlength=BINS)
    held = np.flatnonzero(counts)
    means = np.bincount(bins, scores, BINS)[held] / counts[held]
    return means, np.bincount(bins, labels, BINS)[held] / counts[held], counts[held]


def _bins(scores: np.ndarray) -> np.ndarray:
    """Return the number of each score's bin, 0 to BINS - 1."""
    return np.clip(np.ceil(scores * BINS).astype(int) - 1, 0, BINS - 1)


def expected_calibration_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean distance between a bin's score and its share of fakes, weighted by count.

    Source: Guo et al. 2017, equation 3. Probability of fake and share of fakes replace confidence and accuracy, since a
    verdict is a probability, not a class.
    """
    means, shares, counts = reliability(labels, scores)
    return float(np.average(np.abs(means - shares), weights=counts))


def print_report(evaluation: Evaluation, plot: Path) -> None:
    """Print the table, and draw the reliability plot if any video is counted."""
    print_table(evaluation)
    if evaluation.values:
        plot_reliability(evaluation, plot)
        print(f"reliability plot: {printable(plot)}")


def print_table(evaluation: Evaluation) -> None:
    """Print the metrics, a row per checkpoint and ensemble, and the number of videos not counted."""
    left_out = {"verdict": evaluation.without_verdict, "label": evaluation.without_label}
    if any(left_out.values()):
        print("not counted:", " and ".join(f"{count} without a {kind}" for kind, count in left_out.items() if count))
    if not evaluation.values:
        print("no video with a verdict has a label")
        return
    rows = [["", *_COLUMNS.values(), *(name.replace("_said_", ">") for name in _CONFUSION)]]
    for values in map(plain, evaluation.values):
        shown = [f"{values[key]:.4f}" if key in values else "-" for key in _COLUMNS]
        rows.append([printable(values["name"]), *shown, *(str(values["confusion"][key]) for key in _CONFUSION)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = map(str.rjust, rest, widths[1:])
        print("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    print("real>fake: real videos with a score above 0.5; ECE: expected calibration error")
    missing = {0, 1} - set(evaluation.labels.tolist())
    if missing:
        print(f"no {'fake' if 1 in missing else 'real'} videos are counted; metrics shown as '-' need both classes")


def _write_count(axis: Axes, x: float, y: float, count: int) -> None:
    """Write the count beside a point, on the side away from the plot's edge."""
    shift, side = (-9, "top") if y > 0.5 else (9, "bottom")
    look: dict[str, Any] = {"va": side, "fontsize": "small", "bbox": {"fc": "white", "ec": "none", "pad": 0.5}}
    axis.annotate(str(count), (x, y), (0, shift), textcoords="offset points", ha="center", **look)


def plot_reliability(evaluation: Evaluation, output: Path) -> None:
    """Write a PNG: share of fakes against score, above a histogram of the scores."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="grey", ls="--", lw=1, label="perfect calibration")
    edges = np.linspace(0, 1, BINS + 1)
    bar = 0.9 / BINS / len(evaluation.scores)
    for index, (name, scores) in enumerate(evaluation.scores):
        last = index == len(evaluation.scores) - 1  # the verdict
        means, shares, counts = reliability(evaluation.labels, scores)
        label = f"{printable(name)}, ECE {evaluation.values[index].expected_calibration_error:.3f}"
        colour = "black" if last else f"C{index}"
        style: dict[str, Any] = {"ms": 6, "lw": 2} if last else {"ms": 4, "lw": 1, "alpha": 0.7}
        upper.plot(means, shares, marker="o", color=colour, label=label, **style)
        if last:
            for x, y, count in zip(means, shares, counts, strict=True):
                _write_count(upper, x, y, count)
        every = np.bincount(_bins(scores), minlength=BINS)
        lower.bar(edges[:-1] + 0.05 / BINS + (index + 0.5) * bar, every, bar, color=colour, alpha=1 if last else 0.7)
    upper.set(ylabel="share of fakes", xlim=(-0.02, 1.02), ylim=(-0.04, 1.04))
    upper.set_title(f"{len(evaluation.labels)} labelled videos, {int(evaluation.labels.sum())} fake")
    figure.legend(fontsize="small", loc="outside lower center")  # inside, it would hide points
    lower.set(xlabel=f"score, 0 (real) to 1 (fake), in {BINS} bins (numbers: videos, ensemble)", ylabel="videos")
    lower.yaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in (upper, lower):
        axis.grid(alpha=0.3)
        axis.set_xticks(edges)
    with atomic_file(output) as temp:
        figure.savefig(temp, dpi=110, format="png", metadata={"Software": None})
