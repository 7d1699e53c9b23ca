"""Train one deepfake classifier on the crops that preprocessing made.

    python training/train_classifier.py --config configs/demo.json --data-dir DATA_ROOT
    torchrun --nproc_per_node 2 training/train_classifier.py --config configs/b7.json --data-dir DATA_ROOT --seed 111

Writes <output-dir>/<prefix><network>_<encoder>_<fold>_<epoch> after each epoch, the same with _last (all that it
takes to go on: --resume auto) and with _best (lowest held-out log loss), and logs/<the same>.log and .jsonl.
"""

from __future__ import annotations

import argparse
import glob
import os
import signal
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dfdc import layout, parallel
from dfdc.devices import DEVICE_HELP, available_cores, is_out_of_memory
from dfdc.imaging import MARGIN_PART
from dfdc.parallel import UsageError

if TYPE_CHECKING:
    from torch import nn

    from training.checkpoint import Checkpoint
    from training.config import TrainConfig
    from training.distributed import Ranks
    from training.engine import Run
    from training.runlog import RunFiles


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, default=Path("configs/b7.json"), help="settings (configs/b7.json)")
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DATA_ROOT", help="where preprocessing wrote")
    parser.add_argument("--crops-dir", default=layout.CROPS_DIR, help="folder of the crops, in DATA_ROOT (crops)")
    parser.add_argument("--folds-csv", type=Path, default=Path(layout.FOLDS_NAME),
                        help="a relative path is looked for in DATA_ROOT, then here (folds.csv)")  # fmt: skip
    parser.add_argument("--fold", type=int, default=0, help="the fold held out for validation (0)")
    parser.add_argument("--seed", type=int, default=777, help="decides weights, order, draws and augmentation (777)")
    parser.add_argument("--prefix", default="classifier_", help="begins the names of all files of this run")
    parser.add_argument("--output-dir", type=Path, default=Path("weights"), help="for checkpoints (weights)")
    parser.add_argument("--log-dir", type=Path, default=Path("logs"), help="for logs (logs)")
    parser.add_argument("--resume", metavar="auto|FILE",
                        help="auto: go on with this run's _last, or begin; FILE: go on from a checkpoint (its weights "
                        "only, if it is no _last)")  # fmt: skip
    parser.add_argument("--pretrained-path", type=Path, metavar="FILE", help="encoder weights, not fetched but read")
    parser.add_argument("--epochs", type=int, help="instead of the configuration's")
    parser.add_argument("--batch-size", type=int, help="per GPU, instead of the configuration's")
    parser.add_argument("--label-smoothing", type=float, help="instead of the configuration's")
    parser.add_argument("--freeze-epochs", type=int, default=0, metavar="N",
                        help="train only the last layer in the first N epochs (0)")  # fmt: skip
    parser.add_argument("--test-every", type=int, default=1, metavar="N", help="validate every N epochs (1)")
    parser.add_argument("--save-every", type=float, default=10.0, metavar="MINUTES",
                        help="write _last within an epoch, too (10; 0: only after epochs)")  # fmt: skip
    parser.add_argument("--no-hardcore", action="store_true", help="no occlusions")
    parser.add_argument("--no-oversample", action="store_true", help="an epoch is every crop once, no balanced draw")
    parser.add_argument("--only-changed-frames", action="store_true",
                        help="train on a fake crop only where its mask shows a change")  # fmt: skip
    parser.add_argument("--padding-part", type=int, default=MARGIN_PART, metavar="N",
                        help=f"margin, a 1/N of the face ({MARGIN_PART}, as cropped; more is tighter)")  # fmt: skip
    parser.add_argument("--workers", type=int, default=-1, metavar="N",
                        help="loader processes for each GPU (the cores shared among them; 0: none)")  # fmt: skip
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)  # given by old launchers
    parser.add_argument("--augmentation-grid", type=Path, metavar="FILE",
                        help="only draw what augmentation does to some crops, to this PNG")  # fmt: skip
    args = parser.parse_args(argv)
    least_values = {"seed": 0, "freeze_epochs": 0, "test_every": 1, "save_every": 0, "workers": -1}
    for name, least in (least_values | {"padding_part": MARGIN_PART}).items():
        if not getattr(args, name) >= least:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(args, name)}: {max(least, 0)} or more is expected")
    if "/" in args.prefix:
        raise UsageError(
            f"--prefix {args.prefix}: it begins file names and can't hold a /; --output-dir names a folder"
        )
    return args


