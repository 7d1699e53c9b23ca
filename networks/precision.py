"""Chooses the precision of the networks, without loading PyTorch."""

from __future__ import annotations

from pathlib import Path

from dfdc.command_line import SettingError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def choose_precision(name: str, device: str) -> str:
    """Resolve `auto`: fp16 on a GPU, bf16 on a CPU that supports it, else fp32. Check and return other names.

    Raises:
        SettingError: unknown precision, or fp16 on a CPU, where it is slower than fp32.
    """
    if name not in PRECISIONS:
        raise SettingError("precision", name, f"unknown; choose {', '.join(PRECISIONS)}")
    on_gpu = device.startswith("cuda")
    if name == "auto":
        return "fp16" if on_gpu else "bf16" if _cpu_has_bf16() else "fp32"
    if name == "fp16" and not on_gpu:
        raise SettingError("precision", name, "fp16 is for GPUs; use bf16, fp32 or auto on a CPU")
    return name


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
