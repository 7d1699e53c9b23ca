"""One epoch of training, and one validation. The wiring is in train_classifier.py."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dfdc.parallel import progress_bar
from training import losses
from training.config import TrainConfig
from training.distributed import Ranks, gather_objects, sum_over_ranks
from training.metrics import LossMeter, validation_metrics
from training.model import Normalizer, freeze_encoder, set_training_mode
from training.optim import learning_rate, set_learning_rate

if TYPE_CHECKING:
    import pandas as pd
    from timm.utils import ModelEmaV3


class TrainingError(RuntimeError):
    """Training can't go on; the message says at which step and why."""


class StopRequested(Exception):
    """SIGTERM came; the state was saved after the step in progress."""


@dataclass
class Run:
    """What an epoch needs and changes."""

    config: TrainConfig
    ranks: Ranks
    seed: int
    model: nn.Module  # the bare network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    amp_type: torch.dtype | None
    steps_per_epoch: int
    stop_requested: Callable[[], bool]
    bce_best: float = float("inf")
    average: ModelEmaV3 | None = None  # of the weights, kept beside them
    data_digest: int = 0  # of folds.csv: a run goes on with the same crops

    @property
    def total_steps(self) -> int:
        return self.config.epochs * self.steps_per_epoch

    def state(self, epoch: int, step: int, totals: list[float]) -> dict[str, Any]:
        """What it takes to go on with `step` of `epoch`, besides the weights (plain values and tensors)."""
        return {
            "epoch": epoch,
            "step": step,
            "totals": totals,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "seed": self.seed,
            "data": self.data_digest,
            "ranks": self.ranks.world_size,
            "steps_per_epoch": self.steps_per_epoch,
            "config": self.config.to_dict(),
            "average": self.average.module.state_dict() if self.average else None,
        }

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.amp_type is None:
            return contextlib.nullcontext()
        return torch.autocast(self.ranks.device.split(":")[0], self.amp_type)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout and drop path draw from (seed, step, rank): a resumed run draws what it would have drawn."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]))


def wrap(run: Run, *, frozen: bool) -> nn.Module:
    """The network as training calls it: with or without its encoder frozen, in DistributedDataParallel if need be.

    DDP notes which parameters train when it is made, so that freezing and thawing take a new one.
    """
    freeze_encoder(run.model, frozen)
    if run.config.compile:
        run.model.compile()
    if run.ranks.world_size == 1:
        return run.model
    on_gpu = run.ranks.device.startswith("cuda")
    return DistributedDataParallel(run.model, [run.ranks.local_rank] if on_gpu else None)


