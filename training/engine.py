"""One epoch of training, and one validation. trainer.py runs them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from dfdc.command_line import UserError, setting
from dfdc.progress import progress_bar
from networks.model import Classifier, Normalizer, set_training_mode
from training import losses
from training.config import NormalizeConfig, TrainConfig
from training.dataset import fill_unreadable
from training.distributed import Ranks, gather_objects, sum_over_ranks
from training.metrics import EpochMeter, epoch_means, validation_metrics
from training.optim import learning_rate, set_learning_rate
from training.records import EpochRecord, Metrics
from training.wrapping import Statistics, update_average

# Steps between two checks. Reading a value from a GPU synchronises with it; on the CPU it costs nothing.
CHECK_EVERY = {"cuda": 16, "cpu": 1}
MOST_SKIPPED_IN_A_ROW = 20  # a loss scale may need this many steps to decrease from 65,536
MOST_SKIPPED = 0.05  # share of an epoch's steps, if that is more


class TrainingError(UserError, RuntimeError):
    """Training can't continue; the message gives the step and the reason."""

    status = 1


class NotFiniteError(TrainingError):
    """Losses or gradients were not finite in too many steps."""


class StopRequested(Exception):
    """A SIGTERM was received; the state was saved."""


@dataclass
class Inference:
    """The settings for scoring crops with a network."""

    normalize: NormalizeConfig
    ranks: Ranks
    amp_type: torch.dtype | None = None  # the type of autocast; None: float32
    max_failed: float = 0.05  # tolerated share of unreadable crops in an epoch or a validation
    stop_requested: Callable[[], bool] = lambda: False  # polled regularly

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.amp_type is None:
            return contextlib.nullcontext()
        return torch.autocast(self.ranks.device.split(":")[0], self.amp_type)

    def normalizer(self) -> Normalizer:
        return Normalizer(self.normalize.mean, self.normalize.std, self.ranks.device)


@dataclass(kw_only=True)
class Run(Inference):
    """The state that an epoch of training reads and updates."""

    config: TrainConfig
    seed: int
    model: Classifier  # not wrapped
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    steps_per_epoch: int
    average: Classifier | None = None  # moving average of the weights
    spare: torch.Tensor | None = None  # uint8 [size, size, 3], see `fill_unreadable`

    @property
    def step_crops(self) -> int:
        """Crops per step, over all ranks."""
        return self.config.batch_size * self.config.accumulate * self.ranks.world_size


@dataclass
class ValidationSet:
    """Crops to validate on."""

    name: str  # shown in the log; empty for the held-out fold
    table: pd.DataFrame  # all of its rows of folds.csv
    loader: Iterable[dict[str, Any]]  # yields this rank's share of the rows


@dataclass
class Scored:
    """The result of a validation: metrics by kind, and the readable rows with their scores, [n] each."""

    metrics: dict[str, Metrics]
    broken: int
    rows: np.ndarray
    scores: np.ndarray


def make_scaler(device: str, amp_type: torch.dtype | None) -> torch.amp.GradScaler:
    """The loss scaler of fp16; for other types, a scaler whose scale stays at 1.

    Other types need it too: it skips steps with non-finite gradients on the device, without synchronisation.
    """
    kind = device.split(":")[0]
    return torch.amp.GradScaler(kind) if amp_type is torch.float16 else torch.amp.GradScaler(kind, init_scale=1.0)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed dropout and drop path by (seed, step, rank), so that a resumed run repeats the same random numbers."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))


def _next_window(run: Run, batches: Iterator[dict[str, Any]], errors: list[str]) -> list[dict[str, Any]]:
    """Load the `accumulate` batches of a step onto the device; reasons of unreadable crops are added to `errors`."""
    window = []
    for batch in islice(batches, run.config.accumulate):
        fill_unreadable(batch, run.spare)
        errors += batch["error"]
        window.append(_to_device(batch, run.ranks.device))
    return window


