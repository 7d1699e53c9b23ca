"""Scoring in shards, and the whole run that completes them (prediction/folder.py, prediction/progress.py).

A stand-in does the scoring, but in the last test.
"""

import shutil
import subprocess
import sys

import pytest
from helpers import ROOT
from scoring_runs import labels
from test_folder import SCORES, StandIn

import predict_folder
from dfdc import layout
from dfdc.command_line import SettingError, UserError
from dfdc.shards import Shard
from prediction import folder
from prediction.progress import only_run

NAMES = [f"{letter}{number}.mp4" for letter in "abc" for number in range(4)]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    StandIn.made = []
    monkeypatch.setattr(folder, "Scorer", StandIn)
    for name in NAMES:
        monkeypatch.setitem(SCORES, name, SCORES[f"{name[0]}.mp4"])


@pytest.fixture
def videos(tmp_path):
    """Twelve files; those of c have no face."""
    (tmp_path / "v").mkdir()
    for name in NAMES:
        (tmp_path / "v" / name).write_bytes(name.encode())
    return tmp_path / "v"


@pytest.fixture
def go(weights, videos, tmp_path):
    """Run the command over these files; returns its exit status and the names that it scored."""

    def run(*more, output="o.csv"):
        before = len(StandIn.made)
        given = ["--weights-dir", weights, "--models", "a", "--output", tmp_path / output, "--device", "cpu"]
        status = predict_folder.main([str(part) for part in (*given, "--no-report", "--test-dir", videos, *more)])
        return status, [name for made in StandIn.made[before:] for name in made.scored]

    return run


def held(number, count=3):
    return [name for name in NAMES if Shard(number, count).holds(name)]


def outputs(folder_of, stem="o"):
    """Names of the files in a folder that a run wrote."""
    return sorted(path.name for path in folder_of.iterdir() if path.name.startswith(stem))


