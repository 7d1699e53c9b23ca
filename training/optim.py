"""Optimizers by name, and the learning rate as a function of the step."""

from __future__ import annotations

import math

import torch

from training.config import OptimizerConfig, ScheduleConfig


def build_optimizer(model: torch.nn.Module, config: OptimizerConfig, device: str) -> tuple[torch.optim.Optimizer, str]:
    """The optimizer of a network, and a sentence for the log that says which implementation it is.

    APEX's fused ones where it is importable (on CUDA), PyTorch's fused ones otherwise. The encoder is a group of its
    own: a fused SGD needs momentum for all parameters of a group or for none, and a frozen encoder starts later.
    """
    encoder = list(model.encoder.parameters())
    ids = {id(parameter) for parameter in encoder}
    parameters = [{"params": encoder}, {"params": [p for p in model.parameters() if id(p) not in ids]}]
    options = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.type == "SGD":
        options |= {"momentum": config.momentum, "nesterov": config.nesterov and config.momentum > 0}
    if device.startswith("cuda"):
        try:
            from apex.optimizers import FusedAdam, FusedSGD
        except ImportError:
            pass  # APEX is optional; PyTorch has its own fused kernels
        else:
            if config.type == "SGD":
                return FusedSGD(parameters, **options), "APEX FusedSGD"
            return FusedAdam(parameters, adam_w_mode=True, **options), "APEX FusedAdam (AdamW)"
    kind = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW}[config.type]
    return kind(parameters, fused=True, **options), f"PyTorch fused {config.type}"


def learning_rate(step: int, total_steps: int, base: float, config: ScheduleConfig) -> float:
    """The rate for optimizer step `step`, of 0 .. total_steps - 1; from total_steps on it is 0 (but for constant).

    A pure function: reading it changes nothing, and it never wraps. poly is (1 - step / total) ** power, as in
    the winners' PolyLR; cosine is half a wave from 1 to 0 (Loshchilov and Hutter 2017). A warm-up rises from 0 in
    its first steps.

    Raises:
        ValueError: a negative step, or no steps at all.
    """
    if step < 0 or total_steps < 1:
        raise ValueError(f"step {step} of {total_steps}: a schedule needs at least one step, numbered from 0")
    if step < config.warmup_steps:
        return base * (step + 1) / config.warmup_steps
    done = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    if config.type == "poly":
        return base * (1 - done) ** config.power
    if config.type == "cosine":
        return base * 0.5 * (1 + math.cos(math.pi * done))
    return base


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
