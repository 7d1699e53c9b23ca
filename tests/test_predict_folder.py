"""Scoring a folder (predict_folder.py)."""

import shutil

import numpy as np
import pytest
import torch
from helpers import REAL_VIDEOS, numbered_frames, on_both_kinds
from scoring_runs import FakeDetector, details, find_faces, labels, predict_with, run

import predict_folder
from dfdc import layout
from dfdc.command_line import UserError
from dfdc.detector_settings import PREDICT_THRESHOLDS
from dfdc.faces import FaceDetector, Faces
from dfdc.imaging import IMAGENET_MEAN, IMAGENET_STD
from dfdc.scoring import confident_score
from dfdc.video import VideoReader, write_video
from networks import files
from networks.ensemble import Ensemble
from networks.spec import CheckpointError
from prediction import batches, inputs

SCRIPT = "predict_folder.py"


@pytest.fixture(scope="module")
def detector():
    return FaceDetector(PREDICT_THRESHOLDS)


@pytest.fixture(scope="module")
def demo_videos(demo_root, tmp_path_factory):
    """The first 13 frames of a real and a fake video of the demo, in a folder."""
    folder = tmp_path_factory.mktemp("videos")
    dataset = layout.load_dataset(demo_root)
    for video in (dataset.reals()[0], dataset.fakes()[0]):
        with VideoReader(video.path) as reader:
            write_video(folder / video.path.name, (frame for _, frame in reader.frames(range(13))))
    return folder


@pytest.mark.slow
def test_scores_are_those_of_the_steps_done_by_hand(weights, demo_videos, tmp_path, detector):
    output = tmp_path / "submission.csv"
    assert run(weights, demo_videos, output) == 0
    names = sorted(path.name for path in demo_videos.iterdir())
    assert output.read_text().startswith("filename,label,status,doubts,faces,frames\n")
    assert sorted(labels(output)) == names
    videos = {video["filename"]: video for video in details(output)["videos"]}
    for name in names:
        with VideoReader(demo_videos / name) as reader:
            frames = dict(reader.frames())
        crops = []
        for frame in frames.values():
            for box in detector.detect([frame])[0].boxes:
                x1, y1, x2, y2 = (int(corner) for corner in box)
                w, h = (x2 - x1) // 3, (y2 - y1) // 3
                crops.append(frame[max(y1 - h, 0) : y2 + h, max(x1 - w, 0) : x2 + w])
        video = videos[name]
        assert (video["status"], video["frames_read"], len(video["faces"])) == ("too short", 13, len(crops))
        per_model = []
        for index, (model, size) in enumerate((("a", 64), ("b", 96))):
            network = predict_folder_model(weights / model)
            scores = [torch.sigmoid(network(network_input(crop, size))).item() for crop in crops]
            assert [face["scores"][index] for face in video["faces"]] == pytest.approx(scores, abs=2e-3)
            per_model.append(confident_score(scores).score)
        assert video["score"] == pytest.approx(np.mean(per_model), abs=1e-3)
        assert [model["name"] for model in video["models"]] == ["a", "b"]


def predict_folder_model(path):
    from networks.checkpoint import load_model

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


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, numbered_frames(40))
    return path


@pytest.mark.slow
def test_t3_each_failure_has_its_own_status_and_no_score(tmp_path, clip):
    zero = tmp_path / "zero.mp4"
    zero.write_bytes(b"")
    someone = [[10, 10, 40, 50]]
    cases = [
        (zero, FakeDetector(someone), "unreadable", "zero bytes"),
        (clip, FakeDetector([]), "no face", "no face detected in the 32 frames"),
        (clip, FakeDetector(someone, torch.OutOfMemoryError("CUDA out of memory")), "out of memory", "OutOfMemory"),
        (clip, FakeDetector(someone, KeyError("bug")), "error", "KeyError"),
    ]
    for path, detector, status, reason in cases:
        verdict = find_faces(path, detector)
        assert (verdict.status, verdict.score) == (status, None)
        assert reason in verdict.reason


def test_t2_one_face_in_a_video_is_enough(tmp_path, weights):
    path = tmp_path / "one.mp4"
    write_video(path, numbered_frames(1))
    (verdict,) = predict_with(FakeDetector([[10, 10, 40, 50]]), [path], weights, tmp_path)
    assert (verdict.status, len(verdict.faces)) == ("too short", 1)
    assert 0 < verdict.score < 1


