"""predict_folder.py with each engine: the same scores, what is said, and what is kept apart."""

import json
import shutil

import pytest
from engine_runs import copy_weights
from helpers import run_script
from scoring_runs import details, run
from test_selftest import sensitive_checkpoint

import predict_folder
from dfdc.command_line import SettingError, UsageError
from networks import engine_cache, engines
from networks.engine_cache import place_of, read_entry

pytestmark = pytest.mark.slow

SCRIPT = "predict_folder.py"


@pytest.fixture
def videos(face_clips, tmp_path):
    (tmp_path / "v").mkdir()
    shutil.copy(face_clips / "square.mp4", tmp_path / "v/v.mp4")
    return tmp_path / "v"


@pytest.fixture
def path(converted, tmp_path, monkeypatch):
    """A converted checkpoint that is worth it, by far the fastest in OpenVINO."""
    monkeypatch.setattr(engines, "_WORTH_CONVERTING", 0.0)
    copied = copy_weights(converted, tmp_path / "w")
    seconds = {"torch fp32": 9.0, "openvino fp32": 1.0}
    engine_cache.add_seconds(place_of(copied, "openvino"), read_entry(copied, "openvino"), seconds)
    return copied


def score(path, videos, output, *more):
    """Exit status, and what submission.json says."""
    status = run(path.parent, videos, output, *more, models=["a"])
    return status, details(output)


def test_every_engine_gives_the_same_verdict_and_is_named(path, videos, tmp_path, capsys):
    found = {}
    for engine in ("torch", "auto", "openvino", "onnx"):
        status, content = score(path, videos, tmp_path / f"{engine}.csv", "--engine", engine)
        assert status == 0
        used = "openvino" if engine == "auto" else engine
        assert content["settings"]["engine"] == used
        said = {
            "torch": "PyTorch",
            "openvino": "OpenVINO, 9.00 times as fast as PyTorch here",
            "onnx": "ONNX Runtime, ",
        }
        assert f"networks: fp32 on cpu, run by {said[used]}" in capsys.readouterr().out
        (found[engine],) = content["videos"]
    faces = [face["scores"] for face in found["torch"]["faces"]]
    assert len(faces) > 20
    assert max(faces) > min(faces)
    for engine, video in found.items():
        assert abs(video["score"] - found["torch"]["score"]) < 0.001, engine
        for face, (expected,) in zip(video["faces"], faces, strict=True):
            assert face["scores"] == pytest.approx([expected], abs=0.001)


