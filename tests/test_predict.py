"""Scoring a folder (predict_folder.py)."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import REAL_VIDEOS, needs_real_videos, numbered_frames, run_script

import predict_folder
from dfdc import layout
from dfdc.faces import PREDICT_THRESHOLDS, FaceDetector, Faces, no_faces
from dfdc.imaging import IMAGENET_MEAN, IMAGENET_STD
from dfdc.parallel import UsageError
from dfdc.video import VideoReader, write_video
from training.checkpoint import ModelSpec, save_checkpoint
from training.model import build_network

SCRIPT = "predict_folder.py"


def make_checkpoint(folder, name, encoder="test_efficientnet", size=64, seed=0, bias=0.0):
    torch.manual_seed(seed)
    network = build_network("DeepFakeClassifier", encoder)
    torch.nn.init.constant_(network.fc.bias, bias)
    spec = ModelSpec("DeepFakeClassifier", encoder, size)
    save_checkpoint(folder / name, network, spec, epoch=0, bce_best=0.5, metrics={})
    return network.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    make_checkpoint(folder, "a", seed=1, bias=1.0)
    make_checkpoint(folder, "b", "test_resnet", size=96, seed=2, bias=-0.5)  # T13: another encoder, another size
    return folder


@pytest.fixture(scope="module")
def detector():
    return FaceDetector(PREDICT_THRESHOLDS)


@pytest.fixture(scope="module")
def demo_videos(demo_root, tmp_path_factory):
    """A real and a fake video of the demo, in a folder."""
    folder = tmp_path_factory.mktemp("videos")
    dataset = layout.load_dataset(demo_root)
    for video in (dataset.reals()[0], dataset.fakes()[0]):
        shutil.copy(video.path, folder / video.path.name)
    return folder


def run(weights, videos, output, *more, models=("a", "b")):
    arguments = [
        "--weights-dir",
        weights,
        "--models",
        *models,
        "--test-dir",
        videos,
        "--output",
        output,
        "--device",
        "cpu",
    ]
    return predict_folder.main([str(value) for value in (*arguments, *more)])


def details(output):
    return json.loads(output.with_suffix(".json").read_text())


@pytest.mark.parametrize(("count", "expected"), [(300, 32), (33, 32), (32, 32), (31, 31), (5, 5), (1, 1)])
def test_t1_frames_are_spread_and_a_short_clip_is_read_whole(count, expected):
    numbers = predict_folder.frame_numbers(count)
    assert len(numbers) == len(set(numbers)) == expected
    assert (numbers[0], numbers[-1]) == (0, count - 1)
    if count >= 32:
        assert numbers == np.linspace(0, count - 1, 32).astype(int).tolist()


def test_scores_are_those_of_the_steps_done_by_hand(weights, demo_videos, tmp_path, detector):
    output = tmp_path / "submission.csv"
    assert run(weights, demo_videos, output) == 0
    names = sorted(path.name for path in demo_videos.iterdir())
    lines = output.read_text().splitlines()
    assert lines[0] == "filename,label"
    assert sorted(line.split(",")[0] for line in lines[1:]) == names
    videos = {video["filename"]: video for video in details(output)["videos"]}
    for name in names:
        with VideoReader(demo_videos / name) as reader:
            frames = dict(reader.frames(range(31)))
        crops = []
        for frame in frames.values():
            for box in detector.detect([frame])[0].boxes:
                x1, y1, x2, y2 = (int(corner) for corner in box)
                w, h = (x2 - x1) // 3, (y2 - y1) // 3
                crops.append(frame[max(y1 - h, 0) : y2 + h, max(x1 - w, 0) : x2 + w])
        video = videos[name]
        assert (video["status"], video["frames_read"], len(video["faces"])) == ("too short", 31, len(crops))
        per_model = []
        for index, (model, size) in enumerate((("a", 64), ("b", 96))):
            network = predict_folder_model(weights / model)
            scores = [torch.sigmoid(network(network_input(crop, size))).item() for crop in crops]
            assert [face["scores"][index] for face in video["faces"]] == pytest.approx(scores, abs=2e-3)
            per_model.append(predict_folder.confident_score(scores).score)
        assert video["score"] == pytest.approx(np.mean(per_model), abs=1e-3)
        assert [model["name"] for model in video["models"]] == ["a", "b"]


def predict_folder_model(path):
    from training.checkpoint import load_model

    return load_model(path)[0]


def network_input(crop, size):
    import cv2

    scale = size / max(crop.shape[:2])
    width, height = (size if side == max(crop.shape[:2]) else int(side * scale) for side in crop.shape[1::-1])
    resized = cv2.resize(crop, (width, height), interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    square = np.zeros((size, size, 3), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = resized
    values = (square / 255 - IMAGENET_MEAN) / IMAGENET_STD
    return torch.from_numpy(values).permute(2, 0, 1)[None].float()


class FakeDetector:
    """Finds the given boxes in every frame."""

    def __init__(self, boxes, fail=None):
        self.boxes, self.fail = np.asarray(boxes, np.float32).reshape(-1, 4), fail

    def batch_size(self, width, height, scale):
        return 4

    def detect(self, pictures, scale):
        if self.fail:
            raise self.fail
        count = len(self.boxes)
        found = (
            Faces(self.boxes, np.ones(count, np.float32), np.zeros((count, 5, 2), np.float32)) if count else no_faces()
        )
        return [found] * len(pictures)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, numbered_frames(40))
    return path


def test_t3_each_failure_has_its_own_status_and_no_score(tmp_path, clip):
    zero = tmp_path / "zero.mp4"
    zero.write_bytes(b"")
    someone = [[10, 10, 40, 50]]
    cases = [
        (zero, FakeDetector(someone), "unreadable", "zero bytes"),
        (clip, FakeDetector([]), "no face", "no face found in the 32 frames"),
        (clip, FakeDetector(someone, torch.OutOfMemoryError("CUDA out of memory")), "out of memory", "OutOfMemory"),
        (clip, FakeDetector(someone, KeyError("bug")), "error", "KeyError"),
    ]
    for path, detector, status, reason in cases:
        verdict = predict_folder.find_faces(path, path.name, detector, 1.0).verdict
        assert (verdict.status, verdict.score) == (status, None)
        assert reason in verdict.reason


def test_t2_one_face_in_a_video_is_enough(tmp_path, weights):
    path = tmp_path / "one.mp4"
    write_video(path, numbered_frames(1))
    found = predict_folder.find_faces(path, "one.mp4", FakeDetector([[10, 10, 40, 50]]), 1.0)
    verdict = predict_folder.judge(found, predict_folder.Ensemble([weights / "a"], "cpu"))
    assert (verdict.status, len(verdict.faces)) == ("too short", 1)
    assert 0 < verdict.score < 1


def test_t4_one_bad_box_costs_that_crop_only(clip):
    found = predict_folder.find_faces(
        clip, "x", FakeDetector([[10, 10, 40, 50], [500, 500, 600, 600], [5, 5, 5, 9]]), 1.0
    )
    assert found.verdict.status == "ok"
    assert len(found.crops) == len(found.verdict.faces) == 32


def test_t5_a_crowd_is_scored_to_its_last_frame(clip):
    crowd = [[x, y, x + 9, y + 9] for x in range(0, 80, 8) for y in range(0, 50, 8)]
    found = predict_folder.find_faces(clip, "x", FakeDetector(crowd), 1.0)
    assert len(found.crops) == 32 * len(crowd) > 127
    assert found.verdict.faces[-1]["frame"] == 39
    persons = {face["person"] for face in found.verdict.faces}
    assert len(persons) == len(crowd)


def test_t11_lost_frames_make_it_partial(tmp_path):
    from test_video import encode

    path = encode(tmp_path / "m.avi", codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xd8\xff")
    data[start : start + 200] = bytes(200)
    path.write_bytes(data)
    verdict = predict_folder.find_faces(path, "m.avi", FakeDetector([[10, 10, 40, 50]]), 1.0).verdict
    assert (verdict.status, verdict.frames_lost, verdict.frames_read) == ("partial", [0], 31)


def test_a_folder_with_bad_files_gives_every_other_verdict_and_status_1(weights, demo_videos, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(demo_videos, folder)
    (folder / "zero.MP4").write_bytes(b"")
    (folder / "text, with comma.mov").write_text("no video")
    write_video(folder / "nobody.mp4", numbered_frames(40))
    (folder / "notes.txt").write_text("not looked at")
    output = tmp_path / "out.csv"
    done = run_script(SCRIPT, "--weights-dir", weights, "--models", "a", "--test-dir", folder, "--output", output)
    assert done.returncode == 1, done.stderr
    rows = dict(line.rsplit(",", 1) for line in output.read_text().splitlines()[1:])
    assert len(rows) == 5
    assert rows["zero.MP4"] == rows['"text, with comma.mov"'] == rows["nobody.mp4"] == ""
    assert sum(bool(label) for label in rows.values()) == 2
    for said in ("unreadable: zero.MP4: the file has zero bytes", "no face: nobody.mp4", "2 unreadable"):
        assert said in done.stdout
    assert details(output)["summary"]["statuses"] == {"no face": 1, "too short": 2, "unreadable": 2}


def test_t14_a_stopped_run_goes_on_and_other_settings_begin_anew(weights, demo_videos, tmp_path, monkeypatch):
    output = tmp_path / "out.csv"
    calls = []
    original = predict_folder.judge

    def stops_at_the_second(found, ensemble):
        calls.append(found.verdict.filename)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(found, ensemble)

    monkeypatch.setattr(predict_folder, "judge", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(weights, demo_videos, output, models=["a"])
    assert not output.exists()
    progress = output.with_name("out.csv.progress")
    with progress.open("a") as handle:
        handle.write('{"filename": "cut')  # a kill in the middle of a line
    assert run(weights, demo_videos, output, models=["a"]) == 0
    assert sorted(calls[2:]) == sorted({path.name for path in demo_videos.iterdir()} - {calls[0]})
    assert not progress.exists()
    first = output.read_text()
    calls.clear()
    calls.extend(["skip the stop"] * 2)
    assert run(weights, demo_videos, output, models=["a"]) == 0
    assert len(calls) == 4
    assert output.read_text() == first

    progress.write_text(json.dumps({"other": "settings"}) + "\n" + json.dumps({"filename": "x"}) + "\n")
    assert run(weights, demo_videos, output, models=["a"]) == 0
    assert output.read_text() == first


def test_labels_give_log_loss_and_auc(weights, demo_videos, tmp_path, capsys):
    names = sorted(path.name for path in demo_videos.iterdir())
    labels = tmp_path / "labels.csv"
    labels.write_text("filename,label\n" + "".join(f"{name},{'FAKE' if i else 0}\n" for i, name in enumerate(names)))
    output = tmp_path / "out.csv"
    assert run(weights, demo_videos, output, "--labels", labels, models=["a"]) == 0
    found = details(output)["summary"]["metrics"]
    assert (found["count"], found["fakes"]) == (2, 1)
    scores = dict(line.split(",") for line in output.read_text().splitlines()[1:])
    expected = -(np.log(1 - float(scores[names[0]])) + np.log(float(scores[names[1]]))) / 2
    assert found["log_loss"] == pytest.approx(expected, abs=1e-4)
    assert f"log loss {found['log_loss']:.4f}, auc {found['auc']:.4f}" in capsys.readouterr().out


def test_fold_scores_the_held_out_videos(weights, preprocessed, tmp_path, capsys):
    output = tmp_path / "out.csv"
    assert run(weights, preprocessed, output, "--fold", 0, models=["a"]) == 0
    part = layout.load_dataset(preprocessed).parts[0]
    assert {line.split(",")[0] for line in output.read_text().splitlines()[1:]} == {
        p.name for p in part.path.glob("*.mp4")
    }
    assert "auc" in capsys.readouterr().out
    with pytest.raises(UsageError, match="has the folds"):
        run(weights, preprocessed, output, "--fold", 99)


def test_same_names_in_two_folders_are_told_apart(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.mp4").write_bytes(b"")
    (tmp_path / "two" / "other.mp4").write_bytes(b"")
    inputs = predict_folder.list_inputs([tmp_path / "one", tmp_path / "two"])
    assert set(inputs) == {str(tmp_path / "one" / "same.mp4"), str(tmp_path / "two" / "same.mp4"), "other.mp4"}


@pytest.mark.parametrize(
    ("change", "said"),
    [({"--models": "nope"}, "nope: not in"), ({"--weights-dir": "/absent"}, "(none)"),
     ({"--test-dir": "/absent"}, "there is no such folder"),
     ({"--output": "x.txt"}, "ends in .csv"), ({"--detector-scale": "9"}, "neither auto nor a factor"),
     ({"--device": "tpu"}, "--device tpu"), ({"--labels": "/absent.csv"}, "--labels /absent.csv")],
)  # fmt: skip
def test_wrong_use_exits_2_and_names_it(weights, demo_videos, tmp_path, change, said):
    options = {
        "--weights-dir": weights,
        "--models": "a",
        "--test-dir": demo_videos,
        "--output": tmp_path / "o.csv",
        **change,
    }
    done = run_script(SCRIPT, *(part for option in options.items() for part in option))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_checkpoints_named_in_a_file(weights, tmp_path):
    chosen = tmp_path / "selected.txt"
    chosen.write_text("a\n\nb\n")
    assert predict_folder.find_models(weights, [f"@{chosen}"]) == [weights / "a", weights / "b"]
    chosen.write_text("\n")
    with pytest.raises(UsageError, match="names no checkpoint"):
        predict_folder.find_models(weights, [f"@{chosen}"])


def test_t45_the_checkpoints_margin_is_used(tmp_path):
    from dfdc.imaging import tighten

    torch.manual_seed(0)
    network = build_network("DeepFakeClassifier", "test_efficientnet")
    for name, part in (("wide", 3), ("tight", 8)):
        spec = ModelSpec("DeepFakeClassifier", "test_efficientnet", 64, margin_part=part)
        save_checkpoint(tmp_path / name, network, spec, epoch=0, bce_best=1, metrics={})
    crop = np.random.default_rng(0).integers(0, 256, (100, 80, 3), dtype=np.uint8)
    wide, tight = predict_folder.Ensemble([tmp_path / "wide", tmp_path / "tight"], "cpu").score([crop])[:, 0]
    assert wide != tight
    only = predict_folder.Ensemble([tmp_path / "wide"], "cpu").score([np.ascontiguousarray(tighten(crop, 8))])[0, 0]
    assert tight == pytest.approx(only, abs=1e-6)


def test_a_folder_without_videos_and_a_broken_checkpoint(weights, demo_videos, tmp_path):
    with pytest.raises(UsageError, match="no video lies right in it"):
        run(weights, tmp_path, tmp_path / "o.csv")
    (tmp_path / "broken").write_bytes(b"PK")
    with pytest.raises(UsageError, match="broken is not a checkpoint"):
        run(tmp_path, demo_videos, tmp_path / "o.csv", models=["broken"])


@needs_real_videos
def test_real_videos_of_all_shapes_are_scored(weights, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("d20.mp4", "d18.mp4"):
        (folder / name).symlink_to(REAL_VIDEOS / "faces" / name)
    output = tmp_path / "out.csv"
    assert run(weights, folder, output) == 0
    for video in details(output)["videos"]:
        assert video["status"] == "ok"
        assert video["frames_read"] == 32
        assert len(video["faces"]) >= 30
        counts = np.bincount([face["person"] for face in video["faces"]])
        assert counts.max() >= 30  # one person, one number
