"""An epoch and a validation (training/engine.py), against formulas and plain PyTorch."""

import contextlib
import copy

import pytest
import torch
from tiny_runs import (
    assert_equal,
    break_gradient,
    everything,
    held_out,
    make_batch,
    make_run,
    network_input,
    train,
)
from torch.nn.functional import binary_cross_entropy_with_logits

from training import engine, wrapping
from training.config import ScheduleConfig
from training.distributed import Ranks
from training.optim import build_optimizer

# What one step does, against autograd and formulas written here.


def expected_change(run, batches, loss_of):
    """The gradient of `loss_of(list of logits)` at the run's weights, with batch norm in training mode."""
    model = copy.deepcopy(run.model).train()
    logits = [model(network_input(batch, run.config))[:, 0] for batch in batches]
    loss_of(logits).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_step_is(run, batches, loss_of):
    expected = expected_change(run, batches, loss_of)
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    train(run, batches)
    for name, value in run.model.named_parameters():
        assert torch.allclose(before[name] - value, expected[name], atol=2e-6), name


def entropy(logits, targets):
    return binary_cross_entropy_with_logits(logits, torch.as_tensor(targets), reduction="none")


@pytest.mark.slow
def test_a_step_is_the_mean_of_the_classes_means():
    labels = (1.0, 0.0, 0.0, 0.0)
    run = make_run()
    assert_step_is(
        run,
        [make_batch(1, labels)],
        lambda logits: (entropy(logits[0][:1], (1.0,)).mean() + entropy(logits[0][1:], (0.0,) * 3).mean()) / 2,
    )


def test_label_smoothing_reaches_the_loss():
    run = make_run(label_smoothing=0.2)
    assert_step_is(
        run,
        [make_batch(1, (1.0, 0.0))],
        lambda logits: entropy(logits[0], (0.8, 0.2)).mean(),
    )


def test_focal_reaches_the_loss():
    def focal(logits):
        p = torch.sigmoid(logits[0])
        return ((1 - p[0]) ** 3 * -p[0].log() + p[1] ** 3 * -(1 - p[1]).log()) / 2

    assert_step_is(make_run(loss="focal"), [make_batch(1, (1.0, 0.0))], focal)


def test_only_the_hardest_count():
    labels = (1.0, 1.0, 1.0, 0.0)
    assert_step_is(
        make_run(ohem_samples=1),
        [make_batch(1, labels)],
        lambda logits: (entropy(logits[0][:3], (1.0,) * 3).max() + entropy(logits[0][3:], (0.0,)).mean()) / 2,
    )


def test_accumulated_batches_are_one_whatever_their_classes():
    batches = [make_batch(1, (1.0, 1.0, 1.0, 0.0)), make_batch(2, (0.0, 1.0, 0.0, 0.0))]

    def loss(logits):
        both, labels = torch.cat(logits), torch.cat([batch["label"] for batch in batches])
        each = entropy(both, labels)
        return (each[labels > 0.5].mean() + each[labels < 0.5].mean()) / 2

    assert_step_is(make_run(accumulate=2), batches, loss)


def test_normalised_by_rank_each_batch_is_its_own():
    batch = make_batch(1, (1.0, 0.0, 0.0, 0.0))
    assert_step_is(
        make_run(loss_normalization="rank"),
        [batch],
        lambda logits: (entropy(logits[0][:1], (1.0,)).mean() + entropy(logits[0][1:], (0.0,) * 3).mean()) / 2,
    )


def test_crops_that_do_not_count_give_no_gradient():
    run = make_run()
    batch = make_batch(1, (1.0, 0.0, 1.0), valid=[True, True, False])
    result = None

    def loss(logits):
        return entropy(logits[0][:2], (1.0, 0.0)).mean()

    assert_step_is(run, [batch], loss)
    result = train(make_run(), [batch])
    assert result.train_loss == pytest.approx((result.train_fake + result.train_real) / 2)


def test_gradients_are_clipped_and_their_own_norm_is_told():
    batches = [make_batch(1)]
    free, clipped = make_run(), make_run(optimizer={"clip_grad_norm": 0.01})
    before = torch.cat([p.detach().flatten() for p in free.model.parameters()])
    moved = []
    for run in (free, clipped):
        result = train(run, batches)
        moved.append((torch.cat([p.detach().flatten() for p in run.model.parameters()]) - before).norm().item())
        assert result.gradient_norm == pytest.approx(moved[0], rel=1e-4)
        assert result.largest_gradient_norm == pytest.approx(moved[0], rel=1e-4)
    assert moved[0] > 0.02
    assert moved[1] == pytest.approx(0.01, rel=1e-3)


