"""The training and validation data of a rank, and its loader processes."""

from __future__ import annotations

import os
import signal
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils.data import DataLoader, Subset

from dfdc import layout
from dfdc.command_line import SettingError
from dfdc.devices import available_cores, limit_threads
from dfdc.processes import check_temp_folder
from networks.holdout import Holdout, read_holdout
from training import dataset
from training.arguments import NamedSet, RunSettings
from training.config import TrainConfig
from training.distributed import Ranks
from training.engine import TrainingError, ValidationSet, share_of_rows

_GRACE = 30  # seconds a loader process keeps running after a SIGTERM
_LOOK_AT = 100  # crops searched for a readable one


@dataclass
class Data:
    """The loaders of a rank, and facts about their data."""

    sampler: dataset.EpochSampler
    loader: DataLoader
    held_out: ValidationSet
    others: list[ValidationSet]
    crops: dataset.CropDataset  # the held-out samples, indexed by row
    steps_per_epoch: int
    summary: str
    digest: int  # checksum of folds.csv
    holdout: Holdout  # its videos that are not trained on
    digests_of_others: dict[str, int]  # checksum of the rows of each further validation set, by name

    def spare(self) -> torch.Tensor:
        """A readable held-out crop, uint8 [size, size, 3]; see `dataset.fill_unreadable`.

        Raises:
            TrainingError: none of the first hundred crops is readable.
        """
        for row in range(min(_LOOK_AT, len(self.crops))):
            sample = self.crops[row]
            if not sample["error"]:
                return torch.from_numpy(sample["image"])
        raise TrainingError(f"none of the first {row + 1} held-out crops could be read; {sample['error']}")

    def close(self) -> None:
        """End the loader processes now; otherwise the exit would wait for them, see `start_loader_worker`."""
        for loader in (self.loader, self.held_out.loader, *(other.loader for other in self.others)):
            iterator = getattr(loader, "_iterator", None)  # PyTorch has no public access to its processes
            if iterator is not None:
                iterator._shutdown_workers()


def prepare_data(settings: RunSettings, config: TrainConfig, ranks: Ranks) -> Data:
    """Read folds.csv, check that its crops exist, and create this rank's loaders.

    Raises:
        UserError: folds.csv, the crops or a --validate-on set is missing or invalid.
    """
    folds_path = settings.folds_path
    table = dataset.read_folds(folds_path)
    train_rows, held_out = dataset.split_folds(table, settings.fold, folds_path)
    others = [(named, _named_rows(named)) for named in settings.named_sets]
    summary = ""
    if ranks.is_main:
        for rows in (train_rows, held_out):
            dataset.check_crops(rows, settings.data_dir / settings.crops_dir, folds_path)
        for named, rows in others:
            dataset.check_crops(rows, named.root / settings.crops_dir, named.root / layout.FOLDS_NAME)
        summary = _summary(train_rows, held_out, others, settings.data_dir)
    sampler = _sampler(train_rows, settings, config, ranks)
    limit_threads(1, of_torch=False)  # before the loaders are forked: see start_loader_worker
    options = loading_options(settings.workers, on_gpu=ranks.device.startswith("cuda"))
    crops_of = partial(
        dataset.CropDataset, crops_dir=settings.crops_dir, size=config.size, margin_part=settings.padding_part
    )
    train_set = crops_of(
        train_rows,
        settings.data_dir,
        train=True,
        seed=settings.seed,
        occlusions=None if settings.no_hardcore else config.occlusions,
        only_changed=settings.only_changed_frames,
    )

    def validation(name: str, rows: pd.DataFrame, crops: dataset.CropDataset) -> ValidationSet:
        share = Subset(crops, share_of_rows(len(rows), ranks))
        return ValidationSet(name, rows, DataLoader(share, batch_size=2 * config.batch_size, **options))

    crops = crops_of(held_out, settings.data_dir, train=False)
    return Data(
        sampler=sampler,
        loader=DataLoader(train_set, batch_sampler=sampler, **options),
        held_out=validation("", held_out, crops),
        others=[validation(named.name, rows, crops_of(rows, named.root, train=False)) for named, rows in others],
        crops=crops,
        steps_per_epoch=sampler.batches // config.accumulate,
        summary=summary,
        digest=zlib.crc32(folds_path.read_bytes()),
        holdout=read_holdout(table, settings.fold, folds_path),
        digests_of_others={named.name: zlib.crc32(rows.to_csv().encode()) for named, rows in others},
    )


