"""An epoch's counting, stopping and messages, and a validation (training/engine.py)."""

import copy
import math

import numpy as np
import pytest
import torch
from tiny_runs import (
    held_out,
    make_batch,
    make_run,
    network_input,
    train,
)
from torch.utils._python_dispatch import TorchDispatchMode

from training import engine, wrapping
from training.distributed import Ranks
from training.engine import NotFiniteError, StopRequested, TrainingError


class CountScalars(TorchDispatchMode):
    """Counts reads of single numbers: each waits for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += "_local_scalar_dense" in str(function) or "is_nonzero" in str(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.slow
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


def test_t59_broken_crops_are_counted_and_no_black_picture_reaches_the_network(capsys):
    run = make_run(steps=40)
    batches = [make_batch(step, broken=(1, 2) if step == 5 else ()) for step in range(40)]
    batches[7] = make_batch(7, broken=(0, 1, 2, 3))  # not one of it can be read
    run.max_failed = 6 / 160
    result = train(run, batches)
    assert result.broken_training_crops == 6
    assert "6 crops could not be read and were skipped, e.g. crop 1 of batch 5" in capsys.readouterr().out
    black = network_input({"image": torch.zeros(1, 1, 1, 3)}, run.config)
    for step, images in enumerate(run.model.seen):
        assert not (images == black).all(dim=(1, 2, 3)).any(), step
    filled = run.model.seen[5]
    assert torch.equal(filled[1], filled[0])
    assert torch.equal(filled[2], filled[0])
    spare = network_input({"image": run.spare[None]}, run.config)
    assert torch.allclose(run.model.seen[7], spare.expand(4, -1, -1, -1), atol=1e-6)


def test_t59_too_many_broken_crops_stop_the_epoch_as_soon_as_that_is_certain():
    run = make_run(steps=50)  # 200 crops; 10 may be broken
    batches = [make_batch(step, broken=(0,)) for step in range(50)]
    seen = []
    with pytest.raises(TrainingError, match=r"11 crops of epoch 0 .*e\.g\. crop 0 of batch 0\); .*max_failed 0\.05"):
        train(run, batches, after_step=lambda epoch, step, *_: seen.append(step))
    assert seen == list(range(1, 11))


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
    assert "validation: 1 crops could not be read and are not counted, e.g. crop 2" in capsys.readouterr().out
    with pytest.raises(TrainingError, match=r"validation on other: 2 of 4 crops .*e\.g\. crop 1 of batch 1"):
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
    result = engine.train_epoch(run, model, loader(), 2, first_step=2)
    assert result.step == 18  # the three epochs' steps
    assert result.seconds == 4.0
    assert result.data_wait == 0.25
    assert result.images_per_second == 4.0  # 4 steps of 4 crops in 4 seconds
    (bar,) = bars
    assert bar.texts == ["4.0 img/s, data wait 25%"] * 4
    assert bar.updates == 4
    assert bar.options == {
        "desc": "epoch 2",
        "unit": "step",
        "total": 6,
        "initial": 2,
        "disable": False,
        "leave": False,
    }


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


def test_the_last_step_is_looked_at_whatever_its_number(monkeypatch):
    monkeypatch.setitem(engine.CHECK_EVERY, "cpu", 16)
    steps = []
    train(make_run(steps=20), [make_batch(1)] * 20, after_step=lambda epoch, step, *_: steps.append(step))
    assert steps == [16, 20]
