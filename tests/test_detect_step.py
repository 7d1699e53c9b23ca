"""Step 1 around its detector, which is a stand-in here: what it is given, and what becomes of its answers."""

import json
import os

import numpy as np
import pytest
from detectors import Detector, faces_of
from helpers import no_faces, numbered_frames, read_number, write_part

from dfdc import layout
from dfdc.boxes import read_boxes
from dfdc.detector_settings import DETECT_THRESHOLDS, LANDMARK_THRESHOLDS
from dfdc.faces import Faces
from dfdc.identity import fingerprint
from dfdc.video import VideoError, write_video
from preprocessing import detect_step
from preprocessing.detect_step import DetectStep
from preprocessing.landmark_step import LandmarkStep


def one_real(root, frames=45):
    part = write_part(root / "part_0", {"a.mp4": {"label": "REAL"}})
    write_video(part / "a.mp4", numbered_frames(frames))
    return layout.load_dataset(root).videos["a"]


def detect(root, video, answer, scale="auto", batch=3):
    step = DetectStep(root, scale)
    step.detector = Detector(answer, batch)
    return step, step.work(video)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8])
def test_every_tenth_frame_is_searched_in_batches_with_one_tracker(tmp_path, monkeypatch, batch):
    """A face that moves a little each time is one person, whatever the size of the batches."""
    video = one_real(tmp_path)
    seen = []

    def answer(picture):
        number = read_number(picture)
        seen.append(number)
        return faces_of((10 + number / 10, 10, 40 + number / 10, 45), (60, 10, 80, 30)) if number != 20 else no_faces()

    step, stamp = detect(tmp_path, video, answer, batch=batch)
    assert seen == [0, 10, 20, 30, 40]
    sizes = [size for size, _, _ in step.detector.calls if size]
    assert sizes == {1: [1] * 5, 2: [2, 2, 1], 3: [3, 2], 5: [5], 8: [5]}[batch]
    assert stamp.made == {"frames": 5, "faces": 8}
    assert (stamp.failed, stamp.notes) == (None, ())
    boxes = read_boxes(layout.bboxes_path(tmp_path, "a"))
    assert boxes.stamp == stamp
    people = {n: [face.face for face in faces] for n, faces in boxes.frames.items()}
    assert people == {20: []} | {number: [0, 1] for number in (0, 10, 30, 40)}
    assert boxes.frames[10][0].box == (11.0, 10.0, 41.0, 45.0)
    assert boxes.frames[10][0].score == pytest.approx(0.97)
    assert (boxes.width, boxes.height, boxes.frame_count, boxes.rate) == (96, 64, 45, 25.0)
    assert boxes.times == {number: pytest.approx(number / 25) for number in boxes.frames}
    assert stamp.made_from["source"] == fingerprint(video.path)
    assert stamp.made_from["settings"] == step.settings


@pytest.mark.parametrize(("given", "used"), [("auto", 2.0), (0.5, 0.5), (1.0, 1.0)])
def test_the_scale_arrives_and_auto_follows_the_size(tmp_path, given, used):
    step, stamp = detect(tmp_path, one_real(tmp_path), lambda picture: faces_of((1, 1, 30, 30)), given)
    assert {scale for _, scale, _ in step.detector.calls} == {used}
    assert step.detector.sizes == [(96, 64, used)]
    assert stamp.made_from["settings"]["detector_scale"] == given


def test_people_are_listed_by_their_number(tmp_path):
    """The detector gives the largest first; the person who was there first keeps number 0."""

    def answer(picture):
        small, large = (5, 5, 25, 25), (50, 5, 94, 60)
        return faces_of(small) if read_number(picture) == 0 else faces_of(large, small)

    detect(tmp_path, one_real(tmp_path, 21), answer)
    rows = read_boxes(layout.bboxes_path(tmp_path, "a")).frames[10]
    assert [(row.face, row.box[0]) for row in rows] == [(0, 5.0), (1, 50.0)]


def test_no_face_is_a_failure_with_a_reason_and_known_the_next_time(tmp_path):
    video = one_real(tmp_path)
    step, stamp = detect(tmp_path, video, lambda picture: no_faces())
    assert stamp.failed == "no face detected in 5 frames; check that the video shows a face"
    assert step.check(video) == stamp


def test_lost_frames_are_told(tmp_path, monkeypatch):
    video = one_real(tmp_path)
    original = detect_step.VideoReader.frames

    def frames(reader, wanted=None, *, stride=1):
        for number, frame in original(reader, wanted, stride=stride):
            if number not in (10, 30):
                yield number, frame
        reader.lost = [10, 30]

    monkeypatch.setattr(detect_step.VideoReader, "frames", frames)
    _, stamp = detect(tmp_path, video, lambda picture: faces_of((1, 1, 30, 30)))
    assert stamp.notes == ("2 frames can't be decoded (first: 10)",)
    assert stamp.made == {"frames": 3, "faces": 3}


