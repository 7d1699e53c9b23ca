"""Step 3 around its detector, which is a stand-in here: what it is given, and what becomes of its answers."""

import json

import numpy as np
import pytest
import skimage.data
from detectors import Detector, faces_of
from facenet_pytorch import MTCNN
from families import make_family
from helpers import REAL_VIDEOS, no_faces, on_both_kinds

from dfdc import artifacts, layout
from dfdc.detector_settings import DETECT_THRESHOLDS, LANDMARK_THRESHOLDS
from dfdc.faces import FaceDetector
from dfdc.imaging import crop_face
from dfdc.rejections import load_rejections
from dfdc.video import VideoReader
from preprocessing import landmark_step
from preprocessing.crop_step import CropStep
from preprocessing.landmark_step import LandmarkStep

POINTS = [(10.4, 20.5), (30.6, 20.2), (20.0, -7.0), (9999.0, 40.0), (-3.0, 9999.0)]


@pytest.fixture
def cropped(tmp_path):
    """A family with crops; returns its root."""
    dataset = make_family(tmp_path / "root", count=41)
    root = tmp_path / "root"
    for video in dataset.videos.values():
        CropStep(root, "crops", load_rejections(root)).work(video)
    return root


def find(root, answer):
    step = LandmarkStep(root, "crops")
    step.detector = Detector(answer)
    video = layout.load_dataset(root).videos["real"]
    return step, video, step.work(video)


def middle_of(picture, points=POINTS):
    height, width = picture.shape[:2]
    return faces_of((width / 5, height / 5, width * 4 / 5, height * 4 / 5), points=points)


def test_points_are_those_of_the_face_in_the_middle_rounded_and_clipped(cropped):
    step, video, stamp = find(cropped, middle_of)
    assert (stamp.made, stamp.notes, stamp.failed) == ({"landmarks": 5}, (), None)
    folder = layout.landmarks_path(cropped, "real")
    names = {layout.landmarks_name(n, 0) for n in range(0, 41, 10)}
    assert {path.name for path in folder.glob("*")} == {".stamp.json", *names}
    points = np.load(folder / "10_0.npy")
    assert points.dtype == np.int16
    width, height = 40 + 2 * (40 // 3), 44 + 2 * (44 // 3)
    assert points.tolist() == [[10, 20], [31, 20], [20, 0], [width - 1, 40], [0, height - 1]]
    assert step.check(video) == artifacts.read_stamp(folder)
    # The crop's own face first; had none been found, everything would have been searched.
    assert step.detector.calls == [(5, 1.0, landmark_step.SMALLEST), (0, 1.0, 0.0)]


def test_a_detector_that_answers_for_too_few_crops_is_not_believed(cropped):
    step, video, _ = find(cropped, middle_of)
    for answers in (lambda p: [no_faces()] * (len(p) - 1), lambda p: [no_faces()] * 5 if len(p) == 5 else []):
        replies = iter([answers, lambda p: [no_faces()] * (len(p) - 1)])
        step.detector.detect = lambda pictures, smallest=0.0, replies=replies: next(replies)(pictures)
        with pytest.raises(ValueError, match="zip"):
            step.work(video)


def test_too_few_answers_are_noticed_where_they_arise(cropped, monkeypatch):
    detector = Detector(middle_of)
    detector.detect = lambda pictures, smallest=0.0: [middle_of(picture) for picture in pictures[1:]]
    with pytest.raises(ValueError, match="zip"):
        landmark_step.find_landmarks([np.zeros((50, 50, 3), np.uint8)] * 2, detector)
    monkeypatch.setattr(landmark_step, "find_landmarks", lambda pictures, detector: [None])
    with pytest.raises(ValueError, match="zip"):
        find(cropped, middle_of)


def test_crops_without_points_are_searched_again_and_told(cropped):
    def answer(picture):
        return no_faces()

    step, _, stamp = find(cropped, answer)
    assert step.detector.calls == [(5, 1.0, landmark_step.SMALLEST), (5, 1.0, 0.0)]
    assert stamp.made == {"landmarks": 0}
    assert stamp.notes == ("no landmarks in 5 of 5 crops (first: 0_0.png)",)


def test_crops_are_read_some_at_a_time(cropped, monkeypatch):
    monkeypatch.setattr(landmark_step, "CROPS_AT_ONCE", 2)
    step, _, stamp = find(cropped, middle_of)
    assert [count for count, _, smallest in step.detector.calls if smallest] == [2, 2, 1]
    assert stamp.made == {"landmarks": 5}


def test_a_broken_crop_is_named_and_costs_itself(cropped):
    (layout.crops_path(cropped, "real") / "20_0.png").write_bytes(b"no picture")
    step, video, stamp = find(cropped, middle_of)
    assert stamp.made == {"landmarks": 4}
    (note,) = stamp.notes
    assert "20_0.png" in note
    assert note.endswith(f"remove {layout.crops_path(cropped, 'real')} and rerun step 2")
    assert step.check(video) is not None  # of the crops as they lie there, stamp or no stamp
    (layout.crops_path(cropped, "real") / "30_0.png").unlink()
    assert step.check(video) is None


@pytest.mark.parametrize("changed", [True, False])
def test_at_a_failure_landmarks_of_other_crops_go_and_those_of_these_stay(cropped, changed):
    find(cropped, middle_of)
    if changed:
        (layout.crops_path(cropped, "real") / "20_0.png").unlink()

    def refuse(picture):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        find(cropped, refuse)
    assert len(list(layout.landmarks_path(cropped, "real").glob("*.npy"))) == (0 if changed else 5)
    assert layout.landmarks_path(cropped, "real").exists() is not changed


def test_step_3_is_about_real_videos_only(cropped):
    part = cropped / "part_0"
    metadata = json.loads((part / "metadata.json").read_text())
    metadata |= {"gone.mp4": {"label": "REAL"}, "gone_fake.mp4": {"label": "FAKE", "original": "gone.mp4"}}
    metadata |= {"bare.mp4": {"label": "REAL"}, "out.mp4": {"label": "REAL"}}
    (part / "metadata.json").write_text(json.dumps(metadata))
    for name in ("bare.mp4", "out.mp4"):
        (part / name).write_bytes(b"x")
    (cropped / layout.REJECTED_NAME).write_text("video,frame,face\nout,,\n")
    dataset = layout.load_dataset(cropped)
    videos, skipped = LandmarkStep(cropped, "crops").select(dataset)
    assert [video.id for video in videos] == ["real"]
    reasons = dict(skipped)
    assert reasons.keys() == {"gone", "bare", "out"}
    assert reasons["bare"] == "no crops; run step 2 (extract_crops.py), or see failures/extract_crops.csv"
    assert reasons["out"] == "rejected in rejected.csv"


@pytest.mark.slow
@on_both_kinds
def test_landmarks_are_those_of_the_library_one_crop_at_a_time(kind, face_clips):
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
