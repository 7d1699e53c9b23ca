"""A training run from its settings to its last epoch: set-up, epochs, validation and saving."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Generator

import torch
from timm.layers import convert_sync_batchnorm

from dfdc.artifacts import sha256_of
from dfdc.command_line import UsageError, UserError, reason_of, setting
from dfdc.devices import is_out_of_memory, resolve_device
from networks import checkpoint, model
from networks.checkpoint import Checkpoint
from networks.holdout import describe_start
from networks.model import Classifier
from training import distributed, engine, loading, optim, preview, resume, saving, wrapping
from training.arguments import RunSettings
from training.config import TrainConfig
from training.distributed import Ranks
from training.engine import NotFiniteError, StopRequested, TrainingError
from training.loading import Data
from training.records import EpochRecord, Metrics, SetRecord
from training.runlog import RunLog
from training.saving import History, RunFiles, Saver


def run_training(settings: RunSettings, config: TrainConfig) -> int:
    """Train, or draw the augmentation grid; returns the exit status.

    Raises:
        UserError: the settings are invalid or training failed; the message says what to do.
    """
    if settings.augmentation_grid:
        preview.draw_grid(settings, config, settings.augmentation_grid)
        return 0
    try:
        train(settings, config)
        distributed.barrier()  # no process exits while another is still writing
    except NotFiniteError as error:
        advice = advise_after_not_finite(saving.run_files(settings, config), config)
        raise NotFiniteError(f"{error}. {advice}") from error
    except (RuntimeError, MemoryError) as error:
        if loading.is_end_of_loader(error):
            advice = (
                f"the system may have run out of memory; use fewer {setting('workers')}, and {setting('resume')} auto"
            )
            raise TrainingError(f"a loader process ended ({error}): {advice}") from error
        if not is_out_of_memory(error):
            raise
        first = str(error).partition("\n")[0]
        raise TrainingError(f"out of memory ({first}). {advise_after_out_of_memory(config)}") from error
    except StopRequested as reason:
        distributed.barrier()  # rank 0 may still be saving
        print(f"train_classifier: {reason}; --resume auto continues from there", file=sys.stderr)
        return 128 + signal.SIGTERM
    finally:
        distributed.stop()
    return 0


def train(settings: RunSettings, config: TrainConfig) -> None:
    """Join the process group, load the data, and train."""
    device = resolve_device(settings.device)
    ranks = distributed.start(device, settings.local_rank)
    alone = _only_run(saving.run_files(settings, config), ranks)
    # The data first, so that its errors are reported early.
    with alone, contextlib.closing(loading.prepare_data(settings, config, ranks)) as data:
        trainer = prepare(data, settings, config, ranks)
        if trainer:
            trainer.train()


@contextlib.contextmanager
def _only_run(files: RunFiles, ranks: Ranks) -> Generator[None]:
    """Hold the locks of the run in its main process while the block runs.

    Raises:
        UserError, OSError: on every rank, if another run holds one, or a folder can't be written.
    """
    with contextlib.ExitStack() as stack:
        refused: UserError | OSError | None = None
        if ranks.is_main:
            try:
                stack.enter_context(files.only_run())
            except (UserError, OSError) as error:
                refused = error
        reason = distributed.gather_objects(refused and reason_of(refused))[0]
        if reason is not None:  # all end by themselves: one that waits for an ended one would show a traceback
            raise refused or UsageError(reason)
        yield


def prepare_network(
    settings: RunSettings, config: TrainConfig, ranks: Ranks, start: Checkpoint | None
) -> tuple[Classifier, str]:
    """The network on its device, and a text that names the origin of its weights."""
    torch.manual_seed(settings.seed)
    options = config.model_dump(include={"network", "encoder", "drop_path", "dropout", "gradient_checkpointing"})
    network = model.build_network(**options)
    if start:
        checkpoint.load_weights(network, start)
        origin = f"weights of {start.path}"
    elif settings.pretrained_path:
        origin = model.load_pretrained_file(network, settings.pretrained_path)
    elif config.pretrained:
        # One process per machine downloads; the others then read the file from the cache.
        if ranks.local_rank != 0:
            distributed.barrier()
        origin = model.load_pretrained(network, config.encoder)
        if ranks.local_rank == 0:
            distributed.barrier()
    else:
        origin = "random weights"
    network = network.to(ranks.device).to(memory_format=torch.channels_last)
    if ranks.world_size > 1 and ranks.device.startswith("cuda"):
        # timm's version, because PyTorch's would drop the activation in timm's BatchNorm.
        network, origin = convert_sync_batchnorm(network), f"{origin}; SyncBN"
    elif ranks.world_size > 1:
        origin += "; BatchNorm per process (SyncBN needs GPUs)"
    return network, origin


def prepare(data: Data, settings: RunSettings, config: TrainConfig, ranks: Ranks) -> Trainer | None:
    """Set up the network, the optimizer and the files; None if the run is already finished."""
    files = saving.run_files(settings, config)
    start = resume.find_start(settings, config, files)
    state = None
    if start and start.path == files.last and start.training is not None:
        state = resume.State.from_dict(start.training, start.path)
    amp = wrapping.amp_type(config.precision, ranks.device)
    choices = resume.choices_of(settings, config, data.digest, ranks.world_size)
    resume.agree_on_start(settings, state, choices, resume.computes_in(amp), data.digests_of_others)
    changed = resume.check_state(settings, state, files.last, choices, resume.computes_in(amp)) if state else []
    network, origin = prepare_network(settings, config, ranks, start)
    wrapping.use_fast_kernels(ranks.device, amp)
    optimizer, optimizer_name = optim.build_optimizer(network, config.optimizer, ranks.device)
    run = engine.Run(
        normalize=config.normalize,
        ranks=ranks,
        amp_type=amp,
        max_failed=settings.max_failed,
        stop_requested=watch_for_stop(),
        config=config,
        seed=settings.seed,
        model=network,
        optimizer=optimizer,
        scaler=engine.make_scaler(ranks.device, amp),
        steps_per_epoch=data.steps_per_epoch,
        average=copy.deepcopy(network).requires_grad_(False) if config.ema_decay else None,
    )
    if state:
        state.restore(run)
    if state and state.epoch >= config.epochs:
        if ranks.is_main:
            print(f"{files.name}: already finished, all {config.epochs} epochs; --epochs N trains more")
        return None
    run.spare = data.spare()
    trainer = Trainer(settings, data, run, choices, files, start, state)
    if trainer.log:
        trainer.log_start(trainer.log, origin, optimizer_name, changed)
    return trainer


class Trainer:
    """Trains and saves a run that starts or resumes from `start`. A resumed run's `state` is already in `run`."""

    def __init__(
        self,
        settings: RunSettings,
        data: Data,
        run: engine.Run,
        choices: resume.Choices,
        files: RunFiles,
        start: Checkpoint | None,
        state: resume.State | None,
    ) -> None:
        self.settings, self.data, self.run, self.choices, self.files = settings, data, run, choices, files
        self.epoch, self.step = (state.epoch, state.step) if state else (0, 0)
        self.resumed, self.meter = bool(state), state.meter or None if state else None
        self.began_from = state.began_from if state else sha256_of(start.path) if start else None
        self.holdout = resume.find_holdout(data.holdout, start, state)
        spec = saving.spec_of(run.config, settings.padding_part)
        steps = self.epoch * data.steps_per_epoch + self.step
        history = state.history if state else History()
        self.saver = Saver(files, spec, settings.keep, history, steps, self.holdout)
        self.log = RunLog(files, settings, run.config) if run.ranks.is_main else None
        self.saved_at = time.monotonic()

    def log_start(self, log: RunLog, origin: str, optimizer_name: str, changed: list[str]) -> None:
        """Log the network, data, settings and device, and the changes since the last start."""
        run, config = self.run, self.run.config
        begin = f" resumes from epoch {self.epoch}, step {self.step};" if self.resumed else ""
        log.say(
            f"{self.files.name}:{begin} {origin}; seed {run.seed}; {self.data.summary}; "
            f"{run.steps_per_epoch} steps per epoch of {run.step_crops} crops, {config.epochs} epochs; "
            f"{run.ranks.world_size} x {run.ranks.device}, {run.amp_type or 'float32'}; {optimizer_name}"
        )
        for change in changed:
            log.say(f"changed since: {change}")
        if doubt := describe_start(self.data.holdout, self.holdout):
            log.say(f"{doubt}: the held-out metrics may be too optimistic")
        log.say(saving.describe_disk(self.files, run.model, config, self.settings.keep))

    def train(self) -> None:
        """Train the remaining epochs; raises the errors of `engine.train_epoch` and `engine.validate`."""
        run, frozen_until = self.run, self.settings.freeze_epochs
        wrapped = None
        for epoch in range(self.epoch, run.config.epochs):
            if wrapped is None or epoch == frozen_until:
                wrapped, said = wrapping.wrap(run, frozen=epoch < frozen_until)
                if self.log and said:
                    self.log.say(said)
            self.data.sampler.set_epoch(epoch, self.step * run.config.accumulate)
            record = engine.train_epoch(run, wrapped, self.data.loader, epoch, self.step, self.meter, self._after_step)
            self.step, self.meter = 0, None
            if (epoch + 1) % self.settings.test_every == 0 or epoch + 1 == run.config.epochs:
                record = self._validate(record)
            if self.log:
                self._save_epoch(self.log, record)

    def _validate(self, record: EpochRecord) -> EpochRecord:
        """Add the metrics of all validation sets, of the weights and their average, to the record."""
        run = self.run
        distributed.share_buffers(run.model)
        found = engine.validate(run, run.model, self.data.held_out)
        values = {**found.metrics, "broken_held_out_crops": found.broken}
        if run.average:
            distributed.share_buffers(run.average)
            average = engine.validate(run, run.average, self.data.held_out)
            values |= {f"{kind}_ema": metrics for kind, metrics in average.metrics.items()}
        others = {other.name: engine.validate(run, run.model, other) for other in self.data.others}
        if others:
            values["sets"] = {
                name: SetRecord(**other.metrics, broken_crops=other.broken) for name, other in others.items()
            }
        if self.log:
            self.log.most_wrong(record.epoch, self.data.crops, self.data.held_out.table, found.rows, found.scores)
        return dataclasses.replace(record, **values)

    def _save_epoch(self, log: RunLog, record: EpochRecord) -> None:
        """Write the checkpoints and log lines of the epoch, and `_last`."""
        epoch, run = record.epoch, self.run
        self.saver.epoch(epoch, run.model, record.video or {})
        if run.average:
            self.saver.epoch(epoch, run.average, record.video_ema or {}, averaged=True)
        log.epoch(dataclasses.replace(record, peak_memory_mib=wrapping.peak_memory(run.ranks.device)))
        self.saver.thin_out(epoch)
        self._save_last(epoch + 1, 0, {}, record.video or {})

    def _after_step(self, epoch: int, step: int, meter: dict[str, float], stop_requested: bool) -> None:
        minutes = self.settings.save_every
        due = minutes and time.monotonic() - self.saved_at > minutes * 60
        # Always save after the last step of an epoch, before the validation, which also takes time.
        if self.run.ranks.is_main and (due or stop_requested or step == self.run.steps_per_epoch):
            self._save_last(epoch, step, meter, {})

    def _save_last(self, epoch: int, step: int, meter: dict[str, float], metrics: Metrics) -> None:
        run = self.run
        state = resume.State(
            recipe=resume.RECIPE,
            choices=self.choices,
            began_from=self.began_from,
            epoch=epoch,
            step=step,
            meter=meter,
            optimizer=run.optimizer.state_dict(),
            scaler=run.scaler.state_dict(),
            average=run.average.state_dict() if run.average else None,
            computes_in=resume.computes_in(run.amp_type),
            history=self.saver.history,
        )
        # The epoch of the weights: the previous one if the next has not started.
        of_epoch = epoch if step else epoch - 1
        self.saver.last(epoch * run.steps_per_epoch + step, of_epoch, run.model, metrics, state.to_dict())
        self.saved_at = time.monotonic()


