"""An ensemble of checkpoints that score the same faces."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dfdc.devices import available_cores, judge_compiling, keep_freed_memory, release_freed_memory, run_halving
from dfdc.imaging import fit, tighten
from networks.checkpoint import CheckpointError, ModelSpec, load_model
from networks.files import model_names
from networks.holdout import Holdout
from networks.model import Normalizer
from networks.onnx_model import OnnxModel, is_onnx
from networks.precision import choose_precision

# Faces times checkpoints per kind. Compiling a B7 takes a minute or two, and saves a third, or nothing on some CPUs.
COMPILE_FROM = 20_000
_CPU_BATCH, _GPU_BATCH = 1, 64  # on a CPU larger batches only need more memory, and more time to allocate it
_MOST_THREADS = 8  # each keeps the feature maps of a batch in memory


class Ensemble:
    """Checkpoints that score the same crops; encoders and input sizes may differ.

    On a CPU each thread computes its own batch, so that threads never wait for each other.

    Args:
        paths: checkpoints, or ONNX files from export_model.py; `precision` and `compiled` do not apply to ONNX files.
        device: a PyTorch device name.
        precision: one of networks.precision.PRECISIONS.

    Attributes:
        names: file names of the checkpoints, with folders if two have the same name.
        compiled: whether networks run compiled; checkpoints of one kind share a compiled program. See `compile`.

    Raises:
        CheckpointError: a checkpoint is unusable.
        SettingError: the device does not support the precision.
    """

    def __init__(self, paths: Sequence[Path], device: str, precision: str = "fp32") -> None:
        self.precision = choose_precision(precision, device)
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        self._device, self._on_gpu = device, device.startswith("cuda")
        if self._on_gpu and self.precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # for the whole process; TF32 keeps only 10 of 23 mantissa bits
        self.paths = list(paths)
        self.names = model_names(paths)
        self.specs: list[ModelSpec] = []
        self.holdouts: list[Holdout | None] = []  # None: unknown
        self.models: list[torch.nn.Module | OnnxModel] = []
        self._normalizers = []
        self.batch_size = _GPU_BATCH if self._on_gpu else _CPU_BATCH
        self.threads = 1 if self._on_gpu else min(available_cores(), _MOST_THREADS)
        self._cores_each = max(1, available_cores() // self.threads)
        for path in paths:
            model, spec, holdout = self._load(path)
            release_freed_memory()  # before the next checkpoint's weights are read
            self.models.append(model)
            self.specs.append(spec)
            self.holdouts.append(holdout)
            self._normalizers.append(Normalizer(spec.normalize.mean, spec.normalize.std, device))
        if not self._on_gpu:
            keep_freed_memory()
        limit = None if self._on_gpu else (lambda: torch.set_num_threads(self._cores_each))
        self._pool = ThreadPoolExecutor(self.threads, initializer=limit)
        self.compiled = False
        self._programs: dict[tuple[str, str, int], Callable] = {}  # by network, encoder, size
        self._bound: dict[int, Callable] = {}  # by checkpoint: its program bound to its weights
        self._compiling = threading.Lock()

    def _load(self, path: Path) -> tuple[torch.nn.Module | OnnxModel, ModelSpec, Holdout | None]:
        if is_onnx(path):
            model = OnnxModel(path, self._device, self._cores_each)
            return model, model.spec, model.holdout
        network, checkpoint = load_model(path, mapped=True)
        return _settle(network, self._dtype, self._device), checkpoint.spec, checkpoint.holdout

    def compile(self, *, only_if_faster: bool) -> str:
        """Compile the networks; return a message about the result.

        Args:
            only_if_faster: time both variants on this machine and keep the faster; a compiler error is not fatal.

        Raises:
            RuntimeError: compiling failed, and `only_if_faster` is not set.
        """
        size = self.specs[0].size
        crops = [np.zeros((size, size, 3), np.uint8)] * (2 * self.batch_size * self.threads)

        def seconds(compiled: bool) -> float:
            self.compiled = compiled
            self.score(crops)
            started = time.perf_counter()
            self.score(crops)
            return time.perf_counter() - started

        try:
            with_it = seconds(compiled=True)
        except Exception as error:  # a missing compiler, or an error in PyTorch
            first = (str(error).strip().splitlines() or ["no reason given"])[0]
            reason = f"the networks can't be compiled ({type(error).__name__}: {first})"
            if not only_if_faster:
                raise RuntimeError(reason) from error
            self.compiled = False
            return f"{reason}; continuing without"
        if not only_if_faster:
            return "compiled"
        without = seconds(compiled=False)
        self.compiled, said = judge_compiling(without, with_it)
        return said

    def score(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Probability of fake for each checkpoint and crop.

        Args:
            crops: RGB uint8 [h, w, 3], cut with a margin of 1/3 of the box.

        Returns:
            float32 [models, crops].
        """
        scores = np.zeros((len(self.models), len(crops)), np.float32)
        inputs = self._inputs(crops)
        running = []
        for index, spec in enumerate(self.specs):
            images = inputs[spec.size, spec.margin_part]
            for start in range(0, len(crops), self.batch_size):
                part = images[start : start + self.batch_size]
                running.append((index, start, self._pool.submit(run_halving, partial(self._run, index), part)))
        for index, start, future in running:
            part = future.result()
            scores[index, start : start + len(part)] = part
        return scores

    def _inputs(self, crops: Sequence[np.ndarray]) -> dict[tuple[int, int], np.ndarray]:
        """Crops resized for the networks, uint8 [n, size, size, 3], for each size and margin."""
        kinds = {(spec.size, spec.margin_part) for spec in self.specs}
        return {(size, part): np.stack([fit(tighten(crop, part), size) for crop in crops]) for size, part in kinds}

    def _run(self, index: int, images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            batch, network = self.normalized(index, images), self.models[index]
            compiled = self.compiled and isinstance(network, torch.nn.Module)
            program = self._program(index, network) if compiled else None
            with self.autocast():
                if program is None:
                    logits = network(batch)[:, 0]
                else:  # pad to a fixed shape, because another shape would be recompiled
                    missing = self.batch_size - len(batch)
                    full = torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])]) if missing > 0 else batch
                    logits = program(full.contiguous(memory_format=torch.channels_last))[: len(batch), 0]
            return torch.sigmoid(logits.float()).cpu().numpy()

    def normalized(self, index: int, images: np.ndarray) -> torch.Tensor:
        """RGB uint8 [n, size, size, 3] -> input of checkpoint `index`: float [n, 3, size, size], on the device."""
        return self._normalizers[index](torch.from_numpy(images).to(self._device))

    def autocast(self) -> contextlib.AbstractContextManager:
        """A context in which networks compute in the ensemble's precision."""
        return torch.autocast(self._device.split(":")[0], self._dtype, enabled=self.precision != "fp32")

    def _program(self, index: int, network: torch.nn.Module) -> Callable:
        """The compiled network of checkpoint `index`. Weights are arguments, so that one kind shares one program."""
        spec = self.specs[index]
        kind = spec.network, spec.encoder, spec.size
        with self._compiling:
            if kind not in self._programs:
                skeleton = copy.deepcopy(network)

                def call(weights: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
                    return torch.func.functional_call(skeleton, weights, (images,))

                self._programs[kind] = torch.compile(call)
            if index not in self._bound:
                self._bound[index] = partial(self._programs[kind], dict(network.state_dict()))
            return self._bound[index]

    @property
    def compilable(self) -> list[ModelSpec]:
        """Specs of the checkpoints that run in PyTorch, not in ONNX Runtime."""
        return [spec for path, spec in zip(self.paths, self.specs, strict=True) if not is_onnx(path)]

    @property
    def detector_thresholds(self) -> tuple[float, float, float]:
        """Thresholds of the face detector that the checkpoints expect."""
        return common_thresholds(self.specs, self.names)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()


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


def common_thresholds(specs: Sequence[ModelSpec], names: Sequence[str]) -> tuple[float, float, float]:
    """The face detector thresholds that all checkpoints expect.

    Raises:
        CheckpointError: they differ, but faces are detected once for all checkpoints.
    """
    by_threshold = {spec.detector_thresholds: name for name, spec in zip(names, specs, strict=True)}
    if len(by_threshold) > 1:
        said = "these checkpoints expect different face detector thresholds; score with them separately"
        whose = "; ".join(f"{name}: {thresholds}" for thresholds, name in by_threshold.items())
        raise CheckpointError(f"{said} ({whose})")
    return next(iter(by_threshold))


def worth_compiling(faces: int, specs: Sequence[ModelSpec]) -> bool:
    """Whether compiling pays off for this number of faces and these checkpoints."""
    kinds = {(spec.network, spec.encoder, spec.size) for spec in specs}
    return faces * len(specs) / max(1, len(kinds)) >= COMPILE_FROM
