"""Cutting crops (step 2), without a detector: what is cut, and what failures leave."""

import json
import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from families import FACE, SIZE, compare, cut, step_of, textured_frames, videos_of, write_boxes

from dfdc import artifacts, layout
from dfdc.boxes import FaceBox, read_boxes
from dfdc.imaging import read_picture
from dfdc.video import VideoError, write_video
from dfdc.workers import FailVideo, SkipVideo
from preprocessing import likeness
from preprocessing.diff_step import DiffStep


@pytest.fixture
def root(family, tmp_path):
    shutil.copytree(family, tmp_path / "root")
    return tmp_path / "root"


def stored(root, name):
    return {path.name: path.read_bytes() for path in layout.crops_path(root, name).iterdir()}


# ------------------------------------------------------------------------------------------------ what is cut
def test_a_stamp_says_what_was_cut_and_what_it_looks_like(root):
    (stamp,) = cut(root, "real")
    assert (stamp.made, stamp.failed, stamp.notes) == ({"crops": 7}, None, ())
    names = [layout.crop_name(number, 0) for number in range(0, 61, 10)]
    folder = layout.crops_path(root, "real")
    assert stamp.looks == tuple(likeness.look(name, read_picture(folder / name)) for name in likeness.pick(names))
    assert len(stamp.looks) == 3
    on_disk = artifacts.read_stamp(folder)
    assert json.loads((folder / artifacts.STAMP_NAME).read_text())["files"] == 7
    assert step_of(root).check(videos_of(root)["real"]) == on_disk
    assert replace(on_disk, content="") == stamp


def test_without_boxes_or_crops_nothing_is_fresh(root):
    video = videos_of(root)["real"]
    assert step_of(root).check(video) is None
    cut(root, "real")
    assert step_of(root).check(video) is not None
    path = layout.bboxes_path(root, "real")
    kept = path.read_text()
    path.unlink()
    assert step_of(root).check(video) is None
    path.write_text("broken")
    assert step_of(root).check(video) is None
    path.write_text(kept)
    shutil.rmtree(layout.crops_path(root, "real"))
    assert step_of(root).check(video) is None


def test_the_level_of_the_png_changes_bytes_and_no_pixel(root):
    videos = videos_of(root)
    step_of(root, png_level=1).work(videos["real"])
    light = stored(root, "real")
    step_of(root, png_level=9).work(videos["real"])
    heavy = stored(root, "real")
    assert all(light[name] != heavy[name] for name in light if name.endswith(".png"))
    step_of(root, png_level=1).work(videos["fake"])
    real = read_picture(layout.crops_path(root, "real") / "0_0.png")
    assert real.shape == read_picture(layout.crops_path(root, "fake") / "0_0.png").shape
    masks = []
    for level in (1, 9):
        DiffStep(root, "crops", level).work(videos["fake"])
        path = layout.diffs_path(root, "fake") / "10_0_diff.png"
        masks.append((path.read_bytes(), read_picture(path, grey=True).tolist()))
    assert masks[0][0] != masks[1][0]
    assert masks[0][1] == masks[1][1]


def test_t4_boxes_that_hold_no_picture_and_frames_that_are_lost_are_told(root):
    videos = videos_of(root)
    outside = FaceBox(0, (9000.0, 9000.0, 9100.0, 9100.0), 1.0)
    boxes = {n: [FaceBox(0, FACE, 1.0)] for n in (0, 10, 20)} | {30: [outside], 40: [], 1000: [FaceBox(0, FACE, 1.0)]}
    path = layout.bboxes_path(root, "real")
    content = json.loads(path.read_text())
    write_boxes(root, videos["real"], boxes=boxes)
    assert json.loads(path.read_text())["source"] == content["source"]
    (stamp,) = cut(root, "real")
    assert stamp.made == {"crops": 3}
    assert stamp.notes == (
        "1 frames can't be decoded (first: 1000)",
        "1 boxes are degenerate or outside the frame (first: 30_0.png)",
    )
    write_boxes(root, videos["real"], boxes={0: [outside]})
    with pytest.raises(FailVideo, match=r"^1 boxes are degenerate or outside the frame \(first: 0_0\.png\)$"):
        cut(root, "real")