def test_a_run_with_a_converted_network_loads_no_pytorch(path, videos, tmp_path):
    code = (
        "import sys, predict_folder; status = predict_folder.main(sys.argv[1:])\n"
        "heavy = 'torch', 'torchvision', 'timm', 'facenet_pytorch', 'onnxruntime', 'matplotlib', 'sklearn'\n"
        "print(status, [name for name in heavy if name in sys.modules])"
    )
    given = "--weights-dir", path.parent, "--models", "a", "--test-dir", videos, "--output", tmp_path / "o.csv"
    done = run_script("-c", code, *given, "--device", "cpu", "--no-report", "--engine", "openvino")
    assert done.stdout.endswith("\n0 []\n"), done.stdout + done.stderr
    assert details(tmp_path / "o.csv")["settings"]["engine"] == "openvino"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the conversion ended with exit code -9"),
        ("print('a: RuntimeError: no such operator'); raise SystemExit(1)", "a: RuntimeError: no such operator"),
    ],
)
def test_a_conversion_that_fails_is_said_and_pytorch_scores(path, videos, tmp_path, monkeypatch, capsys, text, said):
    engine_cache.drop_entry(path, "openvino")
    (tmp_path / "child_that_fails.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(engines, "_CHILD", "child_that_fails")
    status, content = score(path, videos, tmp_path / "o.csv", "--engine", "auto")
    assert (status, content["settings"]["engine"]) == (0, "torch")
    assert f"run by PyTorch, because OpenVINO can't convert it ({said})\n" in capsys.readouterr().out
    with pytest.raises(SettingError, match=r"can't convert it .*; use auto or torch$"):
        score(path, videos, tmp_path / "p.csv", "--engine", "openvino")
    assert not (tmp_path / "p.csv").exists()


def test_an_engine_that_is_not_installed_is_a_wrong_use(path, videos, tmp_path):
    given = "--weights-dir", path.parent, "--models", "a", "--test-dir", videos, "--device", "cpu", "--no-report"
    code = (
        "import importlib.util; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'openvino' else find(name, *more)\n"
        f"import runpy; runpy.run_path({SCRIPT!r}, run_name='__main__')"
    )
    done = run_script("-c", code, *given, "--output", tmp_path / "o.csv", "--engine", "openvino")
    assert done.returncode == 2
    assert "--engine openvino: OpenVINO is not installed (./setup.sh installs it); use auto or torch" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o.csv").exists()


def test_t67_verdicts_of_another_engine_are_not_mixed(path, videos, tmp_path, capsys):
    output = tmp_path / "o.csv"
    score(path, videos, output, "--engine", "openvino")
    capsys.readouterr()
    score(path, videos, output, "--engine", "torch")
    said = capsys.readouterr().out
    assert "are already done" not in said
    assert "(engine)" in said
    score(path, videos, output, "--engine", "torch")
    assert "1 of 1 are already done" in capsys.readouterr().out
    score(path, videos, output, "--engine", "auto")  # back to the earlier ones
    assert details(output)["settings"]["engine"] == "openvino"


def test_t67_where_a_converted_network_fails_the_progress_is_that_of_pytorch(path, videos, tmp_path, capsys):
    output = tmp_path / "o.csv"
    score(path, videos, output, "--engine", "openvino")
    (place_of(path, "openvino") / "model.bin").write_bytes(b"")
    output.with_name("o.csv.progress").unlink()
    capsys.readouterr()
    status, content = score(path, videos, output, "--engine", "auto")
    said = capsys.readouterr().out
    assert (status, content["settings"]["engine"]) == (0, "torch")
    assert "run by PyTorch, because " in said
    assert "; the next run converts it again\n" in said
    header = json.loads(output.with_name("o.csv.progress").read_text().splitlines()[0])
    assert '"engine": "torch"' in json.dumps(header)
    assert score(path, videos, output, "--engine", "torch")[1]["videos"] == content["videos"]
    assert "1 of 1 are already done" in capsys.readouterr().out


def test_only_pytorch_compiles(path, videos, tmp_path):
    for engine in ("openvino", "onnx"):
        with pytest.raises(SettingError, match=rf"^compile on: only PyTorch compiles; leave out engine {engine}$"):
            score(path, videos, tmp_path / "o.csv", "--engine", engine, "--compile", "on")


def test_the_self_test_compares_a_converted_network(tmp_path, monkeypatch, capsys):
    sensitive_checkpoint(tmp_path / "a")
    given = ["--weights-dir", str(tmp_path), "--models", "a", "--self-test", "--device", "cpu", "--precision", "fp32"]
    assert predict_folder.main([*given, "--engine", "torch", "--store"]) == 0
    capsys.readouterr()
    assert predict_folder.main([*given, "--engine", "openvino"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("self-test passed: 1 checkpoint, in fp32 on cpu and in fp32 on cpu, OpenVINO\n")
    content = json.loads((tmp_path / "a.golden.json").read_text())
    for face in content["faces"]:
        face["score"] += 0.01
    (tmp_path / "a.golden.json").write_text(json.dumps(content))
    assert predict_folder.main([*given, "--engine", "openvino"]) == 1
    assert "self-test FAILED for 1 of 1 checkpoints in fp32 on cpu, OpenVINO: do not" in capsys.readouterr().out


def test_the_self_test_after_a_damaged_network_converts_it_again(path, capsys):
    given = ["--weights-dir", str(path.parent), "--models", "a", "--self-test", "--device", "cpu", "--store"]
    assert predict_folder.main([*given, "--engine", "torch"]) == 0
    (place_of(path, "openvino") / "model.bin").write_bytes(b"")
    with pytest.raises(UsageError, match=r"; the next run converts it again; use auto or torch$"):
        predict_folder.main([*given, "--engine", "openvino"])
    assert predict_folder.main([*given, "--engine", "openvino"]) == 0
