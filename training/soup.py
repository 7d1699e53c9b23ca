"""The mean of several checkpoints of a run, with the metrics of the held-out fold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from dfdc.artifacts import sha256_of
from dfdc.command_line import SettingError, UsageError, setting
from dfdc.devices import resolve_device
from networks import checkpoint
from networks.checkpoint import Checkpoint, read_checkpoint
from networks.holdout import common_holdout
from networks.model import build_network
from training import dataset, engine, loading
from training.arguments import SoupSettings, find_folds
from training.config import NormalizeConfig
from training.distributed import Ranks
from training.records import Metrics
from training.saving import balanced_loss

_NAME = re.compile(r"(.+)_(\d+)(_ema)?")


def make_soup(settings: SoupSettings) -> None:
    """Write the mean of the checkpoints, and print its metrics and theirs.

    Raises:
        UserError: the checkpoints have no mean, the mean can't be validated, or the file already exists.
    """
    name, members = read_members(settings.checkpoints)
    fold = fold_of(name) if settings.fold is None else settings.fold
    output = settings.output or settings.checkpoints[0].with_name(f"{name}_soup")
    if output.exists():
        raise UsageError(f"{output} already exists; name another file with {setting('output')}")
    newest = max(members, key=lambda member: member.epoch)
    holdout = common_holdout([member.holdout for member in members])
    model = build_network(newest.spec.network, newest.spec.encoder)
    mean = mean_weights(members, model)
    soup = replace(newest, path=output, state_dict=mean, training=None, holdout=holdout)
    checkpoint.load_weights(model, soup)
    metrics = validate(settings, fold, soup, model).metrics["video"]
    names = [member.path.name for member in members]
    save = partial(checkpoint.save_checkpoint, output, model, soup.spec, holdout=holdout, average_of=names)
    save(epoch=soup.epoch, bce_best=balanced_loss(metrics), metrics=metrics)
    width = max(map(len, [*names, output.name]))
    print(f"{'':{width}}  balanced log loss     AUC")
    for member in members:
        print(_row(member.path.name, member.metrics, width))
    print(_row(output.name, metrics, width))
    print(f"written: {output}")


def read_members(paths: Sequence[Path]) -> tuple[str, list[Checkpoint]]:
    """The name of the run, and its checkpoints.

    Raises:
        UsageError: there are fewer than two, a repeated one, or some of different runs or specifications.
        CheckpointError: a checkpoint can't be read.
    """
    if len(paths) < 2:
        raise UsageError(f"{len(paths)} checkpoint given; give two or more")
    names = [path.name for path in paths]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError(f"a checkpoint is given twice: {', '.join(names)}")
    matches = [_NAME.fullmatch(name) for name in names]
    strange = [name for name, match in zip(names, matches, strict=True) if not match]
    if strange:
        raise UsageError(f"{strange[0]}: the checkpoint of an epoch is expected, e.g. RUN_30 or RUN_30_ema")
    runs = sorted({match[1] for match in matches if match})
    if len(runs) > 1:
        raise UsageError(f"the checkpoints are of {len(runs)} runs ({', '.join(runs)}); give checkpoints of one run")
    members = [read_checkpoint(path) for path in paths]
    for member in members[1:]:
        if member.spec != members[0].spec:
            raise UsageError(
                f"{member.path} has the specification {member.spec}, but {members[0].path} has {members[0].spec}"
            )
    return runs[0], members


def fold_of(name: str) -> int:
    """The fold that a run held out, read from the run's name.

    Raises:
        UsageError: the name does not end in a fold.
    """
    fold = name.rpartition("_")[2]
    if not fold.isdecimal():
        raise UsageError(f"the name {name} does not contain the held-out fold; give {setting('fold')}")
    return int(fold)


def mean_weights(members: Sequence[Checkpoint], model: nn.Module) -> dict[str, torch.Tensor]:
    """The mean of each weight and statistic, computed in float64; counters are copied from the last member.

    The statistics of batch norm are averaged too. Izmailov et al. recompute them from the training crops.

    Args:
        model: their network, which gets the weights of the last member.

    Raises:
        CheckpointError: weights of a member do not fit the network.
    """
    states = []
    for member in members:
        checkpoint.load_weights(model, member)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    mean = states[-1]
    for name, value in states[0].items():
        if value.is_floating_point():
            total = torch.stack([state[name].double() for state in states]).mean(dim=0)
            mean[name] = total.to(value.dtype)
    return mean


def validate(settings: SoupSettings, fold: int, soup: Checkpoint, model: nn.Module) -> engine.Scored:
    """Score the held-out fold with `model`, like the validation after an epoch."""
    device = resolve_device(settings.device)
    spec, held = soup.spec, soup.holdout
    folds_path = find_folds(settings.data_dir, settings.folds_csv)
    _, rows = dataset.split_folds(dataset.read_folds(folds_path), fold, folds_path)
    if held and held.fold != fold and held.folds_sha256 == sha256_of(folds_path):
        known = f"these checkpoints were trained on it; of {folds_path}, they held out fold {held.fold}"
        raise SettingError("fold", fold, f"{known}: give {setting('fold')} {held.fold}")
    dataset.check_crops(rows, settings.data_dir / settings.crops_dir, folds_path)
    root, part = settings.data_dir, spec.margin_part
    crops = dataset.CropDataset(rows, root, settings.crops_dir, spec.size, train=False, margin_part=part)
    options = loading.loading_options(settings.workers, on_gpu=device.startswith("cuda"))
    loader = DataLoader(crops, batch_size=settings.batch_size, **options)
    normalize = NormalizeConfig(mean=spec.normalize.mean, std=spec.normalize.std)
    inference = engine.Inference(normalize, Ranks(device=device), max_failed=settings.max_failed)
    model = model.to(device).to(memory_format=torch.channels_last)
    return engine.validate(inference, model, engine.ValidationSet("", rows, loader))


def _row(name: str, metrics: Metrics, width: int) -> str:
    values = [metrics.get("log_loss_balanced"), metrics.get("auc")]
    loss, auc = (f"{value:.4f}" if value is not None else "-" for value in values)
    return f"{name:{width}}  {loss:>17}  {auc:>6}"