def train_epoch(
    run: Run,
    model: nn.Module,
    loader: Iterable[dict[str, Any]],
    epoch: int,
    first_step: int = 0,
    totals: list[float] | None = None,
    after_step: Callable[[int, int, list[float], bool], None] | None = None,
) -> dict[str, float]:
    """Train for the steps `first_step` .. steps_per_epoch - 1 of `epoch`.

    Args:
        model: from `wrap`.
        loader: gives `accumulate` batches for each step.
        totals: the loss meter's, of the steps before `first_step`.
        after_step: called now and then with the epoch, the number of the next step, the loss totals, and whether a
            stop was asked for on any rank.

    Raises:
        TrainingError: a loss is not finite.
        StopRequested: a stop was asked for, on any rank.
    """
    config, ranks = run.config, run.ranks
    device = ranks.device
    normalizer = Normalizer(config.normalize.mean, config.normalize.std, device)
    criterion = losses.CRITERIA[config.loss]
    meter = LossMeter(device)
    if totals:
        meter.totals += torch.tensor(totals, dtype=torch.float64, device=device)
    # Reading a number from a GPU waits for it, so flags are read now and then there; on the CPU it costs nothing.
    check_every = 16 if device.startswith("cuda") else 1
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    set_training_mode(run.model)
    started, waited, images_seen, errors = time.monotonic(), 0.0, 0, []
    bar = progress_bar(total=run.steps_per_epoch, initial=first_step, desc=f"epoch {epoch}", unit="step",
                       disable=not ranks.is_main)  # fmt: skip
    batches = iter(loader)
    for step in range(first_step, run.steps_per_epoch):
        wait_from = time.monotonic()
        window = [_to_device(batch, device) for batch in islice(batches, config.accumulate)]
        waited += time.monotonic() - wait_from
        errors += [error for batch in window for error in batch["error"]]

        global_step = epoch * run.steps_per_epoch + step
        seed_step(run.seed, global_step, ranks.rank)
        set_learning_rate(
            run.optimizer,
            learning_rate(
                global_step, run.total_steps, run.steps_per_epoch, config.optimizer.learning_rate, config.schedule
            ),
        )
        # Each class is normalised by its count over all ranks and accumulated batches, so that these together
        # are one large batch, however the classes fall among them.
        local = sum(losses.class_counts(batch["label"], batch["valid"], config.ohem_samples) for batch in window)
        flags = torch.cat([local, torch.full((1,), float(run.stop_requested()), device=device)])
        flags = sum_over_ranks(flags)
        counts = flags[:2]
        step_sums = torch.zeros(2, device=device)
        for index, batch in enumerate(window):
            # Gradients are exchanged once, after the last of the accumulated batches.
            hold = isinstance(model, DistributedDataParallel) and index < len(window) - 1
            with model.no_sync() if hold else contextlib.nullcontext():
                with run.autocast():
                    logits = model(normalizer(batch["image"]))[:, 0]
                sums = losses.class_sums(
                    logits, batch["label"], batch["valid"], criterion, config.label_smoothing, config.ohem_samples
                )
                if config.loss_normalization == "global":
                    loss = losses.combine(sums, counts) * ranks.world_size  # a sum over ranks, and DDP averages
                else:
                    loss = losses.combine(sums, local)  # the mean over ranks of each one's own means
                run.scaler.scale(loss).backward()
            step_sums += sums.detach()
        if config.optimizer.clip_grad_norm:
            run.scaler.unscale_(run.optimizer)
            nn.utils.clip_grad_norm_(parameters, config.optimizer.clip_grad_norm)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.optimizer.zero_grad(set_to_none=True)
        if run.average:
            run.average.update(run.model)

        meter.add(step, step_sums, local)
        images_seen += sum(len(batch["label"]) for batch in window) * ranks.world_size
        bar.update()
        if (step + 1) % check_every == 0 or step + 1 == run.steps_per_epoch:
            _check(meter, epoch)
            seconds = time.monotonic() - started
            bar.set_postfix_str(f"{images_seen / seconds:.1f} img/s, data wait {waited / seconds:.0%}", refresh=False)
            stop = flags[2].item() > 0
            if after_step:
                after_step(epoch, step + 1, meter.totals.tolist(), stop)
            if stop:
                bar.close()
                raise StopRequested(f"stopped after step {step + 1} of epoch {epoch}")
    bar.close()
    seconds = time.monotonic() - started
    result = meter.means(sum_over_ranks(meter.totals.clone()))
    result |= {"images_per_second": images_seen / seconds, "data_wait": waited / seconds, "seconds": seconds}
    result["learning_rate"] = run.optimizer.param_groups[0]["lr"]
    broken = list(chain.from_iterable(gather_objects(errors)))
    if broken:
        result["broken_crops"] = len(broken)
        if ranks.is_main:
            print(f"{len(broken)} crops could not be read and were left out, {broken[0]} for one", flush=True)
    return result


def _check(meter: LossMeter, epoch: int) -> None:
    bad = meter.bad_step()
    if bad is not None:
        raise TrainingError(f"the loss is not finite at step {bad} of epoch {epoch}")


def _to_device(batch: dict[str, Any], device: str) -> dict[str, Any]:
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


@torch.inference_mode()
def validate(
    run: Run, model: nn.Module, loader: Iterable[dict[str, Any]], table: pd.DataFrame
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Score the held-out crops, each once over all ranks; every rank returns what one process would.

    Args:
        model: run.model, or the average of its weights.
        loader: this rank's share of `table`.

    Returns:
        the metrics, and the rows of `table` that could be read with their scores, [n] and [n].

    Raises:
        TrainingError: no crop could be read, or a score is not finite.
    """
    device = run.ranks.device
    model.eval()
    normalizer = Normalizer(run.config.normalize.mean, run.config.normalize.std, device)
    rows, scores, errors = [], [], []
    for batch in progress_bar(loader, desc="validate", unit="batch", disable=not run.ranks.is_main, leave=False):
        batch = _to_device(batch, device)
        with run.autocast():
            logits = model(normalizer(batch["image"]))[:, 0]
        rows.append(batch["row"][batch["valid"]])
        scores.append(torch.sigmoid(logits.float())[batch["valid"]])
        errors += batch["error"]
    own = (torch.cat(rows).cpu().numpy(), torch.cat(scores).cpu().numpy()) if rows else (np.zeros(0, int), np.zeros(0))
    shares = gather_objects((*own, errors))
    all_rows, all_scores = np.concatenate([s[0] for s in shares]), np.concatenate([s[1] for s in shares])
    order = np.argsort(all_rows, kind="stable")
    broken = [error for share in shares for error in share[2]]
    if not len(all_rows):
        raise TrainingError(f"none of the held-out crops could be read; {broken[0] if broken else 'there are none'}")
    if not np.isfinite(all_scores).all():
        raise TrainingError("the network's scores of the held-out crops are not finite")
    if broken and run.ranks.is_main:
        print(f"validation: {len(broken)} crops could not be read and are not counted, {broken[0]} for one", flush=True)
    all_rows, all_scores = all_rows[order], all_scores[order]
    return {**validation_metrics(table, all_rows, all_scores), "broken_crops": len(broken)}, all_rows, all_scores


def share_of_rows(count: int, ranks: Ranks) -> range:
    """This rank's row numbers: each row is one rank's, and none is padded on."""
    return range(ranks.rank, count, ranks.world_size)