def test_three_shards_and_a_run_that_only_completes_them_equal_a_whole_run(go, tmp_path, capsys):
    assert go(output="whole.csv") == (1, NAMES)
    for number in (3, 1, 2):
        expected = any(name.startswith("c") for name in held(number))
        assert go("--shard", f"{number}/3") == (int(expected), held(number))
        said = capsys.readouterr().out
        assert f"shard {number}/3: {len(held(number))} of 12 videos" in said
        assert "After all shards, the same command without shard and force writes" in said
    assert all(map(held, (1, 2, 3)))
    assert outputs(tmp_path) == [f"o.csv.shard-{number}-of-3.progress" for number in (1, 2, 3)]
    assert go() == (1, [])
    assert "12 of 12 are already done" in capsys.readouterr().out
    assert outputs(tmp_path) == ["o.csv", "o.csv.progress", "o.json"]
    for suffix in (".csv", ".json"):
        assert (tmp_path / f"o{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert go() == (1, [])  # the merged file lasts


def test_a_shard_again_scores_nothing_twice(go, videos):
    go("--shard", "1/3")
    assert go("--shard", "1/3")[1] == []
    assert go("--shard", "1/3", "--force")[1] == held(1)
    (videos / held(1)[0]).write_bytes(b"another film")
    assert go("--shard", "1/3")[1] == held(1)[:1]


def test_a_shard_knows_what_a_whole_run_has_done(go, videos, tmp_path):
    go()
    before = (tmp_path / "o.csv.progress").read_bytes()
    new = next(name for name in (f"a{number}.mp4" for number in range(4, 99)) if Shard(2, 3).holds(name))
    SCORES[new] = 0.5
    (videos / new).write_bytes(b"new")
    assert go("--shard", "1/3")[1] == []
    assert go("--shard", "2/3")[1] == [new]
    assert (tmp_path / "o.csv.progress").read_bytes() == before
    assert go()[1] == []
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 14
    del SCORES[new]


def test_a_missing_shard_is_scored_by_the_whole_run(go, tmp_path):
    go("--shard", "1/3")
    go("--shard", "3/3")
    lines = (tmp_path / "o.csv.shard-3-of-3.progress").read_text().splitlines(keepends=True)
    (tmp_path / "o.csv.shard-3-of-3.progress").write_text("".join(lines[:-1]) + lines[-1][:40])  # killed as it wrote
    lost = [name for name in held(3) if f'"{name}"' in lines[-1]]
    assert sorted(go()[1]) == sorted([*held(2), *lost])


def test_force_scores_anew_what_shards_have_scored(go, tmp_path):
    for number in (1, 2, 3):
        go("--shard", f"{number}/3")
    assert go("--force")[1] == NAMES
    assert outputs(tmp_path) == ["o.csv", "o.csv.progress", "o.json"]


def test_other_settings_of_a_shard_are_named_and_nothing_is_lost(go, tmp_path):
    go("--shard", "1/3", "--precision", "fp32")
    go("--shard", "2/3", "--precision", "fp32", "--detector-scale", "0.5")
    before = {name: (tmp_path / name).read_bytes() for name in outputs(tmp_path)}
    said = r"shard-2-of-3\.progress: written by a run with other settings \(detector_scale\); use the settings"
    with pytest.raises(UserError, match=said) as refusal:
        go("--precision", "fp32")
    assert refusal.value.status == 2
    assert {name: (tmp_path / name).read_bytes() for name in outputs(tmp_path)} == before
    (tmp_path / "o.csv.shard-2-of-3.progress").unlink()
    assert sorted(go("--precision", "fp32")[1]) == sorted([*held(2), *held(3)])


def test_a_file_of_a_shard_that_is_none_is_named(go, tmp_path):
    (tmp_path / "o.csv.shard-2-of-3.progress").write_text("not a line of ours\n")
    with pytest.raises(UserError, match=r"shard-2-of-3\.progress: written by a run with other settings; use"):
        go()


def test_results_of_other_settings_are_kept_when_shards_are_taken_in(go, tmp_path):
    go("--detector-scale", "0.5")
    for number in (1, 2, 3):
        go("--shard", f"{number}/3")
    assert go()[1] == []
    assert go("--detector-scale", "0.5")[1] == []
    assert go()[1] == []


def test_a_whole_run_and_its_shards_never_run_at_the_same_time(go, tmp_path):
    go("--shard", "1/3")
    with only_run(tmp_path / "o.csv", Shard(2, 3)):
        for arguments in ((), ("--shard", "2/3")):
            with pytest.raises(SettingError, match=r"o\.csv: another run writes to it"):
                go(*arguments)
        assert go("--shard", "1/3")[1] == []
    with only_run(tmp_path / "o.csv"), pytest.raises(SettingError, match="another run writes to it"):
        go("--shard", "3/3")
    assert sorted(go()[1]) == sorted([*held(2), *held(3)])
    assert not list(tmp_path.glob(".*.lock"))


def test_videos_that_the_whole_run_has_not_stay_in_its_file(go, videos, tmp_path):
    for number in (1, 2, 3):
        go("--shard", f"{number}/3")
    away = tmp_path / "away"
    away.mkdir()
    shutil.move(videos / NAMES[0], away)
    go()
    shutil.move(away / NAMES[0], videos)
    assert go()[1] == []


def test_a_shard_without_videos_does_nothing(go, tmp_path, capsys):
    number = next(number for number in range(1, 100) if not held(number, 99))
    assert go("--shard", f"{number}/99") == (0, [])
    assert f"shard {number}/99: 0 of 12 videos\n" in capsys.readouterr().out
    assert outputs(tmp_path) == []


def test_labels_and_calibrations_are_for_the_whole_run(go, tmp_path):
    labels = tmp_path / "l.csv"
    labels.write_text("filename,label\n" + "".join(f"{name},{int(name < 'b')}\n" for name in NAMES))
    given = ["--labels", str(labels), "--calibrate", str(tmp_path / "t.json")]
    for number in (1, 2, 3):
        go("--shard", f"{number}/3", *given)
    assert not (tmp_path / "t.json").exists()
    assert outputs(tmp_path, "o_") == []


@pytest.mark.parametrize("value", ["0/3", "4/3", "x"])
def test_no_shard_of_that_number_exits_2(go, capsys, value):
    with pytest.raises(SystemExit) as end:
        go("--shard", value)
    assert end.value.code == 2
    assert f"argument --shard: '{value}': " in capsys.readouterr().err


def test_the_self_test_has_no_shards(weights):
    with pytest.raises(UserError, match="leave out videos, labels, calibrations and shards"):
        predict_folder.main(["--weights-dir", str(weights), "--self-test", "--shard", "1/2"])


@pytest.mark.slow
def test_three_shards_at_the_same_time_equal_a_whole_run(weights, demo_root, tmp_path):
    """With the true networks; the bytes of both results are equal."""
    (tmp_path / "v").mkdir()
    for video in layout.load_dataset(demo_root).fakes()[:6]:
        (tmp_path / "v" / video.path.name).hardlink_to(video.path)
    command = [sys.executable, ROOT / "predict_folder.py", "--weights-dir", weights, "--models", "a", "--device", "cpu"]
    command += ["--test-dir", tmp_path / "v", "--no-report", "--precision", "fp32", "--engine", "torch"]

    def start(output, *more):
        return subprocess.Popen([str(part) for part in (*command, "--output", tmp_path / output, *more)])

    shards = [start("o.csv", "--shard", f"{number}/3") for number in (1, 2, 3)]
    assert [process.wait(300) for process in shards] == [0, 0, 0]
    assert len(list(tmp_path.glob("o.csv.shard-*"))) > 1
    assert [start(output).wait(300) for output in ("o.csv", "whole.csv")] == [0, 0]
    assert not list(tmp_path.glob("*shard*"))
    assert all(0 < float(score) < 1 for score in labels(tmp_path / "o.csv").values())
    for suffix in (".csv", ".json"):
        assert (tmp_path / f"o{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
