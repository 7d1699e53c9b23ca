"""Optimizers by name, and the learning rate as a function of the step."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch

from networks.model import Classifier
from training.config import OptimizerConfig, ScheduleConfig


def build_optimizer(model: Classifier, config: OptimizerConfig, device: str) -> tuple[torch.optim.Optimizer, str]:
    """The optimizer of a network, and a sentence for the log that says which implementation it is.

    APEX's fused ones where it is importable (on CUDA), PyTorch's fused ones otherwise. The encoder is a group of its
    own: APEX's SGD needs momentum for all parameters of a group or for none, and a frozen encoder starts later.
    """
    encoder = list(model.encoder.parameters())
    ids = {id(parameter) for parameter in encoder}
    groups = [{"params": encoder}, {"params": [p for p in model.parameters() if id(p) not in ids]}]
    rate, decay, momentum = config.learning_rate, config.weight_decay, config.momentum
    nesterov = config.nesterov and momentum > 0
    if config.type == "RMSprop":  # nobody has a fused one; foreach is PyTorch's fastest
        optimizer = torch.optim.RMSprop(groups, lr=rate, weight_decay=decay, momentum=momentum)
        return optimizer, "PyTorch RMSprop (not fused)"
    apex = _apex() if device.startswith("cuda") else None
    if apex and config.type == "SGD":
        optimizer = apex.FusedSGD(groups, lr=rate, weight_decay=decay, momentum=momentum, nesterov=nesterov)
        return optimizer, "APEX FusedSGD"
    if apex:
        optimizer = apex.FusedAdam(groups, lr=rate, weight_decay=decay, adam_w_mode=config.type == "AdamW")
        return optimizer, f"APEX FusedAdam ({config.type})"
    if config.type != "SGD":
        kind = torch.optim.Adam if config.type == "Adam" else torch.optim.AdamW
        return kind(groups, lr=rate, weight_decay=decay, fused=True), f"PyTorch fused {config.type}"
    optimizer = torch.optim.SGD(groups, lr=rate, weight_decay=decay, momentum=momentum, nesterov=nesterov, fused=True)
    if momentum:
        # Made now, as zeros, which is what a first step takes them for. The fused SGD makes them in its first step,
        # and leaves in them whatever the memory held if that step is skipped.
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer, "PyTorch fused SGD"


def _apex() -> Any:
    """APEX's optimizers; None where it was not built: PyTorch has fused kernels of its own."""
    try:
        return importlib.import_module("apex.optimizers")
    except ImportError:
        return None


def learning_rate(step: int, total_steps: int, steps_per_epoch: int, base: float, config: ScheduleConfig) -> float:
    """The rate for optimizer step `step`, of 0 .. total_steps - 1.

    A pure function: reading it changes nothing, a resumed run needs no state of it, and poly, linear and cosine end
    and stay at their lowest value instead of wrapping. With `done` the part of the run behind (0 to 1) and `epoch` the
    epochs behind (a fraction within one):

        poly         base * (1 - done) ** power, as the winners' PolyLR
        step         base * gamma ** floor(epoch / every_epochs)
        multistep    base * gamma ** (milestones passed)
        exponential  base * gamma ** epoch
        linear       from base to base * lowest
        cyclic       a triangle between base * lowest and base, every_epochs long (Smith 2017, WACV)
        constant     base
        cosine       half a wave from base to 0 (Loshchilov and Hutter 2017, ICLR)

    A warm-up rises to base in the first warmup_steps; poly, linear and cosine are then laid over the rest.

    Raises:
        ValueError: a negative step, or no steps at all.
    """
    if step < 0 or total_steps < 1:
        raise ValueError(f"step {step} of {total_steps}: a schedule needs at least one step, numbered from 0")
    if step < config.warmup_steps:
        return base * (step + 1) / config.warmup_steps
    done = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    epoch = step / steps_per_epoch
    position = epoch / config.every_epochs % 1.0
    factors: dict[str, Callable[[], float]] = {
        "poly": lambda: (1 - done) ** config.power,
        "step": lambda: config.gamma ** math.floor(epoch / config.every_epochs),
        "multistep": lambda: config.gamma ** sum(epoch >= milestone for milestone in config.milestones),
        "exponential": lambda: config.gamma**epoch,
        "linear": lambda: 1 - (1 - config.lowest) * done,
        "cyclic": lambda: config.lowest + (1 - config.lowest) * (1 - abs(2 * position - 1)),
        "constant": lambda: 1.0,
        "cosine": lambda: 0.5 * (1 + math.cos(math.pi * done)),
    }
    return base * factors[config.type]()


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
