"""MTCNN's networks in OpenVINO, and arrays in NumPy: for the CPU, in float32 and on one thread.

On one core, the proposal network takes two thirds of PyTorch's time. Importing and compiling take 0.3 s. Importing
PyTorch takes 2 s and ten times the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import cv2
import numpy as np
import openvino
from openvino import op
from openvino import opset13 as ops

from dfdc import bicubic
from dfdc.mtcnn_weights import Layer, load_network

_SMALL = 128  # sides up to this are rounded up to one of few, since each new shape costs OpenVINO some milliseconds
_STEP = 16
_SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 where the processor has it
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,  # all processes would pin themselves to the same core
}


class OpenVinoRunner:
    """See `dfdc.mtcnn.Runner`."""

    cached = True

    def __init__(self) -> None:
        core = openvino.Core()
        self._requests = {
            name: core.compile_model(_model(name, side), "CPU", _SETTINGS).create_infer_request()
            for name, side in (("pnet", -1), ("rnet", 24), ("onet", 48))
        }

    def resize(self, picture: np.ndarray, scale: float) -> np.ndarray:
        return bicubic.resize(picture, scale)

    def context(self) -> AbstractContextManager:
        return nullcontext()

    def put(self, values: np.ndarray) -> np.ndarray:
        return values

    def table(self, pictures: Sequence[np.ndarray], out: np.ndarray) -> None:
        for picture, place in zip(pictures, out, strict=True):
            cv2.integral(picture, place, cv2.CV_32S)

    def empty(self, corners: int) -> np.ndarray:
        return np.empty((corners, 3), np.int32)

    def take(self, values: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
        return values.take(places, axis)

    def floats(self, values: np.ndarray) -> np.ndarray:
        return values.astype(np.float32)

    def propose(self, pictures: np.ndarray, least: float) -> np.ndarray:
        height, width = pictures.shape[1:3]
        more = _more(height), _more(width)
        if any(more):
            pictures = np.pad(pictures, ((0, 0), (more[0], 0), (more[1], 0), (0, 0)))
        heads = self._run("pnet", pictures)[:, :, more[0] // 2 :, more[1] // 2 :]
        image, y, x = np.nonzero(heads[:, 1] - heads[:, 0] >= least)
        return np.column_stack([image, y, x, heads[image, :, y, x]]).astype(np.float32)

    def judge(self, name: str, pictures: np.ndarray) -> np.ndarray:
        return self._run(name, pictures).copy()

    def _run(self, name: str, pictures: np.ndarray) -> np.ndarray:
        """The outputs, valid until the next run of this network."""
        request = self._requests[name]
        values = np.ascontiguousarray(pictures)  # held until the end: the request does not keep its memory alive
        request.set_input_tensor(openvino.Tensor(values, shared_memory=True))
        request.infer()
        return request.get_output_tensor().data


def _more(side: int) -> int:
    """An even number of pixels to add before a small side. The last row must stay the last.

    Pooling windows begin at even pixels, and the last one may be cut off by the edge.
    """
    return 0 if side > _SMALL else -side % _STEP // 2 * 2


def _model(name: str, side: int) -> openvino.Model:
    network = load_network(name)
    pictures = op.Parameter(openvino.Type.f32, openvino.PartialShape([-1, side, side, 3]))
    x = ops.transpose(pictures, np.array([0, 3, 1, 2]))
    for layer in network.convolutions:
        x = _activate(_convolve(x, layer), layer)
        if layer.pool:
            size, stride = layer.pool
            x = ops.max_pool(x, [stride] * 2, [1, 1], [0, 0], [0, 0], [size] * 2, "ceil").output(0)
    if network.hidden is None:
        x = _convolve(x, network.heads)
    else:
        x = ops.reshape(ops.transpose(x, np.array([0, 3, 2, 1])), np.array([0, -1]), special_zero=True)
        x = _multiply(_activate(_multiply(x, network.hidden), network.hidden), network.heads)
    return openvino.Model([x], [pictures], name)  # ty: ignore[no-matching-overload]  # its stubs lack the base class


def _convolve(x: openvino.Output | openvino.Node, layer: Layer) -> openvino.Node:
    convolved = ops.convolution(x, ops.constant(layer.weight), [1, 1], [0, 0], [0, 0], [1, 1])
    return ops.add(convolved, ops.constant(layer.bias[None, :, None, None]))


def _multiply(x: openvino.Node, layer: Layer) -> openvino.Node:
    return ops.add(ops.matmul(x, ops.constant(layer.weight), False, True), ops.constant(layer.bias))


def _activate(x: openvino.Node, layer: Layer) -> openvino.Node:
    return ops.prelu(x, ops.constant(layer.slope))
