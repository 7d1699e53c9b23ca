"""Train one deepfake classifier on the crops that preprocessing made.

    python training/train_classifier.py --config configs/demo.json --data-dir DATA_ROOT
    torchrun --nproc_per_node 2 training/train_classifier.py --config configs/b7.json --data-dir DATA_ROOT --seed 111

Writes <output-dir>/<prefix><network>_<encoder>_<fold>_<epoch> after each epoch, the same with _last (all that it
takes to go on: --resume auto; the one before it is _before) and with _best (lowest held-out log loss), and
<log-dir>/<the same>.log and .jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dfdc import command_line
from dfdc.artifacts import sha256_of
from dfdc.command_line import UsageError
from dfdc.devices import is_out_of_memory

if TYPE_CHECKING:
    from torch import nn

    from networks.checkpoint import Checkpoint
    from networks.holdout import Holdout
    from training.config import TrainConfig
    from training.distributed import Ranks
    from training.engine import Run
    from training.loading import Data
    from training.resume import Choices
    from training.saving import History, RunFiles


def find_start(args: argparse.Namespace, config: TrainConfig, files: RunFiles) -> Checkpoint | None:
    """The checkpoint that this start goes on from, or begins with; None for pretrained or random weights.

    Start-up precedence: 1. the run's own `_last`, 2. --init-from, 3. pretrained, 4. scratch.
    """
    from networks import checkpoint

    if files.last.exists():
        if args.resume != "auto" and not args.init_from:
            raise UsageError(
                f"{files.last} is there already, from a run of this name. Go on with it by --resume auto, or choose "
                "another --prefix or --output-dir (train.sh: OUTPUT_DIR)"
            )
        try:
            found = checkpoint.read_checkpoint(files.last)
        except checkpoint.CheckpointError as error:
            if files.before.exists():
                raise UsageError(f"{error}. The one before it goes on by: mv {files.before} {files.last}") from None
            raise UsageError(f"{error}. Another --prefix with --init-from begins with an epoch's weights") from None
        if found.training is None:
            raise UsageError(f"{files.last} is no state of a run; choose another --prefix or --output-dir")
    elif leftovers := files.leftovers():
        raise UsageError(
            f"{leftovers[0]} is there, from a run of this name, but {files.last.name} is not, so that it can't go on. "
            "Another --prefix or --output-dir (train.sh: OUTPUT_DIR) begins a new run; "
            f"--init-from {leftovers[-1]} with its weights"
            + (f". Or go on from the state before: mv {files.before} {files.last}" if files.before.exists() else "")
        )
    elif args.init_from:
        found = checkpoint.read_checkpoint(args.init_from)
    else:
        return None
    if (found.spec.network, found.spec.encoder) != (config.network, config.encoder):
        raise UsageError(
            f"{found.path} holds {found.spec.network} with {found.spec.encoder}, but the configuration says "
            f"{config.network} with {config.encoder}"
        )
    return found


def prepare_network(
    args: argparse.Namespace, config: TrainConfig, ranks: Ranks, start: Checkpoint | None
) -> tuple[nn.Module, str]:
    """The network on its device, and a sentence about where its weights are from."""
    import torch

    from networks import checkpoint, model
    from training import distributed

    torch.manual_seed(args.seed)
    network = model.build_network(
        config.network,
        config.encoder,
        drop_path=config.drop_path,
        dropout=config.dropout,
        gradient_checkpointing=config.gradient_checkpointing,
    )
    if start:
        checkpoint.load_weights(network, start)
        origin = f"weights of {start.path}"
    elif args.pretrained_path:
        origin = model.load_pretrained_file(network, args.pretrained_path)
    elif config.pretrained:
        # One process of each machine fetches, the others then find the file in the cache.
        if ranks.local_rank != 0:
            distributed.barrier()
        origin = model.load_pretrained(network, config.encoder)
        if ranks.local_rank == 0:
            distributed.barrier()
    else:
        origin = "random weights"
    network = network.to(ranks.device, memory_format=torch.channels_last)
    if ranks.world_size > 1 and ranks.device.startswith("cuda"):
        from timm.layers import convert_sync_batchnorm  # PyTorch's own would drop the activation in timm's BatchNorm

        network, origin = convert_sync_batchnorm(network), f"{origin}; SyncBN"
    elif ranks.world_size > 1:
        origin += "; BatchNorm by process (SyncBN needs GPUs)"
    return network, origin


def train(args: argparse.Namespace) -> int:
    """Join the other processes, look at the data, and train on it."""
    from dfdc.devices import resolve_device
    from training import arguments, distributed, loading

    config = arguments.resolve_config(args)
    try:
        ranks = distributed.start(resolve_device(args.device), args.local_rank)
    except ValueError as error:
        raise UsageError(str(error)) from None
    with contextlib.closing(loading.prepare_data(args, config, ranks)) as data:  # before anything slow happens
        return train_on(data, args, config, ranks)


def train_on(data: Data, args: argparse.Namespace, config: TrainConfig, ranks: Ranks) -> int:
    """Set up the network and its optimizer, and train epoch after epoch."""
    from networks.holdout import describe_start
    from training import distributed, engine, optim, resume, saving, wrapping
    from training.runlog import RunLog

    files = saving.run_files(args.output_dir, args.log_dir, args.prefix, config, args.fold)
    start = find_start(args, config, files)
    state = start.training if start and start.path == files.last else None
    amp = wrapping.amp_type(config.precision, ranks.device)
    choices = resume.Choices(
        config=config,
        seed=args.seed,
        fold=args.fold,
        data=data.digest,
        crops_dir=args.crops_dir,
        padding_part=args.padding_part,
        occlusions=not args.no_hardcore,
        only_changed_frames=args.only_changed_frames,
        oversample=not args.no_oversample,
        freeze_epochs=args.freeze_epochs,
        processes=ranks.world_size,
    )
    first_epoch, first_step = (state["epoch"], state["step"]) if state else (0, 0)
    computes_in = str(amp or "float32").removeprefix("torch.")
    resume.agree(
        {
            "epoch": first_epoch,
            "step": first_step,
            "computes in": computes_in,
            "code": resume.source_digest(),
            "--test-every": args.test_every,
            "--max-failed": args.max_failed,
            "--validate-on": data.digests_of_others,
            **choices.flat(),
        }
    )
    changed = check_state(args, start, state, choices, computes_in)
    network, origin = prepare_network(args, config, ranks, start)
    wrapping.use_fast_kernels(ranks.device, amp)
    optimizer, optimizer_name = optim.build_optimizer(network, config.optimizer, ranks.device)
    run = engine.Run(
        config,
        ranks,
        args.seed,
        network,
        optimizer,
        engine.make_scaler(ranks.device, amp),
        amp,
        data.steps_per_epoch,
        StopFlag(),
        args.max_failed,
    )
    if config.ema_decay:
        run.average = copy.deepcopy(network).requires_grad_(False)
    meter_state, history = restore(run, state, computes_in)
    if first_epoch >= config.epochs:
        if ranks.is_main:
            print(f"{files.name}: finished already, all {config.epochs} epochs; --epochs N for more")
        return 0
    began_from = state["began_from"] if state else sha256_of(start.path) if start else None
    spec = saving.spec_of(config, args.padding_part)
    steps = first_epoch * data.steps_per_epoch + first_step
    holdout = find_holdout(data.holdout, start, state)
    saver = saving.Saver(files, spec, args.keep, history, steps, holdout)
    run.spare = data.spare()
    log = RunLog(files, vars(args), config.to_dict()) if ranks.is_main else None
    if log:
        begin = f" goes on from epoch {first_epoch}, step {first_step};" if state else ""
        log.say(
            f"{files.name}:{begin} {origin}; seed {args.seed}; {data.summary}; {data.steps_per_epoch} steps an epoch "
            f"of {run.step_crops} crops, {config.epochs} epochs; {ranks.world_size} x {ranks.device}, "
            f"{amp or 'float32'}; {optimizer_name}"
        )
        for change in changed:
            log.say(f"changed since: {change}")
        if doubt := describe_start(data.holdout, holdout):
            log.say(f"{doubt}: the held-out metrics may flatter")
        log.say(saving.describe_disk(files, network, config, args.keep))

    saved_at = time.monotonic()

    def save_last(epoch: int, step: int, meter: dict[str, float], metrics: dict[str, float]) -> None:
        nonlocal saved_at
        place = {
            "recipe": resume.RECIPE,
            "choices": choices.flat(),
            "began_from": began_from,
            "epoch": epoch,
            "step": step,
            "meter": meter,
            "optimizer": optimizer.state_dict(),
            "scaler": run.scaler.state_dict(),
            "average": run.average.state_dict() if run.average else None,
            "computes_in": computes_in,
        }
        # The epoch that the weights are of: the one before where the next has not begun.
        of_epoch = epoch if step else epoch - 1
        saver.last(epoch * data.steps_per_epoch + step, of_epoch, network, metrics, place)
        saved_at = time.monotonic()

    def after_step(epoch: int, step: int, meter: dict[str, float], stop_requested: bool) -> None:
        due = args.save_every and time.monotonic() - saved_at > args.save_every * 60
        # After an epoch's last step it is due in any case: the validation takes its time, too.
        if ranks.is_main and (due or stop_requested or step == data.steps_per_epoch):
            save_last(epoch, step, meter, {})

    model = None
    for epoch in range(first_epoch, config.epochs):
        if model is None or epoch == args.freeze_epochs:
            model, said = wrapping.wrap(run, frozen=epoch < args.freeze_epochs)
            if log and said:
                log.say(said)
        data.sampler.set_epoch(epoch, first_step * config.accumulate)
        result = {"epoch": epoch, "step": (epoch + 1) * data.steps_per_epoch, "seed": args.seed}
        result |= engine.train_epoch(run, model, data.loader, epoch, first_step, meter_state, after_step)
        first_step, meter_state = 0, None
        metrics: dict[str, float] = {}
        averaged: dict[str, float] = {}
        if (epoch + 1) % args.test_every == 0 or epoch + 1 == config.epochs:
            distributed.share_buffers(network)
            found = engine.validate(run, network, data.held_out)
            metrics = found.metrics["video"]
            result |= found.metrics | {"broken_held_out_crops": found.broken}
            if run.average:
                distributed.share_buffers(run.average)
                of_average = engine.validate(run, run.average, data.held_out)
                averaged = of_average.metrics["video"]
                result |= {f"{kind}_ema": values for kind, values in of_average.metrics.items()}
            others = {other.name: engine.validate(run, network, other) for other in data.others}
            if others:
                result["sets"] = {name: o.metrics | {"broken_crops": o.broken} for name, o in others.items()}
            if log:
                log.most_wrong(epoch, data.crops, data.held_out.table, found.rows, found.scores)
        if log:
            saver.epoch(epoch, network, metrics)
            if run.average:
                saver.epoch(epoch, run.average, averaged, averaged=True)
            result["peak_memory_mib"] = wrapping.peak_memory(ranks.device)
            log.epoch(result)
            saver.thin_out(epoch)
            save_last(epoch + 1, 0, {}, metrics)
    return 0


def check_state(
    args: argparse.Namespace,
    start: Checkpoint | None,
    state: dict[str, Any] | None,
    choices: Choices,
    computes_in: str,
) -> list[str]:
    """Changes since the run was saved, for the log.

    Raises:
        UsageError: it can't go on from `state`, or --init-from names another file than it began from.
    """
    from training import resume
    from training.arguments import changes_asked

    if not state:
        return []
    assert start is not None
    if state.get("recipe") != resume.RECIPE:
        raise UsageError(
            f"{start.path} was written by another version of the trainer (recipe {state.get('recipe', 1)}, here "
            f"{resume.RECIPE}), which trained otherwise. Begin a new run by --prefix; --init-from {start.path} takes "
            "its weights"
        )
    finished = state["epoch"] >= choices.config.epochs
    faults, changes = resume.compare(choices.flat(), state["choices"], changes_asked(args), finished=finished)
    if computes_in != state["computes_in"]:
        changes.append(f"computes in {state['computes_in']} -> {computes_in}")
    if args.init_from and args.init_from.exists() and sha256_of(args.init_from) != state["began_from"]:
        faults.append(f"--init-from: the run did not begin with {args.init_from}")
    if faults:
        raise UsageError(
            f"{start.path} is of another run:\n  " + "\n  ".join(faults) + "\n"
            "Resume with the same, or begin a new run by another --prefix (train.sh: OUTPUT_DIR)"
        )
    return changes


def find_holdout(own: Holdout, start: Checkpoint | None, state: dict[str, Any] | None) -> Holdout | None:
    """What the run's weights never learned from, those that it began with included; None where that is not known.

    Args:
        own: what the run holds out of its folds.csv; a resumed run has the same (see resume.py).
        start: from `find_start`.
        state: of a resumed run.
    """
    from networks.holdout import common_holdout

    if start is None or (state and state["began_from"] is None):
        return own
    return start.holdout if state else common_holdout([own, start.holdout])


def restore(run: Run, state: dict[str, Any] | None, computes_in: str) -> tuple[dict[str, float] | None, History]:
    """Put a `_last` checkpoint's state back; return the meter to go on with and what the epochs were worth."""
    from training.saving import History

    if state is None:
        return None, History()
    run.optimizer.load_state_dict(state["optimizer"])
    if state["computes_in"] == computes_in:  # another type has a scale of its own
        run.scaler.load_state_dict(state["scaler"])
    if run.average:
        run.average.load_state_dict(state["average"])
    return state["meter"] or None, History(**state["history"])


