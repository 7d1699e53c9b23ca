"""Names of engines and precisions, and the choice of the precision, without loading PyTorch."""

from __future__ import annotations

from dfdc.command_line import SettingError

ENGINES = ("auto", "torch", "openvino", "onnx")  # see engines.py
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def choose_precision(name: str, device: str) -> str:
    """Resolve `auto`: fp16 on a GPU, fp32 on a CPU. Check and return other names.

    Raises:
        SettingError: unknown precision, or fp16 on a CPU, where it is slower than fp32.
    """
    if name not in PRECISIONS:
        raise SettingError("precision", name, f"unknown; choose {', '.join(PRECISIONS)}")
    on_gpu = device.startswith("cuda")
    if name == "auto":
        return "fp16" if on_gpu else "fp32"
    if name == "fp16" and not on_gpu:
        raise SettingError("precision", name, "fp16 is for GPUs; use bf16, fp32 or auto on a CPU")
    return name
