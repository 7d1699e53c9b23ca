"""A checkpoint that PyTorch runs."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dfdc.devices import is_out_of_memory
from networks.checkpoint import load_model
from networks.model import Normalizer

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Program = Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]


class TorchModel:
    """The network of a checkpoint, in evaluation mode.

    Args:
        path: a checkpoint of this project or the winners, or a safetensors file.
        device: a PyTorch device name.
        precision: fp32, bf16 or fp16.
        programs: compiled networks, shared by all checkpoints of an ensemble.
        batch: number of images that smaller batches are padded to. For each new number, the compiler starts anew, and a
            GPU takes about a second to choose the kernels of a B7.

    Attributes:
        network: a network of networks/model.py.
        batch: as above; halved while that many images do not fit into memory.
        compiled: whether the network runs compiled.

    Raises:
        CheckpointError: the checkpoint is unusable.
    """

    def __init__(
        self, path: Path, device: str, precision: str, programs: Programs | None = None, batch: int = 1
    ) -> None:
        network, checkpoint = load_model(path, mapped=True)
        self.spec, self.holdout = checkpoint.spec, checkpoint.holdout
        self._device, self._dtype = device, _DTYPES[precision]
        if device.startswith("cuda") and precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # for the whole process; TF32 keeps only 10 of 23 mantissa bits
        self.network = _settle(network, self._dtype, device)
        self._normalizer = Normalizer(self.spec.normalize.mean, self.spec.normalize.std, device)
        self.batch, self.compiled = batch, False
        self._programs = programs or Programs()

    def logits(self, images: np.ndarray) -> np.ndarray:
        """RGB uint8 [n, size, size, 3] -> logits, float32 [n]."""
        while True:
            size = max(self.batch, len(images))
            try:
                return self._logits(images, size)
            except Exception as error:
                if size == len(images) or not is_out_of_memory(error):
                    raise
            # Outside the except block, because the error's traceback keeps the tensors that filled the memory alive.
            torch.cuda.empty_cache()
            self.batch = size // 2

    def _logits(self, images: np.ndarray, size: int) -> np.ndarray:
        with torch.inference_mode():
            batch = self.normalized(images)
            if missing := size - len(batch):
                batch = torch.nn.functional.pad(batch, (0, 0, 0, 0, 0, 0, 0, missing))  # keeps channels last
            with self.autocast():
                found = self._compiled(batch) if self.compiled else self.network(batch)
            return found[: len(images), 0].float().cpu().numpy()

    def normalized(self, images: np.ndarray) -> torch.Tensor:
        """RGB uint8 [n, size, size, 3] -> input of the network: float [n, 3, size, size], on the device."""
        return self._normalizer(torch.from_numpy(images).to(self._device))

    def autocast(self) -> contextlib.AbstractContextManager:
        """A context in which the network computes in its precision."""
        lower = self._dtype != torch.float32
        return torch.autocast(self._device.split(":")[0], self._dtype, enabled=lower)

    def _compiled(self, batch: torch.Tensor) -> torch.Tensor:
        return self._programs.get(self)(batch.contiguous(memory_format=torch.channels_last))


class Programs:
    """Compiled networks. Weights are arguments of a program, so that checkpoints of one kind share it."""

    def __init__(self) -> None:
        self._by_kind: dict[tuple[str, str, int], Program] = {}  # by network, encoder, size
        self._bound: dict[TorchModel, Callable[[torch.Tensor], torch.Tensor]] = {}
        self._compiling = threading.Lock()

    def get(self, model: TorchModel) -> Callable[[torch.Tensor], torch.Tensor]:
        """The program of the model's kind, bound to its weights."""
        spec = model.spec
        kind = spec.network, spec.encoder, spec.size
        with self._compiling:
            if kind not in self._by_kind:
                skeleton = copy.deepcopy(model.network)

                def call(weights: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
                    return torch.func.functional_call(skeleton, weights, (images,))

                self._by_kind[kind] = torch.compile(call)
            if model not in self._bound:
                self._bound[model] = partial(self._by_kind[kind], dict(model.network.state_dict()))
            return self._bound[model]


def _settle(model: torch.nn.Module, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """Move a network to its device and precision, tensor by tensor; no tensor stays in a memory-mapped file.

    Weights of convolutions and dense layers are converted to `dtype`, which saves autocast the conversion; norms keep
    their type.
    """
    for module in model.modules():
        lower = isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
            kind = dtype if lower and tensor.is_floating_point() else tensor.dtype
            tensor.data = tensor.data.to(device, kind, memory_format=layout, copy=True)
    return model
