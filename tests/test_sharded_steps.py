"""Steps 1 to 4 in shards, and the whole run that completes them (dfdc/steps.py, dfdc/ledger.py, preprocess_data.sh)."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from behaving import Behaving
from helpers import ROOT, copy_dataset, run_script, write_part
from step_commands import STEPS
from step_commands import run as run_step

from dfdc import artifacts, layout, steps
from dfdc.command_line import SettingError
from dfdc.layout import Video
from dfdc.ledger import Ledger, StepRun, read_rows, read_run
from dfdc.shards import Shard
from dfdc.step_command import RunOptions
from preprocessing.crop_step import CropStep

THREE = [Shard(number, 3) for number in (1, 2, 3)]


@pytest.fixture
def families(tmp_path):
    """A data set of 40 families of one original and two fakes, of which some are not on disk."""
    metadata = {}
    for number in range(40):
        metadata[f"real{number}.mp4"] = {"label": "REAL"}
        for copy in range(2):
            metadata[f"{copy}fake{number}.mp4"] = {"label": "FAKE", "original": f"real{number}.mp4"}
    part = write_part(tmp_path / "part_0", metadata)
    for name in metadata:
        if name not in ("real3.mp4", "1fake5.mp4"):
            (part / name).write_bytes(b"x")
    return layout.load_dataset(tmp_path)


def test_each_video_is_in_one_shard_with_its_original(families):
    step = Behaving(families.root)
    step.labels = (layout.REAL, layout.FAKE)
    videos, skipped = step.select(families)
    shares = [step.select(families, shard) for shard in THREE]
    assert sorted(video.id for own, _ in shares for video in own) == sorted(video.id for video in videos)
    assert sorted(row for _, own in shares for row in own) == sorted(skipped)
    assert {name for name, _ in skipped} == {"real3", "0fake3", "1fake3", "1fake5"}
    by_id = {video.id: number for number, (own, _) in enumerate(shares) for video in own}
    assert all(by_id[video.id] == by_id[video.source] for video in videos)
    assert all(20 < len(own) < 60 for own, _ in shares)


def test_step_2_takes_the_same_families(families):
    for video in families.reals():
        path = layout.bboxes_path(families.root, video.id)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    shares = [CropStep(families.root, "crops").select(families, shard)[0] for shard in THREE]
    assert [sorted({video.source for video in own}) for own in shares] == [
        sorted(video.id for video in families.reals() if shard.holds(video.id)) for shard in THREE
    ]
    assert sum(map(len, shares)) == len(families.videos)


# --------------------------------------------------------------------------------------------- ledgers
def run(root, names, shard, **options):
    """A run of a step in this process over videos of these names; returns its status."""

    def engine(task, items):
        task.start("cpu")
        yield from ((item, steps.outcome_of(task.work, item)) for item in items)

    videos = [Video(name, root / f"{name}.mp4", "part", "REAL", None) for name in names]
    return steps.run_step(Behaving(root), RunOptions(shard=shard, max_failed=1.0, **options), videos, [], engine)


def test_a_shard_writes_its_own_ledger_and_the_whole_run_removes_those_of_all(tmp_path, capsys):
    run(tmp_path, ["fails-1", "good-1"], Shard(1, 3))
    run(tmp_path, ["fails-2"], Shard(2, 3))
    ledgers = [layout.ledger_path(tmp_path, "a_step", shard) for shard in THREE]
    assert [path.name for path in ledgers] == [f"a_step.shard-{number}-of-3.csv" for number in (1, 2, 3)]
    assert [row[0] for row in read_rows(ledgers[0])] == ["fails-1"]
    assert [row[0] for row in read_rows(ledgers[1])] == ["fails-2"]
    assert read_run(ledgers[0]) == StepRun(2, 2, True)
    assert "a_step, shard 1/3: 2 videos (0 were complete)" in capsys.readouterr().out
    whole = layout.ledger_path(tmp_path, "a_step")
    assert not whole.exists()
    other = tmp_path / "failures" / "another_step.shard-1-of-3.csv"
    other.touch()
    Ledger(whole, 3)  # a whole run that was killed
    assert all(path.exists() for path in ledgers[:2])
    run(tmp_path, ["fails-1", "good-1", "fails-2"], Shard())
    assert [row[0] for row in read_rows(whole)] == ["fails-1", "fails-2"]
    assert sorted(path.name for path in (tmp_path / "failures").iterdir()) == [
        "a_step.csv",
        "a_step.json",
        "another_step.shard-1-of-3.csv",
    ]


def test_another_number_of_shards_leaves_no_ledger_behind(tmp_path):
    run(tmp_path, ["fails-1"], Shard(2, 2))
    run(tmp_path, ["fails-1"], Shard(7, 9))
    run(tmp_path, ["fails-1"], Shard(1, 1))
    assert sorted(path.name for path in (tmp_path / "failures").iterdir()) == ["a_step.csv", "a_step.json"]


def test_only_the_whole_run_prunes():
    with pytest.raises(SettingError, match=r"^shard 2/3: one shard can't prune for all; use prune without shard$"):
        RunOptions(prune=(), shard=Shard(2, 3))
    assert RunOptions(prune=(), shard=Shard(1, 1)).prune == ()


@pytest.mark.parametrize("name", STEPS)
def test_every_step_has_shards_and_refuses_others(tmp_path, started, capsys, name):
    write_part(tmp_path / "part_0", {})
    run_step(name, tmp_path, "--shard", "2/3")
    assert started[0][1].shard == Shard(2, 3)
    for wrong in ("0/3", "4/3", "3"):
        with pytest.raises(SystemExit) as end:
            run_step(name, tmp_path, "--shard", wrong)
        assert end.value.code == 2
        assert f"argument --shard: '{wrong}': " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_step(name, tmp_path, "--help")
    assert "shards are numbered from 1 to N" in " ".join(capsys.readouterr().out.split())


# ------------------------------------------------------------------------------------------ real steps
def contents(root: Path) -> dict[str, object]:
    """What the steps wrote, by path: bytes, and stamps without the times of files."""
    found: dict[str, object] = {}
    for folder in ("bboxes", "crops", "landmarks", "diffs", "failures"):
        for path in sorted((root / folder).rglob("*")):
            if path.name == artifacts.STAMP_NAME:
                stamp = json.loads(path.read_text())
                found[str(path.relative_to(root))] = {key: stamp[key] for key in stamp if key != "listing"}
            elif path.is_file():
                found[str(path.relative_to(root))] = path.read_bytes()
    found["folds.csv"] = (root / "folds.csv").read_bytes()
    return found


@pytest.mark.slow
def test_three_shards_at_the_same_time_and_the_plain_command_equal_a_whole_run(preprocessed, demo_root, tmp_path):
    root = copy_dataset(demo_root, tmp_path / "data root")
    environment = {**os.environ, "VENV": str(Path(sys.executable).parents[1])}

    def start(*more):
        command = [ROOT / "preprocess_data.sh", root, "--workers", "1", "--device", "cpu", *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    shards = [start("--shard", f"{number}/3") for number in (1, 2, 3)]
    for number, process in enumerate(shards, 1):
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        last = out.splitlines()[-1]
        assert last.startswith(f"Shard {number}/3 is done. After all shards, run the same command without --shard")
        assert f"./preprocess_data.sh {str(root).replace(' ', chr(92) + ' ')} ..." in last
    assert not (root / "folds.csv").exists()
    assert not (root / "report").exists()
    by_shard = {(shard.number, step): layout.ledger_path(root, step, shard) for shard in THREE for step in STEPS}
    assert sorted(path for path in (root / "failures").glob("*.csv")) == sorted(by_shard.values())
    sizes = [read_run(by_shard[number, "extract_crops"]).videos for number in (1, 2, 3)]
    assert sum(sizes) == 16
    assert max(sizes) < 16

    process = start()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    complete = re.findall(r"^\w+: (\d+) videos \((\d+) were complete\)", out, re.MULTILINE)
    assert len(complete) == 4
    assert all(done == videos != "0" for videos, done in complete)
    assert contents(root) == contents(preprocessed)
    assert (root / "report/index.html").is_file()


@pytest.mark.slow
def test_a_setting_that_changed_since_the_shards_is_noticed(tmp_path, capsys):
    part = write_part(tmp_path / "part_0", {f"{name}.mp4": {"label": "REAL"} for name in "abcd"})
    for name in "abcd":
        shutil.copy(ROOT / "tests/data/clip/real.mp4", part / f"{name}.mp4")
    for number in (1, 2):
        shard = ["--shard", f"{number}/2", "--detector-scale", "0.5"]
        assert run_step("detect_original_faces", tmp_path, "--workers", 1, "--device", "cpu", *shard) == 0
    capsys.readouterr()
    assert (
        run_step("detect_original_faces", tmp_path, "--workers", 1, "--device", "cpu", "--detector-scale", "0.5") == 0
    )
    assert "detect_original_faces: 4 videos (4 were complete)" in capsys.readouterr().out
    assert run_step("detect_original_faces", tmp_path, "--workers", 1, "--device", "cpu") == 0
    assert "detect_original_faces: 4 videos (0 were complete)" in capsys.readouterr().out


@pytest.mark.slow
def test_prune_in_a_shard_is_refused_by_its_flag(tmp_path):
    write_part(tmp_path / "part_0", {})
    given = ["--root-dir", tmp_path, "--shard", "2/3", "--prune"]
    done = run_script("preprocessing/extract_crops.py", *given)
    said = "extract_crops.py: --shard 2/3: one shard can't prune for all; use --prune without --shard\n"
    assert (done.returncode, done.stderr) == (2, said)
