"""The trainer's flags (training/arguments.py)."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from dfdc.command_line import UsageError
from training.arguments import NamedSet, find_folds, parse_arguments, parse_named_set


@pytest.mark.parametrize(
    ("text", "name", "root", "fold"),
    [
        ("celeb=/data/celeb", "celeb", "/data/celeb", None),
        ("celeb=/data/celeb:3", "celeb", "/data/celeb", 3),
        ("a-b_1=C:/x", "a-b_1", "C:/x", None),
        ("a=b=c:0", "a", "b=c", 0),
        ("a=/data/x:y:12", "a", "/data/x:y", 12),
    ],
)
def test_named_sets_are_read(text, name, root, fold):
    found = parse_named_set(text)
    assert (found.name, str(found.root), found.fold) == (name, root, fold)
    assert isinstance(found, NamedSet)


@pytest.mark.parametrize("text", ["celeb", "=x", "a b=x", "a=", "a=:3", "é=x"])
def test_other_texts_are_refused(text):
    with pytest.raises(UsageError, match="NAME=DATA_ROOT or NAME=DATA_ROOT:FOLD is expected"):
        parse_named_set(text)


def test_a_setting_that_is_given_is_kept_and_nothing_may_change_it():
    settings = parse_arguments("", ["--data-dir", "x", "--seed", "5", "--resume", "weights/a"])
    assert (settings.data_dir, settings.seed) == (Path("x"), 5)
    assert (settings.resume, settings.init_from) == (None, Path("weights/a"))  # the old name of --init-from
    with pytest.raises(FrozenInstanceError):
        settings.seed = 6


def test_folds_csv_is_looked_for_in_the_data_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").touch()
    assert find_folds(tmp_path / "data", Path("a.csv")) == Path("a.csv")
    assert find_folds(tmp_path / "data", Path("b.csv")) == tmp_path / "data" / "b.csv"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").touch()
    assert find_folds(tmp_path / "data", Path("a.csv")) == tmp_path / "data" / "a.csv"
