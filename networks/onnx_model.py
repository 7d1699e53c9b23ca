"""ONNX files of export_model.py, called as a network of PyTorch's is."""

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
    """Whether `path` is an ONNX file; by its name, as the content has no mark."""
    return path.suffix.lower() == SUFFIX


def check_model(path: Path) -> tuple[ModelSpec, Holdout | None]:
    """See that a checkpoint or ONNX file can be used, without keeping it.

    Returns:
        what it needs, and what it was not trained on; None where it does not say.

    Raises:
        CheckpointError: it can't be.
    """
    found = OnnxModel(path, "cpu") if is_onnx(path) else read_checkpoint(path, mapped=True)
    return found.spec, found.holdout


class OnnxModel:
    """A network in an ONNX file, run by ONNX Runtime in fp32; `spec` and `holdout` come from the file's metadata.

    Args:
        path: a file of export_model.py.
        device: a PyTorch device name. A GPU is used where ONNX Runtime has its CUDA provider (the package
            onnxruntime-gpu); without it the network runs on the CPU, and a warning says so.
        threads: for one batch, on a CPU; all cores unless told. Several batches may be run at once.

    Raises:
        CheckpointError: not an ONNX file, or none of export_model.py.
    """

    def __init__(self, path: Path, device: str, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        providers: list = [_CPU]
        if device.startswith("cuda") and _CUDA in onnxruntime.get_available_providers():
            providers.insert(0, (_CUDA, {"device_id": int(device.partition(":")[2] or 0)}))
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime has a dozen kinds, without a base of their own
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"{path} is not an ONNX file that can be run ({reason})") from error
        if device.startswith("cuda") and _CUDA not in self._session.get_providers():
            said = f"{printable(path.name)} runs on the CPU: ONNX Runtime has no {_CUDA} here (see docs/export.md)"
            warnings.warn(said, stacklevel=2)
        description = read_description(self._session.get_modelmeta().custom_metadata_map, path)
        self.spec: ModelSpec = description["spec"]
        self.holdout: Holdout | None = description["holdout"]
        shapes = [(item.name, item.shape[1:]) for item in (*self._session.get_inputs(), *self._session.get_outputs())]
        if shapes != [(INPUT, [3, self.spec.size, self.spec.size]), (OUTPUT, [1])]:
            raise CheckpointError(f"{path}: its input and output {shapes} are not those of export_model.py")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised float images [n, 3, size, size] -> logits [n, 1], float32, on the device of `images`.

        Raises:
            torch.OutOfMemoryError: so that it can be tried in halves, as with a network of PyTorch's.
        """
        try:
            (logits,) = self._session.run([OUTPUT], {INPUT: images.float().contiguous().cpu().numpy()})
        except Exception as error:
            if "Failed to allocate memory" in str(error):
                raise torch.OutOfMemoryError(f"ONNX Runtime: {error}") from error
            raise
        return torch.from_numpy(logits).to(images.device)
