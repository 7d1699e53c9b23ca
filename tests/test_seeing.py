"""The whole way of a video whose faces are known, through networks that return what they are shown.

So that a wrong frame, crop, order, colour, size, heat map or checkpoint changes a number.
"""

import contextlib
import json

import cv2
import numpy as np
import pytest
import torch
from helpers import numbered_frames, read_number
from scoring_runs import NETWORKS, SIZES, csv_rows, make_checkpoint, replace_networks

import predict_folder
from dfdc.faces import Faces
from dfdc.video import write_video
from prediction import Scorer, scorer
from prediction.decoding import Decoder
from prediction.pages import pictures

pytestmark = pytest.mark.slow

FRAMES, CUT = 40, 20
WIDTH, HEIGHT = 384, 256
# Who is where, before and after the cut: x1, y1, x2, y2. The first is larger, and so has the lower number.
LEFT, RIGHT = (40, 90, 150, 200), (250, 100, 320, 170)


def level(frame, person):
    """The grey value of the middle of a face, 0..255: another for each frame and person."""
    return 50 + 4 * frame if person == "left" else 200 - 4 * frame


def known_video():
    """Frames whose number can be read from their upper edge, each with two faces, until a cut to another scene."""
    rng = np.random.default_rng(5)
    scenes = [cv2.resize(rng.integers(low, low + 100, (6, 9, 3), dtype=np.uint8), (WIDTH, HEIGHT)) for low in (20, 150)]
    scenes[1] = scenes[1][:, ::-1] // np.array([1, 2, 3], np.uint8)
    grain = cv2.resize(rng.integers(-25, 26, (12, 12, 1)).astype(np.int16), (120, 120))[..., None]
    for number, bars in enumerate(numbered_frames(FRAMES, 16, WIDTH)):
        frame = scenes[number >= CUT].astype(np.int16)
        frame[:16] = bars // 8 + 112  # faint, so that they make no shot cut
        for person, (x1, y1, x2, y2) in (("left", LEFT), ("right", RIGHT)):
            value = level(number, person)
            # Red on the left half of the face, green on the right, and blue only in its lower half.
            frame[y1:y2, x1:x2] = 110
            frame[y1:y2, x1 : (x1 + x2) // 2, 0] = value
            frame[y1:y2, (x1 + x2) // 2 : x2, 1] = 255 - value
            frame[(y1 + y2) // 2 : y2, x1:x2, 2] = value
            frame[y1:y2, x1:x2] += grain[: y2 - y1, : x2 - x1]  # a face is not flat; the mean is as it was
        yield np.clip(frame, 0, 255).astype(np.uint8)


class KnowingDetector:
    """Finds the two faces where they are, in frames that it knows by their number; nobody in frame 3."""

    def __init__(self, *_):
        self.seen = []

    def batch_size(self, width, height, scale):
        assert (width, height) == (WIDTH, HEIGHT)
        return 5

    def detect(self, pictures, scale):
        found = []
        for picture in pictures:
            number = read_number(picture[3:13])
            self.seen.append((number, scale))
            boxes = [] if number == 3 else [RIGHT, LEFT]  # in no order of theirs
            count = len(boxes)
            found.append(Faces(np.float32(boxes).reshape(-1, 4), np.full(count, 0.99, np.float32), None))
        return found


def expected(name, frame, person):
    value = level(frame, person)
    return (255 - value if name == "green" else value) / 255


@pytest.fixture
def seeing(tmp_path, monkeypatch):
    """A folder with the video and one with the three checkpoints, whose networks are replaced as they are loaded."""
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/known.mp4", known_video(), crf=4)
    (tmp_path / "weights").mkdir()
    for name, size in SIZES.items():
        make_checkpoint(tmp_path / "weights", name, size=size)
    replace_networks(monkeypatch)
    monkeypatch.setattr(scorer, "FaceDetector", KnowingDetector)
    return tmp_path


def score(folder, *more, models=("red", "green", "blue")):
    arguments = [
        "--weights-dir",
        folder / "weights",
        "--test-dir",
        folder / "videos",
        "--output",
        folder / "o.csv",
        "--device",
        "cpu",
        "--no-report",
        "--models",
        *models,
    ]
    status = predict_folder.main([str(value) for value in (*arguments, *more)])
    return status, json.loads((folder / "o.json").read_text())


@pytest.mark.parametrize("order", [("red", "green", "blue"), ("blue", "red")])
def test_every_number_is_that_of_its_frame_person_and_checkpoint(seeing, order):
    status, found = score(seeing, "--precision", "fp32", models=order)
    assert status == 0
    (video,) = found["videos"]
    numbers = np.linspace(0, FRAMES - 1, 32).astype(int).tolist()
    assert 3 in numbers
    assert [face["frame"] for face in video["faces"]] == [number for number in numbers if number != 3 for _ in range(2)]
    assert [model["name"] for model in video["models"]] == list(order)
    people = {}
    for face in video["faces"]:
        person = "left" if face["box"] == list(map(float, LEFT)) else "right"
        people.setdefault((person, face["frame"] >= CUT), set()).add(face["person"])
        assert face["scores"] == pytest.approx([expected(name, face["frame"], person) for name in order], abs=0.02)
    # Two persons in each of the two shots, and no number twice; in one frame the larger face is numbered first.
    assert people[("left", False)] == {0}
    assert people[("right", False)] == {1}
    assert sorted(number for numbers in people.values() for number in numbers) == [0, 1, 2, 3]


@pytest.mark.parametrize("strategy", ["mean", "person-max"])
def test_the_videos_score_is_that_of_the_strategy_over_known_faces(seeing, strategy):
    _, found = score(seeing, "--precision", "fp32", "--strategy", strategy)
    (video,) = found["videos"]
    shown = [number for number in np.linspace(0, FRAMES - 1, 32).astype(int) if number != 3]
    shots = [[number for number in shown if (number >= CUT) == after] for after in (False, True)]
    for model in video["models"]:
        means = [
            np.mean([expected(model["name"], number, person) for number in shot])
            for person in ("left", "right")
            for shot in shots
        ]
        every = np.mean([expected(model["name"], n, person) for n in shown for person in ("left", "right")])
        assert model["score"] == pytest.approx(max(means) if strategy == "person-max" else every, abs=0.02)
    assert video["score"] == pytest.approx(np.mean([model["score"] for model in video["models"]]))


@pytest.mark.parametrize(("setting", "scale"), [("auto", 1.0), ("0.5", 0.5), ("2", 2.0)])
def test_the_detector_is_told_the_scale_that_was_asked_for(seeing, monkeypatch, setting, scale):
    detectors = []

    class Kept(KnowingDetector):
        def __init__(self, *_):
            super().__init__()
            detectors.append(self)

    monkeypatch.setattr(scorer, "FaceDetector", Kept)
    score(seeing, "--detector-scale", setting)
    assert [number for number, _ in detectors[0].seen] == np.linspace(0, FRAMES - 1, 32).astype(int).tolist()
    assert {asked for _, asked in detectors[0].seen} == {scale}


def test_the_pages_show_the_faces_that_were_scored(seeing):
    with Scorer([seeing / "weights" / name for name in NETWORKS], device="cpu") as kept:
        (verdict,) = kept.score([seeing / "videos/known.mp4"])
        with contextlib.closing(Decoder()) as decoder:
            shown = []

            def look(ensemble, index, crop):
                shown.append((ensemble.names[index], crop.copy()))
                return crop, None

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pictures, "look", look)
                read = pictures.read_pictures(verdict, lambda: kept.ensemble, decoder)
    assert read.fault == ""
    suspects = pictures.most_suspicious(verdict)
    assert len(suspects) == len(shown) == 4
    for face, (name, crop) in zip(sorted(suspects, key=lambda face: face.frame), shown, strict=True):
        person = "left" if face.box == list(map(float, LEFT)) else "right"
        scores = {other: expected(other, face.frame, person) for other in NETWORKS}
        assert scores[name] == pytest.approx(max(scores.values()))  # the checkpoint that is surest
        height, width = crop.shape[:2]
        x1, y1, x2, y2 = LEFT if person == "left" else RIGHT
        assert (width, height) == (x2 - x1 + 2 * ((x2 - x1) // 3), y2 - y1 + 2 * ((y2 - y1) // 3))
        assert crop[int(0.3 * height), int(0.35 * width), 0] == pytest.approx(level(face.frame, person), abs=8)


def test_statuses_through_the_command(seeing, monkeypatch, capsys):
    class Moody(KnowingDetector):
        def detect(self, pictures, scale):
            if read_number(pictures[0][3:13]) == 9:
                raise torch.OutOfMemoryError("CUDA out of memory")
            if read_number(pictures[0][3:13]) == 8:
                raise KeyError("a bug")
            return super().detect(pictures, scale)

    monkeypatch.setattr(scorer, "FaceDetector", Moody)
    frames = list(known_video())
    for name, chosen in (
        ("short", frames[10:17]),
        ("nobody", frames[3:4] * 40),
        ("bug", frames[8:9] * 40),
        ("memory", frames[9:10] * 40),
    ):
        write_video(seeing / f"videos/{name}.mp4", chosen, crf=4)
    (seeing / "videos/no video.mp4").write_text("text")
    status, found = score(seeing)
    assert status == 1
    statuses = {video["filename"]: video["status"] for video in found["videos"]}
    assert statuses == {
        "bug.mp4": "error",
        "known.mp4": "ok",
        "memory.mp4": "out of memory",
        "no video.mp4": "unreadable",
        "nobody.mp4": "no face",
        "short.mp4": "too short",
    }
    rows = {row["filename"]: row for row in csv_rows(seeing / "o.csv")}
    for video in found["videos"]:
        row = rows[video["filename"]]
        assert bool(row["label"]) == (video["score"] is not None) == (video["status"] in ("ok", "too short"))
        assert (row["status"], row["doubts"]) == (video["status"], "; ".join(video["doubts"]))
        assert (int(row["faces"]), int(row["frames"])) == (len(video["faces"]), video["frames_read"])
    assert rows["short.mp4"]["doubts"] == "few faces"
    said = capsys.readouterr().out
    assert "few faces)" in said
    assert "doubts: 1 few faces" in said
    assert found["summary"]["doubts"] == {"few faces": 1}
    monkeypatch.setattr(scorer, "FaceDetector", KnowingDetector)
    status, found = score(seeing)  # what may pass is tried again
    assert {video["filename"]: video["status"] for video in found["videos"]} == {
        **statuses,
        "bug.mp4": "ok",
        "memory.mp4": "ok",
    }
    assert "4 of 6 are already done" in capsys.readouterr().out