class StopFlag:
    """Set by SIGTERM, so that a run ends after the step in progress and with its state saved."""

    def __init__(self) -> None:
        self._seen = False
        signal.signal(signal.SIGTERM, self._set)

    def _set(self, *_: object) -> None:
        self._seen = True

    def __call__(self) -> bool:
        return self._seen


def main(argv: Sequence[str] | None = None) -> int:
    from training import arguments

    args = arguments.parse_arguments(__doc__, argv)
    from networks.checkpoint import CheckpointError
    from networks.model import ModelError
    from training.dataset import FoldsError
    from training.distributed import barrier, stop
    from training.engine import NotFiniteError, StopRequested, TrainingError
    from training.saving import run_files

    def fail(message: str) -> int:
        print(f"train_classifier: {message}", file=sys.stderr)
        return 1

    try:
        if args.augmentation_grid:
            from training.loading import find_folds
            from training.preview import draw_grid

            draw_grid(args, arguments.resolve_config(args), find_folds(args))
            return 0
        status = train(args)
        barrier()  # none leaves while another is still writing
        return status
    except (FoldsError, ModelError, CheckpointError) as error:
        raise UsageError(str(error)) from error
    except NotFiniteError as error:
        config = arguments.resolve_config(args)
        files = run_files(args.output_dir, args.log_dir, args.prefix, config, args.fold)
        return fail(f"{error}. {arguments.advise_after_not_finite(files, config)}")
    except TrainingError as error:
        return fail(f"{error}")
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        first = str(error).partition("\n")[0]
        advice = arguments.advise_after_out_of_memory(arguments.resolve_config(args))
        return fail(f"out of memory ({first}). {advice}")
    except StopRequested as reason:
        barrier()  # rank 0 may still be saving
        print(f"train_classifier: {reason}; --resume auto goes on from there", file=sys.stderr)
        return 128 + signal.SIGTERM
    finally:
        stop()


if __name__ == "__main__":
    command_line.run_main(main)
