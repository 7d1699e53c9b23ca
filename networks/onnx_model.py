"""Runs ONNX files from export_model.py with the call interface of a PyTorch network."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnxruntime
import torch

from dfdc.devices import available_cores
from dfdc.text import printable
from networks.checkpoint import CheckpointError, ModelSpec, read_checkpoint, read_description
from networks.holdout import Holdout

SUFFIX = ".onnx"
INPUT, OUTPUT = "images", "logits"
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def is_onnx(path: Path) -> bool:
    """Whether `path` is an ONNX file, by its suffix, because ONNX has no magic bytes."""
    return path.suffix.lower() == SUFFIX


def check_model(path: Path) -> tuple[ModelSpec, Holdout | None]:
    """Check that a checkpoint or ONNX file is usable, without keeping it in memory.

    Returns:
        its spec and its hold-out; the hold-out is None if unknown.

    Raises:
        CheckpointError: it is unusable.
    """
    found = OnnxModel(path, "cpu") if is_onnx(path) else read_checkpoint(path, mapped=True)
    return found.spec, found.holdout


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

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised float images [n, 3, size, size] -> logits [n, 1], float32, on the device of `images`.

        Raises:
            torch.OutOfMemoryError: out of memory; as with a PyTorch network, the caller may retry with half batches.
        """
        try:
            (logits,) = self._session.run([OUTPUT], {INPUT: images.float().contiguous().cpu().numpy()})
        except Exception as error:
            if "Failed to allocate memory" in str(error):
                raise torch.OutOfMemoryError(f"ONNX Runtime: {error}") from error
            raise
        return torch.from_numpy(logits).to(images.device)
