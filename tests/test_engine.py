"""An epoch and a validation (training/engine.py), against formulas and plain PyTorch."""

import contextlib
import copy
import math

import numpy as np
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
from torch.utils._python_dispatch import TorchDispatchMode

from training import engine, wrapping
from training.config import ScheduleConfig
from training.distributed import Ranks
from training.engine import NotFiniteError, StopRequested, TrainingError
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
    assert result["train_loss"] == pytest.approx((result["train_fake"] + result["train_real"]) / 2)


def test_gradients_are_clipped_and_their_own_norm_is_told():
    batches = [make_batch(1)]
    free, clipped = make_run(), make_run(optimizer={"clip_grad_norm": 0.01})
    before = torch.cat([p.detach().flatten() for p in free.model.parameters()])
    moved = []
    for run in (free, clipped):
        result = train(run, batches)
        moved.append((torch.cat([p.detach().flatten() for p in run.model.parameters()]) - before).norm().item())
        assert result["gradient_norm"] == pytest.approx(moved[0], rel=1e-4)
        assert result["largest_gradient_norm"] == pytest.approx(moved[0], rel=1e-4)
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
    assert result["learning_rate"] == rates[-1]


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


# Counting, stopping, and what could not be read.


class CountScalars(TorchDispatchMode):
    """Counts reads of single numbers: each waits for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += "_local_scalar_dense" in str(function) or "is_nonzero" in str(function)
        return function(*args, **(kwargs or {}))


def test_t49_numbers_are_read_now_and_then_only(monkeypatch):
    monkeypatch.setitem(engine.CHECK_EVERY, "cpu", 16)
    lists = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: lists.append(1) or original(tensor))
    for forbidden in ("cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, forbidden, lambda *_: pytest.fail("a step waits for the device"))
    counts = []
    for steps in (16, 32):
        lists.clear()
        run = make_run(steps=steps, optimizer={"momentum": 0.9, "clip_grad_norm": 1.0})
        model, _ = wrapping.wrap(run, frozen=False)
        batches = [make_batch(step) for step in range(steps)]
        with CountScalars() as scalars:
            engine.train_epoch(run, model, batches, 0, after_step=lambda *_: None)
        counts.append((scalars.count, len(lists)))
    # One check (the stop flag; the meter as one list) for 16 steps, and the epoch's end reads the meter again.
    assert counts == [(1, 2), (2, 3)]


def test_a_stop_is_seen_after_the_step_and_the_state_handed_on():
    run = make_run(steps=5)
    seen = []
    run.stop_requested = lambda: len(seen) == 2
    with pytest.raises(StopRequested, match="after step 3 of epoch 0"):
        train(run, [make_batch(step) for step in range(5)], after_step=lambda *args: seen.append(args))
    assert [(epoch, step, stop) for epoch, step, _, stop in seen] == [
        (0, 1, False),
        (0, 2, False),
        (0, 3, True),
    ]


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
        assert found[key] == pytest.approx(expected[key], rel=1e-12), key
    assert_equal(everything(whole), everything(parts))


def test_the_losses_of_an_epoch_are_means_over_its_crops():
    run = make_run(steps=2, optimizer={"learning_rate": 1e-12})
    batches = [make_batch(1, (1.0, 0.0, 0.0, 0.0)), make_batch(2, (1.0, 1.0, 1.0, 0.0))]
    result = train(run, batches)
    with torch.no_grad():
        logits = torch.cat([run.model.train()(network_input(batch, run.config))[:, 0] for batch in batches])
    labels = torch.cat([batch["label"] for batch in batches])
    each = entropy(logits, labels)
    assert result["train_fake"] == pytest.approx(each[labels > 0.5].mean().item(), rel=1e-5)
    assert result["train_real"] == pytest.approx(each[labels < 0.5].mean().item(), rel=1e-5)
    assert result["train_loss"] == pytest.approx((result["train_fake"] + result["train_real"]) / 2)
    assert {"images_per_second", "data_wait", "seconds", "broken_training_crops"} <= result.keys()


def test_t59_broken_crops_are_counted_and_no_black_picture_reaches_the_network(capsys):
    run = make_run(steps=40)
    batches = [make_batch(step, broken=(1, 2) if step == 5 else ()) for step in range(40)]
    batches[7] = make_batch(7, broken=(0, 1, 2, 3))  # not one of it can be read
    run.max_failed = 6 / 160
    result = train(run, batches)
    assert result["broken_training_crops"] == 6
    assert "6 crops could not be read and were left out, crop 1 of batch 5 for one" in capsys.readouterr().out
    black = network_input({"image": torch.zeros(1, 1, 1, 3)}, run.config)
    for step, images in enumerate(run.model.seen):
        assert not (images == black).all(dim=(1, 2, 3)).any(), step
    filled = run.model.seen[5]
    assert torch.equal(filled[1], filled[0])
    assert torch.equal(filled[2], filled[0])
    spare = network_input({"image": run.spare[None]}, run.config)
    assert torch.allclose(run.model.seen[7], spare.expand(4, -1, -1, -1), atol=1e-6)


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
    assert first["train_fake"] == pytest.approx(second["train_fake"])
    assert_equal(everything(run), everything(other))


def test_t59_too_many_broken_crops_stop_the_epoch_as_soon_as_that_is_certain():
    run = make_run(steps=50)  # 200 crops; 10 may be broken
    batches = [make_batch(step, broken=(0,)) for step in range(50)]
    seen = []
    with pytest.raises(TrainingError, match=r"11 crops of epoch 0 .* crop 0 of batch 0 for one; .*--max-failed 0\.05"):
        train(run, batches, after_step=lambda epoch, step, *_: seen.append(step))
    assert seen == list(range(1, 11))


# Validation.


def test_validation_scores_in_evaluation_mode_and_in_the_tables_order():
    run = make_run()
    batches = [make_batch(1), make_batch(2, (0.0, 1.0))]
    given = held_out(batches, videos=["a", "b", "a", "b", "c", "d"])
    given.loader = given.loader[::-1]
    scored = engine.validate(run, run.model, given)
    model = copy.deepcopy(run.model).eval()
    with torch.no_grad():
        expected = torch.cat([torch.sigmoid(model(network_input(batch, run.config)))[:, 0] for batch in batches])
    assert scored.rows.tolist() == list(range(6))
    assert scored.scores == pytest.approx(expected.numpy(), abs=1e-6)
    assert scored.metrics["frame"]["count"] == 6
    assert scored.metrics["video"]["count"] == 4
    assert not run.model.training
    means = [expected[[0, 2]].mean(), expected[[1, 3]].mean(), expected[4], expected[5]]
    chance = [p if fake else 1 - p for p, fake in zip(means, (True, False, False, True), strict=True)]
    assert scored.metrics["video"]["log_loss"] == pytest.approx(-np.mean(np.log(chance)), rel=1e-5)


def test_t59_a_validation_bears_some_broken_crops_and_names_them(capsys):
    run = make_run()
    run.max_failed = 0.25
    scored = engine.validate(run, run.model, held_out([make_batch(1, broken=(2,))]))
    assert (scored.broken, scored.rows.tolist()) == (1, [0, 1, 3])
    assert "validation: 1 crops could not be read and are not counted, crop 2" in capsys.readouterr().out
    with pytest.raises(TrainingError, match=r"validation on other: 2 of 4 crops .* crop 1 of batch 1 for one"):
        engine.validate(run, run.model, held_out([make_batch(1, broken=(1, 2))], name="other"))
    run.max_failed = 1.0
    with pytest.raises(TrainingError, match="4 of 4 crops"):
        engine.validate(run, run.model, held_out([make_batch(1, broken=(0, 1, 2, 3))]))


def test_t52_scores_that_are_not_finite_are_an_error():
    run = make_run()
    run.model.fc.weight.data[0, 0] = math.nan
    with pytest.raises(NotFiniteError, match="scores are not finite"):
        engine.validate(run, run.model, held_out([make_batch(1)]))


def test_a_stop_is_seen_while_validating():
    run = make_run()
    run.stop_requested = lambda: len(run.model.seen) == 1
    with pytest.raises(StopRequested, match="while validating"):
        engine.validate(run, run.model, held_out([make_batch(step) for step in range(5)]))
    assert len(run.model.seen) == 1


def test_ranks_share_the_rows_without_padding():
    shares = [list(engine.share_of_rows(10, Ranks(rank=rank, world_size=3))) for rank in range(3)]
    assert sorted(row for share in shares for row in share) == list(range(10))
    assert [len(share) for share in shares] == [4, 3, 3]


# What people are told, and who is told.


class Bar:
    """Stands for the progress bar: keeps what it was told."""

    made = []  # noqa: RUF012 (shared on purpose: the bars of a test)

    def __init__(self, iterable=None, **options):
        self.iterable, self.options, self.texts, self.updates = iterable, options, [], 0
        Bar.made.append(self)

    def __iter__(self):
        return iter(self.iterable)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def update(self):
        self.updates += 1

    def set_postfix_str(self, text, refresh):
        assert not refresh  # drawn with the next update, not twice
        self.texts.append(text)


@pytest.fixture
def bars(monkeypatch):
    Bar.made = []
    monkeypatch.setattr(engine, "progress_bar", Bar)
    return Bar.made


def test_speed_and_waiting_are_told_by_the_clock(monkeypatch, bars):
    clock = [100.0]
    monkeypatch.setattr(engine.time, "monotonic", lambda: clock[0])

    def loader():
        for step in range(4):
            clock[0] += 0.25
            yield make_batch(step)

    run = make_run(steps=6)
    run.model.register_forward_pre_hook(lambda *_: clock.__setitem__(0, clock[0] + 0.75))
    model, _ = wrapping.wrap(run, frozen=False)
    result = engine.train_epoch(run, model, loader(), 0, first_step=2)
    assert result["seconds"] == 4.0
    assert result["data_wait"] == 0.25
    assert result["images_per_second"] == 4.0  # 4 steps of 4 crops in 4 seconds
    (bar,) = bars
    assert bar.texts == ["4.0 img/s, data wait 25%"] * 4
    assert bar.updates == 4
    assert bar.options == {"desc": "epoch 0", "unit": "step", "total": 6, "initial": 2, "disable": False}


def test_only_the_main_process_shows_bars_and_messages(bars, capsys):
    for rank in range(2):
        run = make_run()
        run.ranks, run.max_failed = Ranks(rank=rank, world_size=1), 0.5
        train(run, [make_batch(1, broken=(1,))])
        engine.validate(run, run.model, held_out([make_batch(1, broken=(1,))], name="other"))
        training, validating = bars[-2:]
        assert training.options["disable"] == validating.options["disable"] == bool(rank)
        assert validating.options["desc"] == "validate other"
        assert validating.options["leave"] is False
        assert len(capsys.readouterr().out.splitlines()) == (0 if rank else 2)
    engine.validate(run, run.model, held_out([make_batch(1)]))
    assert bars[-1].options["desc"] == "validate"
    assert bars[-1].options["unit"] == "batch"


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


def test_the_last_step_is_looked_at_whatever_its_number(monkeypatch):
    monkeypatch.setitem(engine.CHECK_EVERY, "cpu", 16)
    steps = []
    train(make_run(steps=20), [make_batch(1)] * 20, after_step=lambda epoch, step, *_: steps.append(step))
    assert steps == [16, 20]


def test_a_loss_scale_changes_neither_the_norm_nor_the_clipping():
    ends = []
    for scaled in (False, True):
        run = make_run(optimizer={"clip_grad_norm": 0.01})
        if scaled:
            run.scaler, run.amp_type = engine.make_scaler("cpu", torch.float16), torch.float16
            run.autocast = contextlib.nullcontext  # fp16 itself is for GPUs
        result = train(run, [make_batch(1)])
        ends.append((result["gradient_norm"], everything(run)))
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
    assert ends[0][0]["skipped_steps"] == ends[1][0]["skipped_steps"] == 1
    assert ends[1][0]["train_loss"] == pytest.approx(ends[0][0]["train_loss"], rel=0.02)
    for name, value in ends[0][1].items():
        if name in run.model.state_dict():
            assert torch.allclose(value, ends[1][1][name].cpu(), atol=1e-2 if amp else 2e-3), name