def test_what_is_rejected_is_not_cut(root):
    (root / layout.REJECTED_NAME).write_text("video,frame,face\nreal,10,0\nreal,20,\nfake,30,0\nfake,,7\n")
    real, fake = cut(root, "real", "fake")
    assert (real.made["crops"], fake.made["crops"]) == (5, 4)
    assert layout.list_crops(layout.crops_path(root, "fake")) == [(0, 0), (40, 0), (50, 0), (60, 0)]
    mask = compare(root)
    assert mask.made["masks"] == 4
    (root / layout.REJECTED_NAME).write_text("video,frame,face\nreal,,0\n")
    with pytest.raises(SkipVideo, match=r"rejected\.csv rejects all of its faces"):
        cut(root, "real")
    assert not layout.crops_path(root, "real").exists()  # it was cut with other boxes


def test_whole_videos_that_are_rejected_are_skipped_with_the_reason(root):
    (root / layout.REJECTED_NAME).write_text("video,frame,face,reason\nfake,,,wrong label\n")
    dataset = layout.load_dataset(root)
    videos, skipped = step_of(root).select(dataset)
    assert [video.id for video in videos] == ["real"]
    assert skipped == [("fake", "rejected in rejected.csv: wrong label")]


def test_videos_without_boxes_are_skipped(root):
    layout.bboxes_path(root, "real").unlink()
    dataset = layout.load_dataset(root)
    videos, skipped = step_of(root).select(dataset)
    assert videos == []
    told = "real has no boxes; run step 1 (detect_original_faces.py)"
    assert skipped == [("real", told), ("fake", told)]
    with pytest.raises(SkipVideo, match=r"real has no boxes; see .*failures/detect_original_faces\.csv"):
        cut(root, "fake")


# -------------------------------------------------------------------------------------------- pairs or none
def rewrite_fake(root, frames, fps=25.0):
    write_video(videos_of(root)["fake"].path, frames, fps=fps, crf=5)


def test_a_fake_of_half_the_rate_is_matched_by_time(root):
    rewrite_fake(root, list(textured_frames(61, face=60))[::2], fps=12.5)
    _, fake = cut(root)
    assert fake.made == {"crops": 7}
    assert fake.notes == (
        "it has 31 frames in 2.48 s (12.50 a second), but real has 61 in 2.44 s (25.00 a second): "
        "frames are matched by time",
    )
    stamp = compare(root)
    assert (stamp.made["masks"], stamp.failed) == (7, None)
    # Frame 40 of the original is frame 20 of the fake, and is called as the original's.
    real, fake = (read_picture(layout.crops_path(root, name) / "40_0.png").astype(int) for name in ("real", "fake"))
    assert np.abs(real[:6] - fake[:6]).mean() < 6


def test_half_of_the_frames_at_the_same_rate_are_refused(root):
    rewrite_fake(root, list(textured_frames(61, face=60))[::2])
    with pytest.raises(FailVideo, match=r"it has 31 frames in 1\.24 s .* but real has 61 in 2\.44 s"):
        cut(root, "fake")
    assert not layout.crops_path(root, "fake").exists()


@pytest.mark.parametrize("name", ["real", "fake"])
def test_a_step_reaches_its_workers_without_what_it_remembers(root, name):
    video = videos_of(root)[name]
    cut(root)
    steps = [step_of(root), *([DiffStep(root, "crops", 3)] if name == "fake" else [])]
    for step in steps:
        step.check(video)
        there = pickle.loads(pickle.dumps(step))
        assert there.__dict__.keys() == step.__dict__.keys() - {"_remembered", "_known_digests", "_has_boxes"}
        assert there.png_level == step.png_level
        assert there.work(video).failed is None


# ------------------------------------------------------------------------------------- what failures leave
def put_link(path, tmp_path):
    path.unlink()
    path.symlink_to(tmp_path / "a disk that is away" / path.name)


def put_pipe(path, tmp_path):
    path.unlink()
    os.mkfifo(path)


