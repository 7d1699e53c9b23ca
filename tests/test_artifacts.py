"""Atomic writes, stamps and the ledger (dfdc/artifacts.py)."""

import csv
import os

import pytest

from dfdc import artifacts


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_t17_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "a.json"
    artifacts.write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), artifacts.atomic_file(path) as temp:
        temp.write_text("half")
        raise RuntimeError("killed")
    assert path.read_text() == '{"old": 1}\n'
    assert names(tmp_path) == ["a.json"]


def test_t17_a_failed_folder_is_absent(tmp_path):
    path = tmp_path / "crops" / "video"
    with pytest.raises(RuntimeError), artifacts.atomic_folder(path, {}) as folder:
        (folder / "0_0.png").write_bytes(b"x")
        raise RuntimeError("killed")
    assert names(tmp_path / "crops") == []


def test_folder_is_stamped_and_replaced_whole(tmp_path):
    path = tmp_path / "video"
    for contents in (("a", "b"), ("c",)):
        with artifacts.atomic_folder(path, {"settings": len(contents)}) as folder:
            for name in contents:
                (folder / name).write_text(name)
    assert names(path) == [".stamp.json", "c"]
    assert artifacts.read_stamp(path) == {"settings": 1, "files": 1}


def test_a_folder_that_lost_a_file_is_not_trusted(tmp_path):
    path = tmp_path / "video"
    with artifacts.atomic_folder(path, {}) as folder:
        (folder / "a").write_text("a")
        (folder / "b").write_text("b")
    (path / "a").unlink()
    assert artifacts.read_stamp(path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 7}'])
def test_broken_stamps_are_not_trusted(tmp_path, content):
    (tmp_path / ".stamp.json").write_text(content)
    assert artifacts.read_stamp(tmp_path) is None


def test_t17_leftovers_of_killed_runs_go(tmp_path):
    (tmp_path / ".video.part-123").mkdir()
    (tmp_path / ".video.part-123" / "x").write_text("")
    (tmp_path / ".a.json.part-9").write_text("")
    (tmp_path / "kept").write_text("")
    assert artifacts.remove_leftovers(tmp_path) == 2
    assert names(tmp_path) == ["kept"]


def test_fingerprint_tells_versions_apart_but_not_copies(tmp_path):
    path = tmp_path / "video"
    path.write_bytes(b"a" * 200_000)
    recorded = artifacts.fingerprint(path)
    assert artifacts.same_file(recorded, path)
    os.utime(path, (1, 1))  # a copy: other times, the same content
    assert artifacts.same_file(recorded, path)
    path.write_bytes(b"b" + b"a" * 199_999)
    assert not artifacts.same_file(recorded, path)
    path.write_bytes(b"a" * 199_999)
    assert not artifacts.same_file(recorded, path)
    path.unlink()
    assert not artifacts.same_file(recorded, path)
    assert not artifacts.same_file(None, tmp_path)


def test_ledger_names_video_outcome_and_reason(tmp_path):
    ledger = artifacts.Ledger(tmp_path / "failures" / "step.csv")
    ledger.add("b, with comma", "failed", 'it said "no"')
    ledger.add("a", "skipped", "not on disk")
    ledger.write()
    with ledger.path.open(newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows == [
        ["video", "outcome", "reason"],
        ["a", "skipped", "not on disk"],
        ["b, with comma", "failed", 'it said "no"'],
    ]
    assert ledger.counts() == {"failed": 1, "skipped": 1}
    with pytest.raises(ValueError, match="outcome"):
        ledger.add("c", "broken", "")
