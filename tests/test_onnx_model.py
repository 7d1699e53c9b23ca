"""ONNX files as networks (networks/onnx_model.py): a small one made here, and ONNX Runtime's own checks of it."""

import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import ROOT
from onnx import TensorProto, helper
from scoring_runs import make_checkpoint

from dfdc.imaging import IMAGENET_MEAN, IMAGENET_STD
from networks import onnx_model
from networks.checkpoint import describe, read_checkpoint
from networks.engines import check_model
from networks.files import is_onnx
from networks.onnx_model import OnnxModel
from networks.spec import CheckpointError

SIZE = 64


def write(path, description, name="images", shape=("n", 3, SIZE, SIZE), output="logits", logits=1):
    """A file whose logit is the mean of its image; or whose three logits are those of the colours."""
    mean = helper.make_node("ReduceMean", [name], ["means"], axes=[2, 3], keepdims=0)
    axes = {"axes": [1]} if logits == 1 else {"axes": [0]}
    last = helper.make_node("ReduceMean", ["means"], [output], keepdims=1, **axes)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ("n", logits))]
    graph = helper.make_graph([mean, last], "mean", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, description)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    make_checkpoint(folder, "a", size=SIZE)
    return folder / "a"


@pytest.fixture
def description(checkpoint):
    return describe(read_checkpoint(checkpoint))


@pytest.mark.slow
def test_logits_are_those_of_the_graph_in_fp32(tmp_path, description):
    model = OnnxModel(write(tmp_path / "m.onnx", description), "cpu")
    images = np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    expected = ((images / 255 - IMAGENET_MEAN) / IMAGENET_STD).mean((1, 2, 3))
    turned, mirrored = images.transpose(0, 2, 1, 3), images[:, ::-1]  # not contiguous
    for given in (images, turned, mirrored):
        logits = model.logits(given)
        assert logits.shape == (5,)
        assert logits.dtype == np.float32
        assert logits == pytest.approx(expected, abs=1e-6)
    assert model.logits(images[2:3]) == pytest.approx(expected[2:3], abs=1e-6)


def test_a_file_says_what_it_needs_as_its_checkpoint_does(tmp_path, description, checkpoint):
    path = write(tmp_path / "m.ONNX", description)
    assert is_onnx(path)
    assert not is_onnx(checkpoint)
    assert check_model(path) == check_model(checkpoint)
    spec, holdout = check_model(path)
    assert (spec.size, holdout) == (SIZE, None)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "pictures"},
        {"output": "scores"},
        {"shape": ("n", 3, 96, 96)},
        {"shape": ("n", 1, SIZE, SIZE)},
        {"logits": 3},
    ],
)
def test_a_graph_of_another_form_is_refused(tmp_path, description, change):
    path = write(tmp_path / "m.onnx", description, **change)
    with pytest.raises(CheckpointError, match=r"m\.onnx: input and output .* are not those of export_model\.py"):
        OnnxModel(path, "cpu")


def test_what_is_no_onnx_file_or_has_no_description_is_named(tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.onnx is not a usable ONNX file \(.{9}") as error:
        OnnxModel(tmp_path / "text.onnx", "cpu")
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match=r"m\.onnx does not describe its network"):
        OnnxModel(write(tmp_path / "m.onnx", {}), "cpu")


def fake_session(monkeypatch, available, granted):
    """Have sessions made on the CPU, whatever is asked for; what was asked for."""
    asked = []
    real = onnxruntime.InferenceSession

    def make(path, options, providers):
        asked.append((options.intra_op_num_threads, providers))
        session = real(path, options, providers=["CPUExecutionProvider"])
        monkeypatch.setattr(session, "get_providers", lambda: granted, raising=False)
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnx_model, "available_cores", lambda: 7)
    return asked


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:3", 3)])
def test_a_gpu_is_used_where_there_is_its_provider(tmp_path, description, monkeypatch, device, number):
    asked = fake_session(monkeypatch, [CUDA, CPU], [CUDA, CPU])
    OnnxModel(write(tmp_path / "m.onnx", description), device, 2)
    assert asked == [(2, [(CUDA, {"device_id": number}), CPU])]


@pytest.mark.parametrize(("available", "wanted"), [([CPU], [CPU]), ([CUDA, CPU], [(CUDA, {"device_id": 0}), CPU])])
def test_a_gpu_that_it_does_not_get_is_said(tmp_path, description, monkeypatch, available, wanted):
    asked = fake_session(monkeypatch, available, [CPU])
    with pytest.warns(UserWarning, match=r"m\.onnx runs on the CPU: ONNX Runtime has no CUDA"):
        OnnxModel(write(tmp_path / "m.onnx", description), "cuda")
    assert asked == [(7, wanted)]


@pytest.mark.filterwarnings("error")
def test_a_cpu_gets_the_threads_that_it_is_given_or_all(tmp_path, description, monkeypatch):
    asked = fake_session(monkeypatch, [CUDA, CPU], [CPU])
    path = write(tmp_path / "m.onnx", description)
    OnnxModel(path, "cpu", 3)
    OnnxModel(path, "cpu")
    assert asked == [(3, [CPU]), (7, [CPU])]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer", MemoryError),
        ("another fault", RuntimeError),
    ],
)
def test_missing_memory_is_told_from_other_faults(tmp_path, description, said, kind):
    model = OnnxModel(write(tmp_path / "m.onnx", description), "cpu")

    class Failing:
        def run(self, names, inputs):
            raise RuntimeError(said)

    model._session = Failing()
    with pytest.raises(kind) as error:
        model.logits(np.zeros((1, SIZE, SIZE, 3), np.uint8))
    assert type(error.value) is kind


def test_importing_it_writes_and_sends_no_telemetry(tmp_path):
    """ONNX Runtime 1.29 and later would create a device id in the user's cache, and send names of networks."""
    code = "import networks.onnx_model, onnxruntime; print(onnxruntime.__version__)"
    off = ("CI", "ORT_RUNNING_UNIT_TESTS", "ORT_DISABLE_TELEMETRY")  # each would disable it, too
    env = {name: value for name, value in os.environ.items() if name not in off}
    command = [sys.executable, "-c", code]
    subprocess.run(command, env={**env, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}, check=True, timeout=300)
    assert list(tmp_path.rglob("*")) == []
