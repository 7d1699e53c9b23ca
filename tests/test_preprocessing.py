"""The preprocessing steps on videos (preprocessing/*.py)."""

import csv
import json
import re
import shutil
import subprocess

import pytest
from helpers import (
    ROOT,
    copy_dataset,
    numbered_frames,
    run_script,
    write_part,
)
from step_commands import STEPS

from dfdc import artifacts, layout
from dfdc.command_line import UserError
from dfdc.video import write_video
from preprocessing import generate_folds

COMMANDS = {**STEPS, "generate_folds": generate_folds}


def run_step(name, root, *arguments):
    return run_script(f"preprocessing/{name}.py", "--root-dir", root, *arguments)


def ledger(root, step):
    with layout.ledger_path(root, step).open(newline="") as handle:
        return {row["video"]: (row["outcome"], row["reason"]) for row in csv.DictReader(handle)}


def snapshot(root):
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for folder in ("bboxes", "crops", "landmarks", "diffs")
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def root(preprocessed, tmp_path):
    """A preprocessed data set that may be written to."""
    return copy_dataset(preprocessed, tmp_path / "data root")


@pytest.fixture(scope="module")
def dataset(preprocessed):
    return layout.load_dataset(preprocessed)


@pytest.mark.slow
def test_the_driver_says_steps_times_and_a_table(preprocessed, dataset):
    out = (preprocessed / "preprocess_data.out").read_text()
    for number, step in enumerate(COMMANDS, 1):
        assert f"[{number}/5] {step} took" in out
    rows = dict(line.rsplit("  ", 1) for line in out.splitlines() if "  " in line)
    rows = {key.strip(): value.strip() for key, value in rows.items()}
    assert rows["videos"] == f"{len(dataset.reals())} real, {len(dataset.fakes())} fake, 0 skipped"
    assert int(rows["faces"]) == 4 * len(dataset.reals())
    assert int(rows["crops"]) == 4 * len(dataset.videos)
    assert int(rows["masks"]) == 4 * len(dataset.fakes())
    assert rows["failures/extract_crops.csv"].startswith("0 failed")
    assert rows["page"] == str(layout.report_path(preprocessed))
    assert layout.report_path(preprocessed).is_file()


@pytest.mark.slow
def test_t17_a_second_run_does_nothing_and_force_redoes(root):
    before = snapshot(root)
    for step in STEPS:
        done = run_step(step, root)
        assert done.returncode == 0, done.stderr
    assert snapshot(root) == before
    assert run_step("generate_diffs", root, "--force", "--workers", 1).returncode == 0
    changed = {name for name, state in snapshot(root).items() if before[name] != state}
    assert {name.split("/")[0] for name in changed} == {"diffs"}


@pytest.mark.slow
def test_what_is_missing_or_stale_is_redone_and_nothing_else(root):
    dataset = layout.load_dataset(root)
    gone, edited = dataset.reals()[0].id, dataset.reals()[1].id
    fakes = {video.id for video in dataset.fakes() if video.source == edited}
    before = snapshot(root)
    shutil.rmtree(layout.crops_path(root, gone))
    path = layout.bboxes_path(root, edited)
    boxes = json.loads(path.read_text())
    boxes["frames"]["0"][0]["box"][0] += 4
    artifacts.write_json(path, boxes)
    for step in ("extract_crops", "generate_diffs"):
        assert run_step(step, root).returncode == 0
    after = snapshot(root)
    touched = {tuple(name.split("/")[:2]) for name in after if before.get(name) != after[name]}
    masks = {("diffs", video.id) for video in dataset.fakes() if video.source in (gone, edited)}
    crops = {("crops", name) for name in (gone, edited, *fakes)}
    # The crops of `gone` come back the same, so that only masks of `edited` are stale.
    masks = {("diffs", name) for name in fakes}
    assert touched == crops | masks | {("bboxes", path.name)}


