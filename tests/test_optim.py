"""Optimizers, schedules and losses (training/optim.py, training/losses.py)."""

from itertools import pairwise

import pytest
import torch

from training import losses, optim
from training.config import OptimizerConfig, ScheduleConfig


def test_t38_poly_is_a_pure_function_that_ends_at_0_and_never_wraps():
    rates = [optim.learning_rate(step, 100, 0.01, ScheduleConfig()) for step in range(150)]
    assert rates[0] == 0.01
    assert rates[50] == pytest.approx(0.01 * 0.5**0.9)
    assert rates[100:] == [0.0] * 50
    assert all(a > b for a, b in pairwise(rates[:101]))
    assert [optim.learning_rate(step, 100, 0.01, ScheduleConfig()) for step in range(150)] == rates


def test_cosine_and_warmup_and_constant():
    config = ScheduleConfig(type="cosine", warmup_steps=10)
    rates = [optim.learning_rate(step, 110, 1.0, config) for step in range(111)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0, abs=1e-9)
    assert optim.learning_rate(99, 100, 0.3, ScheduleConfig(type="constant")) == 0.3


@pytest.mark.parametrize(("step", "total"), [(-1, 10), (0, 0)])
def test_t39_a_schedule_needs_steps(step, total):
    with pytest.raises(ValueError, match="at least one step"):
        optim.learning_rate(step, total, 0.1, ScheduleConfig())


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_fused_equals_the_plain_optimizer(kind):
    torch.manual_seed(0)
    start, gradient = torch.randn(20), torch.randn(20)
    config = OptimizerConfig(type=kind, learning_rate=0.1, weight_decay=0.01)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    network = torch.nn.ModuleDict({"encoder": torch.nn.Linear(1, 1), "fc": torch.nn.Module()})
    network["fc"].weight = ours
    optimizer, name = optim.build_optimizer(network, config, "cpu")
    options = {"momentum": 0.9, "nesterov": True} if kind == "SGD" else {}
    reference = getattr(torch.optim, kind)([theirs], lr=0.1, weight_decay=0.01, **options)
    for _ in range(3):
        for parameter, opt in ((ours, optimizer), (theirs, reference)):
            parameter.grad = gradient.clone()
            opt.step()
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert kind in name


def loss_of(logits, labels, valid=None, smoothing=0.0, criterion=losses.bce):
    logits, labels = torch.tensor(logits, requires_grad=True), torch.tensor(labels)
    valid = torch.ones(len(labels), dtype=torch.bool) if valid is None else torch.tensor(valid)
    sums = losses.class_sums(logits, labels, valid, criterion, smoothing)
    loss = losses.combine(sums, losses.class_counts(labels, valid))
    loss.backward()
    return loss.item(), logits.grad


def test_fake_and_real_apart_then_averaged():
    logits, labels = [2.0, -1.0, 0.5, 3.0], [1.0, 0.0, 0.0, 0.0]
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits), torch.tensor(labels), reduction="none"
    )
    assert loss_of(logits, labels)[0] == pytest.approx((each[0] + each[1:].mean()).item() / 2)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_t41_a_batch_of_one_class_is_not_halved(label):
    loss, gradient = loss_of([1.0, -2.0], [label, label])
    each = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor([1.0, -2.0]), torch.full((2,), label))
    assert loss == pytest.approx(each.item())
    assert gradient.abs().sum() > 0


def test_t41_a_batch_without_any_valid_crop_still_has_a_backward_pass():
    loss, gradient = loss_of([1.0, -2.0], [0.0, 1.0], valid=[False, False])
    assert loss == 0
    assert gradient.tolist() == [0, 0]


def test_an_invalid_crop_counts_for_nothing():
    assert loss_of([1.0, -2.0, 9.0], [0.0, 1.0, 1.0], valid=[True, True, False])[0] == pytest.approx(
        loss_of([1.0, -2.0], [0.0, 1.0])[0]
    )


def test_label_smoothing_clamps_the_targets():
    loss, _ = loss_of([3.0], [1.0], smoothing=0.01)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor([3.0]), torch.tensor([0.99]))
    assert loss == pytest.approx(expected.item())


def test_focal_is_its_formula():
    p = torch.sigmoid(torch.tensor(0.7)).item()
    loss, _ = loss_of([0.7], [1.0], criterion=losses.focal)
    assert loss == pytest.approx((1 - p) ** 2 * -torch.log(torch.tensor(p)).item(), rel=1e-5)
