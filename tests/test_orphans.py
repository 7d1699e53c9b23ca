"""Artifacts of videos that are named no more, and rows of rejected.csv that name none (preprocessing/orphans.py)."""

import json
from pathlib import Path

import pytest
from step_commands import FOLDERS, STEPS, run

from dfdc import artifacts, layout
from dfdc.command_line import UsageError
from dfdc.layout import Skipped, Video
from dfdc.rejections import Rejection, Rejections
from preprocessing.fold_assignment import Assignment
from preprocessing.folds_stamp import FoldsStamp, Options, stamp_path
from preprocessing.orphans import find_orphans, rows_without_effect


@pytest.fixture
def root(family_copy):
    return family_copy


def put_folder(path):
    with artifacts.atomic_folder(path) as folder:
        folder.stamp = artifacts.Stamp({}, {})


@pytest.mark.parametrize("name", STEPS)
def test_what_belongs_to_no_video_any_more_is_kept_until_prune(root, started, name, capsys):
    part = root / "part_0"
    metadata = json.loads((part / "metadata.json").read_text())
    metadata["away.mp4"] = {"label": "REAL"}  # named, but not on disk just now
    metadata["away_fake.mp4"] = {"label": "FAKE", "original": "away.mp4"}
    (part / "metadata.json").write_text(json.dumps(metadata))
    folder = root / FOLDERS[name]
    for video in ("away", "away_fake", "gone", "real", "fake"):
        if name == "detect_original_faces":
            folder.mkdir(exist_ok=True)
            (folder / f"{video}.json").write_text("{}")
        else:
            put_folder(folder / video)
    (folder / "a folder of somebody").mkdir()
    (folder / ".hidden.json").write_text("{}")
    (folder / "notes.txt").write_text("")
    before = {path.name for path in folder.iterdir()}
    ending = ".json" if name == "detect_original_faces" else ""
    orphans = {f"gone{ending}"}
    if name in ("detect_original_faces", "generate_landmarks"):  # of a fake there are neither boxes nor landmarks
        orphans |= {f"fake{ending}", f"away_fake{ending}"}
    if name == "generate_diffs":
        orphans |= {"real", "away"}
    assert {path.name for path in find_orphans(layout.load_dataset(root), name)} == orphans
    run(name, root)
    assert {path.name for path in folder.iterdir()} == before
    capsys.readouterr()
    run(name, root, "--prune")
    assert {path.name for path in folder.iterdir()} == before - orphans
    first = min(orphans)
    assert capsys.readouterr().out == (f"{name}: removed {len(orphans)} artifacts without a video, such as {first}\n")
    run(name, root, "--prune")
    assert capsys.readouterr().out == ""


def folds_of(root, *parts):
    """The stamp of a folds.csv that was made from `parts`."""
    stamp = FoldsStamp(Options(), Assignment(dict.fromkeys(parts, 0), {}), "", {})
    stamp.write(stamp_path(root / layout.FOLDS_NAME))


@pytest.mark.parametrize("name", STEPS)
def test_t61_what_was_made_of_a_part_that_is_away_is_not_pruned(root, started, name):
    folds_of(root, "part_0", "part_1", "part_2")
    gone = root / FOLDERS[name] / ("gone.json" if name == "detect_original_faces" else "gone")
    if name == "detect_original_faces":
        gone.write_text("{}")
    else:
        artifacts.write_json(gone / artifacts.STAMP_NAME, {})
    for flags in (["--prune"], ["--prune", "part_2"]):
        said = r"prune: would remove 1 artifacts, such as gone.* missing parts: .*part_1"
        with pytest.raises(UsageError, match=said) as no:
            run(name, root, *flags)
    assert "pass prune part_1 (preprocess_data.sh takes" in str(no.value)  # of the last attempt
    assert gone.exists()
    assert run(name, root, "--prune", "part_1", "part_2") == 0
    assert not gone.exists()
    assert run(name, root, "--prune") == 0  # nothing is left that could go


def test_crops_of_another_folder_are_pruned_there(root, started):
    for folder in ("crops", "crops2"):
        put_folder(root / folder / "gone")
    run("extract_crops", root, "--crops-dir", "crops2", "--prune")
    assert (root / "crops" / "gone").exists()
    assert not (root / "crops2" / "gone").exists()
    assert find_orphans(layout.load_dataset(root), "generate_diffs") == []  # there is no folder of masks yet


def test_rows_that_mean_nothing_are_named_as_they_stand_and_skipped_videos_are_known(tmp_path):
    rows = [("real", None, None), ("typo", None, None), ("gone", None, None), ("typo", 0, 0)]
    rejections = Rejections([Rejection(*row) for row in rows])
    real = Video("real", Path("real.mp4"), "part_0", "REAL", None)
    gone = Video("gone", Path("gone.mp4"), "part_0", "REAL", None)
    dataset = layout.Dataset(tmp_path, [], {"real": real}, {"gone": Skipped(gone, "it is not on disk")})
    assert rows_without_effect(dataset, rejections) == ["typo,,", "typo,0,0"]


def test_rows_of_faces_that_the_boxes_do_not_have_are_named_where_boxes_can_be_read(root):
    rows = [("real", 10, 0), ("fake", 60, None), ("real", None, 0)]  # there are such faces; and three that are none
    rows += [("real", 10, 1), ("real", 70, 0), ("fake", None, 2)]
    rejections = Rejections([Rejection(*row) for row in rows])
    dataset, boxes = layout.load_dataset(root), layout.bboxes_path(root, "real")
    assert rows_without_effect(dataset, rejections) == ["real,10,1", "real,70,0", "fake,,2"]
    boxes.write_text("broken")
    assert rows_without_effect(dataset, rejections) == []
    boxes.unlink()
    assert rows_without_effect(dataset, rejections) == []