def train_epoch(
    run: Run,
    model: nn.Module,
    loader: Iterable[dict[str, Any]],
    epoch: int,
    first_step: int = 0,
    meter_state: dict[str, float] | None = None,
    after_step: Callable[[int, int, dict[str, float], bool], None] | None = None,
) -> EpochRecord:
    """Train the steps `first_step` .. steps_per_epoch - 1 of `epoch`; returns its record, without validation metrics.

    A step is skipped if its loss or gradient is not finite on any rank. A skipped step changes neither the weights,
    nor the optimizer's state, nor batch norm's statistics.

    Args:
        model: from `wrap`.
        loader: yields `accumulate` batches per step.
        meter_state: `EpochMeter.state()` of the steps before `first_step`.
        after_step: called every few steps with the epoch, the number of the next step, the meter's state, and whether
            a stop was requested on any rank.

    Raises:
        NotFiniteError: too many steps were skipped.
        TrainingError: too many crops can't be read.
        StopRequested: a stop was requested on any rank.
    """
    meter, batches, errors, waited = EpochMeter(run.ranks.device, meter_state), iter(loader), list[str](), 0.0
    normalizer, statistics = run.normalizer(), Statistics(run.model)
    check_every = CHECK_EVERY[run.ranks.device.split(":")[0]]
    set_training_mode(run.model)
    started, last = time.monotonic(), run.steps_per_epoch
    quiet = not run.ranks.is_main
    title = f"epoch {epoch}"
    with progress_bar(desc=title, unit="step", total=last, initial=first_step, disable=quiet, leave=False) as bar:
        for step in range(first_step, last):
            asked = time.monotonic()
            window = _next_window(run, batches, errors)
            waited += time.monotonic() - asked
            stop_flag = _train_step(run, model, normalizer, statistics, meter, window, epoch, step)
            bar.update()
            if (step + 1) % check_every == 0 or step + 1 == last:
                state = meter.state()
                _check(run, state, epoch, errors)
                seconds = time.monotonic() - started
                speed = (step + 1 - first_step) * run.step_crops / seconds
                bar.set_postfix_str(f"{speed:.1f} img/s, data wait {waited / seconds:.0%}", refresh=False)
                stop = stop_flag.item() > 0
                if after_step:
                    after_step(epoch, step + 1, state, stop)
                if stop:
                    raise StopRequested(f"stopped after step {step + 1} of epoch {epoch}")
    seconds = max(1e-9, time.monotonic() - started)
    names = list(chain.from_iterable(gather_objects(errors)))
    if names and run.ranks.is_main:
        print(f"{len(names)} crops could not be read and were skipped, e.g. {names[0]}", flush=True)
    speed = (last - first_step) * run.step_crops / seconds
    return _record(run, epoch, meter, images_per_second=speed, data_wait=waited / seconds, seconds=seconds)


def _record(run: Run, epoch: int, meter: EpochMeter, **speed: float) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        step=(epoch + 1) * run.steps_per_epoch,
        seed=run.seed,
        **epoch_means(meter.state()),
        **speed,
        learning_rate=run.optimizer.param_groups[0]["lr"],
        loss_scale=run.scaler.get_scale() if run.amp_type is torch.float16 else None,
    )


def _train_step(
    run: Run,
    model: nn.Module,
    normalizer: Normalizer,
    statistics: Statistics,
    meter: EpochMeter,
    window: list[dict[str, Any]],
    epoch: int,
    step: int,
) -> torch.Tensor:
    """Train one step; returns the number of ranks with a stop request, a scalar on the device."""
    config, ranks = run.config, run.ranks
    global_step = epoch * run.steps_per_epoch + step
    seed_step(run.seed, global_step, ranks.rank)
    total, base = config.epochs * run.steps_per_epoch, config.optimizer.learning_rate
    rate = learning_rate(global_step, total, run.steps_per_epoch, base, config.schedule)
    set_learning_rate(run.optimizer, rate)
    # Each class is normalised by its count over all ranks and accumulated batches. Together they equal one large
    # batch, however the classes are distributed among them.
    counts = [losses.class_counts(batch["label"], batch["valid"], config.ohem_samples) for batch in window]
    local = torch.stack(counts).sum(dim=0)
    own_flags = float(run.stop_requested()), float(sum(len(batch["error"]) for batch in window))
    shared = sum_over_ranks(torch.cat([local, *(local.new_full((1,), flag) for flag in own_flags)]))
    statistics.keep()
    sums = _backward(run, model, normalizer, window, local, shared[:2])
    norm = _step(run)
    skipped = ~torch.isfinite(norm)
    statistics.restore_where(skipped)
    if run.average:
        update_average(run.average, run.model, config.ema_decay, skipped)
    meter.add(step, sum_over_ranks(sums), shared[:2], norm, shared[3])
    return shared[2]


def _backward(
    run: Run,
    model: nn.Module,
    normalizer: Normalizer,
    window: list[dict[str, Any]],
    local: torch.Tensor,
    counts: torch.Tensor,
) -> torch.Tensor:
    """Compute the gradients of a step's batches; returns this rank's `class_sums`, [2].

    Args:
        local: `class_counts` of this rank's batches, [2].
        counts: `class_counts` of all ranks' batches, [2].
    """
    config, criterion = run.config, losses.CRITERIA[run.config.loss]
    step_sums = torch.zeros_like(local)
    for index, batch in enumerate(window):
        # Gradients are reduced once, after the last accumulated batch.
        hold = isinstance(model, DistributedDataParallel) and index < len(window) - 1
        with model.no_sync() if hold else contextlib.nullcontext():
            with run.autocast():
                logits = model(normalizer(batch["image"]))[:, 0]
            labels, valid = batch["label"], batch["valid"]
            sums = losses.class_sums(logits, labels, valid, criterion, config.label_smoothing, config.ohem_samples)
            if config.loss_normalization == "global":
                loss = (
                    losses.combine(sums, counts) * run.ranks.world_size
                )  # DDP averages over ranks, but a sum is needed
            else:
                loss = losses.combine(sums, local)  # the mean over ranks of each rank's own mean
            run.scaler.scale(losses.spread_not_finite(loss)).backward()
        step_sums += sums.detach()
    return step_sums


