"""Optimizers and schedules (training/optim.py)."""

import sys
import types
from itertools import pairwise

import pytest
import torch

from training import optim
from training.config import OptimizerConfig, ScheduleConfig


def test_t38_poly_is_a_pure_function_that_ends_at_0_and_never_wraps():
    rates = [optim.learning_rate(step, 100, 10, 0.01, ScheduleConfig()) for step in range(150)]
    assert rates[0] == 0.01
    assert rates[50] == pytest.approx(0.01 * 0.5**0.9)
    assert rates[100:] == [0.0] * 50
    assert all(a > b for a, b in pairwise(rates[:101]))
    assert [optim.learning_rate(step, 100, 10, 0.01, ScheduleConfig()) for step in range(150)] == rates


def test_cosine_and_warmup_and_constant():
    config = ScheduleConfig(type="cosine", warmup_steps=10)
    rates = [optim.learning_rate(step, 110, 10, 1.0, config) for step in range(111)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0, abs=1e-9)
    assert optim.learning_rate(99, 100, 10, 0.3, ScheduleConfig(type="constant")) == 0.3


@pytest.mark.parametrize(("step", "total"), [(-1, 10), (0, 0)])
def test_t39_a_schedule_needs_steps(step, total):
    with pytest.raises(ValueError, match="at least one step"):
        optim.learning_rate(step, total, 10, 0.1, ScheduleConfig())


def pytorchs(kind, **options):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.2, momentum=0.9)
    schedule = getattr(torch.optim.lr_scheduler, kind)(optimizer, **options)
    rates = []
    for _ in range(60):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "kind", "options"),
    [
        ({"type": "poly"}, "PolynomialLR", {"total_iters": 60, "power": 0.9}),
        ({"type": "step", "every_epochs": 2, "gamma": 0.5}, "StepLR", {"step_size": 20, "gamma": 0.5}),
        ({"type": "multistep", "milestones": (1, 4)}, "MultiStepLR", {"milestones": [10, 40], "gamma": 0.1}),
        ({"type": "exponential", "gamma": 0.5}, "ExponentialLR", {"gamma": 0.5**0.1}),
        ({"type": "linear", "lowest": 0.25}, "LinearLR", {"start_factor": 1, "end_factor": 0.25, "total_iters": 60}),
        ({"type": "cyclic", "every_epochs": 2}, "CyclicLR", {"base_lr": 0, "max_lr": 0.2, "step_size_up": 10}),
        (
            {"type": "cyclic", "every_epochs": 2, "lowest": 0.25},
            "CyclicLR",
            {"base_lr": 0.05, "max_lr": 0.2, "step_size_up": 10},
        ),
        ({"type": "cosine"}, "CosineAnnealingLR", {"T_max": 60}),
        ({"type": "constant"}, "ConstantLR", {"factor": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_schedules_are_pytorchs(config, kind, options):
    ours = [optim.learning_rate(step, 60, 10, 0.2, ScheduleConfig(**config)) for step in range(60)]
    assert ours == pytest.approx(pytorchs(kind, **options), abs=1e-9)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_fused_equals_the_plain_optimizer(kind):
    torch.manual_seed(0)
    start, gradient = torch.randn(20), torch.randn(20)
    config = OptimizerConfig(type=kind, learning_rate=0.1, weight_decay=0.01)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    network = torch.nn.ModuleDict({"encoder": torch.nn.Linear(1, 1), "fc": torch.nn.Module()})
    network["fc"].weight = ours
    optimizer, name = optim.build_optimizer(network, config, "cpu")
    options = {"SGD": {"momentum": 0.9, "nesterov": True}, "RMSprop": {"momentum": 0.9}}.get(kind, {})
    reference = getattr(torch.optim, kind)([theirs], lr=0.1, weight_decay=0.01, **options)
    for _ in range(3):
        for parameter, opt in ((ours, optimizer), (theirs, reference)):
            parameter.grad = gradient.clone()
            opt.step()
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert kind in name


def test_apex_is_taken_on_a_gpu_where_it_is(monkeypatch):
    class Fused:
        def __init__(self, parameters, **options):
            self.parameters, self.options = parameters, options

    apex = types.SimpleNamespace(FusedAdam=type("FusedAdam", (Fused,), {}), FusedSGD=type("FusedSGD", (Fused,), {}))
    monkeypatch.setitem(sys.modules, "apex", types.ModuleType("apex"))
    monkeypatch.setitem(sys.modules, "apex.optimizers", apex)
    network = torch.nn.ModuleDict({"encoder": torch.nn.Linear(2, 2), "fc": torch.nn.Linear(2, 1)})
    found = {}
    for kind in ("SGD", "Adam", "AdamW"):
        optimizer, said = optim.build_optimizer(network, OptimizerConfig(type=kind, learning_rate=0.3), "cuda:1")
        found[kind] = type(optimizer).__name__, said, optimizer.options.get("adam_w_mode"), optimizer.options["lr"]
        assert [len(group["params"]) for group in optimizer.parameters] == [2, 2]
    assert found == {
        "SGD": ("FusedSGD", "APEX FusedSGD", None, 0.3),
        "Adam": ("FusedAdam", "APEX FusedAdam (Adam)", False, 0.3),
        "AdamW": ("FusedAdam", "APEX FusedAdam (AdamW)", True, 0.3),
    }
    assert "PyTorch" in optim.build_optimizer(network, OptimizerConfig(), "cpu")[1]


@pytest.mark.parametrize(
    ("momentum", "nesterov", "expected"), [(0.9, True, True), (0.9, False, False), (0.0, True, False)]
)
def test_nesterov_needs_momentum(momentum, nesterov, expected):
    network = torch.nn.ModuleDict({"encoder": torch.nn.Linear(2, 2), "fc": torch.nn.Linear(2, 1)})
    config = OptimizerConfig(momentum=momentum, nesterov=nesterov)
    optimizer, _ = optim.build_optimizer(network, config, "cpu")
    assert {group["nesterov"] for group in optimizer.param_groups} == {expected}
    assert {group["fused"] for group in optimizer.param_groups} == {True}
    assert len(optimizer.state) == (4 if momentum else 0)
