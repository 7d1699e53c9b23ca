"""Golden scores (predict_folder.py --self-test, prediction/selftest.py)."""

import json

import cv2
import numpy as np
import pytest
import torch
from helpers import no_faces

import predict_folder
from dfdc import faces, imaging
from dfdc.command_line import UsageError, UserError
from networks import ensemble, files
from networks.checkpoint import save_checkpoint
from networks.model import Normalizer, build_network
from networks.spec import ModelSpec
from prediction import batches, selftest

pytestmark = pytest.mark.slow


def sensitive_checkpoint(path, encoder="test_resnet", size=96, seed=1):
    """Random weights, whose scores depend on their input about as much as a trained network's do."""
    torch.manual_seed(seed)
    network = build_network("DeepFakeClassifier", encoder)
    with torch.no_grad():
        network.fc.weight.mul_(40)
        network.fc.bias += 3.7  # into the middle, where the logit's tolerance is wider than the score's
    save_checkpoint(path, network, ModelSpec("DeepFakeClassifier", encoder, size), epoch=0, bce_best=1, metrics={})


def self_test(folder, *more, models=("a",)):
    way = ["--device", "cpu", "--precision", "fp32"]
    return predict_folder.main(["--weights-dir", str(folder), "--models", *models, "--self-test", *way, *more])


@pytest.fixture
def weights(tmp_path):
    sensitive_checkpoint(tmp_path / "a")
    return tmp_path


@pytest.fixture
def stored(weights, capsys):
    assert self_test(weights, "--store") == 0
    capsys.readouterr()
    return weights


def test_the_clip_is_the_same_each_time_and_its_face_is_found(stored):
    first, second = selftest.clip_frames(), selftest.clip_frames()
    assert [frame.shape for frame in first] == [(1024, 1024, 3)] * 4
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    golden = selftest.read_golden(stored / "a")
    assert [face.frame for face in golden.faces] == [0, 1, 2, 3]
    widths = [face.box[2] - face.box[0] for face in golden.faces]
    assert max(widths) > 3 * min(widths)  # enlarged and shrunk
    scores = [face.score for face in golden.faces]
    assert all(0.1 < score < 0.9 for score in scores), scores


def test_stored_and_found_agree_and_both_are_shown(stored, capsys):
    assert self_test(stored) == 0
    out = capsys.readouterr().out
    (first, *_) = selftest.read_golden(stored / "a").faces
    assert f"frame 0: score {first.score:.4f}, stored {first.score:.4f}; box" in out
    assert "self-test passed: 1 checkpoint, in fp32 on cpu" in out
    assert [path.name for path in files.find_models(stored, ["a"])] == ["a"]


def test_checkpoints_without_stored_scores_fail_and_store_adds_only_theirs(stored, capsys):
    sensitive_checkpoint(stored / "b", "test_efficientnet", 64, seed=2)
    assert self_test(stored, models=("a", "b")) == 1
    out = capsys.readouterr().out
    assert "no golden scores are stored; store them on a machine that you trust, with store" in out
    assert "FAILED for 1 of 2" in out
    before = selftest.golden_path(stored / "a").stat().st_mtime_ns
    assert self_test(stored, "--store", models=("a", "b")) == 0
    assert selftest.golden_path(stored / "a").stat().st_mtime_ns == before
    assert self_test(stored, models=("b",)) == 0


def nearest(original):
    return lambda crop, size: original(crop, size, cv2.INTER_NEAREST, cv2.INTER_NEAREST)


def half_normal(original):
    return lambda self, mean, std, device: original(self, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), device)


def moved(pixels):
    def change(original):
        def detect(self, *arguments):
            found = original(self, *arguments)
            return [faces.Faces(f.boxes + np.float32(pixels), f.scores, f.landmarks) for f in found]

        return detect

    return change


def blue_first(original):
    return lambda self, crops: original(self, [np.ascontiguousarray(crop[..., ::-1]) for crop in crops])


def blind(original):
    return lambda self, pictures, scale: [no_faces() for _ in pictures]


@pytest.mark.parametrize(
    ("owner", "name", "change", "said"),
    [
        (imaging, "isotropic_resize", nearest, "a score differs by"),
        (Normalizer, "__init__", half_normal, "a score differs by"),
        (ensemble.Ensemble, "_inputs", blue_first, "a score differs by"),
        (faces.FaceDetector, "detect", moved(1.5), "a box differs by 1.50 pixels"),
        (faces.FaceDetector, "detect", blind, "the clip was not scored (no face"),
    ],
)
def test_it_fails_where_a_step_does_something_else(stored, monkeypatch, capsys, owner, name, change, said):
    monkeypatch.setattr(owner, name, change(getattr(owner, name)))
    assert self_test(stored) == 1
    out = capsys.readouterr().out
    assert said in out
    assert "the checkpoint has changed" not in out


def test_a_broken_step_fails(stored, monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(batches, "_scores", broken)
    assert self_test(stored) == 1
    assert "RuntimeError: no such operator" in capsys.readouterr().out


def test_another_checkpoint_is_told_from_another_library(stored, capsys):
    sensitive_checkpoint(stored / "a", seed=5)
    for more in ([], ["--store"]):  # --store alone must not make a failure go away
        assert self_test(stored, *more) == 1
        out = capsys.readouterr().out
        assert "the checkpoint has changed since its scores were stored" in out
        assert "a score differs" not in out
    assert self_test(stored, "--store", "--force") == 0
    assert self_test(stored) == 0


def change_golden(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (lambda c: c["faces"][0].update(score=c["faces"][0]["score"] + 0.004), 0, "passed"),
        (lambda c: c["faces"][0].update(score=c["faces"][0]["score"] + 0.006), 1, "a score differs by 0.0060"),
        (lambda c: c["faces"][1]["box"].__setitem__(2, c["faces"][1]["box"][2] + 0.9), 0, "passed"),
        (lambda c: c["faces"][1]["box"].__setitem__(2, c["faces"][1]["box"][2] + 1.1), 1, "a box differs by 1.10"),
        (lambda c: c["faces"].pop(), 1, "faces in frames [0, 1, 2, 3], stored: [0, 1, 2]"),
        (lambda c: c["clip"].update(pixels_sha256="0"), 1, "the clip is drawn differently"),
        (lambda c: c["libraries"].update(torch="1.0"), 0, "passed"),
    ],
)
def test_tolerances(stored, capsys, change, status, said):
    change_golden(selftest.golden_path(stored / "a"), change)
    assert self_test(stored) == status
    assert said in capsys.readouterr().out


def test_a_failure_names_what_changed(stored, capsys):
    def change(content):
        content["faces"][0]["score"] += 0.1
        content["libraries"]["torch"] = "1.0"
        content["clip"]["file_sha256"] = "0"

    change_golden(selftest.golden_path(stored / "a"), change)
    assert self_test(stored) == 1
    out = capsys.readouterr().out
    assert "the checkpoint is the same; changed since: torch 1.0 -> " in out
    assert "the encoder (its file differs)" in out


def test_broken_sidecar_and_wrong_use(stored, tmp_path):
    selftest.golden_path(stored / "a").write_text("{}")
    with pytest.raises(UsageError, match=r"a.golden.json: can't be read"):
        self_test(stored)
    with pytest.raises(UsageError, match="leave out videos, labels"):
        self_test(stored, "--test-dir", str(tmp_path))
    with pytest.raises(UsageError, match="--store requires --self-test"):
        predict_folder.main(["--models", "a", "--store"])
    (stored / "broken").write_bytes(b"PK")
    with pytest.raises(UserError, match="broken can't be read safely as a checkpoint"):
        self_test(stored, models=("broken",))


def test_a_golden_file_with_half_a_box_is_broken(tmp_path):
    stored = {
        "faces": [{"frame": 0, "score": 0.5, "box": [1, 2]}],
        "libraries": {},
        "checkpoint_sha256": "",
        "clip": {"pixels_sha256": "", "file_sha256": ""},
    }
    selftest.golden_path(tmp_path / "m").write_text(json.dumps(stored))
    with pytest.raises(UsageError, match="can't be read"):
        selftest.read_golden(tmp_path / "m")
