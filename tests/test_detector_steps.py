"""Steps 1 and 3 around their detector, which is a stand-in here: what it is given, and what becomes of its answers."""

import json
import os

import numpy as np
import pytest
from conftest import no_faces, numbered_frames, read_number, write_part
from families import make_family

from dfdc import artifacts, layout
from dfdc.boxes import read_boxes
from dfdc.detector_settings import DETECT_THRESHOLDS, LANDMARK_THRESHOLDS
from dfdc.faces import Faces
from dfdc.identity import fingerprint
from dfdc.rejections import load_rejections
from dfdc.video import VideoError, write_video
from preprocessing import detect_original_faces, generate_landmarks
from preprocessing.detect_original_faces import DetectStep
from preprocessing.extract_crops import CropStep
from preprocessing.generate_landmarks import LandmarkStep, with_crops


def faces_of(*boxes, score=0.97, points=None):
    count = len(boxes)
    landmarks = np.zeros((count, 5, 2), np.float32) if points is None else np.array([points] * count, np.float32)
    return Faces(np.array(boxes, np.float32).reshape(-1, 4), np.full(count, score, np.float32), landmarks)


class Detector:
    """Finds what `answer` says, picture by picture; keeps what it was asked."""

    def __init__(self, answer, batch=3):
        self.answer, self.batch, self.calls, self.sizes = answer, batch, [], []

    def batch_size(self, width, height, scale=1.0):
        self.sizes.append((width, height, scale))
        return self.batch

    def detect(self, pictures, scale=1.0, smallest=0.0):
        self.calls.append((len(pictures), scale, smallest))
        return [self.answer(picture) for picture in pictures]


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
    assert stamp["made"] == {"frames": 5, "faces": 8}
    assert (stamp["failed"], stamp["notes"]) == (None, [])
    boxes = read_boxes(layout.bboxes_path(tmp_path, "a"))
    assert boxes.stamp == stamp
    assert {n: [face.face for face in faces] for n, faces in boxes.frames.items()} == {
        0: [0, 1], 10: [0, 1], 20: [], 30: [0, 1], 40: [0, 1]
    }  # fmt: skip
    assert boxes.frames[10][0].box == (11.0, 10.0, 41.0, 45.0)
    assert boxes.frames[10][0].score == pytest.approx(0.97)
    assert (boxes.width, boxes.height, boxes.frame_count, boxes.rate) == (96, 64, 45, 25.0)
    assert boxes.times == {number: pytest.approx(number / 25) for number in boxes.frames}
    assert stamp["source"] == fingerprint(video.path)
    assert stamp["settings"] == step.settings


@pytest.mark.parametrize(("given", "used"), [("auto", 2.0), (0.5, 0.5), (1.0, 1.0)])
def test_the_scale_arrives_and_auto_follows_the_size(tmp_path, given, used):
    step, stamp = detect(tmp_path, one_real(tmp_path), lambda picture: faces_of((1, 1, 30, 30)), given)
    assert {scale for _, scale, _ in step.detector.calls} == {used}
    assert step.detector.sizes == [(96, 64, used)]
    assert stamp["settings"]["detector_scale"] == given


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
    assert stamp["failed"] == "no face found in 5 frames; is one to be seen?"
    assert step.check(video) == stamp


def test_lost_frames_are_told(tmp_path, monkeypatch):
    video = one_real(tmp_path)
    original = detect_original_faces.VideoReader.frames

    def frames(reader, wanted=None, *, stride=1):
        for number, frame in original(reader, wanted, stride=stride):
            if number not in (10, 30):
                yield number, frame
        reader.lost = [10, 30]

    monkeypatch.setattr(detect_original_faces.VideoReader, "frames", frames)
    _, stamp = detect(tmp_path, video, lambda picture: faces_of((1, 1, 30, 30)))
    assert stamp["notes"] == ["2 frames can't be decoded, the first is 10"]
    assert stamp["made"] == {"frames": 3, "faces": 3}


@pytest.mark.parametrize(
    ("known", "expected"), [(None, []), (20, [0, 10]), (21, [0, 10, 20]), (45, [0, 10, 20, 30, 40])]
)
def test_times_are_kept_as_far_as_the_file_says_them(tmp_path, monkeypatch, known, expected):
    video = one_real(tmp_path)
    shown = None if known is None else np.arange(known) / 25
    monkeypatch.setattr(detect_original_faces.VideoReader, "times", lambda reader: shown)
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
        broken.setattr(detect_original_faces, "VideoReader", refuse)
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


