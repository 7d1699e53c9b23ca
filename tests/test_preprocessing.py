"""The preprocessing steps on videos (preprocessing/*.py)."""

import csv
import json
import shutil
import subprocess

import numpy as np
import pytest
from helpers import (
    REAL_VIDEOS,
    ROOT,
    copy_dataset,
    no_faces,
    numbered_frames,
    on_both_kinds,
    run_script,
    write_part,
)

from dfdc import artifacts, layout
from dfdc.imaging import encode_png, read_picture, ssim_difference
from dfdc.rejections import load_rejections
from dfdc.video import VideoReader, write_video
from dfdc.workers import FailVideo
from preprocessing import landmark_step
from preprocessing.crop_step import CropStep
from preprocessing.diff_step import DiffStep

STEPS = ("detect_original_faces", "extract_crops", "generate_landmarks", "generate_diffs")


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
def test_t16_boxes_are_of_every_10th_frame_and_follow_the_contract(preprocessed, dataset):
    for video in dataset.reals():
        boxes = json.loads(layout.bboxes_path(preprocessed, video.id).read_text())
        with VideoReader(video.path) as reader:
            assert (boxes["width"], boxes["height"]) == (reader.width, reader.height)
        assert list(boxes["frames"]) == ["0", "10", "20", "30"]
        for rows in boxes["frames"].values():
            (row,) = rows
            x1, y1, x2, y2 = row["box"]
            assert 0 < x2 - x1 < boxes["width"]
            assert 0 < y2 - y1 < boxes["height"]
            assert 0.95 <= row["score"] <= 1
            assert row["face"] == 0
    assert {path.stem for path in (preprocessed / "bboxes").iterdir()} == {video.id for video in dataset.reals()}


@pytest.mark.slow
def test_crops_are_cut_with_the_originals_boxes_losslessly(preprocessed, dataset):
    for video in dataset.videos.values():
        boxes = json.loads(layout.bboxes_path(preprocessed, video.source).read_text())["frames"]
        crops = layout.crops_path(preprocessed, video.id)
        assert layout.list_crops(crops) == [(int(frame), row["face"]) for frame, rows in boxes.items() for row in rows]
        with VideoReader(video.path) as reader:
            for number, frame in reader.frames([0, 30]):
                x1, y1, x2, y2 = (int(corner) for corner in boxes[str(number)][0]["box"])
                w, h = (x2 - x1) // 3, (y2 - y1) // 3
                expected = frame[max(y1 - h, 0) : y2 + h, max(x1 - w, 0) : x2 + w]
                assert np.array_equal(read_picture(crops / layout.crop_name(number, 0)), expected)


@pytest.mark.slow
def test_landmarks_lie_in_the_face(preprocessed, dataset):
    found = 0
    for video in dataset.reals():
        for frame, face in layout.list_crops(layout.crops_path(preprocessed, video.id)):
            path = layout.landmarks_path(preprocessed, video.id) / layout.landmarks_name(frame, face)
            if not path.exists():
                continue
            found += 1
            points = np.load(path)
            height, width = read_picture(layout.crops_path(preprocessed, video.id) / f"{frame}_{face}.png").shape[:2]
            assert points.dtype == np.int16
            assert points.shape == (5, 2)
            left_eye, right_eye, nose, left_mouth, right_mouth = points / (width, height)
            assert 0.15 < left_eye[0] < right_eye[0] < 0.85
            assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1]) < 0.95
    assert found >= 0.9 * 4 * len(dataset.reals())
    assert {path.name for path in (preprocessed / "landmarks").iterdir()} == {video.id for video in dataset.reals()}


@pytest.mark.slow
def test_masks_show_where_the_fake_differs(preprocessed, dataset):
    for video in dataset.fakes():
        fake, real = (layout.crops_path(preprocessed, name) for name in (video.id, video.source))
        for frame, face in layout.list_crops(fake):
            path = layout.diffs_path(preprocessed, video.id) / layout.diff_name(frame, face)
            name = layout.crop_name(frame, face)
            mask = read_picture(path, grey=True)
            assert np.array_equal(mask, ssim_difference(read_picture(real / name), read_picture(fake / name)))
            assert mask.max() > 40
    assert {path.name for path in (preprocessed / "diffs").iterdir()} == {video.id for video in dataset.fakes()}


@pytest.mark.slow
def test_the_driver_says_steps_times_and_a_table(preprocessed, dataset):
    out = (preprocessed / "preprocess_data.out").read_text()
    for number, step in enumerate((*STEPS, "generate_folds"), 1):
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
    assert "no face found in 3 frames" in rows["empty scene"][1]
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
        f"there are no boxes of {zero.id}; step 1 (detect_original_faces.py) makes them",
    )
    assert rows["empty scene"] == ("skipped", "no face was found in empty scene")
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


def crop_step(root):
    return CropStep(root, "crops", load_rejections(root))


@pytest.mark.slow
def test_t19_missing_and_mismatching_partners_are_counted(root):
    video = layout.load_dataset(root).fakes()[0]
    real, fake = layout.crops_path(root, video.source), layout.crops_path(root, video.id)
    (real / "0_0.png").unlink()
    (fake / "10_0.png").unlink()
    picture = read_picture(fake / "20_0.png")
    (fake / "20_0.png").write_bytes(encode_png(picture[:-1]))
    (fake / "30_0.png").write_bytes((real / "30_0.png").read_bytes())
    stamp = DiffStep(root, "crops").work(video)
    assert stamp.made == {"masks": 1, "unchanged": 1}
    text = "; ".join(stamp.notes)
    assert "1 of the original's crops have no partner, the first is 10_0.png" in text
    assert "1 of the fake's crops have no partner, the first is 0_0.png" in text
    assert "1 pairs, the first is 20_0.png: crops of different size" in text
    assert "1 of 1 masks show no change" in text


