"""The checkpoint files of a run: one per epoch, the best one, and the state to resume from."""

from __future__ import annotations

import contextlib
import glob
import math
import os
import shutil
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dfdc import locks
from dfdc.artifacts import atomic_file
from dfdc.command_line import UsageError, setting
from dfdc.scoring import selection_loss
from networks import checkpoint
from networks.holdout import Holdout
from networks.spec import CheckpointError, ModelSpec, Normalize
from training.arguments import RunSettings
from training.config import TrainConfig
from training.engine import NotFiniteError
from training.records import Metrics


@dataclass(frozen=True)
class RunFiles:
    """The file names of a run. `Path` makes `weights` and `weights/` the same folder."""

    output_dir: Path
    log_dir: Path
    name: str

    @property
    def last(self) -> Path:
        """The state to resume from."""
        return self.output_dir / f"{self.name}_last"

    @property
    def before(self) -> Path:
        """The previous `_last`."""
        return self.output_dir / f"{self.name}_before"

    @property
    def best(self) -> Path:
        """The weights, or averaged weights, with the lowest held-out log loss."""
        return self.output_dir / f"{self.name}_best"

    def leftovers(self) -> list[Path]:
        """The existing checkpoints of a run of this name, without `_last`."""
        epochs = sorted(self.output_dir.glob(f"{glob.escape(self.name)}_[0-9]*"))
        return [path for path in (self.before, self.best) if path.exists()] + epochs

    @contextlib.contextmanager
    def only_run(self) -> Generator[None]:
        """Hold the locks of the run's checkpoints and of its log while the block runs.

        Raises:
            UsageError: another run holds one; the message names that run.
        """

        def refusal(owner: str) -> UsageError:
            return UsageError(f"{self.name}: another run is training it ({owner}); wait until it ends, or stop it")

        with contextlib.ExitStack() as stack:
            for folder, ending in ((self.output_dir, "lock"), (self.log_dir, "log.lock")):
                stack.enter_context(locks.only_one(folder / f".{self.name}.{ending}", refusal))
            yield

    def epoch(self, epoch: int, averaged: bool = False) -> Path:
        """The weights after `epoch`, or the average of the weights (ema_decay)."""
        return self.output_dir / f"{self.name}_{epoch}{'_ema' * averaged}"


@dataclass
class History:
    """The losses of the epochs so far, for `_best` and --keep."""

    best: float = math.inf  # lowest balanced log loss of the held-out videos so far
    # `selection_loss` of the better checkpoint of each epoch (the weights or their average).
    losses: dict[int, float] = field(default_factory=dict)


def spec_of(config: TrainConfig, margin_part: int) -> ModelSpec:
    """The specification that a checkpoint stores to rebuild its network."""
    normalize = Normalize(config.normalize.mean, config.normalize.std)
    return ModelSpec(config.network, config.encoder, config.size, normalize, margin_part)


def run_files(settings: RunSettings, config: TrainConfig) -> RunFiles:
    """The file names of the run with these settings."""
    name = f"{settings.prefix}{config.network}_{config.encoder}_{settings.fold}"
    return RunFiles(settings.output_dir, settings.log_dir, name)