def _step(run: Run) -> torch.Tensor:
    """Clip the gradients and update the weights, unless the norm is not finite; returns the norm before clipping.

    The gradients and their norm are the same on all ranks. There is no synchronisation with the device.
    """
    clip = run.config.optimizer.clip_grad_norm
    parameters = [p for group in run.optimizer.param_groups for p in group["params"] if p.grad is not None]
    # The scaler skips a step with a non-finite gradient. Finite gradients can still have a non-finite norm.
    norm = get_total_norm([p.grad for p in parameters])
    parameters[0].grad.mul_(torch.where(torch.isfinite(norm), 1.0, torch.nan))
    norm = norm / run.scaler.scale(torch.ones_like(norm))
    run.scaler.unscale_(run.optimizer)
    if clip:
        clip_grads_with_norm_(parameters, clip, norm)
    run.scaler.step(run.optimizer)
    run.scaler.update(None if run.amp_type is torch.float16 else 1.0)
    run.optimizer.zero_grad()
    return norm


def _check(run: Run, state: dict[str, float], epoch: int, errors: list[str]) -> None:
    """Raise if too many steps or crops failed. The state covers all ranks, so all ranks raise together."""
    most = max(MOST_SKIPPED_IN_A_ROW, MOST_SKIPPED * run.steps_per_epoch)
    if state["most_in_a_row"] > MOST_SKIPPED_IN_A_ROW or state["skipped"] > most:
        raise NotFiniteError(
            f"the loss or its gradient was not finite in {state['skipped']:.0f} steps of epoch {epoch}, "
            f"{state['most_in_a_row']:.0f} of them in a row, last from step {state['first_in_a_row']:.0f}"
        )
    crops = run.steps_per_epoch * run.step_crops
    if state["broken"] > run.max_failed * crops:
        example = f" (e.g. {errors[0]})" if errors else ""
        raise TrainingError(
            f"{state['broken']:.0f} crops of epoch {epoch} could not be read{example}; that exceeds "
            f"{setting('max_failed')} {run.max_failed:g} of its {crops} crops. "
            "Check the disk, or re-run preprocessing"
        )


def _to_device(batch: dict[str, Any], device: str) -> dict[str, Any]:
    tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    return batch | {name: value.to(device, non_blocking=True) for name, value in tensors.items()}


@torch.inference_mode()
def validate(run: Inference, model: nn.Module, held_out: ValidationSet) -> Scored:
    """Score each held-out crop once over all ranks; `model` is on the run's device.

    Every rank returns the same result as a single process.

    Raises:
        TrainingError: too many crops can't be read, or a score is not finite.
        StopRequested: a stop was requested on any rank.
    """
    model.eval()
    normalizer = run.normalizer()
    rows, scores, errors, stopped = [], [], [], False
    title = f"validate {held_out.name}".rstrip()
    for batch in progress_bar(held_out.loader, desc=title, unit="batch", disable=not run.ranks.is_main, leave=False):
        if run.stop_requested():
            stopped = True
            break
        batch = _to_device(batch, run.ranks.device)
        with run.autocast():
            logits = model(normalizer(batch["image"]))[:, 0]
        rows.append(batch["row"][batch["valid"]])
        scores.append(torch.sigmoid(logits.float())[batch["valid"]])
        errors += batch["error"]
    own = (torch.cat(rows).cpu().numpy(), torch.cat(scores).cpu().numpy()) if rows else (np.zeros(0, int), np.zeros(0))
    shares = gather_objects((*own, errors, stopped))
    if any(share[3] for share in shares):
        raise StopRequested("stopped while validating")
    all_rows, all_scores = np.concatenate([s[0] for s in shares]), np.concatenate([s[1] for s in shares])
    broken = [error for share in shares for error in share[2]]
    where = f"validation on {held_out.name}" if held_out.name else "validation"
    if len(broken) > run.max_failed * len(held_out.table) or not len(all_rows):
        raise TrainingError(
            f"{where}: {len(broken)} of {len(held_out.table)} crops could not be read "
            f"({f'e.g. {broken[0]}' if broken else 'there are none'}); "
            f"that exceeds {setting('max_failed')} {run.max_failed:g}"
        )
    if not np.isfinite(all_scores).all():
        raise NotFiniteError(f"{where}: the network's scores are not finite")
    if broken and run.ranks.is_main:
        print(f"{where}: {len(broken)} crops could not be read and are not counted, e.g. {broken[0]}", flush=True)
    order = np.argsort(all_rows, kind="stable")
    all_rows, all_scores = all_rows[order], all_scores[order]
    return Scored(validation_metrics(held_out.table, all_rows, all_scores), len(broken), all_rows, all_scores)


def share_of_rows(count: int, ranks: Ranks) -> range:
    """The row numbers of this rank: each row belongs to one rank, without padding."""
    return range(ranks.rank, count, ranks.world_size)