@pytest.mark.slow
def test_t4_a_box_without_a_picture_costs_that_crop_only(root):
    video = layout.load_dataset(root).reals()[0]
    path = layout.bboxes_path(root, video.id)
    boxes = json.loads(path.read_text())
    boxes["frames"]["10"][0]["box"] = [9000, 9000, 9100, 9100]
    artifacts.write_json(path, boxes)
    stamp = crop_step(root).work(video)
    assert stamp.made == {"crops": 3}
    assert stamp.notes == ("1 boxes hold no picture, the first is 10_0.png",)


@pytest.mark.slow
def test_a_fake_of_another_size_is_a_named_failure(root):
    video = layout.load_dataset(root).fakes()[0]
    video.path.unlink()
    write_video(video.path, [np.zeros((64, 64, 3), np.uint8)] * 31)
    with pytest.raises(FailVideo, match=rf"64x64 pixels, but {video.source} has"):
        crop_step(root).work(video)
    assert not layout.crops_path(root, video.id).exists()


@pytest.mark.slow
def test_a_broken_boxes_file_is_named(root):
    video = layout.load_dataset(root).reals()[0]
    layout.bboxes_path(root, video.id).write_text('{"frames": 3}')
    with pytest.raises(FailVideo, match=r"\.json is not what step 1 writes .* run step 1"):
        crop_step(root).work(video)


@pytest.mark.slow
@on_both_kinds
def test_landmarks_are_those_of_the_library_one_crop_at_a_time(kind, face_clips):
    from facenet_pytorch import MTCNN

    from dfdc.detector_settings import DETECT_THRESHOLDS, LANDMARK_THRESHOLDS
    from dfdc.faces import FaceDetector
    from dfdc.imaging import crop_face
    from dfdc.video import VideoReader

    finder, detector = FaceDetector(DETECT_THRESHOLDS), FaceDetector(LANDMARK_THRESHOLDS)
    library = MTCNN(margin=0, thresholds=list(LANDMARK_THRESHOLDS), device="cpu")
    crops = []
    real = [REAL_VIDEOS / "faces" / f"{name}.mp4" for name in ("d10", "d18", "s32")]
    paths, stride, scale = (real, 60, 0.5) if kind == "real" else (sorted(face_clips.iterdir()), 20, 1.0)
    for path in paths:
        with VideoReader(path) as reader:
            for _, frame in reader.frames(stride=stride):
                crops += [crop_face(frame, box) for box in finder.detect([frame], scale)[0].boxes]
    found = landmark_step.find_landmarks(crops, detector)
    assert len(crops) >= 8
    for crop, points in zip(crops, found, strict=True):
        _, _, expected = library.detect(np.ascontiguousarray(crop), landmarks=True)
        assert np.array_equal(points, np.rint(expected[0].astype(float)).astype(np.int16))


def test_t26_landmarks_of_the_middle_face(monkeypatch):
    import skimage.data

    from dfdc.detector_settings import LANDMARK_THRESHOLDS
    from dfdc.faces import FaceDetector

    detector = FaceDetector(LANDMARK_THRESHOLDS)
    picture = skimage.data.astronaut()[20:240, 130:320]
    nobody = np.zeros((90, 90, 3), np.uint8)
    points, none, tighter = landmark_step.find_landmarks([picture, nobody, picture[10:-10, 10:-10]], detector)
    assert points.dtype == np.int16
    assert points.shape == (5, 2)
    assert none is None
    assert np.abs(points - tighter - 10).max() <= 2
    monkeypatch.setattr(detector, "detect", lambda pictures, **more: [no_faces()] * len(pictures))
    assert landmark_step.find_landmarks([picture], detector) == [None]


@pytest.mark.slow
@pytest.mark.parametrize("step", [*STEPS, "generate_folds"])
@pytest.mark.parametrize("kind", ["empty", "broken", "absent"])
def test_unusable_data_exits_2_and_says_what_to_do(tmp_path, step, kind):
    root = tmp_path / "root"
    if kind != "absent":
        root.mkdir()
    if kind == "broken":
        write_part(root / "part_0", '{"a": ')
    done = run_step(step, root)
    assert done.returncode == 2
    said = {"empty": "holds a metadata.json", "broken": "broken JSON", "absent": "is not a folder"}[kind]
    assert said in done.stderr
    assert str(root) in done.stderr
    assert "Traceback" not in done.stderr
    assert not root.exists() or sorted(path.name for path in root.iterdir()) == (["part_0"] if kind == "broken" else [])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../outside", "landmarks", "dfdc_train_part_0", ".", "", "a/b", "bboxes", "report"])
def test_crops_never_lie_where_something_else_does(root, name):
    before = sorted(root.rglob("*"))
    for step in ("extract_crops", "generate_landmarks", "generate_diffs", "generate_folds"):
        done = run_step(step, root, "--crops-dir", name)
        assert done.returncode == 2
        assert f"--crops-dir {name}: give the plain name" in done.stderr
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