def put_folder(path, tmp_path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("put", [put_link, put_pipe, put_folder])
def test_t61_a_video_that_cant_be_read_costs_nothing(root, tmp_path, put):
    videos = videos_of(root)
    cut(root)
    before = {name: stored(root, name) for name in videos}
    put(videos["fake"].path, tmp_path)
    for attempt in (step_of(root).check, step_of(root).work):
        with pytest.raises(OSError):
            attempt(videos["fake"])
    assert {name: stored(root, name) for name in videos} == before


def test_t61_a_video_that_is_another_and_broken_takes_its_crops_along(root):
    videos = videos_of(root)
    cut(root)
    videos["fake"].path.write_bytes(b"not a video")
    with pytest.raises(VideoError):
        step_of(root).work(videos["fake"])
    assert not layout.crops_path(root, "fake").exists()
    assert layout.crops_path(root, "real").is_dir()


def test_crops_of_the_same_video_and_boxes_outlive_a_failure(root, monkeypatch):
    """With --force, say, and a decoder that is broken today."""
    videos = videos_of(root)
    cut(root)
    before = stored(root, "fake")

    def refuse(path):
        raise VideoError(path, "today nothing can be decoded")

    monkeypatch.setattr("preprocessing.crop_step.VideoReader", refuse)
    with pytest.raises(VideoError):
        step_of(root).work(videos["fake"])
    assert stored(root, "fake") == before
    write_boxes(root, videos["real"], boxes={0: [FaceBox(0, (50.0, 30.0, 90.0, 70.0), 1.0)]})
    with pytest.raises(VideoError):
        step_of(root).work(videos["fake"])
    assert not layout.crops_path(root, "fake").exists()  # of other boxes


def test_crops_without_a_stamp_are_of_nobody_knows_what(root, monkeypatch):
    videos = videos_of(root)
    cut(root)
    (layout.crops_path(root, "fake") / artifacts.STAMP_NAME).unlink()
    videos["fake"].path.write_bytes(b"not a video")
    with pytest.raises(VideoError):
        step_of(root).work(videos["fake"])
    assert not layout.crops_path(root, "fake").exists()


@pytest.mark.parametrize("odd", [lambda path: path.mkdir(), lambda path: path.symlink_to("nothing"), os.mkfifo])
def test_a_folder_with_something_odd_in_it_is_made_anew(root, odd):
    videos = videos_of(root)
    cut(root)
    path = layout.crops_path(root, "real") / "10_0.png"
    path.unlink()
    odd(path)
    assert step_of(root).check(videos["real"]) is None
    step_of(root).work(videos["real"])
    assert step_of(root).check(videos["real"]) is not None
    assert path.is_file()


def test_a_step_that_is_stopped_leaves_the_old_crops(root, monkeypatch):
    videos = videos_of(root)
    cut(root)
    before = stored(root, "real")

    def stop(name, picture):
        raise KeyboardInterrupt

    monkeypatch.setattr(likeness, "look", stop)
    with pytest.raises(KeyboardInterrupt):
        step_of(root).work(videos["real"])
    assert stored(root, "real") == before
    assert sorted(path.name for path in (root / "crops").iterdir()) == ["fake", "real"]


def test_no_face_takes_the_crops_of_other_boxes_along(root):
    videos = videos_of(root)
    cut(root)
    write_boxes(root, videos["real"], boxes={0: [], 10: []})
    for name in ("real", "fake"):
        with pytest.raises(SkipVideo, match="no face detected in real"):
            step_of(root).work(videos[name])
        assert not layout.crops_path(root, name).exists()


def test_boxes_of_an_earlier_version_are_named(root):
    path = layout.bboxes_path(root, "real")
    content = json.loads(path.read_text())
    del content["times"]
    path.write_text(json.dumps(content))
    with pytest.raises(FailVideo, match=r"real\.json is not valid output of step 1 .*; rerun step 1"):
        cut(root, "real")


def test_a_fake_of_another_size_is_a_named_failure(root):
    cut(root)
    rewrite_fake(root, [np.zeros((64, 64, 3), np.uint8)] * 61)
    size = f"{SIZE[1]}x{SIZE[0]}"
    with pytest.raises(FailVideo, match=rf"it has 64x64 pixels, but real has {size}; shared boxes need the same size"):
        cut(root, "fake")
    assert not layout.crops_path(root, "fake").exists()


def test_boxes_know_when_frames_are_shown(root):
    boxes = read_boxes(layout.bboxes_path(root, "real"))
    assert (boxes.frame_count, boxes.rate, boxes.duration) == (61, 25.0, 2.44)
    assert boxes.times == {number: pytest.approx(number / 25) for number in range(0, 61, 10)}
