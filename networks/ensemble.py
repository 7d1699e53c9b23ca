"""An ensemble of checkpoints that score the same faces."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
from scipy.special import expit

from dfdc.devices import (
    available_cores,
    judge_compiling,
    keep_freed_memory,
    limit_torch_threads,
    release_freed_memory,
    run_halving,
)
from dfdc.imaging import fit, tighten
from networks.engine_cache import CHECKED_AT_START, FILES, EngineError, Entry, check, place_of, read_entry
from networks.files import is_onnx, model_names
from networks.holdout import Holdout
from networks.precision import choose_precision
from networks.spec import CheckpointError, ModelSpec

if TYPE_CHECKING:
    from networks.torch_model import Programs, TorchModel

# Faces times checkpoints per kind. Compiling a B7 takes a minute or two, and saves a third, or nothing on some CPUs.
COMPILE_FROM = 20_000
# On a CPU larger batches only need more memory, and more time to allocate it. On a GPU smaller ones are padded; most
# videos have one face in each of 32 frames.
_CPU_BATCH, _GPU_BATCH = 1, 32
_MOST_THREADS = 8  # each keeps the feature maps of a batch in memory


class Model(Protocol):
    """A network, run by any engine; `holdout` is None if unknown."""

    spec: ModelSpec
    holdout: Holdout | None

    def logits(self, images: np.ndarray) -> np.ndarray:
        """RGB uint8 [n, size, size, 3] -> logits, float32 [n]."""
        ...


class Ensemble:
    """Checkpoints that score the same crops; encoders and input sizes may differ.

    On a CPU each thread computes its own batch, so that threads never wait for each other.

    Args:
        paths: checkpoints, or ONNX files from export_model.py. ONNX files always run in ONNX Runtime in fp32.
        device: a PyTorch device name.
        precision: one of networks.precision.PRECISIONS.
        engine: torch; or openvino or onnx, for checkpoints that `networks.engines.choose_engine` has converted.

    Attributes:
        names: file names of the checkpoints, with folders if two have the same name.
        said: why this engine was chosen; "" if unknown.

    Raises:
        CheckpointError: a checkpoint is unusable.
        EngineError: a converted network can't be used.
        SettingError: the device does not support the precision.
    """

    def __init__(self, paths: Sequence[Path], device: str, precision: str = "fp32", engine: str = "torch") -> None:
        self.precision, self.engine = choose_precision(precision, device), engine
        self._device, on_gpu = device, device.startswith("cuda")
        self.paths = list(paths)
        self.names = model_names(paths)
        self.said = ""
        self.batch_size = _GPU_BATCH if on_gpu else _CPU_BATCH
        self.threads = 1 if on_gpu else min(available_cores(), _MOST_THREADS)
        self._cores_each = max(1, available_cores() // self.threads)
        self._programs: Programs | None = None
        limit = None if on_gpu else partial(limit_torch_threads, self._cores_each)
        self._pool = ThreadPoolExecutor(self.threads, initializer=limit)
        self._warming: list[Future] = []
        # A GPU takes a face in the time in which one core resizes it.
        self._resizing = ThreadPoolExecutor(min(available_cores(), _MOST_THREADS)) if on_gpu else None
        try:
            self.models = self._load_all(paths)
        except BaseException:
            self.close()
            raise
        self.specs = [model.spec for model in self.models]
        if not on_gpu:
            keep_freed_memory()
        self._compiled = False

    def _load_all(self, paths: Sequence[Path]) -> list[Model]:
        if self.engine != "torch":
            return list(self._pool.map(self._load, paths))  # together, which saves a fifth of the start with two B7
        models = []
        for path in paths:
            models.append(self._load(path))
            release_freed_memory()  # before the next checkpoint's weights are read
        return models

    def _load(self, path: Path) -> Model:
        # Imports here: scoring with one engine must not load the others.
        if is_onnx(path):
            from networks.onnx_model import OnnxModel

            return OnnxModel(path, self._device, self._cores_each)
        if self.engine == "torch":
            from networks.torch_model import Programs, TorchModel

            self._programs = self._programs or Programs()
            return TorchModel(path, self._device, self.precision, self._programs, self.batch_size)
        cores = self.threads * self._cores_each
        try:
            return load_converted(
                path, self.engine, self.precision, self._device, self.threads, cores, compared=CHECKED_AT_START
            )
        except EngineError as error:
            error.checkpoint = path
            raise

    @property
    def compiled(self) -> bool:
        """Whether networks run compiled, as `compile` decides."""
        return self._compiled

    @compiled.setter
    def compiled(self, on: bool) -> None:
        self._compiled = on
        for model in self.compilable:
            model.compiled, model.batch = on, self.batch_size

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
        resize_all = self._resizing.map if self._resizing else map
        return {kind: np.stack(list(resize_all(partial(_input, kind), crops))) for kind in kinds}

    def _run(self, index: int, images: np.ndarray) -> np.ndarray:
        return expit(self.models[index].logits(images))

    @property
    def compilable(self) -> list[TorchModel]:
        """The checkpoints that run in PyTorch."""
        return [
            cast("TorchModel", model)
            for path, model in zip(self.paths, self.models, strict=True)
            if self.engine == "torch" and not is_onnx(path)
        ]

    @property
    def detector_thresholds(self) -> tuple[float, float, float]:
        """Thresholds of the face detector that the checkpoints expect."""
        return common_thresholds(self.specs, self.names)

    def warm_up(self) -> None:
        """On a GPU, begin to choose the networks' kernels, which takes seconds; return at once.

        An error occurs again with the first crops, where it is reported.
        """
        if self._device.startswith("cuda"):
            blacks = [np.zeros((1, spec.size, spec.size, 3), np.uint8) for spec in self.specs]
            self._warming = [self._pool.submit(self._run, index, black) for index, black in enumerate(blacks)]

    def close(self) -> None:
        """Stop the threads."""
        for future in self._warming:  # nobody needs those that have not begun, and each may take seconds
            future.cancel()
        self._pool.shutdown()
        if self._resizing:
            self._resizing.shutdown()


def _input(kind: tuple[int, int], crop: np.ndarray) -> np.ndarray:
    size, margin_part = kind
    return fit(tighten(crop, margin_part), size)


def load_converted(
    path: Path, engine: str, precision: str, device: str, threads: int, cores: int, *, compared: int | None
) -> Model:
    """Load the converted network of a checkpoint from the engine cache.

    Args:
        path: the checkpoint.
        engine: openvino or onnx.
        threads: number of threads that will use it at the same time.
        cores: CPU cores for all of them together.
        compared: number of images on which its results are compared with PyTorch's; None for all.

    Raises:
        EngineError: there is no such network, or the engine can't run it here.
        DifferenceError: the results differ.
    """
    folder = place_of(path, engine)
    entry = read_entry(path, engine, folder)
    if entry is None:
        raise EngineError(f"{path.name} is not converted")
    try:
        model = _open_converted(folder / FILES[engine], entry, engine, precision, device, threads, cores)
    except CheckpointError as error:
        raise EngineError(str(error)) from error
    check(model.logits, model.spec.size, entry, precision, compared)
    return model


def _open_converted(
    file: Path, entry: Entry, engine: str, precision: str, device: str, threads: int, cores: int
) -> Model:
    if engine == "openvino":
        from networks.openvino_model import OpenVinoModel  # here, as in Ensemble._load

        return OpenVinoModel(file, entry.description, precision, threads, cores)
    from networks.onnx_model import OnnxModel  # here, as in Ensemble._load

    return OnnxModel(file, device, max(1, cores // threads))


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
