"""Converted networks in OpenVINO give what PyTorch gives (networks/openvino_model.py)."""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino
import pytest
from engine_runs import copy_weights, some_images
from helpers import mapped_bytes, run_script
from test_export import make

from networks import engine_cache
from networks.conversion import convert
from networks.engine_cache import TOLERANCES, EngineError
from networks.ensemble import load_converted
from networks.model import NETWORKS
from networks.openvino_model import OpenVinoModel
from networks.parity import difference
from networks.sample_faces import sample_faces
from networks.torch_model import TorchModel

KINDS = [
    *((name, "test_efficientnet", 64) for name in NETWORKS),
    ("DeepFakeClassifier", "test_resnet", 64),
    ("DeepFakeClassifier", "test_vit", 160),
]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnx"])
@pytest.mark.parametrize(("network", "encoder", "size"), KINDS)
def test_t60_a_converted_network_gives_the_logits_of_pytorch(tmp_path, network, encoder, size, engine):
    path = tmp_path / "a"
    make(path, network, encoder, size)
    for precision in ("fp32", "bf16") if engine == "openvino" else ("fp32",):
        convert(path, engine, precision)
        entry = engine_cache.read_entry(path, engine)
        assert entry.refused == {}
        model, original = (
            load_converted(path, engine, precision, "cpu", 1, 1, compared=1),
            TorchModel(path, "cpu", "fp32"),
        )
        assert (model.spec, model.holdout) == (original.spec, original.holdout)
        for images in (sample_faces(size), some_images(6, size)):
            expected = original.logits(images)
            assert np.ptp(expected) > 0.05  # or the comparison would say little
            for batch in (1, 3):
                parts = [model.logits(images[start : start + batch]) for start in range(0, len(images), batch)]
                found = np.concatenate(parts)
                assert (found.dtype, found.shape) == (np.float32, expected.shape)
                off = difference(expected, found)
                assert off.within(TOLERANCES[precision]), (precision, batch, off)
                if precision == "fp32":
                    assert off.logit < 1e-3  # what is seen, far below what is allowed


def test_threads_and_later_batches_change_no_result(converted):
    path, images = converted / "a", some_images(24)
    model = load_converted(path, "openvino", "fp32", "cpu", 2, 2, compared=1)
    alone = [model.logits(images[index : index + 1]) for index in range(24)]
    kept = [logits.copy() for logits in alone]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda index: model.logits(images[index : index + 1]), range(24)))
    assert np.array_equal(np.concatenate(together), np.concatenate(kept))
    assert np.array_equal(np.concatenate(alone), np.concatenate(kept))  # memory of a request is used again
    assert len(np.unique(kept)) > 12


def test_threads_are_bound_to_no_core(converted):
    """Else two runs that may use one core each would share the first one."""
    model, allowed, images = (
        load_converted(converted / "a", "openvino", "fp32", "cpu", 1, 1, compared=1),
        set(),
        some_images(1),
    )
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: [model.logits(images) for _ in range(100)])
        while not running.done():
            for task in Path("/proc/self/task").iterdir():
                with contextlib.suppress(OSError):  # the thread has ended
                    allowed.add(frozenset(os.sched_getaffinity(int(task.name))))
    assert allowed == {frozenset(os.sched_getaffinity(0))}


def test_a_broken_graph_is_an_error_with_one_line(converted, tmp_path):
    path = copy_weights(converted, tmp_path / "w")
    entry = engine_cache.read_entry(path, "openvino")
    graph = engine_cache.place_of(path, "openvino") / "model.xml"
    graph.write_text("<net")
    with pytest.raises(EngineError, match=r"^OpenVINO can't compile it \(.+\)$") as error:
        OpenVinoModel(graph, entry.description, "fp32", 1, 1)
    assert "\n" not in str(error.value)


def test_a_graph_with_another_result_is_refused(converted, tmp_path):
    """Sizes are constants among the weights, so that a damaged file may change them."""
    entry = engine_cache.read_entry(converted / "a", "openvino")
    image = openvino.opset13.parameter([-1, 3, 224, 224], np.float32)
    means = openvino.opset13.reduce_mean(image, np.array([2, 3]), keep_dims=False)
    openvino.save_model(openvino.Model([means], [image]), tmp_path / "model.xml")
    with pytest.raises(EngineError, match=r"^its result has the shape \[1,3\], not \[1, 1\]$"):
        OpenVinoModel(tmp_path / "model.xml", entry.description, "fp32", 1, 1)


def test_the_pages_of_the_weights_are_given_back(converted):
    entry = engine_cache.read_entry(converted / "a", "openvino")
    place = engine_cache.place_of(converted / "a", "openvino") / "model.bin"
    model = OpenVinoModel(place.with_suffix(".xml"), entry.description, "fp32", 1, 1)
    assert mapped_bytes(place) < place.stat().st_size / 2
    assert len(model.logits(some_images(1))) == 1


def test_it_needs_no_pytorch(converted):
    code = (
        "import sys, pathlib; from networks.ensemble import Ensemble; import numpy as np\n"
        f"found = Ensemble([pathlib.Path({str(converted / 'a')!r})], 'cpu', 'fp32', 'openvino')\n"
        "assert found.score([np.zeros((70, 60, 3), np.uint8)]).shape == (1, 1)\n"
        "print([name for name in ('torch', 'timm', 'torchvision', 'onnxruntime') if name in sys.modules])"
    )
    done = run_script("-c", code)
    assert (done.stdout, done.stderr) == ("[]\n", "")
