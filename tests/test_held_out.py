"""Checkpoints that may have learned from what they are to score (prediction/held_out.py)."""

from pathlib import Path

import pytest

from dfdc.command_line import UserError
from networks.holdout import Holdout
from networks.spec import CheckpointError, ModelSpec
from prediction import held_out
from prediction.results import Held


def refused(call, *arguments, **options):
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    return str(error.value)


def models(monkeypatch, **holdouts):
    """Checkpoints of these names, each with what it held out, or None; an exception is raised."""

    def look(path):
        holdout = holdouts[path.name]
        if isinstance(holdout, Exception):
            raise holdout
        return ModelSpec("DeepFakeClassifier", "test_resnet", 96), holdout

    monkeypatch.setattr(held_out, "check_model", look)
    return [Path("/w", name) for name in holdouts]


def test_what_was_held_out_is_said_and_what_was_learned_is_refused(monkeypatch, capsys):
    good = Holdout(1, "abc", ("a", "b"), 7)
    said = held_out.check_held_out(["a.mp4", "b.mp4"], 1, models(monkeypatch, good=good, older=None))
    assert said == [Held("good", 1, "abc", 7), Held("older", "unknown")]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "warning: older does not record what it was trained on; if it was these videos, its metrics are optimistic\n"
    )
    videos = [f"{name}.mp4" for name in "vwxyz"]
    for fold, holdouts, shown in (
        (0, {"one": good}, "\n  one, which held out fold 1: 5 of 5 videos (v, w, x, ...)\nuse fold 1; to score"),
        (0, {"one": Holdout(2, "", ("v",), 1)}, "fold 2: 4 of 5 videos (w, x, y, ...)\nuse"),
        (0, {"one": Holdout(2, "", ("v", "w"), 1)}, "fold 2: 3 of 5 videos (x, y, z)\nuse fold 2; to"),
        (
            0,
            {"b": Holdout(2, "", (), 1), "a": good},
            "\nuse fold 1 or use fold 2 (each checkpoint alone); to",
        ),
        (1, {"one": good}, "\nuse the folds.csv that it was trained with, unless its initial weights"),
    ):
        refusal = refused(held_out.check_held_out, videos, fold, models(monkeypatch, **holdouts))
        assert refusal.startswith(f"fold {fold}: a checkpoint may have been trained on these videos\n  ")
        assert shown in refusal
    assert "broken" in refused(
        held_out.check_held_out, videos, 0, models(monkeypatch, bad=CheckpointError("it is broken"))
    )


def test_a_checkpoint_of_few_videos_is_named(monkeypatch, capsys):
    few, many = (Holdout(0, "f", ("a",), number) for number in (1, 1000))
    warning = "a was trained on 1 video only; its scores of other people mean nothing"
    assert held_out.warn_of_few(models(monkeypatch, a=few, b=many, c=None)) == [warning]
    assert capsys.readouterr().err == f"warning: {warning}\n"
    assert held_out.warn_of_few(models(monkeypatch, b=many, c=None)) == []
