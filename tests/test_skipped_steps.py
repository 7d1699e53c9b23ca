"""Steps whose loss or gradient is not finite (training/engine.py): as if they had not been."""

import copy
import math

import pytest
import torch
from tiny_runs import BREAK, assert_equal, break_gradient, everything, make_batch, make_run, train

from training import engine, losses
from training.engine import NotFiniteError


@pytest.mark.parametrize("how", sorted(BREAK))
@pytest.mark.parametrize("kind", ["SGD", "AdamW", "RMSprop"])
@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("bad", [0, 2])
def test_t55_a_step_that_is_not_finite_is_as_if_it_had_not_been(how, kind, clip, bad):
    options = {"type": kind, "learning_rate": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    options["clip_grad_norm"] = clip
    batches = [make_batch(step) for step in range(5)]
    run = make_run(steps=5, optimizer=dict(options))
    run.average = copy.deepcopy(run.model)
    BREAK[how](run, {bad})
    result = train(run, batches)
    without = make_run(steps=4, optimizer=dict(options))
    without.average = copy.deepcopy(without.model)
    expected = train(without, batches[:bad] + batches[bad + 1 :])
    assert_equal(everything(run), everything(without))
    average, other = (r.average.state_dict() for r in (run, without))
    assert all(torch.equal(average[name], other[name]) for name in average if "num_batches" not in name)
    assert (result["skipped_steps"], expected["skipped_steps"]) == (1, 0)
    for key in ("train_loss", "gradient_norm", "largest_gradient_norm"):
        assert result[key] == pytest.approx(expected[key])


def test_t52_a_loss_that_is_not_finite_skips_the_step_though_its_gradient_is_finite(monkeypatch):
    monkeypatch.setitem(losses.CRITERIA, "bce", lambda logits, targets: logits * 0.5 + math.inf)
    run = make_run()
    before = everything(run)
    assert train(run, [make_batch(1)])["skipped_steps"] == 1
    assert_equal(before, everything(run))


@pytest.mark.slow
def test_t52_twenty_bad_steps_in_a_row_are_borne_and_no_more():
    for bad, good in ((20, True), (21, False)):
        run = make_run(steps=600)
        break_gradient(run, set(range(3, 3 + bad)))
        batches = [make_batch(step % 4) for step in range(600)]
        if good:
            assert train(run, batches)["skipped_steps"] == 20
        else:
            with pytest.raises(NotFiniteError, match=r"in 21 steps of epoch 0, 21 of them in a row, last from step 3"):
                train(run, batches)


def test_t59_too_many_skipped_steps_are_a_failure_also_when_apart():
    run = make_run(steps=500)
    break_gradient(run, set(range(0, 52, 2)))  # 26 of 500 are over 5 %
    with pytest.raises(NotFiniteError, match="in 26 steps of epoch 0, 1 of them in a row"):
        train(run, [make_batch(step % 4) for step in range(500)])


def test_nothing_is_reported_before_it_was_checked():
    """after_step may save: it must not see a state that is about to be refused."""
    run = make_run(steps=40)
    break_gradient(run, set(range(40)))
    steps = []
    with pytest.raises(NotFiniteError):
        train(run, [make_batch(1)] * 40, after_step=lambda epoch, step, state, stop: steps.append(step))
    assert steps == list(range(1, 21))


def test_fp16_has_a_scale_of_its_own_and_other_types_stay_at_1():
    assert engine.make_scaler("cpu", torch.float16).get_scale() == 65536
    assert engine.make_scaler("cpu", None).get_scale() == engine.make_scaler("cpu", torch.bfloat16).get_scale() == 1
    run = make_run(steps=3, amp=torch.bfloat16)
    break_gradient(run, {1})
    result = train(run, [make_batch(step) for step in range(3)])
    assert run.scaler.get_scale() == 1
    assert "loss_scale" not in result
    half = make_run(steps=3)
    half.scaler, half.amp_type = engine.make_scaler("cpu", torch.float16), torch.float16
    half.autocast = lambda: torch.autocast("cpu", torch.bfloat16)  # fp16 itself is for GPUs
    break_gradient(half, {1})
    assert train(half, [make_batch(step) for step in range(3)])["loss_scale"] == 32768
