"""Metrics on labelled videos, and what the reliability plot and its bins hold (prediction/metrics_report.py)."""

from dataclasses import replace

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from prediction import metrics_report
from prediction.metrics_report import evaluate, expected_calibration_error, plot_reliability, reliability
from prediction.results import Confusion, LabelCounts, plain
from prediction.verdict import ModelScore, Verdict


def labelled(*rows, calibrated=False):
    """Verdicts and labels from (label, score of each checkpoint ...)."""
    verdicts, labels = [], {}
    for number, (label, *scores) in enumerate(rows):
        models = [ModelScore(f"model{index}", score, "mean") for index, score in enumerate(scores)]
        mean = float(np.mean(scores))
        name = f"v{number}"
        verdict = Verdict(name, "ok", score=mean, models=models)
        if calibrated:
            verdict.score, verdict.score_uncalibrated = mean / 2, mean
        verdicts.append(verdict)
        labels[name] = label
    return evaluate(verdicts, labels)


ROWS = [(0, 0.02, 0.2), (0, 0.05, 0.3), (1, 0.05, 0.9), (1, 0.95, 0.97), (1, 1.0, 0.98), (0, 0.35, 0.55)]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """The figure of the plot of ROWS, as it is when it is written."""
    figures = []
    save = Figure.savefig

    def keep(figure, *arguments, **options):
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    plot_reliability(labelled(*ROWS), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    return figure


@pytest.mark.slow
def test_each_checkpoint_has_a_line_of_score_and_share(drawn):
    upper, lower = drawn.axes
    diagonal, first, second, last = upper.lines
    assert np.asarray(diagonal.get_data()).tolist() == [[0, 1], [0, 1]]
    for index, line in enumerate((first, second, last)):
        labels = np.array([label for label, *_ in ROWS])
        scores = np.array([row[1 + index] if index < 2 else np.mean(row[1:]) for row in ROWS])
        means, shares, _ = reliability(labels, scores)
        assert line.get_xdata() == pytest.approx(means)
        assert line.get_ydata() == pytest.approx(shares)
        name = ("model0", "model1", "ensemble")[index]
        assert line.get_label() == f"{name}, ECE {expected_calibration_error(labels, scores):.3f}"
    assert last.get_color() == "black"
    assert last.get_linewidth() > first.get_linewidth()
    assert len({line.get_color() for line in (first, second, last)}) == 3
    legend = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert legend == ["perfect calibration", *(line.get_label() for line in (first, second, last))]
    assert upper.get_title() == "6 labelled videos, 3 fake"
    for text, x, y in zip(upper.texts, last.get_xdata(), last.get_ydata(), strict=True):
        assert text.xy == (x, y)
        assert text.get_va() == ("top" if y > 0.5 else "bottom")
        assert text.xyann == (0, -9 if y > 0.5 else 9)
    assert sum(int(text.get_text()) for text in upper.texts) == len(ROWS)
    assert lower.get_ylabel() == "videos"


@pytest.mark.slow
def test_bars_count_the_videos_of_each_bin_beside_each_other(drawn):
    upper, lower = drawn.axes
    bars = np.array([[bar.get_x(), bar.get_width(), bar.get_height()] for bar in lower.patches]).reshape(3, 10, 3)
    for index in range(3):
        scores = [row[1 + index] if index < 2 else np.mean(row[1:]) for row in ROWS]
        expected = [sum(low < score <= low + 0.1 + 1e-9 for score in scores) for low in np.arange(10) / 10]
        assert bars[index, :, 2].tolist() == expected
    left, right = bars[..., 0], bars[..., 0] + bars[..., 1]
    assert (left.min(0) > np.arange(10) / 10).all()
    assert (right.max(0) < np.arange(1, 11) / 10).all()
    assert np.allclose(right[:-1], left[1:])  # no gap and no overlap
    assert [bar.get_facecolor()[:3] for bar in lower.patches[::10]] == [
        to_rgb(line.get_color()) for line in upper.lines[1:]
    ]
    assert np.allclose(lower.get_xticks(), np.arange(11) / 10)
    assert lower.get_xlim()[0] < 0
    assert lower.get_xlim()[1] > 1


@pytest.mark.slow
def test_videos_that_all_score_low_have_empty_bins_above(tmp_path, capsys):
    metrics_report.print_report(labelled((0, 0.02), (1, 0.31)), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert f"reliability plot: {tmp_path / 'plot.png'}" in capsys.readouterr().out
    metrics_report.print_report(evaluate([], {}), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.slow
def test_the_figure_is_closed(drawn):
    assert plt.get_fignums() == []


def test_bins_are_closed_above_and_the_first_holds_0():
    scores = np.array([0, 1e-12, 0.1, 0.1000001, 0.2, 0.95, 1.0])
    assert metrics_report._bins(scores).tolist() == [0, 0, 0, 1, 1, 9, 9]
    means, shares, counts = reliability(np.array([0, 1, 1, 0, 0, 1, 1]), scores)
    assert counts.tolist() == [3, 2, 2]
    assert shares == pytest.approx([2 / 3, 0, 1])
    assert means == pytest.approx([(1e-12 + 0.1) / 3, 0.15, 0.975], abs=1e-6)


def test_accuracy_and_confusion_say_the_same_at_one_half():
    found = labelled((0, 0.5), (1, 0.5), (0, 0.51), (1, 0.51), (1, 0.9))
    values = found.values[-1]
    assert values.confusion == Confusion(real_said_real=1, real_said_fake=1, fake_said_real=1, fake_said_fake=2)
    assert values.accuracy == 3 / 5


def test_a_calibrated_run_has_a_row_for_both(capsys):
    found = labelled(*ROWS, calibrated=True)
    assert [name for name, _ in found.scores] == ["model0", "model1", "ensemble", "ensemble, calibrated"]
    assert found.verdict_scores == pytest.approx([np.mean(row[1:]) / 2 for row in ROWS])
    assert found.scores[2][1] == pytest.approx([np.mean(row[1:]) for row in ROWS])
    assert found.summary()["metrics"] == replace(found.values[3], name=None)
    assert len(found.summary()["metrics_of_parts"]) == 3
    metrics_report.print_table(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[-1] == "fake>fake"
    assert lines[4].startswith("ensemble, calibrated  ")
    assert not any("not counted" in line or "there is no" in line for line in lines)
    assert len(found.verdict_scores) == 6
    assert evaluate([], {}).verdict_scores.shape == (0,)


def verdict(name, *scores):
    models = [ModelScore(f"model{index}", score, "mean") for index, score in enumerate(scores)]
    return Verdict(name, "ok", score=float(np.mean(scores)) if scores else None, models=models)


@pytest.mark.slow
def test_each_checkpoint_and_the_ensemble_are_measured(tmp_path, capsys):
    verdicts = [verdict("r1", 0.1, 0.3), verdict("r2", 0.2, 0.9), verdict("f1", 0.9, 0.6), verdict("f2", 0.4, 0.5)]
    verdicts += [verdict("no label", 0.5, 0.5), Verdict("no face", "no face"), Verdict("neither", "unreadable")]
    labels = {"r1": 0, "r2": 0, "f1": 1, "f2": 1, "no face": 1, "not here": 1}
    found = metrics_report.evaluate(verdicts, labels)
    assert [name for name, _ in found.scores] == ["model0", "model1", "ensemble"]
    assert found.scores[-1][1] == pytest.approx([0.2, 0.55, 0.75, 0.45])
    assert (found.without_verdict, found.without_label) == (2, 1)
    assert found.values[0].confusion == Confusion(2, 0, 1, 1)
    assert found.values[0].auc == 1
    assert found.values[1].auc == 0.5
    assert found.values[2].log_loss == pytest.approx(-np.mean(np.log([0.8, 0.45, 0.75, 0.45])))
    summary = found.summary()
    assert summary["labels"] == LabelCounts(counted=4, without_verdict=2, without_label=1)
    assert summary["metrics"] == replace(found.values[2], name=None)
    assert [part.name for part in summary["metrics_of_parts"]] == ["model0", "model1"]
    metrics_report.print_report(found, tmp_path / "plot.png")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "not counted: 2 without a verdict and 1 without a label"
    assert lines[1].split("  ")[-4:] == ["real>real", "real>fake", "fake>real", "fake>fake"]
    assert len({len(line) for line in lines[1:5]}) == 1  # aligned
    assert [int(cell) for cell in lines[4].split()[-4:]] == [1, 1, 1, 1]
    assert cv2.imread(str(tmp_path / "plot.png")).shape[0] > 400


@pytest.mark.slow
def test_one_class_has_the_metrics_that_exist(tmp_path, capsys):
    found = metrics_report.evaluate([verdict("a", 0.9), verdict("b", 0.2)], {"a": 1, "b": 1})
    assert "auc" not in plain(found.values[-1])
    assert found.values[-1].log_loss == pytest.approx(-np.log([0.9, 0.2]).mean())
    metrics_report.print_report(found, tmp_path / "plot.png")
    out = capsys.readouterr().out
    assert "no real videos are counted" in out
    assert out.splitlines()[1].split()[1:5] == ["0.8574", "-", "-", "-"]
    assert (tmp_path / "plot.png").is_file()


@pytest.mark.slow
def test_any_name_can_be_in_the_table_and_the_plot(tmp_path, capsys):
    names = ["a$b", r"$\frac$", "\x1b[31m\nred", "caf\udce9"]
    models = [ModelScore(name, 0.5, "mean") for name in names]
    found = metrics_report.evaluate([Verdict("v", "ok", score=0.5, models=models)], {"v": 1})
    metrics_report.print_report(found, tmp_path / "plot.png")
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert r"\x1b[31m\nred " in out
    assert (tmp_path / "plot.png").is_file()


def test_nothing_labelled_is_said(tmp_path, capsys):
    found = metrics_report.evaluate([verdict("a", 0.9)], {})
    assert found.summary() == {"labels": LabelCounts(counted=0, without_verdict=0, without_label=1)}
    metrics_report.print_report(found, tmp_path / "plot.png")
    assert "no video with a verdict has a label" in capsys.readouterr().out
    assert not (tmp_path / "plot.png").exists()


def test_expected_calibration_error_by_hand():
    labels, scores = np.array([0, 1, 1, 1]), np.array([0.0, 0.1, 0.95, 1.0])
    means, shares, counts = metrics_report.reliability(labels, scores)
    assert means == pytest.approx([0.05, 0.975])  # 0 and 0.1 share the first bin
    assert shares.tolist() == [0.5, 1]
    assert counts.tolist() == [2, 2]
    assert metrics_report.expected_calibration_error(labels, scores) == pytest.approx((0.45 + 0.025) / 2)
