"""Layers and weights of MTCNN's three networks, from facenet-pytorch's files, without importing PyTorch."""

from __future__ import annotations

import importlib.util
import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

# Convolutions of each network: number, and (size, stride) of the following max pool.
_LAYERS = {
    "pnet": ((1, (2, 2)), (2, None), (3, None)),
    "rnet": ((1, (3, 2)), (2, (3, 2)), (3, None)),
    "onet": ((1, (3, 2)), (2, (3, 2)), (3, (2, 2)), (4, None)),
}
# Outputs of the heads: two logits (no face, face), box regression, facial points.
_HEADS = {
    "pnet": ("conv4_1", "conv4_2"),
    "rnet": ("dense5_1", "dense5_2"),
    "onet": ("dense6_1", "dense6_2", "dense6_3"),
}
_DENSE = {"rnet": "4", "onet": "5"}  # the hidden layer before the heads; the proposal network has none
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of PyTorch's files before version 1.6


@dataclass(frozen=True)
class Layer:
    """A convolution [out, in, h, w] or a dense layer [out, in], followed by PReLU and max pooling; arrays are float32.

    Attributes:
        weight, bias: bias is [out].
        slope: PReLU's slope of negative values, [out]; None without PReLU.
        pool: (size, stride) of the max pool, whose last window may be cut off by the edge; None without one.
    """

    weight: np.ndarray
    bias: np.ndarray
    slope: np.ndarray | None = None
    pool: tuple[int, int] | None = None


@dataclass(frozen=True)
class Network:
    """One of the three networks.

    Attributes:
        convolutions: in order.
        hidden: the dense layer after them; None in the proposal network. It expects the features as width, height,
            channel, since the weights were trained in a framework that stores width before height.
        heads: all heads as one layer: a convolution in the proposal network, else dense.
    """

    convolutions: tuple[Layer, ...]
    hidden: Layer | None
    heads: Layer


def load_network(name: str) -> Network:
    """The network "pnet", "rnet" or "onet", from the installed package.

    Raises:
        ModuleNotFoundError: facenet-pytorch is not installed.
        ValueError, pickle.UnpicklingError: its file is not what this module can read.
    """
    package = importlib.util.find_spec("facenet_pytorch")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("facenet-pytorch is not installed; run ./setup.sh")
    weights = read_weights((Path(package.submodule_search_locations[0]) / "data" / f"{name}.pt").read_bytes())

    def layer(names: tuple[str, ...], prelu: str = "", pool: tuple[int, int] | None = None) -> Layer:
        weight, bias = (np.concatenate([weights[f"{name}.{kind}"] for name in names]) for kind in ("weight", "bias"))
        return Layer(weight, bias, weights[f"{prelu}.weight"] if prelu else None, pool)

    return Network(
        tuple(layer((f"conv{number}",), f"prelu{number}", pool) for number, pool in _LAYERS[name]),
        layer((f"dense{_DENSE[name]}",), f"prelu{_DENSE[name]}") if name in _DENSE else None,
        layer(_HEADS[name]),
    )


def read_weights(data: bytes) -> dict[str, np.ndarray]:
    """Parameter name -> float32 array, from a state dict in the format of PyTorch before version 1.6.

    Such a file contains five pickles and then the numbers of all arrays. Only the three names that a state dict of
    float32 arrays needs are accepted, so no other code can run.

    Raises:
        ValueError, pickle.UnpicklingError: the file is damaged, or contains something else.
    """
    file = io.BytesIO(data)
    if [_Unpickler(file).load() for _ in range(2)] != [_MAGIC, _PROTOCOL]:
        raise ValueError("not a file of PyTorch before version 1.6")
    if not _Unpickler(file).load()["little_endian"]:
        raise ValueError("the weights are stored in big-endian order")
    views = _Unpickler(file).load()
    storages = {}
    for key in _Unpickler(file).load():
        count = int.from_bytes(file.read(8), "little")
        storages[key] = np.frombuffer(file.read(4 * count), "<f4", count)
    weights = {}
    for name, (key, start, shape, strides) in views.items():
        values = storages[key][start:]
        if len(shape) != len(strides) or min(start, *shape, *strides) < 0:
            raise ValueError(f"{name} has an impossible shape: {shape} with strides {strides}")
        if sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) >= len(values):
            raise ValueError(f"the numbers of {name} are missing")
        # The strides differ from C order in some of the files.
        steps = [4 * stride for stride in strides]
        weights[name] = np.ascontiguousarray(np.lib.stride_tricks.as_strided(values, shape, steps, writeable=False))
    return weights


class _View(NamedTuple):
    """Part of a storage: its key, the first element, and the shape and strides in elements."""

    storage: str
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _view(storage: str, start: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _View:
    return _View(storage, start, shape, strides)


_KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch", "FloatStorage"): np.float32,
}


class _Unpickler(pickle.Unpickler):
    """Accepts nothing but a dictionary of float32 arrays, whose numbers are stored elsewhere."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of weights")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> str:
        kind, numbers, key = pid[:3]
        if (kind, numbers) != ("storage", np.float32):
            raise pickle.UnpicklingError(f"{kind} of {numbers} is not a storage of float32 numbers")
        return key