def resolve_config(args: argparse.Namespace) -> TrainConfig:
    """The configuration file with the command line's changes; checked again as a whole."""
    from training.config import ConfigError, load_config

    try:
        config = load_config(args.config)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    changes = {"epochs": args.epochs, "batch_size": args.batch_size, "label_smoothing": args.label_smoothing}
    changes = {name: value for name, value in changes.items() if value is not None}
    for name, value in changes.items():
        if name == "label_smoothing" and not 0 <= value < 0.5:
            raise UsageError(f"--label-smoothing {value}: 0 or more, and under 0.5, is expected")
        if name != "label_smoothing" and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value}: 1 or more is expected")
    return replace(config, **changes)


def find_folds(args: argparse.Namespace) -> Path:
    """--folds-csv, looked for in DATA_ROOT first."""
    inside = args.data_dir / args.folds_csv
    return args.folds_csv if args.folds_csv.is_file() and not inside.is_file() else inside


def amp_type(precision: str, device: str) -> Any:
    """What autocast uses: None is float32. `auto` takes bf16 where a GPU has it, fp16 on older ones."""
    import torch

    if precision == "auto":
        if not device.startswith("cuda"):
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if precision == "fp16" and device == "cpu":
        raise UsageError("precision fp16 needs a GPU; take bf16, fp32 or auto")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]


@dataclass
class Data:
    """The two loaders of a rank and what is known of them."""

    sampler: Any
    loader: Any
    validation: Any
    held_out: Any
    steps_per_epoch: int
    summary: str
    digest: int  # of folds.csv