@pytest.mark.parametrize(
    ("module", "make", "thresholds"),
    [(detect_original_faces, lambda root: DetectStep(root, "auto"), DETECT_THRESHOLDS),
     (generate_landmarks, lambda root: LandmarkStep(root, "crops"), LANDMARK_THRESHOLDS)],
)  # fmt: skip
def test_the_detector_is_made_once_on_the_workers_device(tmp_path, monkeypatch, module, make, thresholds):
    made = []
    monkeypatch.setattr(module, "FaceDetector", lambda *arguments: made.append(arguments) or "a detector")
    step = make(tmp_path)
    step.start("cuda:3")
    assert made == [(thresholds, "cuda:3")]
    assert step.detector == "a detector"


# ---------------------------------------------------------------------------------------------- landmarks
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
    assert (stamp["made"], stamp["notes"], stamp["failed"]) == ({"landmarks": 5}, [], None)
    folder = layout.landmarks_path(cropped, "real")
    assert sorted(path.name for path in folder.glob("*")) == [
        ".stamp.json", *sorted(layout.landmarks_name(n, 0) for n in range(0, 41, 10))
    ]  # fmt: skip
    points = np.load(folder / "10_0.npy")
    assert points.dtype == np.int16
    width, height = 40 + 2 * (40 // 3), 44 + 2 * (44 // 3)
    assert points.tolist() == [[10, 20], [31, 20], [20, 0], [width - 1, 40], [0, height - 1]]
    assert step.check(video) == artifacts.read_stamp(folder)
    # The crop's own face first; had none been found, everything would have been searched.
    assert step.detector.calls == [(5, 1.0, generate_landmarks.SMALLEST), (0, 1.0, 0.0)]


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
        generate_landmarks.find_landmarks([np.zeros((50, 50, 3), np.uint8)] * 2, detector)
    monkeypatch.setattr(generate_landmarks, "find_landmarks", lambda pictures, detector: [None])
    with pytest.raises(ValueError, match="zip"):
        find(cropped, middle_of)


def test_crops_without_points_are_searched_again_and_told(cropped):
    def answer(picture):
        return no_faces()

    step, _, stamp = find(cropped, answer)
    assert step.detector.calls == [(5, 1.0, generate_landmarks.SMALLEST), (5, 1.0, 0.0)]
    assert stamp["made"] == {"landmarks": 0}
    assert stamp["notes"] == ["no points in 5 of 5 crops, the first is 0_0.png"]


def test_crops_are_read_some_at_a_time(cropped, monkeypatch):
    monkeypatch.setattr(generate_landmarks, "CROPS_AT_ONCE", 2)
    step, _, stamp = find(cropped, middle_of)
    assert [count for count, _, smallest in step.detector.calls if smallest] == [2, 2, 1]
    assert stamp["made"] == {"landmarks": 5}


def test_a_broken_crop_is_named_and_costs_itself(cropped):
    (layout.crops_path(cropped, "real") / "20_0.png").write_bytes(b"no picture")
    step, video, stamp = find(cropped, middle_of)
    assert stamp["made"] == {"landmarks": 4}
    (note,) = stamp["notes"]
    assert "20_0.png" in note
    assert note.endswith(f"remove {layout.crops_path(cropped, 'real')} and run step 2 again")
    assert step.check(video) is not None  # of the crops as they lie there, stamp or no stamp
    (layout.crops_path(cropped, "real") / "30_0.png").unlink()
    assert step.check(video) is None


def test_landmarks_of_other_crops_go_before_new_ones_are_made(cropped):
    find(cropped, middle_of)
    (layout.crops_path(cropped, "real") / "20_0.png").unlink()

    def refuse(picture):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        find(cropped, refuse)
    assert not layout.landmarks_path(cropped, "real").exists()


def test_landmarks_of_these_crops_outlive_a_failure(cropped):
    find(cropped, middle_of)

    def refuse(picture):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        find(cropped, refuse)
    assert len(list(layout.landmarks_path(cropped, "real").glob("*.npy"))) == 5


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
    videos, skipped = with_crops(dataset, "crops", load_rejections(cropped))
    assert [video.id for video in videos] == ["real"]
    reasons = dict(skipped)
    assert reasons.keys() == {"gone", "bare", "out"}
    assert reasons["bare"] == "it has no crops; step 2 (extract_crops.py) makes them, or says why not"
    assert reasons["out"] == "rejected in rejected.csv"
