"""Prepare the network for training: freezing, compilation and DistributedDataParallel.

Also contains the device-dependent parts: number type, kernels and memory.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dfdc.command_line import UsageError
from dfdc.devices import judge_compiling
from networks.model import freeze_encoder, set_training_mode
from training.distributed import gather_objects
from training.losses import bce

if TYPE_CHECKING:
    from training.engine import Run

_TIMED = 3  # timed passes, after one for compilation and warm-up


def amp_type(precision: str, device: str) -> torch.dtype | None:
    """The type of autocast; None: float32. `auto` uses bf16 if the run's GPU supports it, fp16 on older GPUs."""
    if precision == "auto":
        if not device.startswith("cuda"):
            return None
        with torch.cuda.device(device):  # is_bf16_supported asks the current device
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float16
    if precision == "fp16" and device == "cpu":
        raise UsageError("precision fp16 needs a GPU; use bf16, fp32 or auto")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]


def use_fast_kernels(device: str, amp_type: torch.dtype | None) -> None:
    """On a GPU, select convolution kernels by timing, and use TF32 products for float32.

    TF32 has the range of float32 and 10 bits of mantissa; sums stay in float32.
    """
    if not device.startswith("cuda"):
        return
    torch.backends.cudnn.benchmark = True
    if amp_type is None:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True


def wrap(run: Run, *, frozen: bool) -> tuple[nn.Module, str]:
    """The network as training calls it, and a text for the log about its compilation (may be empty).

    DDP records the trainable parameters when it is created, so freezing and unfreezing need a new one.
    """
    freeze_encoder(run.model, frozen)
    model, said = compile_model(run)
    if run.ranks.world_size == 1:
        return model, said
    on_gpu = run.ranks.device.startswith("cuda")
    # With a static graph, DDP orders its reductions once. It can't be combined with no_sync (accumulation).
    static = run.config.accumulate == 1 and model is run.model
    wrapped = DistributedDataParallel(
        model,
        device_ids=[run.ranks.local_rank] if on_gpu else None,
        gradient_as_bucket_view=True,  # avoids a second copy of the gradients
        static_graph=static,
    )
    return wrapped, said


def compile_model(run: Run) -> tuple[nn.Module, str]:
    """Apply `compile` of the configuration: off, on, or (auto) whichever is faster on this machine.

    Raises:
        RuntimeError: compilation fails, and `compile` is "on".
    """
    if run.config.compile == "off":
        return run.model, ""
    compiled = cast("nn.Module", torch.compile(run.model))  # a module, although typed as a function
    if run.config.compile == "on":
        return compiled, "compiled"
    try:
        with_it, reason = seconds_of(run, compiled), ""
    except Exception as error:  # e.g. a missing compiler, or errors inside PyTorch
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        with_it, reason = float("inf"), f"the network can't be compiled ({type(error).__name__}: {first})"
    times = gather_objects((with_it, seconds_of(run, run.model), reason))  # all ranks must choose the same
    with_it, without = sum(t[0] for t in times), sum(t[1] for t in times)
    if failed := next((t[2] for t in times if t[2]), ""):
        return run.model, f"{failed}; continuing without compilation"
    keep, said = judge_compiling(without, with_it)
    return (compiled if keep else run.model), said


def seconds_of(run: Run, model: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Seconds of a forward and backward pass on random images; weights and statistics stay unchanged."""
    config, device, normalizer = run.config, run.ranks.device, run.normalizer()
    shape = (config.batch_size, config.size, config.size, 3)
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random).to(device)
    targets = torch.arange(config.batch_size, device=device, dtype=torch.float32) % 2
    kept = [buffer.clone() for buffer in run.model.buffers()]
    set_training_mode(run.model)

    def one_pass() -> None:
        with run.autocast():
            logits = model(normalizer(images))[:, 0]
        bce(logits.float(), targets).mean().backward()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    try:
        one_pass()
        started = time.perf_counter()
        for _ in range(_TIMED):
            one_pass()
        return (time.perf_counter() - started) / _TIMED
    finally:
        run.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in zip(run.model.buffers(), kept, strict=True):
                buffer.copy_(before)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, skipped: torch.Tensor) -> None:
    """Update the moving average of weights and statistics from `model`, unless the step was skipped.

    `skipped` is a bool tensor on the device; it is not synchronised.
    """
    weight = torch.where(skipped, 0.0, 1 - decay)
    for kept, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(value, weight.to(kept.dtype))
        else:
            kept.copy_(value)


class Statistics:
    """Backup of the running statistics of normalisation layers, to undo the changes of a skipped step.

    They are copied as one tensor: hundreds of copies cost a GPU more than their bytes.
    """

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self._sizes = [buffer.numel() for buffer in self._buffers]
        self._kept = torch.empty(0)

    def keep(self) -> None:
        """Copy the statistics before a step."""
        self._kept = self._joined()

    @torch.no_grad()
    def restore_where(self, skipped: torch.Tensor) -> None:
        """Restore the statistics if `skipped`, a bool tensor on the device that is not synchronised."""
        if self._buffers:
            values = torch.where(skipped, self._kept, self._joined()).split(self._sizes)
            torch._foreach_copy_(self._buffers, [v.view_as(b) for v, b in zip(values, self._buffers, strict=True)])

    def _joined(self) -> torch.Tensor:
        return torch.cat([buffer.flatten() for buffer in self._buffers] or [self._kept])


def peak_memory(device: str) -> float:
    """Peak memory in MiB: of the GPU's tensors since the last call, or of this process on a CPU."""
    if device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated(device) / 2**20
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    import resource  # not available on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # unit of ru_maxrss in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
