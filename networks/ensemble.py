"""Checkpoints that score the same faces together."""

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
from networks.model import Normalizer
from networks.onnx_model import OnnxModel, is_onnx
from networks.precision import choose_precision

# Faces times checkpoints of one kind: compiling a B7 takes a minute or two, and gains a third, or nothing on some CPUs.
COMPILE_FROM = 20_000
_CPU_BATCH, _GPU_BATCH = 1, 64  # on a CPU larger ones only take memory, and longer to get it from the kernel
_MOST_THREADS = 8  # each has a batch of maps in memory


class Ensemble:
    """Checkpoints that score the same crops; encoders and input sizes may differ.

    On a CPU each thread computes a batch by itself, which wastes none of its time on waiting for others as several
    threads for one batch do.

    Args:
        paths: of the checkpoints, or of ONNX files of export_model.py; to those, precision and `compiled` do not apply.
        device: a PyTorch device name.
        precision: of networks.precision.PRECISIONS.

    Attributes:
        names: their file names, with folders where two have one name.
        compiled: whether networks run compiled, each kind once for all checkpoints of that kind; see `compile`.

    Raises:
        CheckpointError: one of them can't be used.
        SettingError: the precision does not go with the device.
    """

    def __init__(self, paths: Sequence[Path], device: str, precision: str = "fp32") -> None:
        self.precision = choose_precision(precision, device)
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        self._device, self._on_gpu = device, device.startswith("cuda")
        if self._on_gpu and self.precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # of the whole process: convolutions would keep 10 bits of 23
        self.paths = list(paths)
        self.names = model_names(paths)
        self.specs: list[ModelSpec] = []
        self.models: list[torch.nn.Module | OnnxModel] = []
        self._normalizers = []
        self.batch_size = _GPU_BATCH if self._on_gpu else _CPU_BATCH
        self.threads = 1 if self._on_gpu else min(available_cores(), _MOST_THREADS)
        self._cores_each = max(1, available_cores() // self.threads)
        for path in paths:
            model, spec = self._load(path)
            release_freed_memory()  # what was read; the next checkpoint's weights come beside ours otherwise
            self.models.append(model)
            self.specs.append(spec)
            self._normalizers.append(Normalizer(spec.normalize.mean, spec.normalize.std, device))
        if not self._on_gpu:
            keep_freed_memory()
        limit = None if self._on_gpu else (lambda: torch.set_num_threads(self._cores_each))
        self._pool = ThreadPoolExecutor(self.threads, initializer=limit)
        self.compiled = False
        self._programs: dict[tuple[str, str, int], Callable] = {}  # by network, encoder, size
        self._bound: dict[int, Callable] = {}  # by checkpoint: a program with its weights
        self._compiling = threading.Lock()

    def _load(self, path: Path) -> tuple[torch.nn.Module | OnnxModel, ModelSpec]:
        if is_onnx(path):
            model = OnnxModel(path, self._device, self._cores_each)
            return model, model.spec
        network, checkpoint = load_model(path, mapped=True)
        return _settle(network, self._dtype, self._device), checkpoint.spec

    def compile(self, *, only_if_faster: bool) -> str:
        """Compile the networks; return a sentence that says what came of it.

        Args:
            only_if_faster: measure both forms on this machine and keep the faster; go on without where compiling fails.

        Raises:
            RuntimeError: it failed, and `only_if_faster` is not set.
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
        except Exception as error:  # of the compiler that is not there, of PyTorch's own layers
            first = (str(error).strip().splitlines() or ["no reason given"])[0]
            reason = f"the networks can't be compiled ({type(error).__name__}: {first})"
            if not only_if_faster:
                raise RuntimeError(reason) from error
            self.compiled = False
            return f"{reason}; going on without"
        if not only_if_faster:
            return "compiled"
        without = seconds(compiled=False)
        self.compiled, said = judge_compiling(without, with_it)
        return said

    def score(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Probability of fake by each checkpoint of each crop.

        Args:
            crops: RGB uint8 [h, w, 3], cut with a third of the box as margin.

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
        """Crops as the networks take them, uint8 [n, size, size, 3], once for each size and margin."""
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
                else:  # one shape: another would be compiled anew
                    missing = self.batch_size - len(batch)
                    full = torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])]) if missing > 0 else batch
                    logits = program(full.contiguous(memory_format=torch.channels_last))[: len(batch), 0]
            return torch.sigmoid(logits.float()).cpu().numpy()

    def normalized(self, index: int, images: np.ndarray) -> torch.Tensor:
        """RGB uint8 [n, size, size, 3] as checkpoint `index` takes them: float [n, 3, size, size], on the device."""
        return self._normalizers[index](torch.from_numpy(images).to(self._device))

    def autocast(self) -> contextlib.AbstractContextManager:
        """In which the networks compute in the ensemble's precision."""
        return torch.autocast(self._device.split(":")[0], self._dtype, enabled=self.precision != "fp32")

    def _program(self, index: int, network: torch.nn.Module) -> Callable:
        """The compiled network of checkpoint `index`; weights go in, so that all of its kind share one program."""
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
        """The specs of the checkpoints that PyTorch runs."""
        return [spec for path, spec in zip(self.paths, self.specs, strict=True) if not is_onnx(path)]

    @property
    def detector_thresholds(self) -> tuple[float, float, float]:
        """Of the face detector whose crops the checkpoints want."""
        return common_thresholds(self.specs, self.names)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def _settle(model: torch.nn.Module, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """Bring a network to where and how it computes, one tensor after the other; none stays in a mapped file.

    Weights of convolutions and dense layers go to `dtype`, so that autocast has nothing left to convert; norms stay
    exact.
    """
    for module in model.modules():
        lower = isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
            kind = dtype if lower and tensor.is_floating_point() else tensor.dtype
            tensor.data = tensor.data.to(device, kind, memory_format=layout, copy=True)
    return model


def common_thresholds(specs: Sequence[ModelSpec], names: Sequence[str]) -> tuple[float, float, float]:
    """The face detector's thresholds that all checkpoints were made for.

    Raises:
        CheckpointError: they differ; faces are searched once for all.
    """
    by_threshold = {spec.detector_thresholds: name for name, spec in zip(names, specs, strict=True)}
    if len(by_threshold) > 1:
        said = "these checkpoints want different face detector thresholds; score with them apart"
        whose = "; ".join(f"{name}: {thresholds}" for thresholds, name in by_threshold.items())
        raise CheckpointError(f"{said} ({whose})")
    return next(iter(by_threshold))


def worth_compiling(faces: int, specs: Sequence[ModelSpec]) -> bool:
    """Whether so many faces pay for compiling, with as many checkpoints of one kind as there are."""
    kinds = {(spec.network, spec.encoder, spec.size) for spec in specs}
    return faces * len(specs) / max(1, len(kinds)) >= COMPILE_FROM
