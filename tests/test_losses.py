"""The loss of a batch (training/losses.py)."""

import math

import pytest
import torch

from training import losses


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


@pytest.mark.parametrize(("label", "target"), [(1.0, 0.99), (0.0, 0.01)])
def test_label_smoothing_clamps_the_targets(label, target):
    p = 1 / (1 + math.exp(-3.0))
    loss, _ = loss_of([3.0], [label], smoothing=0.01)
    assert loss == pytest.approx(-target * math.log(p) - (1 - target) * math.log(1 - p))


def test_a_loss_that_is_not_finite_leaves_no_finite_gradient():
    for value, finite in ((2.5, True), (math.inf, False), (math.nan, False)):
        weight = torch.tensor([1.0, 2.0], requires_grad=True)
        loss = losses.spread_not_finite((weight * torch.tensor([1.0, 0.0])).sum() + value - 1)
        loss.backward()
        assert bool(weight.grad.isfinite().all()) == finite
        if finite:
            assert loss.item() == 2.5
            assert weight.grad.tolist() == [1.0, 0.0]
        else:
            assert weight.grad.isnan().all()


@pytest.mark.parametrize("logit", [-4.0, -0.3, 0.0, 0.7, 6.0])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_focal_is_its_formula_with_the_winners_gamma_of_3(logit, label):
    p = 1 / (1 + math.exp(-logit))
    right = p if label else 1 - p
    assert loss_of([logit], [label], criterion=losses.focal)[0] == pytest.approx(
        (1 - right) ** 3 * -math.log(right), rel=1e-4, abs=1e-9
    )


def test_focal_of_a_smoothed_target():
    p, target = 1 / (1 + math.exp(-1.5)), 0.99
    entropy = -(target * math.log(p) + (1 - target) * math.log(1 - p))
    loss, gradient = loss_of([1.5], [1.0], smoothing=0.01, criterion=losses.focal)
    assert loss == pytest.approx((1 - math.exp(-entropy)) ** 3 * entropy, rel=1e-5)
    assert gradient.isfinite().all()


def test_hard_example_mining_keeps_the_hardest_of_each_class():
    logits, labels = torch.tensor([3.0, -1.0, 0.2, 2.0, -2.0, 0.1]), torch.tensor([1.0, 1, 1, 0, 0, 0])
    valid = torch.ones(6, dtype=torch.bool)
    sums = losses.class_sums(logits, labels, valid, losses.bce, 0.0, hardest=2)
    each = losses.bce(logits, labels)
    assert sums.tolist() == pytest.approx([(each[1] + each[2]).item(), (each[3] + each[5]).item()])
    assert losses.class_counts(labels, valid, 2).tolist() == [2, 2]


def test_hard_example_mining_of_one():
    logits, labels, valid = torch.tensor([3.0, -1.0, 0.5, 2.0]), torch.tensor([1.0, 1, 0, 0]), torch.ones(4, dtype=bool)
    each = losses.bce(logits, labels)
    found = losses.class_sums(logits, labels, valid, losses.bce, 0.0, hardest=1)
    assert found.tolist() == pytest.approx([each[1].item(), each[3].item()])
    assert losses.class_counts(labels, valid, 1).tolist() == [1, 1]


def test_hard_example_mining_survives_an_empty_class():
    logits, labels = torch.tensor([3.0, -1.0, 0.2], requires_grad=True), torch.tensor([1.0, 1, 1])
    valid = torch.tensor([True, True, False])
    sums = losses.class_sums(logits, labels, valid, losses.bce, 0.0, hardest=2)
    counts = losses.class_counts(labels, valid, 2)
    assert counts.tolist() == [2, 0]
    losses.combine(sums, counts).backward()
    assert logits.grad[1] != 0
    assert logits.grad[2] == 0
