"""Optimizers by name, and learning rate schedules."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch

from networks.model import Classifier
from training.config import OptimizerConfig, ScheduleConfig


def build_optimizer(model: Classifier, config: OptimizerConfig, device: str) -> tuple[torch.optim.Optimizer, str]:
    """Create the optimizer of a network; returns it with the name of its implementation for the log.

    On CUDA, APEX's fused optimizers are used if importable; otherwise PyTorch's fused ones. The encoder is a separate
    group: APEX's SGD needs momentum for all parameters of a group or for none, and a frozen encoder starts later.
    """
    encoder = list(model.encoder.parameters())
    ids = {id(parameter) for parameter in encoder}
    groups = [{"params": encoder}, {"params": [p for p in model.parameters() if id(p) not in ids]}]
    rate, decay, momentum = config.learning_rate, config.weight_decay, config.momentum
    nesterov = config.nesterov and momentum > 0
    if config.type == "RMSprop":  # there is no fused one; foreach is PyTorch's fastest
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
        # Momentum buffers start as zeros, as in a normal first step. The fused SGD allocates them in its first step,
        # and leaves them uninitialised if that step is skipped.
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer, "PyTorch fused SGD"


def _apex() -> Any:
    """The module of APEX's optimizers; None if APEX is not installed."""
    try:
        return importlib.import_module("apex.optimizers")
    except ImportError:
        return None


def learning_rate(step: int, total_steps: int, steps_per_epoch: int, base: float, config: ScheduleConfig) -> float:
    """The learning rate of optimizer step `step`, of 0 .. total_steps - 1.

    A pure function, so a resumed run needs no state. After the last step, poly, linear and cosine stay at their lowest
    value. `done` is the completed fraction of the run (0 to 1), and `epoch` the number of completed epochs, with the
    fraction of the current one:

        poly         base * (1 - done) ** power, like the winners' PolyLR
        step         base * gamma ** floor(epoch / every_epochs)
        multistep    base * gamma ** (milestones passed)
        exponential  base * gamma ** epoch
        linear       from base to base * lowest
        cyclic       a triangle wave between base * lowest and base, every_epochs long (Smith 2017, WACV)
        constant     base
        cosine       half a cosine wave from base to 0 (Loshchilov and Hutter 2017, ICLR)

    A warm-up rises to base in the first warmup_steps; poly, linear and cosine then span the remaining steps.

    Raises:
        ValueError: `step` is negative, or there are no steps.
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