def _sampler(
    train_rows: pd.DataFrame, settings: RunSettings, config: TrainConfig, ranks: Ranks
) -> dataset.EpochSampler:
    """The sampler of the epochs; raises SettingError if an epoch has fewer crops than one step."""
    sampler = dataset.EpochSampler(
        train_rows["label"].to_numpy(),
        config.batch_size,
        settings.seed,
        rank=ranks.rank,
        ranks=ranks.world_size,
        max_batches=config.batches_per_epoch * config.accumulate,
        oversample=not settings.no_oversample,
    )
    if sampler.batches < config.accumulate:
        step = f"{config.batch_size} crops x {ranks.world_size} processes x {config.accumulate}"
        found = f"an epoch has {sampler.rows} crops, fewer than one step needs"
        raise SettingError("batch_size", config.batch_size, f"{found} ({step}); lower the batch size")
    return sampler


def _named_rows(named: NamedSet) -> pd.DataFrame:
    path = named.root / layout.FOLDS_NAME
    table = dataset.read_folds(path)
    if named.fold is not None:
        table = table[table["fold"] == named.fold]
        if not len(table):
            given = f"{named.name}={named.root}:{named.fold}"
            raise SettingError("validate_on", given, f"{path} has no fold {named.fold}; choose another fold")
    return dataset.rows_to_validate(table)


def loading_options(workers: int, *, on_gpu: bool) -> dict[str, Any]:
    """The options of all loaders; `workers` < 0: this machine's cores, shared by its ranks, up to 16 each.

    Raises:
        UserError: see `dfdc.processes.check_temp_folder`.
    """
    if workers < 0:
        workers = max(1, min(16, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    if workers:
        check_temp_folder()
    return {
        "num_workers": workers,
        "collate_fn": dataset.collate,
        "pin_memory": on_gpu,
        "persistent_workers": workers > 0,
        "worker_init_fn": start_loader_worker,
        "generator": torch.Generator(),  # separate, so that the loader does not advance the training's generator
    }


def is_end_of_loader(error: BaseException) -> bool:
    """Whether PyTorch says by this error that a loader process died; it has no class of its own."""
    return type(error) is RuntimeError and str(error).startswith("DataLoader worker (pid")


def start_loader_worker(_: int) -> None:
    """Limit a loader process to one thread, because together the loaders use all cores.

    OpenCV's thread limit is inherited by the fork. Setting it here could wait forever for threads of the parent.
    If all processes of a job receive a SIGTERM, the parent saves its state and ends its loaders. The loaders therefore
    keep running for a while, and end by themselves if the parent does not end them.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
    torch.set_num_threads(1)


def _summary(
    train_rows: pd.DataFrame, held_out: pd.DataFrame, others: list[tuple[NamedSet, pd.DataFrame]], root: Path
) -> str:
    """For the first line of the log: the number of crops, and of unchanged fake crops (label noise)."""
    unchanged, masks = dataset.unchanged_share(train_rows, root)
    noise = "no masks, so the number of unchanged fake crops is unknown"
    if masks:
        noise = f"{unchanged} of {masks} fake crops ({unchanged / masks:.1%}) show no change"
    more = "".join(f", {len(rows)} of set {named.name}" for named, rows in others)
    for named, rows in others:
        if named.root.resolve() == root.resolve() and set(rows["video"]) & set(train_rows["video"]):
            more += f"; set {named.name} contains training videos"
    reals = int((train_rows["label"] == 0).sum())
    return f"{len(train_rows)} crops to train on ({reals} real), {len(held_out)} to validate on{more}; {noise}"