def prepare_data(args: argparse.Namespace, config: TrainConfig, ranks: Ranks) -> Data:
    """Read folds.csv, check that its crops exist, and make this rank's loaders."""
    import torch
    from torch.utils.data import DataLoader, Subset

    from training import dataset, engine

    folds_path = find_folds(args)
    train_rows, held_out = dataset.split_folds(dataset.read_folds(folds_path), args.fold, folds_path)
    if ranks.is_main:
        for rows in (train_rows, held_out):
            dataset.check_crops(rows, args.data_dir / args.crops_dir, folds_path)
    labels = train_rows["label"].to_numpy()
    sampler = dataset.EpochSampler(labels, config.batch_size, args.seed, rank=ranks.rank, ranks=ranks.world_size,
                                   max_batches=config.batches_per_epoch, oversample=not args.no_oversample)  # fmt: skip
    steps_per_epoch = sampler.batches // config.accumulate
    if steps_per_epoch == 0:
        raise dataset.FoldsError(
            f"an epoch has {sampler.rows} crops, fewer than one step takes "
            f"({config.batch_size} crops x {ranks.world_size} processes x {config.accumulate}); lower --batch-size"
        )
    workers = args.workers
    if workers < 0:
        workers = max(1, min(16, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    loading = {"num_workers": workers, "collate_fn": dataset.collate, "pin_memory": ranks.device.startswith("cuda"),
               "persistent_workers": workers > 0, "worker_init_fn": start_loader_worker,
               "generator": torch.Generator()}  # its own: the loader must not draw from the training's  # fmt: skip
    reading = {"data_dir": args.data_dir, "crops_dir": args.crops_dir, "size": config.size,
               "margin_part": args.padding_part}  # fmt: skip
    train_set = dataset.CropDataset(train_rows, train=True, seed=args.seed, occlusions=not args.no_hardcore,
                                    only_changed=args.only_changed_frames, **reading)  # fmt: skip
    share = Subset(dataset.CropDataset(held_out, train=False, **reading), engine.share_of_rows(len(held_out), ranks))
    return Data(
        sampler,
        DataLoader(train_set, batch_sampler=sampler, **loading),
        DataLoader(share, batch_size=2 * config.batch_size, **loading),
        held_out,
        steps_per_epoch,
        f"{len(labels)} crops to train on ({(labels == 0).sum()} real), {len(held_out)} to validate; "
        + describe_unchanged(*dataset.unchanged_share(train_rows, args.data_dir)),
        zlib.crc32(folds_path.read_bytes()),
    )


def describe_last(args: argparse.Namespace) -> str:
    """What to do after a loss that was not finite: the last good checkpoint, if there is one."""
    files = sorted(
        args.output_dir.glob(f"{glob.escape(args.prefix)}*_{args.fold}_last"), key=lambda p: p.stat().st_mtime
    )
    if not files:
        return "There is no checkpoint of this run yet; begin again with a smaller learning_rate"
    return f"The last good checkpoint is {files[-1]}; go on from it by --resume, perhaps with a smaller learning_rate"


def describe_unchanged(unchanged: int, masks: int) -> str:
    """What the start-up line says of fake crops in which nothing was changed: they are label noise."""
    if not masks:
        return "no masks, so it is not known in how many fake crops something was changed"
    return f"{unchanged} of {masks} fake crops ({unchanged / masks:.1%}) show no change"


def prepare_network(
    args: argparse.Namespace, config: TrainConfig, ranks: Ranks, files: RunFiles
) -> tuple[nn.Module, Checkpoint | None, str]:
    """The network on its device, the checkpoint it goes on from, and a sentence about where its weights are from.

    Start-up precedence: 1. this run's own checkpoint, 2. a given one, 3. pretrained, 4. scratch.
    """
    import torch

    from training import checkpoint, distributed, model

    torch.manual_seed(args.seed)
    network = model.build_network(config.network, config.encoder, drop_path=config.drop_path, dropout=config.dropout)
    resumed = None
    if args.resume == "auto" and files.last.exists():
        resumed = checkpoint.read_checkpoint(files.last)
    elif args.resume and args.resume != "auto":
        resumed = checkpoint.read_checkpoint(Path(args.resume))
    elif files.last.exists():
        raise UsageError(
            f"{files.last} is there already, from a run of this name. Go on with it by --resume auto, or choose "
            "another --prefix or --output-dir"
        )
    if resumed:
        if (resumed.spec.network, resumed.spec.encoder) != (config.network, config.encoder):
            raise UsageError(f"{resumed.path} holds {resumed.spec.network} with {resumed.spec.encoder}, but the "
                             f"configuration says {config.network} with {config.encoder}")  # fmt: skip
        checkpoint.load_weights(network, resumed)
        origin = f"weights of {resumed.path}"
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
    return network, resumed, origin


def train(args: argparse.Namespace) -> int:
    """Set up, and train epoch after epoch."""
    import torch

    from dfdc.devices import resolve_device
    from training import checkpoint, distributed, engine, optim
    from training.runlog import RunFiles, RunLog

    config = resolve_config(args)
    files = RunFiles(args.output_dir, args.log_dir, f"{args.prefix}{config.network}_{config.encoder}_{args.fold}")
    try:
        ranks = distributed.start(resolve_device(args.device), args.local_rank)
    except ValueError as error:
        raise UsageError(str(error)) from None
    data = prepare_data(args, config, ranks)  # before anything slow happens
    network, resumed, origin = prepare_network(args, config, ranks, files)
    optimizer, optimizer_name = optim.build_optimizer(network, config.optimizer, ranks.device)
    amp = amp_type(config.precision, ranks.device)
    scaler = torch.amp.GradScaler(ranks.device.split(":")[0], enabled=amp is torch.float16)
    stop_flag = StopFlag()
    run = engine.Run(config, ranks, args.seed, network, optimizer, scaler, amp, data.steps_per_epoch, stop_flag,
                     data_digest=data.digest)  # fmt: skip
    if config.ema_decay:
        from timm.utils import ModelEmaV3

        run.average = ModelEmaV3(network, decay=config.ema_decay)
    first_epoch, first_step, totals = restore(run, resumed)
    if first_epoch >= config.epochs:
        if ranks.is_main:
            print(f"{files.name}: finished already, all {config.epochs} epochs")
        return 0
    log = RunLog(files, vars(args), config.to_dict()) if ranks.is_main else None
    if log:
        begin = f" from epoch {first_epoch}, step {first_step}" if resumed and resumed.training else ""
        log.say(
            f"{files.name}:{begin} {origin}; seed {args.seed}; {data.summary}; {data.steps_per_epoch} steps an epoch, "
            f"{config.epochs} epochs; {ranks.world_size} x {ranks.device}, {amp or 'float32'}; {optimizer_name}"
        )

    spec = checkpoint.ModelSpec.from_config(config, args.padding_part)
    metrics: dict[str, float] = resumed.metrics if resumed else {}
    saved_at = time.monotonic()

    def save_last(epoch: int, step: int, totals: list[float]) -> None:
        nonlocal saved_at
        checkpoint.save_checkpoint(files.last, network, spec, epoch=epoch, bce_best=run.bce_best, metrics=metrics,
                                   training=run.state(epoch, step, totals))  # fmt: skip
        saved_at = time.monotonic()

    def after_step(epoch: int, step: int, totals: list[float], stop_requested: bool) -> None:
        due = args.save_every and time.monotonic() - saved_at > args.save_every * 60
        if ranks.is_main and (due or stop_requested):
            save_last(epoch, step, totals)

    model = None
    for epoch in range(first_epoch, config.epochs):
        if model is None or epoch == args.freeze_epochs:
            model = engine.wrap(run, frozen=epoch < args.freeze_epochs)
        data.sampler.set_epoch(epoch, first_step * config.accumulate)
        result = {"epoch": epoch, "step": (epoch + 1) * data.steps_per_epoch, "seed": args.seed}
        result |= engine.train_epoch(run, model, data.loader, epoch, first_step, totals, after_step)
        first_step, totals, improved = 0, None, False
        if (epoch + 1) % args.test_every == 0 or epoch + 1 == config.epochs:
            found, rows, scores = engine.validate(run, network, data.validation, data.held_out)
            result |= found
            metrics = found["video"]
            if run.average:
                averaged, _, _ = engine.validate(run, run.average.module, data.validation, data.held_out)
                result |= {f"{kind}_ema": values for kind, values in averaged.items() if isinstance(values, dict)}
            if log:
                log.most_wrong(epoch, data.validation.dataset.dataset, data.held_out, rows, scores)
            bce = metrics.get("log_loss_balanced", metrics["log_loss"])  # the latter where one class is all there is
            improved, run.bce_best = bce < run.bce_best, min(bce, run.bce_best)
        if log:
            for path in [files.epoch(epoch)] + [files.best] * improved:
                checkpoint.save_checkpoint(path, network, spec, epoch=epoch, bce_best=run.bce_best, metrics=metrics)
            if run.average:
                checkpoint.save_checkpoint(files.average(epoch), run.average.module, spec, epoch=epoch,
                                           bce_best=run.bce_best, metrics=result.get("video_ema", {}))  # fmt: skip
            log.epoch(result)
            save_last(epoch + 1, 0, [])
    return 0


class StopFlag:
    """Set by SIGTERM, so that a run ends after the step in progress and with its state saved."""

    def __init__(self) -> None:
        self._seen = False
        signal.signal(signal.SIGTERM, self._set)

    def _set(self, *_: object) -> None:
        self._seen = True

    def __call__(self) -> bool:
        return self._seen


def restore(run: Run, resumed: Checkpoint | None) -> tuple[int, int, list[float] | None]:
    """Put a `_last` checkpoint's state back; return the epoch, the step and the loss totals to go on from."""
    state = resumed.training if resumed else None
    if state is None:
        return 0, 0, None
    now, then = run.config.to_dict(), state["config"]
    changed = [key for key in now if key != "epochs" and now[key] != then.get(key)]
    changed += ["seed"] if state["seed"] != run.seed else []
    changed += ["folds.csv"] if state["data"] != run.data_digest else []
    changed += ["number of processes"] if state["ranks"] != run.ranks.world_size and state["step"] else []
    if changed or (state["step"] and state["steps_per_epoch"] != run.steps_per_epoch):
        what = ", ".join(changed) or "number of steps in an epoch (the crops)"
        raise UsageError(f"{resumed.path} has another {what}; resume with the same, or begin a new run by --prefix")
    run.optimizer.load_state_dict(state["optimizer"])
    run.scaler.load_state_dict(state["scaler"])
    if run.average:
        run.average.module.load_state_dict(state["average"])
    run.bce_best = resumed.bce_best
    return state["epoch"], state["step"], state["totals"]


def start_loader_worker(_: int) -> None:
    """One thread for each loader process: together they have all cores."""
    import torch

    from dfdc.devices import limit_threads

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the trainer's handler came along with the fork
    torch.set_num_threads(1)
    limit_threads(1)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    from training.checkpoint import CheckpointError
    from training.dataset import FoldsError
    from training.distributed import barrier, stop
    from training.engine import StopRequested, TrainingError
    from training.model import ModelError

    try:
        if args.augmentation_grid:
            from training.preview import draw_grid

            draw_grid(args, resolve_config(args), find_folds(args))
            return 0
        status = train(args)
        barrier()  # none leaves while another is still writing
        return status
    except (FoldsError, ModelError, CheckpointError) as error:
        raise UsageError(str(error)) from error
    except TrainingError as error:
        print(f"train_classifier: {error}. {describe_last(args)}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        if "DataLoader worker" in str(error) and "Terminated" in str(error):
            # A SIGTERM to the whole process group ends the loaders before this process has read it.
            print(
                "train_classifier: stopped with its loaders; --resume auto goes on from the last save", file=sys.stderr
            )
            return 128 + signal.SIGTERM
        if not is_out_of_memory(error):
            raise
        print(f"train_classifier: out of memory ({str(error).partition(chr(10))[0]}). Lower --batch-size, and raise "
              '"accumulate" in the configuration by as much for the same result', file=sys.stderr)  # fmt: skip
        return 1
    except StopRequested as reason:
        print(f"train_classifier: {reason}; --resume auto goes on from there", file=sys.stderr)
        return 128 + signal.SIGTERM
    finally:
        stop()


if __name__ == "__main__":
    parallel.run_main(main)