def watch_for_stop() -> Callable[[], bool]:
    """Install a SIGTERM handler; returns a function that tells whether a SIGTERM was received."""
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    return lambda: bool(seen)


def advise_after_not_finite(files: RunFiles, config: TrainConfig) -> str:
    """Advice after non-finite losses."""
    rate = f"{setting('set')} optimizer.learning_rate={config.optimizer.learning_rate / 2:g}"
    if not files.last.exists():
        return f"There is no checkpoint of this run yet; start with a smaller rate: {rate}"
    earlier = f" The previous one is {files.before}." if files.before.exists() else ""
    good = f"The last good checkpoint is {files.last}.{earlier}"
    return f"{good} Resume from it with a smaller rate: {setting('resume')} auto {rate}"


def advise_after_out_of_memory(config: TrainConfig) -> str:
    """Advice: a smaller batch with more accumulation, which a resumed run may use."""
    size = config.batch_size
    part = next((n for n in range(2, size + 1) if size % n == 0), None)
    if part is None:
        return "A batch is already a single crop: use gradient_checkpointing, a smaller size, or another encoder"
    return (
        f"To run the same steps with less memory: {setting('resume')} auto {setting('batch_size')} {size // part} "
        f"{setting('set')} accumulate={config.accumulate * part} "
        f"(or {setting('set')} gradient_checkpointing=true for a new run)"
    )
