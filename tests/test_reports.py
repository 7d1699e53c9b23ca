"""Optional reports on verdicts (prediction/reports.py)."""

import json

import pytest

from networks.files import ModelFile
from prediction import FolderSettings, reports
from prediction.reports import Reports
from prediction.verdict import Verdict

LABELS = {f"{number}.mp4": number % 2 for number in range(10)}
MODELS = [ModelFile("a", 9, "f")]


@pytest.fixture
def verdicts():
    """Of 10 videos, each fake at 0.6 and each real at 0.4, but for two that are the other way round."""
    scores = [0.4 + 0.2 * label for label in LABELS.values()]
    scores[0], scores[1] = scores[1], scores[0]
    return [Verdict(name, "ok", score=score) for name, score in zip(LABELS, scores, strict=True)]


def test_without_labels_nothing_is_measured(verdicts, tmp_path, capsys):
    made = Reports(FolderSettings(["a"], calibrate=tmp_path / "t.json"), verdicts, None)
    made.measure(tmp_path / "plot.png", MODELS)
    assert made.summary() == {}
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("calibrate", [False, True])
def test_with_labels_there_are_metrics_a_plot_and_if_asked_for_a_temperature(verdicts, tmp_path, capsys, calibrate):
    settings = FolderSettings(["a"], calibrate=tmp_path / "t.json" if calibrate else None, strategy="mean")
    made = Reports(settings, verdicts, LABELS)
    assert made.summary()["metrics"].accuracy == 0.8
    made.measure(tmp_path / "plot.png", MODELS)
    assert (tmp_path / "plot.png").is_file()
    assert "reliability plot: " in capsys.readouterr().out
    assert (tmp_path / "t.json").is_file() == calibrate
    if calibrate:
        assert json.loads((tmp_path / "t.json").read_text())["strategy"] == "mean"


def test_the_place_of_the_pages_is_printed(verdicts, tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(reports, "make_report", lambda *given: seen.append(given) or tmp_path / "index.html")
    monkeypatch.setattr(reports, "plain", lambda made: {"plain": made})
    Reports(FolderSettings(["a"]), verdicts, None).show(tmp_path, "made", ["w"], {"a": "path"}, "load", {"0.mp4": None})
    assert seen == [(tmp_path, verdicts, {"plain": "made"}, ["w"], {"a": "path"}, "load", {"0.mp4": None})]
    assert capsys.readouterr().out == f"report: {tmp_path / 'index.html'}\n"
