"""Runs ONNX files from export_model.py, and checkpoints converted to ONNX."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import; else it would send names of files and networks
import onnxruntime

from dfdc.devices import available_cores
from dfdc.text import printable
from networks.holdout import Holdout
from networks.spec import CheckpointError, ModelSpec, read_description

INPUT, OUTPUT = "images", "logits"
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class OnnxModel:
    """A network in an ONNX file, run by ONNX Runtime in fp32; `spec` and `holdout` come from the file's metadata.

    Args:
        path: a file from export_model.py.
        device: a PyTorch device name. A GPU needs ONNX Runtime's CUDA provider (package onnxruntime-gpu). Without it
            the network runs on the CPU, with a warning.
        threads: CPU threads per batch (all cores). Several batches may run concurrently.

    Raises:
        CheckpointError: not an ONNX file, or not from export_model.py.
    """

    def __init__(self, path: Path, device: str, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        providers: list = [_CPU]
        if device.startswith("cuda") and _CUDA in onnxruntime.get_available_providers():
            providers.insert(0, (_CUDA, {"device_id": int(device.partition(":")[2] or 0)}))
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime has a dozen error classes without a common base
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"{path} is not a usable ONNX file ({reason})") from error
        if device.startswith("cuda") and _CUDA not in self._session.get_providers():
            said = f"{printable(path.name)} runs on the CPU: ONNX Runtime has no {_CUDA} here (see docs/export.md)"
            warnings.warn(said, stacklevel=2)
        description = read_description(self._session.get_modelmeta().custom_metadata_map, path)
        self.spec: ModelSpec = description["spec"]
        self.holdout: Holdout | None = description["holdout"]
        shapes = [(item.name, item.shape[1:]) for item in (*self._session.get_inputs(), *self._session.get_outputs())]
        if shapes != [(INPUT, [3, self.spec.size, self.spec.size]), (OUTPUT, [1])]:
            raise CheckpointError(
                f"{path}: input and output {shapes} are not those of export_model.py; export it again"
            )

    def logits(self, images: np.ndarray) -> np.ndarray:
        """RGB uint8 [n, size, size, 3] -> logits, float32 [n].

        Raises:
            MemoryError: out of memory; as with a PyTorch network, the caller may retry with half batches.
        """
        try:
            (logits,) = self._session.run([OUTPUT], {INPUT: self.spec.normalize.to_input(images)})
        except Exception as error:
            if "Failed to allocate memory" in str(error):
                raise MemoryError(f"ONNX Runtime: {error}") from error
            raise
        return np.asarray(logits)[:, 0]
