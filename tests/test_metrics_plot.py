"""What the reliability plot and its bins hold (prediction/metrics_report.py)."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from prediction import metrics_report
from prediction.metrics_report import evaluate, expected_calibration_error, plot_reliability, reliability
from prediction.results import Confusion
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
    assert legend == ["as sure as right", *(line.get_label() for line in (first, second, last))]
    assert upper.get_title() == "6 labelled videos, 3 fake"
    for text, x, y in zip(upper.texts, last.get_xdata(), last.get_ydata(), strict=True):
        assert text.xy == (x, y)
        assert text.get_va() == ("top" if y > 0.5 else "bottom")
        assert text.xyann == (0, -9 if y > 0.5 else 9)
    assert sum(int(text.get_text()) for text in upper.texts) == len(ROWS)
    assert lower.get_ylabel() == "videos"


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


def test_videos_that_all_score_low_have_empty_bins_above(tmp_path, capsys):
    metrics_report.print_report(labelled((0, 0.02), (1, 0.31)), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert f"reliability plot: {tmp_path / 'plot.png'}" in capsys.readouterr().out
    metrics_report.print_report(evaluate([], {}), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


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
