"""Comparing pairs of crops (step 4), without a detector: what is a pair."""

import shutil

import numpy as np
import pytest
from families import compare, cut, textured_frames, videos_of

from dfdc import layout
from dfdc.imaging import encode_png, read_picture
from dfdc.video import write_video
from preprocessing.diff_step import DiffStep


@pytest.fixture
def root(family, tmp_path):
    shutil.copytree(family, tmp_path / "root")
    return tmp_path / "root"


def rewrite_fake(root, frames, fps=25.0):
    write_video(videos_of(root)["fake"].path, frames, fps=fps, crf=5)


def test_a_pair_is_one(root):
    cut(root)
    stamp = compare(root)
    assert (stamp.made, stamp.failed, stamp.notes) == ({"masks": 7, "unchanged": 0}, None, ())


@pytest.mark.parametrize("turn", [lambda f: f[::-1, ::-1], lambda f: f[:, ::-1]], ids=["by 180 degrees", "mirrored"])
def test_a_fake_that_was_turned_is_no_pair_and_is_named(root, turn):
    rewrite_fake(root, (np.ascontiguousarray(turn(frame)) for frame in textured_frames(61, face=60)))
    cut(root)
    stamp = compare(root)
    assert stamp.failed == (
        "differs outside the face in 7 of 7 frames (first: 0_0.png): not a pair with real (another video, "
        "or rotated, or shifted in time)"
    )
    step = DiffStep(root, "crops")
    assert step.check(videos_of(root)["fake"]).failed == stamp.failed  # known: not looked at anew each time


@pytest.mark.slow
def test_a_few_frames_that_differ_are_told_and_no_more(root):
    frames = list(textured_frames(61, face=60))
    for number in (10, 20, 30):
        frames[number] = np.ascontiguousarray(frames[number][::-1, ::-1])
    rewrite_fake(root, frames)
    cut(root)
    stamp = compare(root)
    assert stamp.failed is None
    assert stamp.notes == ("differs outside the face in 3 of 7 frames (first: 10_0.png)",)
    (root / layout.REJECTED_NAME).write_text("video,frame,face\nreal,60,\n")
    cut(root)
    assert compare(root).failed is None  # half of them are not most of them
    (root / layout.REJECTED_NAME).unlink()
    frames[40] = np.ascontiguousarray(frames[40][::-1, ::-1])
    rewrite_fake(root, frames)
    cut(root)
    assert compare(root).failed.startswith("differs outside the face in 4 of 7 frames (first: 10_0.png): not")


def test_a_fake_without_partners_failed_and_is_not_done_again(root):
    cut(root)
    for path in layout.crops_path(root, "real").glob("*.png"):
        path.rename(path.with_name(path.name.replace("_0", "_5")))
    stamp = compare(root)
    assert stamp.failed == (
        "7 crops of the original have no counterpart (first: 0_5.png); "
        "7 crops of the fake have no counterpart (first: 0_0.png)"
    )
    assert DiffStep(root, "crops").check(videos_of(root)["fake"]) is not None


def test_t19_missing_and_mismatching_partners_are_counted(root):
    cut(root)
    real, fake = (layout.crops_path(root, name) for name in ("real", "fake"))
    picture = read_picture(fake / "20_0.png")
    (fake / "20_0.png").write_bytes(encode_png(picture[:-1]))
    (fake / "30_0.png").write_bytes((real / "30_0.png").read_bytes())
    (fake / "40_0.png").write_bytes(b"no picture")
    (fake / "50_0.png").unlink()
    (real / "60_0.png").unlink()
    stamp = compare(root)
    assert stamp.made == {"masks": 3, "unchanged": 1}
    assert stamp.failed is None
    sizes = f"{list(picture.shape)} and {list(picture[:-1].shape)}"
    assert stamp.notes == (
        f"1 pairs (first: 20_0.png): crops have different sizes: {sizes}",
        f"1 pairs (first: 40_0.png): {fake / '40_0.png'} is not a readable image (10 bytes)",
        "1 crops of the original have no counterpart (first: 50_0.png)",
        "1 crops of the fake have no counterpart (first: 60_0.png)",
        "1 of 3 masks show no change",
    )


def test_masks_of_other_crops_go_before_new_ones_are_made(root, monkeypatch):
    cut(root)
    compare(root)
    folder = layout.diffs_path(root, "fake")

    def refuse(*arguments):
        raise RuntimeError("no memory")

    monkeypatch.setattr("preprocessing.diff_step.ssim_difference", refuse)
    with pytest.raises(RuntimeError):
        compare(root)
    assert folder.is_dir()  # of these very crops
    (layout.crops_path(root, "fake") / "20_0.png").unlink()
    with pytest.raises(RuntimeError):
        compare(root)
    assert not folder.exists()