def test_t4_one_bad_box_costs_that_crop_only(clip):
    crops = []
    detector = FakeDetector([[10, 10, 40, 50], [500, 500, 600, 600], [5, 5, 5, 9]])
    verdict = find_faces(clip, detector, crops.append)
    assert verdict.status == "ok"
    assert len(crops) == len(verdict.faces) == 32


@pytest.mark.slow
def test_t5_a_crowd_is_scored_to_its_last_frame(weights, tmp_path):
    clip = tmp_path / "still.mp4"
    write_video(clip, list(numbered_frames(40))[22:23] * 40)
    crowd = [[x, y, x + 9, y + 9] for x in range(0, 80, 8) for y in range(0, 50, 8)]
    (verdict,) = predict_with(FakeDetector(crowd), [clip], weights, tmp_path)
    assert len(verdict.faces) == 32 * len(crowd) > 127
    assert verdict.faces[-1].frame == 39
    assert all(0 < face.scores[0] < 1 for face in verdict.faces)
    assert len(verdict.persons) == len(crowd)


def test_t11_lost_frames_make_it_partial(tmp_path):
    from test_video import encode

    path = encode(tmp_path / "m.avi", codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xd8\xff")
    data[start : start + 200] = bytes(200)
    path.write_bytes(data)
    verdict = find_faces(path, FakeDetector([[10, 10, 40, 50]]))
    assert (verdict.status, verdict.frames_lost, verdict.frames_read) == ("partial", [0], 31)


@pytest.mark.slow
def test_a_folder_with_bad_files_gives_every_other_verdict_and_status_1(weights, demo_videos, tmp_path, capsys):
    folder = tmp_path / "videos"
    shutil.copytree(demo_videos, folder)
    (folder / "zero.MP4").write_bytes(b"")
    (folder / "text, with comma.mov").write_text("no video")
    write_video(folder / "nobody.mp4", numbered_frames(40))
    (folder / "notes.txt").write_text("not looked at")
    output = tmp_path / "out.csv"
    assert run(weights, folder, output, models=["a"]) == 1
    said = capsys.readouterr().out
    rows = labels(output)
    assert len(rows) == 5
    assert rows["zero.MP4"] == rows["text, with comma.mov"] == rows["nobody.mp4"] == ""
    assert sum(bool(label) for label in rows.values()) == 2
    for line in (
        "unreadable: zero.MP4: the file has zero bytes",
        "no face: nobody.mp4",
        "  unreadable        2  no verdict",
    ):
        assert line in said
    assert details(output)["summary"]["statuses"] == {"no face": 1, "too short": 2, "unreadable": 2}


@pytest.mark.slow
def test_t14_a_stopped_run_goes_on_and_what_is_scored_is_not_scored_again(
    weights, demo_videos, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "out.csv"
    calls = []
    original = batches.find_faces

    names = sorted(path.name for path in demo_videos.iterdir())
    videos = tmp_path / "videos"
    shutil.copytree(demo_videos, videos)
    held_back = (videos / names[1]).rename(tmp_path / names[1])
    assert run(weights, videos, output, models=["a"]) == 0
    progress = output.with_name("out.csv.progress")
    with progress.open("a") as handle:
        handle.write('{"filename": "cut')  # a kill in the middle of a line
    held_back.rename(videos / names[1])

    def counted(path, name, *rest):
        calls.append(name)
        return original(path, name, *rest)

    monkeypatch.setattr(batches, "find_faces", counted)
    assert run(weights, videos, output, models=["a"]) == 0
    assert calls == [names[1]]  # the one that was added
    first = output.read_text()
    assert run(weights, videos, output, models=["a"]) == 0
    assert len(calls) == 1
    assert output.read_text() == first
    (videos / names[0]).write_bytes(b"")  # changed since
    assert run(weights, videos, output, models=["a"]) == 1
    assert calls == [names[1], names[0]]
    shutil.copy(demo_videos / names[0], videos / names[0])
    assert run(weights, videos, output, models=["a"]) == 0
    assert len(calls) == 3
    by_rule = {}
    for strategy in ("smooth", "confident"):  # of the same faces' scores
        assert run(weights, videos, output, "--strategy", strategy, models=["a"]) == 0
        by_rule[strategy] = details(output)["videos"][0]
        assert details(output)["settings"]["strategy"] == strategy
    assert len(calls) == 3
    assert by_rule["smooth"]["models"][0]["rule"] == "smooth"
    assert by_rule["smooth"]["score"] != by_rule["confident"]["score"]
    assert output.read_text() == first
    assert "2 of 2 are already done" in capsys.readouterr().out
    assert run(weights, videos, output, "--detector-scale", "1", models=["a"]) == 0  # other settings
    assert len(calls) == 5
    assert "written by a run with other settings (detector_scale)" in capsys.readouterr().out
    assert run(weights, videos, output, "--detector-scale", "1", "--force", models=["a"]) == 0
    assert len(calls) == 7


@pytest.mark.slow
def test_an_error_is_tried_again(clip, weights, tmp_path):
    (verdict,) = predict_with(FakeDetector([], KeyError("bug")), [clip], weights, tmp_path)
    assert verdict.status == "error"
    (verdict,) = predict_with(FakeDetector([[10, 10, 40, 50]]), [clip], weights, tmp_path)
    assert verdict.status == "ok"


@pytest.mark.slow
def test_videos_share_batches_and_one_that_fails_costs_no_other(tmp_path, weights, monkeypatch):
    paths = []
    for name in ("a", "bad", "c", "d", "e"):
        paths.append(tmp_path / f"{name}.mp4")
        write_video(paths[-1], list(numbered_frames(8))[3 if name == "bad" else 0 :])
    original = Ensemble._inputs

    def breaks(self, crops):
        if any(len(crop) and crop.shape[0] == 32 for crop in crops):
            raise ArithmeticError("a crop it can't take")
        return original(self, crops)

    monkeypatch.setattr(Ensemble, "_inputs", breaks)

    class ByLength(FakeDetector):
        def detect(self, pictures, scale):
            found = super().detect(pictures, scale)
            odd = Faces(np.float32([[10, 10, 40, 30]]), np.ones(1, np.float32), np.zeros((1, 5, 2), np.float32))
            return [odd if len(pictures) == 1 else item for item in found]

    detector = ByLength([[10, 10, 40, 50]])
    verdicts = predict_with(detector, paths, weights, tmp_path, readers=3)
    assert [verdict.filename for verdict in verdicts] == [path.name for path in paths]
    assert [verdict.status for verdict in verdicts] == ["too short", "error", "too short", "too short", "too short"]
    assert "while scoring: ArithmeticError" in verdicts[1].reason
    alone = [predict_with(detector, [path], weights, tmp_path / path.stem)[0] for path in paths]
    assert [verdict.score for verdict in verdicts] == pytest.approx([verdict.score for verdict in alone], abs=1e-5)


@pytest.mark.slow
def test_pictures_lists_and_single_files(weights, tmp_path, capsys):
    import skimage.data

    from dfdc.imaging import encode_png

    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    (folder / "Portrait.PNG").write_bytes(encode_png(skimage.data.astronaut()))
    (folder / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match="add recursive to search its subfolders"):
        inputs.list_inputs([tmp_path / "in"])
    assert set(inputs.list_inputs([tmp_path / "in"], recursive=True)) == {"Portrait.PNG", "broken.jpg"}
    listing = tmp_path / "list.txt"
    listing.write_text("in/deep/Portrait.PNG\n\n")
    assert list(inputs.list_inputs([folder / "Portrait.PNG"], [listing])) == ["Portrait.PNG"]
    listing.write_text("in/absent.mp4\n")
    with pytest.raises(UserError, match=r"1 of its files are missing, .*absent.mp4"):
        inputs.list_inputs([], [listing])
    with pytest.raises(UserError, match="nothing to score"):
        inputs.list_inputs([])
    output = tmp_path / "out.csv"
    assert run(weights, folder, output, models=["a"]) == 1
    videos = {video["filename"]: video for video in details(output)["videos"]}
    assert (videos["Portrait.PNG"]["status"], videos["broken.jpg"]["status"]) == ("ok", "unreadable")
    (person,) = videos["Portrait.PNG"]["persons"]
    assert person["score"] == pytest.approx(videos["Portrait.PNG"]["score"])
    assert person["thumbnail"]["frame"] == 0


@pytest.mark.slow
def test_labels_give_log_loss_and_auc(weights, demo_videos, tmp_path, capsys):
    names = sorted(path.name for path in demo_videos.iterdir())
    listing = tmp_path / "labels.csv"
    listing.write_text("filename,label\n" + "".join(f"{name},{'FAKE' if i else 0}\n" for i, name in enumerate(names)))
    output = tmp_path / "out.csv"
    assert run(weights, demo_videos, output, "--labels", listing, models=["a"]) == 0
    found = details(output)["summary"]["metrics"]
    assert (found["count"], found["fakes"]) == (2, 1)
    scores = labels(output)
    expected = -(np.log(1 - float(scores[names[0]])) + np.log(float(scores[names[1]]))) / 2
    assert found["log_loss"] == pytest.approx(expected, abs=1e-4)
    assert f"log loss {found['log_loss']:.4f}, auc {found['auc']:.4f}" in capsys.readouterr().out


@pytest.mark.slow
def test_fold_scores_the_held_out_videos(weights, preprocessed, tmp_path, capsys):
    output = tmp_path / "out.csv"
    assert run(weights, preprocessed, output, "--fold", 0, models=["a"]) == 0
    part = layout.load_dataset(preprocessed).parts[0]
    assert labels(output).keys() == {p.name for p in part.glob("*.mp4")}
    assert "auc" in capsys.readouterr().out
    with pytest.raises(UserError, match="only has folds"):
        run(weights, preprocessed, output, "--fold", 99)


def test_same_names_in_two_folders_are_told_apart(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.mp4").write_bytes(b"")
    (tmp_path / "two" / "other.mp4").write_bytes(b"")
    found = inputs.list_inputs([tmp_path / "one", tmp_path / "two"])
    assert set(found) == {str(tmp_path / "one" / "same.mp4"), str(tmp_path / "two" / "same.mp4"), "other.mp4"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--models": "nope"}, "nope: not in"),
        ({"--weights-dir": "/absent"}, "there is no folder /absent"),
        ({"--test-dir": "/absent"}, "no such folder"),
        ({"--output": "x.txt"}, "ends in .csv"),
        ({"--detector-scale": "9"}, "expected auto, or a factor"),
        ({"--device": "tpu"}, "--device tpu"),
        ({"--labels": "/absent.csv"}, "--labels /absent.csv"),
    ],
)
def test_wrong_use_exits_2_and_names_it(weights, tmp_path, capsys, change, said):
    options = {
        "--weights-dir": weights,
        "--models": "a",
        "--test-dir": tmp_path,
        "--output": tmp_path / "o.csv",
        **change,
    }
    (tmp_path / "a.mp4").write_bytes(b"")
    arguments = [str(part) for option in options.items() for part in option]
    with pytest.raises((UserError, SystemExit)) as refusal:
        predict_folder.main(arguments)
    error = refusal.value
    assert (error.code if isinstance(error, SystemExit) else error.status) == 2
    assert said in f"--{error} {capsys.readouterr().err}"  # run_main puts the -- before a setting
    assert not (tmp_path / "o.csv").exists()


def test_checkpoints_named_in_a_file(weights, tmp_path):
    chosen = tmp_path / "selected.txt"
    chosen.write_text("a\n\nb\n")
    assert files.find_models(weights, [f"@{chosen}"]) == [weights / "a", weights / "b"]
    chosen.write_text("\n")
    with pytest.raises(UserError, match="lists no checkpoint"):
        files.find_models(weights, [f"@{chosen}"])


def test_a_folder_without_videos_and_a_broken_checkpoint(weights, demo_videos, tmp_path):
    with pytest.raises(UserError, match="contains no video or photo"):
        run(weights, tmp_path, tmp_path / "o.csv")
    (tmp_path / "broken").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="broken can't be read safely as a checkpoint"):
        run(tmp_path, demo_videos, tmp_path / "o.csv", models=["broken"])


@pytest.mark.slow
@on_both_kinds
def test_videos_of_all_shapes_are_scored(kind, weights, face_clips, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    real = [REAL_VIDEOS / "faces" / name for name in ("d20.mp4", "s18.mp4", "s20.mp4")]
    for path in real if kind == "real" else face_clips.iterdir():
        (folder / path.name).symlink_to(path)
    output = tmp_path / "out.csv"
    assert run(weights, folder, output) == 0
    assert len(details(output)["videos"]) == 3
    for video in details(output)["videos"]:
        assert video["status"] == "ok"
        assert video["frames_read"] == 32
        assert len(video["faces"]) >= 30
        counts = np.bincount([face["person"] for face in video["faces"]])
        assert counts.max() >= 30  # one person, one number