@pytest.mark.parametrize(
    ("known", "expected"), [(None, []), (20, [0, 10]), (21, [0, 10, 20]), (45, [0, 10, 20, 30, 40])]
)
def test_times_are_kept_as_far_as_the_file_says_them(tmp_path, monkeypatch, known, expected):
    video = one_real(tmp_path)
    shown = None if known is None else np.arange(known) / 25
    monkeypatch.setattr(detect_step.VideoReader, "times", lambda reader: shown)
    detect(tmp_path, video, lambda picture: faces_of((1, 1, 30, 30)))
    times = read_boxes(layout.bboxes_path(tmp_path, "a")).times
    assert times == {number: number / 25 for number in expected}


def test_a_detector_that_answers_too_little_is_not_believed(tmp_path):
    video = one_real(tmp_path)
    lacking = Faces(np.zeros((2, 4), np.float32), np.ones(1, np.float32), np.zeros((2, 5, 2), np.float32))
    with pytest.raises(ValueError, match="zip"):
        detect(tmp_path, video, lambda picture: lacking)
    step = DetectStep(tmp_path, "auto")
    step.detector = Detector(lambda picture: no_faces())
    step.detector.detect = lambda pictures, scale: [no_faces()] * (len(pictures) - 1)
    with pytest.raises(ValueError, match="zip"):
        step.work(video)


def test_t61_boxes_outlive_a_video_that_cant_be_read(tmp_path):
    video = one_real(tmp_path)
    step, _ = detect(tmp_path, video, lambda picture: faces_of((1, 1, 30, 30)))
    path = layout.bboxes_path(tmp_path, "a")
    before = path.read_bytes()
    video.path.rename(tmp_path / "away.mp4")
    os.mkfifo(video.path)  # reading it would wait for ever
    for attempt in (step.check, step.work):
        with pytest.raises(OSError, match="not a regular file"):
            attempt(video)
    video.path.unlink()
    for attempt in (step.check, step.work):
        with pytest.raises(FileNotFoundError):
            attempt(video)
    assert path.read_bytes() == before
    (tmp_path / "away.mp4").rename(video.path)
    assert step.check(video) is not None


def test_t61_boxes_of_another_video_go_and_those_of_this_one_stay(tmp_path, monkeypatch):
    video = one_real(tmp_path)
    step, _ = detect(tmp_path, video, lambda picture: faces_of((1, 1, 30, 30)))
    path = layout.bboxes_path(tmp_path, "a")

    def refuse(place):
        raise VideoError(place, "today nothing can be decoded")

    with monkeypatch.context() as broken:
        broken.setattr(detect_step, "VideoReader", refuse)
        with pytest.raises(VideoError):
            step.work(video)
        assert path.is_file()
    video.path.write_bytes(b"no video")
    with pytest.raises(VideoError):
        step.work(video)
    assert not path.exists()
    path.write_text("broken")
    with pytest.raises(VideoError):
        step.work(video)
    assert not path.exists()


def test_boxes_of_an_earlier_version_are_made_anew_once(tmp_path):
    """As an earlier version wrote them: rounded, with a checksum of blocks, without rate, duration and times."""
    video = one_real(tmp_path)
    step, _ = detect(tmp_path, video, lambda picture: faces_of((1, 1, 30, 30)))
    path = layout.bboxes_path(tmp_path, "a")
    content = json.loads(path.read_text())
    about = video.path.stat()
    content["source"] = {"size": about.st_size, "mtime_ns": about.st_mtime_ns, "crc": 1}
    content["settings"] = {"version": 1, "stride": 10, "thresholds": [0.85, 0.95, 0.95], "detector_scale": "auto"}
    for key in ("rate", "duration", "times"):
        del content[key]
    path.write_text(json.dumps(content))
    assert step.check(video) is None
    step.work(video)
    assert step.check(video) is not None


@pytest.mark.parametrize(("kind", "thresholds"), [(DetectStep, DETECT_THRESHOLDS), (LandmarkStep, LANDMARK_THRESHOLDS)])
def test_the_detector_is_made_once_on_the_workers_device(tmp_path, monkeypatch, kind, thresholds):
    made = []
    monkeypatch.setattr("dfdc.faces.FaceDetector", lambda *arguments: made.append(arguments) or "a detector")
    step = kind(tmp_path, "auto")
    step.start("cuda:3")
    assert made == [(thresholds, "cuda:3")]
    assert step.detector == "a detector"
