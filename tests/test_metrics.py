"""What an epoch's losses and norms are means of (training/metrics.py)."""

import pytest
import torch
from tiny_runs import (
    assert_equal,
    everything,
    make_batch,
    make_run,
    network_input,
    train,
)
from torch.nn.functional import binary_cross_entropy_with_logits

from training.engine import StopRequested


def entropy(logits, targets):
    return binary_cross_entropy_with_logits(logits, torch.as_tensor(targets), reduction="none")


def test_an_epoch_in_two_parts_reports_what_one_does():
    batches = [make_batch(step, (1.0, 0.0, 0.0, 0.0)) for step in range(6)]
    whole, parts = make_run(steps=6), make_run(steps=6)
    expected = train(whole, batches)
    states = {}
    parts.stop_requested = lambda: len(states) == 2
    with pytest.raises(StopRequested):
        train(parts, batches, after_step=lambda epoch, step, state, stop: states.update({step: state}))
    parts.stop_requested = lambda: False
    found = train(parts, batches[3:], first_step=3, meter_state=states[3])
    for key in ("train_fake", "train_real", "train_loss", "gradient_norm", "largest_gradient_norm", "skipped_steps"):
        assert getattr(found, key) == pytest.approx(getattr(expected, key), rel=1e-12), key
    assert_equal(everything(whole), everything(parts))


def test_the_losses_of_an_epoch_are_means_over_its_crops():
    run = make_run(steps=2, optimizer={"learning_rate": 1e-12})
    batches = [make_batch(1, (1.0, 0.0, 0.0, 0.0)), make_batch(2, (1.0, 1.0, 1.0, 0.0))]
    result = train(run, batches)
    with torch.no_grad():
        logits = torch.cat([run.model.train()(network_input(batch, run.config))[:, 0] for batch in batches])
    labels = torch.cat([batch["label"] for batch in batches])
    each = entropy(logits, labels)
    assert result.train_fake == pytest.approx(each[labels > 0.5].mean().item(), rel=1e-5)
    assert result.train_real == pytest.approx(each[labels < 0.5].mean().item(), rel=1e-5)
    assert result.train_loss == pytest.approx((result.train_fake + result.train_real) / 2)
    assert result.broken_training_crops == 0
    assert min(result.images_per_second, result.data_wait, result.seconds) > 0