@pytest.mark.slow
def test_bad_videos_stand_in_the_ledger_and_the_others_go_on(demo_root, tmp_path):
    root = copy_dataset(demo_root, tmp_path / "root")
    dataset = layout.load_dataset(root)
    by_part = {}
    for video in dataset.videos.values():
        by_part.setdefault((video.part, video.label), []).append(video)
    first, second, *_ = (videos for (_, label), videos in by_part.items() if label == "REAL")
    zero, cut = first[0], second[0]
    fake = next(video for video in dataset.fakes() if video.source not in (zero.id, cut.id))
    other = next(video for video in dataset.fakes() if video.source not in (zero.id, cut.id) and video != fake)
    for video in (zero, cut, fake, other):
        video.path.unlink()  # a hard link: the shared file stays
    zero.path.write_bytes(b"")
    cut.path.write_bytes((demo_root / cut.part / cut.path.name).read_bytes()[:2000])
    fake.path.write_text("not a video")
    part = write_part(
        root / "extra",
        {
            "empty scene.mp4": {"label": "REAL"},
            "absent.mp4": {"label": "REAL"},
            "orphan.mp4": {"label": "FAKE", "original": "gone.mp4"},
        },
    )
    write_video(part / "empty scene.mp4", numbered_frames(21))
    (part / "orphan.mp4").write_bytes(b"x")

    done = run_step("detect_original_faces", root, "--max-failed", 1)
    assert done.returncode == 0, done.stderr
    rows = ledger(root, "detect_original_faces")
    assert rows[zero.id] == ("failed", "the file has zero bytes")
    assert rows[cut.id][0] == "failed"
    assert rows["empty scene"][0] == "failed"
    assert "no face detected in 3 frames" in rows["empty scene"][1]
    assert rows["absent"][0] == "skipped"
    assert not {"orphan", other.id} & rows.keys()  # fakes are not searched: step 2 is about them
    assert not layout.bboxes_path(root, zero.id).exists()

    done = run_step("extract_crops", root)
    assert done.returncode == 1  # 1 of 9 failed is more than 5 %
    assert fake.id in done.stderr
    assert "--max-failed" in done.stderr
    rows = ledger(root, "extract_crops")
    assert rows[fake.id][0] == "failed"
    assert rows[zero.id] == (
        "skipped",
        f"{zero.id} has no boxes; run step 1 (detect_original_faces.py)",
    )
    assert rows["empty scene"] == ("skipped", "no face detected in empty scene")
    for step in ("generate_landmarks", "generate_diffs", "generate_folds"):
        assert run_step(step, root).returncode == 0
    assert ledger(root, "generate_diffs")[fake.id][0] == "skipped"
    assert not list(root.rglob("*.part-*"))


@pytest.mark.slow
def test_a_failed_redo_leaves_nothing_stale(root):
    video = layout.load_dataset(root).fakes()[0]
    video.path.unlink()
    video.path.write_bytes(b"broken")
    assert run_step("extract_crops", root, "--max-failed", 1).returncode == 0
    assert not layout.crops_path(root, video.id).exists()


@pytest.mark.parametrize("step", COMMANDS)
@pytest.mark.parametrize("kind", ["empty", "broken", "absent"])
def test_unusable_data_exits_2_and_says_what_to_do(tmp_path, step, kind):
    root = tmp_path / "root"
    if kind != "absent":
        root.mkdir()
    if kind == "broken":
        write_part(root / "part_0", '{"a": ')
    with pytest.raises(UserError) as refusal:
        COMMANDS[step].main(["--root-dir", str(root)])
    assert refusal.value.status == 2
    said = {"empty": "contains a metadata.json", "broken": "invalid JSON", "absent": "is not a folder"}[kind]
    assert said in str(refusal.value)
    assert str(root) in str(refusal.value)
    assert not root.exists() or sorted(path.name for path in root.iterdir()) == (["part_0"] if kind == "broken" else [])


@pytest.mark.parametrize("name", ["../outside", "landmarks", "part_0", ".", "", "a/b", "bboxes", "report"])
def test_crops_never_lie_where_something_else_does(family_copy, name):
    root = family_copy
    before = sorted(root.rglob("*"))
    for step in ("extract_crops", "generate_landmarks", "generate_diffs", "generate_folds"):
        with pytest.raises(UserError, match=re.escape(f"crops_dir {name}: choose the plain name")) as refusal:
            COMMANDS[step].main(["--root-dir", str(root), "--crops-dir", name])
        assert refusal.value.status == 2
    assert sorted(root.rglob("*")) == before


@pytest.mark.slow
def test_crops_of_a_video_that_broke_since_are_not_listed(root):
    video = layout.load_dataset(root).reals()[0]
    family = {v.id for v in layout.load_dataset(root).videos.values() if v.source == video.id}
    video.path.unlink()
    video.path.write_bytes(b"")
    for step in ("detect_original_faces", "extract_crops"):
        assert run_step(step, root, "--max-failed", 1).returncode == 0
    assert run_step("generate_folds", root).returncode == 0
    listed = {line.split(",")[0] for line in (root / "folds.csv").read_text().splitlines()}
    assert not family & listed
    assert listed


@pytest.mark.slow
def test_one_broken_crop_costs_that_crop(root):
    dataset = layout.load_dataset(root)
    video = dataset.reals()[0]
    fakes = [fake.id for fake in dataset.fakes() if fake.source == video.id]
    (layout.crops_path(root, video.id) / "10_0.png").write_bytes(b"cut")
    for step, ids in (("generate_landmarks", [video.id]), ("generate_diffs", fakes)):
        assert run_step(step, root, "--force").returncode == 0
        for name in ids:
            assert ledger(root, step)[name][0] == "incomplete"


@pytest.mark.slow
def test_a_read_only_place_is_a_message(tmp_path):
    write_part(tmp_path / "part_0", {"a.mp4": {"label": "REAL"}})
    (tmp_path / "failures").write_text("a file where the ledger's folder should be")
    done = run_step("detect_original_faces", tmp_path)
    assert done.returncode == 2
    assert "failures" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "preprocess_data.sh DATA_ROOT"),
        (["/absent"], "there is no folder '/absent'"),
        (["/tmp", "--wat"], "--wat"),
        (["/tmp", "--workers"], "--workers needs a value"),
    ],
)
def test_the_drivers_usage(arguments, said):
    done = subprocess.run([ROOT / "preprocess_data.sh", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr
