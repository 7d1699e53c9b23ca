"""The self-test without networks (prediction/selftest.py): what is stored, compared, allowed and said."""

import numpy as np
import pytest
from test_selftest import change_golden, sensitive_checkpoint

from dfdc.command_line import SettingError, UsageError
from networks import ensemble
from networks.engines import Choice
from prediction import selftest
from prediction.selftest import Clip, Golden, GoldenFace
from prediction.verdict import Face


def test_a_score_near_0_is_compared_by_its_logit():
    def result(score):
        return Golden("1", Clip("2", "3"), {}, [GoldenFace(0, (0, 0, 9, 9), score)])

    assert selftest.compare(result(0.0030), result(0.0031)) == []
    (problem,) = selftest.compare(result(0.0030), result(0.0070))
    assert "logit differs by 0.85" in problem
    for sure, less in ((0.00001, 0.00040), (0.99999, 0.99960), (0.0, 0.001), (1.0, 0.999)):  # rounding
        assert selftest.compare(result(sure), result(less)) == []
    assert len(selftest.compare(result(0.5), result(float("nan")))) == 1


# The run's own way; the clip's verdict is made up.

FACES = [{"frame": 0, "box": [0.0, 0.0, 9.0, 9.0]}, {"frame": 1, "box": [1.0, 0.0, 9.0, 9.0]}]


def made_up(monkeypatch, scores, boxes=None):
    """Stands in for score_clip: a score of both faces by way, and how far off the boxes are; returns the calls."""
    calls = []

    def score_clip(paths, way):
        calls.append(way)
        verdict = selftest.Verdict("clip", "too short", score=0.5)
        off = (boxes or {}).get(str(way), 0)
        verdict.faces = [
            Face(
                face["frame"], 0, [corner + off for corner in face["box"]], 1.0, scores=[scores[str(way)]] * len(paths)
            )
            for face in FACES
        ]
        return verdict, Clip("1", "2")

    monkeypatch.setattr(selftest, "score_clip", score_clip)
    return calls


def files(folder, *names):
    paths = [folder / name for name in names]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


def test_scores_are_stored_in_fp32_on_the_cpu_and_both_ways_are_compared(tmp_path, monkeypatch, capsys):
    paths = files(tmp_path, "a", "b")
    calls = made_up(monkeypatch, {"fp32 on cpu": 0.5, "bf16 on cuda:0, compiled": 0.55})
    own = {"device": "cuda:0", "precision": "bf16", "compile_": True}
    assert selftest.self_test(paths, **own) == 1
    out = capsys.readouterr().out
    assert out.count("FAILED: no golden scores are stored; store them on a machine that you trust, with store") == 4
    assert "self-test: nothing was compared, because no scores are stored" in out
    assert selftest.self_test(paths, store=True, **own) == 0
    assert calls == [selftest.REFERENCE, selftest.Way("cuda:0", "bf16", True)] * 2
    out = capsys.readouterr().out
    assert f"a: stored in {tmp_path / 'a.golden.json'}\na\n  frame 0: score 0.5000, stored 0.5000; box" in out
    assert out.count("stored in") == 2
    assert "\nbf16 on cuda:0, compiled:\na\n  frame 0: score 0.5500, stored 0.5000" in out
    assert out.endswith("self-test passed: 2 checkpoints, in fp32 on cpu and in bf16 on cuda:0, compiled\n")
    assert [face.score for face in selftest.read_golden(paths[1]).faces] == [0.5, 0.5]
    calls.clear()
    assert selftest.self_test(paths[:1], precision="fp32") == 0
    assert calls == [selftest.REFERENCE]
    assert capsys.readouterr().out.endswith("self-test passed: 1 checkpoint, in fp32 on cpu\n")


@pytest.mark.parametrize(
    ("way", "name", "off", "status"),
    [
        ("fp32 on cpu", "a", 0.0049, 0),
        ("fp32 on cpu", "a", 0.0051, 1),
        ("fp32 on cuda", "a", 0.0051, 1),
        ("fp16 on cuda", "a", 0.0199, 0),
        ("fp16 on cuda", "a", 0.0201, 1),
        ("bf16 on cpu", "a", 0.099, 0),
        ("bf16 on cpu", "a", 0.101, 1),
        ("bf16 on cpu", "a.onnx", 0.0049, 0),
        ("bf16 on cpu", "a.onnx", 0.0051, 1),
        ("fp32 on cpu, compiled", "a", 0.0051, 1),
    ],
)
def test_each_precision_has_bounds_of_its_own(tmp_path, monkeypatch, capsys, way, name, off, status):
    (path,) = files(tmp_path, name)
    scores = {"fp32 on cpu": 0.5}
    made_up(monkeypatch, scores)
    assert selftest.self_test([path], store=True, precision="fp32") == 0
    capsys.readouterr()
    scores[way] = 0.5 + off
    words = way.replace(",", "").split()
    compiled = words[-1] == "compiled"
    assert selftest.self_test([path], precision=words[0], device=words[2], compile_=compiled) == status
    out = capsys.readouterr().out
    assert (f"self-test FAILED for 1 of 1 checkpoints in {way}: do not trust" in out) == bool(status)
    blamed = f"fp32 on cpu agrees with the stored scores, so the difference comes from {way}\n"
    assert (blamed in out) == (status == 1 and way != "fp32 on cpu")


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 0.1), ("fp16", 0.2), ("bf16", 0.5)])
def test_logits_have_bounds_as_well(precision, allowed):
    def result(logit):
        faces = [GoldenFace(0, (0, 0, 9, 9), 1 / (1 + np.exp(-logit)))]
        return Golden("1", Clip("2", "3"), {}, faces)

    bounds = selftest.BOUNDS[precision]
    assert selftest.compare(result(-6), result(-6 - allowed + 0.01), bounds) == []
    (problem,) = selftest.compare(result(-6), result(-6 - allowed - 0.01), bounds)
    assert f"(at most {allowed:g} is allowed)" in problem


@pytest.mark.parametrize(("device", "off", "status"), [("cpu", 1.1, 1), ("cuda", 1.9, 0), ("cuda", 2.1, 1)])
def test_boxes_of_a_gpu_may_be_further_off(tmp_path, monkeypatch, device, off, status):
    (path,) = files(tmp_path, "a")
    way = f"bf16 on {device}"
    made_up(monkeypatch, {"fp32 on cpu": 0.5, way: 0.5}, {way: off})
    assert selftest.self_test([path], store=True, precision="bf16", device=device) == status


def test_a_way_that_is_none_is_refused_before_anything_is_scored(tmp_path, monkeypatch):
    calls = made_up(monkeypatch, {})
    with pytest.raises(SettingError, match="fp16 is for GPUs"):
        selftest.self_test(files(tmp_path, "a"), precision="fp16")
    assert calls == []


def test_a_fault_in_the_reference_is_not_blamed_on_the_run(tmp_path, monkeypatch, capsys):
    (path,) = files(tmp_path, "a")
    scores = {"fp32 on cpu": 0.5, "bf16 on cpu": 0.5}
    made_up(monkeypatch, scores)
    assert selftest.self_test([path], store=True, precision="fp32") == 0
    scores.update({"fp32 on cpu": 0.6, "bf16 on cpu": 0.7})
    assert selftest.self_test([path], precision="bf16") == 1
    out = capsys.readouterr().out
    assert out.count("self-test FAILED for 1 of 1 checkpoints in ") == 2
    assert "comes from" not in out


def test_checkpoints_of_one_name_are_told_apart_and_sure_ones_are_noted(tmp_path, monkeypatch, capsys):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    paths = files(tmp_path, "x/m", "y/m")
    made_up(monkeypatch, {"fp32 on cpu": 0.9995})
    assert selftest.self_test(paths, store=True, precision="fp32") == 0
    out = capsys.readouterr().out
    assert "\nx/m\n" in out
    assert "\ny/m\n" in out
    assert out.count("note: this checkpoint is sure of every frame") == 2
    made_up(monkeypatch, {"fp32 on cpu": 0.9985})
    selftest.self_test(paths, precision="fp32")
    assert "note:" not in capsys.readouterr().out


@pytest.mark.slow
def test_the_clip_is_scored_in_the_way_that_is_asked_for(tmp_path, monkeypatch):
    sensitive_checkpoint(tmp_path / "a")
    seen = {}

    def look(ensemble, detector, results, options):
        seen.update(precision=ensemble.precision, compiled=ensemble.compiled, device=detector)
        return ["the verdict"]

    def compile_(self, *, only_if_faster):
        assert not only_if_faster
        self.compiled = True

    closed = []
    close = ensemble.Ensemble.close
    monkeypatch.setattr(ensemble.Ensemble, "close", lambda self: closed.append(close(self)))
    monkeypatch.setattr(selftest, "predict", look)
    monkeypatch.setattr(selftest, "FaceDetector", lambda thresholds, device: device)
    monkeypatch.setattr(ensemble.Ensemble, "compile", compile_)
    for way in (selftest.Way(), selftest.Way("cpu", "bf16"), selftest.Way("cpu", "fp32", True)):
        assert selftest.score_clip([tmp_path / "a"], way)[0] == "the verdict"
        assert len(closed) == 1
        closed.clear()
        assert seen == {"precision": way.precision, "compiled": way.compiled, "device": way.device}

    def fails(self, *, only_if_faster):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(ensemble.Ensemble, "compile", fails)
    with pytest.raises(UsageError, match="no compiler"):
        selftest.score_clip([tmp_path / "a"], selftest.Way(compiled=True))


def stored_by(tmp_path, monkeypatch, capsys):
    (path,) = files(tmp_path, "a")
    made_up(monkeypatch, {"fp32 on cpu": 0.5})
    assert selftest.self_test([path], store=True, precision="fp32") == 0
    capsys.readouterr()
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(checkpoint_sha256="0"), "FAILED: the checkpoint has changed since its scores"),
        (lambda c: c["clip"].update(pixels_sha256="0"), "FAILED: the clip is drawn differently"),
        (
            lambda c: c["faces"].pop(),
            "FAILED: faces in frames [0, 1], stored: [0]; the checkpoint and the library versions",
        ),
        (lambda c: c["faces"][1].update(frame=7), "  frame 7: no face detected, stored 0.5000; box 1.0 0.0 9.0 9.0\n"),
        (lambda c: c["faces"][1]["box"].__setitem__(3, 11.5), "FAILED: a box differs by 2.50 pixels (at most 1 is"),
        (
            lambda c: c["faces"][0].update(score=0.7),
            "FAILED: a score differs by 0.2000 (at most 0.005 is allowed); the",
        ),
    ],
)
def test_what_differs_is_said(tmp_path, monkeypatch, capsys, change, said):
    path = stored_by(tmp_path, monkeypatch, capsys)
    change_golden(selftest.golden_path(path), change)
    assert selftest.self_test([path], precision="fp32") == 1
    assert said in capsys.readouterr().out


def test_what_changed_since_is_named_and_a_box_and_a_score_are_both_told(tmp_path, monkeypatch, capsys):
    path = stored_by(tmp_path, monkeypatch, capsys)

    def change(content):
        content["faces"][0].update(score=0.7, box=[5, 5, 5, 5])
        content["libraries"]["torch"] = "1.0"
        content["libraries"]["gone"] = "2.0"
        content["clip"]["file_sha256"] = "0"

    change_golden(selftest.golden_path(path), change)
    assert selftest.self_test([path], precision="fp32") == 1
    out = capsys.readouterr().out
    assert "FAILED: a box differs by 5.00 pixels (at most 1 is allowed); a score differs by 0.2000" in out
    assert "the checkpoint is the same; changed since: torch 1.0 -> " in out
    assert "gone 2.0 -> None, the encoder (its file differs)\n" in out


def test_stored_scores_without_a_version_count(tmp_path, monkeypatch, capsys):
    path = stored_by(tmp_path, monkeypatch, capsys)
    change_golden(selftest.golden_path(path), lambda content: content.pop("version"))
    assert selftest.self_test([path], precision="fp32") == 0


def test_stored_scores_are_replaced_only_by_force(tmp_path, monkeypatch, capsys):
    path = stored_by(tmp_path, monkeypatch, capsys)
    made_up(monkeypatch, {"fp32 on cpu": 0.6})
    for more in ({}, {"store": True}):
        assert selftest.self_test([path], precision="fp32", **more) == 1
        assert "stored in" not in capsys.readouterr().out
    assert selftest.self_test([path], precision="fp32", store=True, force=True) == 0
    assert selftest.read_golden(path).faces[0].score == 0.6


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("faces"),
        lambda c: c["faces"][0].pop("frame"),
        lambda c: c["faces"][0].update(score="x"),
        lambda c: c["faces"][0].update(box=[1, 2, 3]),
        lambda c: c.update(libraries=3),
        lambda c: c.pop("checkpoint_sha256"),
        lambda c: c["clip"].pop("pixels_sha256"),
        lambda c: c["clip"].pop("file_sha256"),
    ],
)
def test_a_broken_file_of_golden_scores_is_named(tmp_path, monkeypatch, capsys, change):
    path = stored_by(tmp_path, monkeypatch, capsys)
    change_golden(selftest.golden_path(path), change)
    with pytest.raises(UsageError, match=r"a\.golden\.json: can't be read"):
        selftest.self_test([path])


def test_a_clip_without_scores_fails_for_all(tmp_path, monkeypatch, capsys):
    path = stored_by(tmp_path, monkeypatch, capsys)
    clip = Clip("1", "2")
    verdict = selftest.Verdict("clip", "no face", "no face detected")
    monkeypatch.setattr(selftest, "score_clip", lambda paths, way: (verdict, clip))
    assert selftest.self_test([path], precision="fp32") == 1
    out = capsys.readouterr().out
    assert "the clip was not scored (no face: no face detected)" in out
    assert "FAILED for 1 of 1" in out


def test_the_clip_is_drawn_from_whole_pixels():
    frames = selftest.clip_frames()
    assert [(frame.shape, frame.dtype) for frame in frames] == [((1024, 1024, 3), np.uint8)] * 4
    import skimage.data

    portrait = skimage.data.astronaut()
    double = portrait.repeat(2, 0).repeat(2, 1)
    assert np.array_equal(frames[0], double)
    light = np.linspace(150, 90, 1024).astype(int)[:, None]
    assert np.array_equal(frames[1], np.clip(double[:, ::-1].astype(int) * light // 128, 0, 255))
    assert np.array_equal(frames[2][300:812, 400:912], portrait)
    assert (frames[2][:300] == 96).all()
    assert np.array_equal(frames[3], portrait[0:256, 96:352].repeat(4, 0).repeat(4, 1))


def test_onnx_files_are_scored_once_where_the_run_is_as_the_reference(tmp_path, monkeypatch, capsys):
    paths = files(tmp_path, "a.onnx", "b.onnx")
    calls = made_up(monkeypatch, {"fp32 on cpu": 0.5})
    assert selftest.self_test(paths, store=True, precision="fp32", engine="auto") == 0
    assert calls == [selftest.REFERENCE]
    assert capsys.readouterr().out.endswith("self-test passed: 2 checkpoints, in fp32 on cpu\n")


def test_another_engine_is_a_way_of_its_own(tmp_path, monkeypatch, capsys):
    paths = files(tmp_path, "a", "b.onnx")
    calls = made_up(monkeypatch, {"fp32 on cpu": 0.5, "fp32 on cpu, OpenVINO": 0.51})
    asked = []
    monkeypatch.setattr(selftest, "choose_engine", lambda *given, shown: asked.append(given) or Choice("openvino", ""))
    assert selftest.self_test(paths, store=True, precision="auto", engine="auto") == 1
    assert asked == [(paths, "auto", "fp32", "cpu")]
    assert calls == [selftest.REFERENCE, selftest.Way("cpu", "fp32", False, "openvino")]
    said = capsys.readouterr().out
    assert "fp32 on cpu agrees with the stored scores, so the difference comes from fp32 on cpu, OpenVINO\n" in said
