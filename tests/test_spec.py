"""What a checkpoint says of its network, without PyTorch (networks/spec.py); test_export.py has what it refuses."""

import json

import numpy as np
import pytest
import torch
from helpers import run_script

from dfdc.imaging import IMAGENET_MEAN, IMAGENET_STD
from networks import model
from networks.spec import NETWORK_NAMES, CheckpointError, ModelSpec, Normalize, read_description
from networks.values import plain_values

COLOURS = [
    (IMAGENET_MEAN, IMAGENET_STD),
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ((0.1234567, -0.3, 1.7), (0.7654321, 3.3, 1e-3)),
    ((0.0, 0.0, 0.0), (1 / 255, 1.0, 1 / 3)),
]


@pytest.mark.parametrize("colours", COLOURS)
@pytest.mark.parametrize("count", [1, 4])
def test_inputs_are_those_of_pytorch_in_every_bit(colours, count):
    every = np.resize(np.arange(256, dtype=np.uint8), (1, 16, 16, 3))  # each value
    some = np.random.default_rng(count).integers(0, 256, (count, 33, 31, 3), dtype=np.uint8)
    for images in (every, some, some[:, ::-1], some.transpose(0, 2, 1, 3)):
        found = Normalize(*colours).to_input(images)
        expected = model.Normalizer(*colours, "cpu")(torch.from_numpy(np.ascontiguousarray(images)))
        assert (found.dtype, found.shape) == (np.float32, tuple(expected.shape))
        assert found.flags.c_contiguous
        assert found.tobytes() == expected.contiguous().numpy().tobytes()


def test_the_names_are_those_of_the_networks():
    assert {*NETWORK_NAMES} == {*model.NETWORKS}


def test_a_description_is_read_without_pytorch():
    code = "import sys, networks.spec; print([name for name in ('torch', 'timm', 'openvino') if name in sys.modules])"
    assert run_script("-c", code).stdout == "[]\n"


def texts(**change):
    spec = ModelSpec("DeepFakeClassifier", "test_resnet", 96, Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), 8)
    values = {"version": 1, "model": plain_values(spec), "epoch": 3, "bce_best": None, "metrics": {"auc": None}}
    return spec, {name: json.dumps(value) for name, value in {**values, **change}.items()}


def test_numbers_that_json_lacks_are_nan_again(tmp_path):
    spec, written = texts()
    found = read_description({**written, "format": "pt"}, tmp_path / "m")
    assert (found["spec"], found["holdout"], found["epoch"]) == (spec, None, 3)
    assert np.isnan([found["bce_best"], found["metrics"]["auc"]]).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "m has version 2, but this program supports only up to 1$"),
        ({"version": None}, "m: its description is invalid"),
        ({"model": {"network": "Other", "encoder": "x", "size": 1}}, "unknown network; choose DeepFakeClassifier, "),
        ({"epoch": "x"}, "m: its 'description' is invalid"),
    ],
)
def test_a_description_that_is_wrong_is_named(tmp_path, change, said):
    with pytest.raises(CheckpointError, match=said):
        read_description(texts(**change)[1], tmp_path / "m")
