"""What could not be done, and how far a step came (dfdc/ledger.py)."""

import json

import pytest

from dfdc import ledger as ledger_module
from dfdc.ledger import Ledger, StepRun, read_rows, read_run


@pytest.fixture
def path(tmp_path):
    return tmp_path / "failures" / "step.csv"


def test_ledger_names_video_outcome_and_reason(path):
    ledger = Ledger(path, 3)
    ledger.add("b, with comma", "failed", 'it said "no"')
    ledger.skip([("a", "not on disk")])
    ledger.add("c", "incomplete", "half\nof it")
    ledger.write()
    assert path.read_text().splitlines()[0] == "video,outcome,reason"
    assert read_rows(path) == [
        ("a", "skipped", "not on disk"),
        ("b, with comma", "failed", 'it said "no"'),
        ("c", "incomplete", "half\nof it"),
    ]
    assert ledger.counts() == {"failed": 1, "skipped": 1, "incomplete": 1}
    assert ledger.rows("failed") == [("b, with comma", 'it said "no"')]
    with pytest.raises(ValueError, match="outcome 'broken' is none of failed, skipped, incomplete"):
        ledger.add("d", "broken", "")


def test_a_killed_step_leaves_the_old_rows_and_says_that_it_did_not_end(path):
    first = Ledger(path, 3)
    for video in "abc":
        first.looked_at(video)
        first.add(video, "failed", "as before")
    first.finish()
    assert read_run(path) == StepRun(3, 3, True)

    second = Ledger(path, 3)
    assert read_run(path) == StepRun(3, 0, False)
    assert len(read_rows(path)) == 3  # nobody has looked yet
    second.looked_at("a")
    second.looked_at("b")
    second.add("b", "incomplete", "now half")
    second.write()  # and then it is killed
    assert read_rows(path) == [("b", "incomplete", "now half"), ("c", "failed", "as before")]
    assert read_run(path) == StepRun(3, 2, False)


def test_a_step_that_ends_leaves_only_what_it_said(path):
    first = Ledger(path, 2)
    first.add("taken away", "failed", "old")
    first.add("b", "failed", "old")
    first.add("s", "failed", "old")
    first.finish()
    second = Ledger(path, 1)
    second.skip([("s", "not on disk")])
    assert ("s", "old") not in second.rows("failed")
    second.looked_at("b")
    second.finish()
    assert read_rows(path) == [("s", "skipped", "not on disk")]
    assert read_run(path) == StepRun(1, 1, True)


@pytest.mark.parametrize("text", ["", "a,b,c\n1,2,3\n", "video,outcome,reason\nx,y\n", 'video,outcome,reason\n"a'])
def test_a_ledger_that_is_none_is_told_and_written_anew(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match=r"first line|has \d values"):
        read_rows(path)
    Ledger(path, 1).finish()
    assert read_rows(path) == []


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        7,
        {"videos": "1", "looked_at": 1, "finished": True},
        {"videos": 1, "looked_at": 1.5},
        {"videos": 1, "looked_at": 1, "finished": 1},
    ],
)
def test_a_record_that_is_none_says_nothing(path, content):
    path.parent.mkdir()
    path.with_suffix(".json").write_text(json.dumps(content))
    assert read_run(path) is None
    path.with_suffix(".json").write_text("{")
    assert read_run(path) is None
    path.with_suffix(".json").unlink()
    assert read_run(path) is None


def test_it_is_on_disk_within_a_second_or_two_and_not_each_time(path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(ledger_module.time, "monotonic", lambda: now[0])
    ledger = Ledger(path, 9)
    ledger.add("a", "failed", "why")
    assert read_rows(path) == []
    now[0] += 1.5
    ledger.add("b", "failed", "why")
    assert [row[0] for row in read_rows(path)] == ["a", "b"]
    ledger.looked_at("c")
    assert read_run(path).looked_at == 0
    now[0] += 1.5
    ledger.looked_at("d")
    assert read_run(path).looked_at == 2


def test_names_that_are_no_text_are_written_all_the_same(path):
    ledger = Ledger(path, 1)
    ledger.add("\udc80", "failed", "why")
    ledger.finish()
    assert read_rows(path) == [("\\udc80", "failed", "why")]