def test_the_rate_of_each_step_is_the_schedules():
    run = make_run(steps=5, epochs=2, optimizer={"learning_rate": 0.5}, schedule=ScheduleConfig(type="poly", power=0.9))
    rates = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[1]["lr"]))
    model, _ = wrapping.wrap(run, frozen=False)
    for epoch in range(2):
        result = engine.train_epoch(run, model, [make_batch(step) for step in range(5)], epoch)
    assert rates == pytest.approx([0.5 * (1 - step / 10) ** 0.9 for step in range(10)])
    assert result.learning_rate == rates[-1]


@pytest.mark.slow
def test_autocast_is_on_in_training_and_validation():
    for amp in (None, torch.bfloat16):
        run = make_run(amp=amp)
        kinds = []
        run.model.encoder[0].register_forward_hook(lambda *a, kinds=kinds: kinds.append(a[2].dtype))
        train(run, [make_batch(1)])
        engine.validate(run, run.model, held_out([make_batch(1)]))
        assert kinds == [amp or torch.float32] * 2


def test_the_average_follows_the_weights():
    """As timm's ModelEmaV3 has it, statistics included."""
    from timm.utils import ModelEmaV3

    run = make_run(steps=3, ema_decay=0.9)
    run.average = copy.deepcopy(run.model)
    reference = ModelEmaV3(run.model, decay=0.9)
    model, _ = wrapping.wrap(run, frozen=False)
    engine.train_epoch(
        run, model, [make_batch(step) for step in range(3)], 0, after_step=lambda *_: reference.update(run.model)
    )
    expected = reference.module.state_dict()
    for name, value in run.average.state_dict().items():
        assert torch.allclose(value, expected[name], atol=1e-6), name
    assert not torch.allclose(run.average.fc.weight, run.model.fc.weight)


def test_two_steps_draw_differently_and_a_step_always_alike():
    draws = []
    for seed, step, rank in ((0, 0, 0), (0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1)):
        engine.seed_step(seed, step, rank)
        draws.append(torch.rand(4).tolist())
    assert draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) == 4


def test_the_step_seeds_by_run_global_step_and_rank(monkeypatch):
    seen = []
    monkeypatch.setattr(engine, "seed_step", lambda *args: seen.append(args))
    run = make_run(steps=3, epochs=2)
    run.seed = 5
    model, _ = wrapping.wrap(run, frozen=False)
    engine.train_epoch(run, model, [make_batch(1)], 1, first_step=2)
    assert seen == [(5, 5, 0)]


def test_a_broken_crop_counts_for_no_loss():
    sound = make_batch(3, (1.0, 0.0))
    broken = make_batch(3, (1.0, 0.0, 1.0), broken=(2,))
    assert torch.equal(broken["image"][:2][:, 0, 0], make_batch(3, (1.0, 0.0, 1.0))["image"][:2][:, 0, 0])
    broken["image"][:2] = sound["image"]
    run, other = make_run(), make_run()
    run.max_failed = other.max_failed = 1.0
    first = train(run, [broken])
    twice = {key: torch.cat([sound[key], sound[key][:1]]) for key in ("image", "label", "row", "valid", "readable")}
    twice["valid"][2] = False
    second = train(other, [twice | {"error": []}])
    assert first.train_fake == pytest.approx(second.train_fake)
    assert_equal(everything(run), everything(other))


