"""MTCNN's networks and arrays in PyTorch: for GPUs, and for the CPU without OpenVINO."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence

import cv2
import numpy as np
import torch
from torch.nn import functional

from dfdc.mtcnn_weights import Layer, load_network

_BLOCKED_FROM = 12_000  # minimum pixels of a pass for oneDNN's blocked layout
_LEAST_ON_GPU = 32  # pictures of a pass on a GPU, where smaller batches and those between powers of two are padded


class TorchRunner:
    """See `dfdc.mtcnn.Runner`; `device` is a PyTorch device name."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.cached = device == "cpu"
        self._networks = {name: _Network(name, device) for name in ("pnet", "rnet", "onet")}

    def resize(self, picture: np.ndarray, scale: float) -> np.ndarray:
        height, width = picture.shape[:2]
        size = max(1, int(height * scale)), max(1, int(width * scale))
        # PyTorch's fast path for bytes needs [1, 3, h, w] in channels-last memory.
        colours_first = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
        resized = functional.interpolate(colours_first, size=size, mode="bicubic", antialias=True)
        return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())

    @contextlib.contextmanager
    def context(self) -> Generator[None]:
        # Full float32 as on the CPU, not TF32, which is cuDNN's default.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield

    def put(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)

    def empty(self, corners: int) -> torch.Tensor:
        return torch.empty((corners, 3), dtype=torch.int32, device=self._device)

    def table(self, pictures: Sequence[np.ndarray], out: torch.Tensor) -> None:
        if self._device == "cpu":
            for picture, place in zip(pictures, out.numpy(), strict=True):
                cv2.integral(picture, place, cv2.CV_32S)
            return
        values = torch.from_numpy(np.stack(pictures)).to(self._device)
        out.zero_()
        out[:, 1:, 1:] = values.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)

    def take(self, values: torch.Tensor, places: torch.Tensor, axis: int) -> torch.Tensor:
        return values.index_select(axis, places)

    def floats(self, values: torch.Tensor) -> torch.Tensor:
        return values.float()

    def propose(self, pictures: torch.Tensor, least: float) -> np.ndarray:
        heads = self._networks["pnet"](pictures.permute(0, 3, 1, 2))
        image, y, x = torch.nonzero(heads[:, 1] - heads[:, 0] >= least, as_tuple=True)
        places = torch.stack([image, y, x], 1).float()
        return torch.cat([places, heads[image, :, y, x]], 1).cpu().numpy()

    def judge(self, name: str, pictures: torch.Tensor) -> np.ndarray:
        count = len(pictures)
        if not self.cached:  # for each new number of pictures, a GPU takes longer to choose kernels than to run them
            missing = max(_LEAST_ON_GPU, 1 << (count - 1).bit_length()) - count
            pictures = torch.cat([pictures, pictures.new_zeros(missing, *pictures.shape[1:])])
        return self._networks[name](pictures.permute(0, 3, 1, 2))[:count].cpu().numpy()


class _Network:
    """One of the three networks."""

    def __init__(self, name: str, device: str) -> None:
        network = load_network(name)

        def on_device(layer: Layer) -> list[torch.Tensor]:
            arrays = [layer.weight, layer.bias, *([] if layer.slope is None else [layer.slope])]
            return [torch.tensor(array, device=device) for array in arrays]

        self._layers = [(on_device(layer), layer.pool) for layer in network.convolutions]
        self._heads = on_device(network.heads)
        self._hidden = None if network.hidden is None else on_device(network.hidden)
        self._blocked: list | None = None
        if device == "cpu" and torch.backends.mkldnn.is_available():
            self._blocked = [([w.to_mkldnn() for w in tensors], pool) for tensors, pool in self._layers]
            self._blocked_heads = [w.to_mkldnn() for w in self._heads]

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """float [n, 3, h, w] -> outputs of the heads: pnet [n, 6, h', w'], rnet [n, 6], onet [n, 16]."""
        # oneDNN's blocked layout saves a conversion before and after each layer, but each new shape costs half a
        # millisecond. The small pyramid levels of crops have as many shapes as there are crops.
        blocked = self._blocked is not None and pictures[:, 0].numel() >= _BLOCKED_FROM
        x = pictures.to_mkldnn() if blocked else pictures
        for (weight, bias, slope), pool in self._blocked if blocked else self._layers:
            x = torch.prelu(functional.conv2d(x, weight, bias), slope)
            if pool:
                x = functional.max_pool2d(x, *pool, ceil_mode=True)
        if self._hidden is None:
            weight, bias = self._blocked_heads if blocked else self._heads
            x = functional.conv2d(x, weight, bias)
            return x.to_dense() if blocked else x
        x = x.to_dense() if blocked else x
        weight, bias, slope = self._hidden
        x = torch.prelu(functional.linear(x.permute(0, 3, 2, 1).flatten(1), weight, bias), slope)
        return functional.linear(x, *self._heads)
