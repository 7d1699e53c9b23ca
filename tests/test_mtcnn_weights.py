"""Weights without PyTorch (dfdc/mtcnn_weights.py): PyTorch reads the same, and nothing else is ever run."""

import io
import pickle
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from dfdc import mtcnn_weights
from dfdc.mtcnn_weights import load_network, read_weights

FOLDER = Path(find_spec("facenet_pytorch").submodule_search_locations[0]) / "data"


def stored(state):
    """A state dict in the format of the package's files."""
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@pytest.mark.parametrize("name", ["pnet", "rnet", "onet"])
def test_pytorch_reads_the_same(name):
    path = FOLDER / f"{name}.pt"
    expected = torch.load(path, weights_only=True)
    weights = read_weights(path.read_bytes())
    assert weights.keys() == expected.keys()
    for key, values in weights.items():
        assert values.dtype == np.float32
        assert np.array_equal(values, expected[key].numpy())


def test_parts_of_one_storage_are_read_with_their_strides():
    whole = torch.arange(24.0).reshape(4, 6)
    weights = read_weights(stored({"turned": whole.T, "part": whole[1:3, 2:]}))
    assert np.array_equal(weights["turned"], whole.T.numpy())
    assert np.array_equal(weights["part"], whole[1:3, 2:].numpy())


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("content", [{"a": torch.zeros(2, dtype=torch.float64)}, {"a": Evil()}], ids=["double", "code"])
def test_anything_but_float32_is_refused_and_not_run(content, capsys):
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        read_weights(stored(content))
    assert not capsys.readouterr().out


def test_a_new_file_and_a_damaged_one_are_refused():
    new = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, new)
    with pytest.raises(pickle.UnpicklingError):
        read_weights(new.getvalue())
    with pytest.raises(ValueError, match="not a file of PyTorch"):
        read_weights(pickle.dumps(1) + pickle.dumps(2))
    with pytest.raises(ValueError, match="buffer"):
        read_weights(stored({"a": torch.zeros(20)})[:-8])


@pytest.mark.parametrize("view", [(0, (3, 2), (2, 1)), (4, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (1,))])
def test_numbers_outside_the_file_are_refused(view, monkeypatch):
    data = stored({"a": torch.zeros(5)})
    known = {**mtcnn_weights._KNOWN, ("torch._utils", "_rebuild_tensor_v2"): lambda key, *_: (key, *view)}
    monkeypatch.setattr(mtcnn_weights, "_KNOWN", known)
    with pytest.raises(ValueError, match=r"a has an impossible shape|the numbers of a are missing"):
        read_weights(data)


def test_the_heads_are_one_layer():
    network = load_network("onet")
    assert network.heads.weight.shape == (16, 256)
    assert network.hidden.weight.shape == (256, 1152)
    assert [layer.pool for layer in network.convolutions] == [(3, 2), (3, 2), (2, 2), None]
    assert load_network("pnet").hidden is None


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(mtcnn_weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="facenet-pytorch is not installed"):
        load_network("pnet")