def test_gradients_are_exchanged_once_in_a_step(monkeypatch):
    class Ddp(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module, self.held, self.log = module, False, []

        def forward(self, images):
            self.log.append(self.held)
            return self.module(images)

        def no_sync(self):
            model = self

            class Hold:
                def __enter__(self):
                    model.held = True

                def __exit__(self, *_):
                    model.held = False

            return Hold()

    monkeypatch.setattr(engine, "DistributedDataParallel", Ddp)
    run = make_run(steps=2, accumulate=3)
    model = Ddp(run.model)
    engine.train_epoch(run, model, [make_batch(step) for step in range(6)], 0)
    assert model.log == [True, True, False] * 2


def test_the_loss_is_a_sum_over_ranks_where_ddp_averages(monkeypatch):
    """Two ranks with the same crops: each gives half of the sum's gradient, times two, as DDP takes the mean."""
    single, double = make_run(), make_run()
    double.ranks = Ranks(world_size=2)
    monkeypatch.setattr(engine, "sum_over_ranks", lambda values: values.mul_(2))
    changes = []
    for run in (double, single):
        before = run.model.fc.weight.detach().clone()
        engine.train_epoch(run, run.model, [make_batch(1)], 0)
        changes.append(before - run.model.fc.weight.detach())
        monkeypatch.undo()
    assert torch.allclose(changes[0], changes[1], atol=1e-7)


def test_a_step_sees_the_crops_of_all_batches_and_ranks():
    run = make_run(accumulate=2)
    run.ranks = Ranks(world_size=3)
    assert run.step_crops == 24


def test_a_loss_scale_changes_neither_the_norm_nor_the_clipping():
    ends = []
    for scaled in (False, True):
        run = make_run(optimizer={"clip_grad_norm": 0.01})
        if scaled:
            run.scaler, run.amp_type = engine.make_scaler("cpu", torch.float16), torch.float16
            run.autocast = contextlib.nullcontext  # fp16 itself is for GPUs
        result = train(run, [make_batch(1)])
        assert run.scaler.get_scale() == (65536.0 if scaled else 1.0)
        ends.append((result.gradient_norm, everything(run)))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-4)
    for name, value in ends[0][1].items():
        assert torch.allclose(value, ends[1][1][name], atol=1e-6), name


def test_all_tensors_of_a_batch_go_to_the_device_and_texts_stay(monkeypatch):
    batch = make_batch(1, broken=(1,))
    waits = []
    original = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda tensor, *a, **k: waits.append(not k.get("non_blocking")) or original(tensor, *a, **k)
    )
    moved = engine._to_device(batch, "meta")
    assert {name for name, value in moved.items() if name != "error" and value.is_meta} == batch.keys() - {"error"}
    assert moved["error"] == batch["error"]
    assert waits == [False] * 5  # pinned memory goes to a GPU while it computes


@pytest.mark.parametrize("clip", [0.0, 0.01, 100.0])
def test_the_norm_and_its_limit_are_of_the_unscaled_gradient(clip):
    """fp16 multiplies the loss by 65,536."""
    ends = []
    for scaled in (False, True):
        run = make_run(optimizer={"learning_rate": 0.5, "clip_grad_norm": clip})
        if scaled:
            run.scaler = engine.make_scaler("cpu", torch.float16)
        before = everything(run)
        result = train(run, [make_batch(1)])
        after = everything(run)
        names = [name for name, _ in run.model.named_parameters()]
        moved = torch.cat([(after[name] - before[name]).flatten() for name in names]).norm().item()
        ends.append((result.gradient_norm, moved))
    (norm, moved), scaled_ends = ends
    assert scaled_ends == pytest.approx(ends[0], rel=1e-4)
    assert moved == pytest.approx(0.5 * (min(norm, clip) if clip else norm), rel=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("amp", [None, torch.float16])
def test_a_gpu_trains_as_the_cpu_does_and_no_step_waits_for_it(monkeypatch, amp):
    ends = []
    for device in ("cpu", "cuda:0"):
        run = make_run(steps=8, optimizer={"learning_rate": 0.01, "momentum": 0.9, "clip_grad_norm": 1.0})
        batches = [make_batch(step) for step in range(8)]
        if device != "cpu":
            run.model.to(device)
            run.optimizer, _ = build_optimizer(run.model, run.config.optimizer, device)
            run.ranks, run.amp_type, run.scaler = Ranks(device=device), amp, engine.make_scaler(device, amp)
            for batch in batches:
                batch.update({key: value.pin_memory() for key, value in batch.items() if key != "error"})
            kept = engine.seed_step

            def seed_step(seed, step, rank, kept=kept):
                kept(seed, step, rank)
                torch.cuda.set_sync_debug_mode("error" if 1 <= step < 7 else "default")

            monkeypatch.setattr(engine, "seed_step", seed_step)
        break_gradient(run, {3})
        model, _ = wrapping.wrap(run, frozen=False)
        try:
            ends.append((engine.train_epoch(run, model, batches, 0), everything(run)))
        finally:
            if device != "cpu":
                torch.cuda.set_sync_debug_mode("default")
    assert ends[0][0].skipped_steps == ends[1][0].skipped_steps == 1
    assert ends[1][0].train_loss == pytest.approx(ends[0][0].train_loss, rel=0.02)
    for name, value in ends[0][1].items():
        if name in run.model.state_dict():
            assert torch.allclose(value, ends[1][1][name].cpu(), atol=1e-2 if amp else 2e-3), name
