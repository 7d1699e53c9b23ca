"""Runs a network that was converted to OpenVINO's format, on the CPU and without PyTorch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino

from dfdc.devices import release_file_pages
from networks.engine_cache import EngineError
from networks.holdout import Holdout
from networks.spec import ModelSpec, read_description

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoModel:
    """A converted network.

    Args:
        path: the graph, an .xml file; its weights are beside it, in a .bin file.
        description: of the checkpoint, see `networks.checkpoint.describe`.
        precision: fp32 or bf16.
        threads: number of threads that call `logits` at the same time.
        cores: CPU cores for all of them together.

    Raises:
        EngineError: OpenVINO can't run it here.
    """

    def __init__(self, path: Path, description: Mapping[str, str], precision: str, threads: int, cores: int) -> None:
        said = read_description(description, path)
        self.spec: ModelSpec = said["spec"]
        self.holdout: Holdout | None = said["holdout"]
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],  # the default would be bf16 on CPUs that have it
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": cores,
            "ENABLE_CPU_PINNING": False,  # two runs, or two containers, would pin themselves to the same cores
        }
        core, size = openvino.Core(), self.spec.size
        try:
            model = core.read_model(str(path))
            model.reshape([1, 3, size, size])  # a fixed shape takes 6 % less time, and 80 MB less memory for a B7
            self._compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:  # OpenVINO's only class of errors
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise EngineError(f"OpenVINO can't compile it ({lines[-1] if lines else 'no reason given'})") from error
        found = self._compiled.output(0).partial_shape
        if found != openvino.PartialShape([1, 1]):
            raise EngineError(f"its result has the shape {found}, not [1, 1]")
        release_file_pages(path.with_suffix(".bin").resolve())  # OpenVINO has copied the weights in its own layout
        self._own = threading.local()  # each thread has its own request, hence its own memory

    def logits(self, images: np.ndarray) -> np.ndarray:
        """RGB uint8 [n, size, size, 3] -> logits, float32 [n]."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        inputs = self.spec.normalize.to_input(images)
        found = [
            self._own.request.infer({0: inputs[i : i + 1]}, share_inputs=True)[0].item() for i in range(len(inputs))
        ]
        return np.array(found, np.float32)