class Saver:
    """Writes the checkpoints of a run. Only the main process uses it.

    Args:
        files: the file names.
        spec: stored in each checkpoint.
        keep: keep the newest and the best `keep` epochs on disk; None: all.
        history: the losses of the epochs so far.
        steps: number of training steps of the existing `_last`, if any.
        holdout: the videos that no weights were trained on; None if unknown.
    """

    def __init__(
        self,
        files: RunFiles,
        spec: ModelSpec,
        keep: int | None,
        history: History,
        steps: int | None = None,
        holdout: Holdout | None = None,
    ) -> None:
        self._files, self._keep, self.history, self._steps_of_last = files, keep, history, steps
        self._write = partial(checkpoint.save_checkpoint, spec=spec, holdout=holdout)

    def epoch(self, epoch: int, model: nn.Module, metrics: Metrics, *, averaged: bool = False) -> None:
        """Write the checkpoint of `epoch`, also as `_best` if its balanced loss is the lowest so far."""
        check_finite(model, self._files)
        loss = balanced_loss(metrics)
        improved = loss < self.history.best
        self.history.best = min(loss, self.history.best)
        path = self._files.epoch(epoch, averaged)
        self._write(path, model, epoch=epoch, bce_best=self.history.best, metrics=metrics)
        if improved:
            link_or_copy(path, self._files.best)
        if metrics:
            self.history.losses[epoch] = min(self.history.losses.get(epoch, math.inf), _selection_loss(metrics))

    def last(self, steps: int, epoch: int, model: nn.Module, metrics: Metrics, state: dict[str, Any]) -> None:
        """Write `_last`; the previous one is kept as `_before`, unless it is of the same step.

        Args:
            steps: number of training steps since the start of the run.
            state: `resume.State.to_dict()`.
        """
        check_finite(model, self._files)
        if steps != self._steps_of_last and self._files.last.exists():
            link_or_copy(self._files.last, self._files.before)
        self._steps_of_last = steps
        best = self.history.best
        self._write(self._files.last, model, epoch=epoch, bce_best=best, metrics=metrics, training=state)

    def thin_out(self, epoch: int) -> None:
        """Remove the checkpoints that are neither among the newest nor the best; `epoch` is the newest."""
        if self._keep is None:
            return
        best = sorted(self.history.losses, key=lambda e: (self.history.losses[e], e))[: self._keep]
        kept = {*range(epoch - self._keep + 1, epoch + 1), *best}
        for old in {*range(epoch + 1)} - kept:
            for averaged in (False, True):
                self._files.epoch(old, averaged).unlink(missing_ok=True)


def balanced_loss(metrics: Metrics) -> float:
    """The loss that selects `_best`: both classes weighted equally, or the class present; infinite without any."""
    return metrics.get("log_loss_balanced", metrics.get("log_loss", math.inf))


def _selection_loss(metrics: Metrics) -> float:
    """The loss by which --keep ranks epochs: that of plot_loss.py if the hold-out has both classes."""
    if {"log_loss_fake", "log_loss_real"} <= metrics.keys():
        return selection_loss(metrics["log_loss_fake"], metrics["log_loss_real"])
    return balanced_loss(metrics)


def check_finite(model: nn.Module, files: RunFiles) -> None:
    """Raise NotFiniteError if a weight or statistic is not finite, so that no checkpoint contains it."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise NotFiniteError(f"{name} of the network is not finite, so {files.name} is not saved")


def link_or_copy(source: Path, target: Path) -> None:
    """Create `target` as a hard link to `source`, or as a copy if the file system has no hard links. Atomic."""
    with atomic_file(target, durable=False) as temp:
        temp.unlink(missing_ok=True)  # a leftover may link to another checkpoint, which a copy would overwrite
        try:
            os.link(source, temp)
        except OSError:  # FAT, some network file systems
            try:
                shutil.copyfile(source, temp)
            except OSError as error:
                raise CheckpointError(f"{target} can't be written ({error}); free some disk space") from error


def disk_need(model: nn.Module, epochs: int, keep: int | None, *, averaged: bool, optimizer_copies: int) -> int:
    """Size in bytes of all checkpoints of a finished run.

    Args:
        averaged: whether each epoch has a second checkpoint.
        optimizer_copies: number of values that the optimizer stores per weight.
    """
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    files = min(epochs, epochs if keep is None else 2 * keep) + (0 if keep is None else 1)  # and _best
    return weights * (files * (1 + averaged) + 2 * (1 + optimizer_copies + averaged))


def describe_disk(files: RunFiles, network: nn.Module, config: TrainConfig, keep: int | None) -> str:
    """A sentence about the disk space that the checkpoints need, and the free space."""
    copies = 1 if config.optimizer.type == "SGD" else 2
    averaged = bool(config.ema_decay)
    need = disk_need(network, config.epochs, keep, averaged=averaged, optimizer_copies=copies)
    files.output_dir.mkdir(parents=True, exist_ok=True)
    present = {path.stat().st_ino: path.stat().st_size for path in [*files.leftovers(), files.last] if path.exists()}
    need = max(0, need - sum(present.values()))
    free = shutil.disk_usage(files.output_dir).free
    kept = f"the newest {keep} and the best {keep}" if keep else f"all {config.epochs}"
    advice = f"; that is too little: {setting('keep')} N keeps fewer epochs" if need > free else ""
    more = " more" if present else ""
    return f"checkpoints of {kept} epochs need {need / 1e9:.1f} GB{more}, {free / 1e9:.1f} GB are free{advice}"
