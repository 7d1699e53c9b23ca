"""Average the weights of some checkpoints of one run (a "soup"), and validate the result.

    python training/average_checkpoints.py weights/RUN_30 weights/RUN_34 weights/RUN_38 --data-dir DATA_ROOT

Writes <run>_soup beside the first checkpoint: a checkpoint like any other, with the metrics of the held-out fold. After
Izmailov et al. 2018 (UAI) and Wortsman et al. 2022 (ICML): where late epochs lie around one minimum, their
mean lies nearer to it. Choose epochs by plot_loss.py, and compare: it may also be worse than the best of them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dfdc import command_line, layout
from dfdc.artifacts import sha256_of
from dfdc.command_line import UsageError
from dfdc.devices import DEVICE_HELP

if TYPE_CHECKING:
    import torch

    from networks.checkpoint import Checkpoint
    from training.engine import Scored

_NAME = re.compile(r"(.+)_(\d+)(_ema)?")


def read_members(paths: Sequence[Path]) -> tuple[str, list[Checkpoint]]:
    """The name of the run, and its checkpoints.

    Raises:
        UsageError: fewer than two, one twice, of different runs, or made for different pictures.
        CheckpointError: one can't be read.
    """
    from networks.checkpoint import read_checkpoint

    if len(paths) < 2:
        raise UsageError("give two checkpoints or more; the mean of one is itself")
    names = [path.name for path in paths]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError(f"a checkpoint is given twice: {', '.join(names)}")
    matches = [_NAME.fullmatch(name) for name in names]
    strange = [name for name, match in zip(names, matches, strict=True) if not match]
    if strange:
        raise UsageError(f"{strange[0]}: the checkpoint of an epoch is expected, such as RUN_30 or RUN_30_ema")
    runs = sorted({match[1] for match in matches if match})
    if len(runs) > 1:
        raise UsageError(f"these are of {len(runs)} runs ({', '.join(runs)}); their weights have no common mean")
    members = [read_checkpoint(path) for path in paths]
    for member in members[1:]:
        if member.spec != members[0].spec:
            raise UsageError(f"{member.path} is made for {member.spec}, but {members[0].path} for {members[0].spec}")
    return runs[0], members


def fold_of(name: str) -> int:
    """The fold that a run held out, by its name.

    Raises:
        UsageError: it is not a name as train_classifier.py gives it.
    """
    fold = name.rpartition("_")[2]
    if not fold.isdecimal():
        raise UsageError(f"{name} does not say which fold the run held out; give --fold")
    return int(fold)


def mean_weights(members: Sequence[Checkpoint]) -> dict[str, torch.Tensor]:
    """The mean of each weight and statistic, summed in float64; counters are the last member's.

    Batch norm's statistics are averaged, too. Izmailov et al. compute them anew from the training crops.

    Raises:
        UsageError: the members have different weights.
    """
    import torch

    first = members[0].state_dict
    mean = {}
    for member in members[1:]:
        if member.state_dict.keys() != first.keys():
            raise UsageError(f"{member.path} has other weights than {members[0].path}")
    for name, value in first.items():
        if value.is_floating_point():
            total = torch.stack([member.state_dict[name].double() for member in members]).mean(dim=0)
            mean[name] = total.to(value.dtype)
        else:
            mean[name] = members[-1].state_dict[name]
    return mean


def validate(args: argparse.Namespace, soup: Checkpoint, model: torch.nn.Module) -> Scored:
    """Score the held-out fold with `model`, as training does after an epoch."""
    import torch
    from torch.utils.data import DataLoader

    from dfdc.devices import resolve_device
    from training import dataset, engine, loading
    from training.config import NormalizeConfig, TrainConfig
    from training.distributed import Ranks

    try:
        device = resolve_device(args.device)
    except ValueError as error:
        raise UsageError(str(error)) from None
    spec = soup.spec
    folds_path = loading.find_folds(args)
    _, rows = dataset.split_folds(dataset.read_folds(folds_path), args.fold, folds_path)
    held = soup.holdout
    if held and held.fold != args.fold and held.folds_sha256 == sha256_of(folds_path):
        raise UsageError(
            f"--fold {args.fold}: these checkpoints learned from it; of {folds_path} they held out fold {held.fold}: "
            f"give --fold {held.fold}"
        )
    dataset.check_crops(rows, args.data_dir / args.crops_dir, folds_path)
    crops = dataset.CropDataset(
        rows, args.data_dir, args.crops_dir, spec.size, train=False, margin_part=spec.margin_part
    )
    config = TrainConfig(
        network=spec.network, encoder=spec.encoder, size=spec.size, normalize=NormalizeConfig(spec.mean, spec.std)
    )
    model = model.to(device, memory_format=torch.channels_last)
    run = engine.Run(
        config,
        Ranks(device=device),
        0,
        model,
        torch.optim.SGD(model.parameters()),
        engine.make_scaler(device, None),
        None,
        1,
        lambda: False,
        args.max_failed,
    )
    options = loading.loading_options(args.workers, on_gpu=device.startswith("cuda"))
    loader = DataLoader(crops, batch_size=args.batch_size, **options)
    return engine.validate(run, model, engine.ValidationSet("", rows, loader))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="epochs of one run: RUN_30, or RUN_30_ema")
    add("--data-dir", type=Path, required=True, metavar="DATA_ROOT", help="where preprocessing wrote")
    add("--crops-dir", default=layout.CROPS_DIR, help="folder of the crops, in DATA_ROOT (crops)")
    add("--folds-csv", type=Path, default=Path(layout.FOLDS_NAME), help="in DATA_ROOT, or here (folds.csv)")
    add("--fold", type=int, help="the fold that the run held out (the last number of its name)")
    add("--output", type=Path, metavar="FILE", help="(<run>_soup beside the first checkpoint)")
    add("--batch-size", type=int, default=16, metavar="N", help="crops that are scored at once (16)")
    add("--workers", type=int, default=-1, metavar="N", help="loader processes (all cores; 0: none)")
    add("--max-failed", type=float, default=0.05, metavar="FRACTION", help="stop if a larger part can't be read (0.05)")
    add("--device", default="auto", help=DEVICE_HELP)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    from dataclasses import replace

    from networks import checkpoint
    from networks.holdout import common_holdout
    from networks.model import build_network
    from training.dataset import FoldsError
    from training.engine import TrainingError
    from training.saving import balanced_loss

    if args.batch_size < 1:
        raise UsageError(f"--batch-size {args.batch_size}: 1 or more is expected")
    try:
        name, members = read_members(args.checkpoints)
        if args.fold is None:
            args.fold = fold_of(name)
        output = args.output or args.checkpoints[0].with_name(f"{name}_soup")
        if output.exists():
            raise UsageError(f"{output} is there already; name another file by --output")
        newest = max(members, key=lambda member: member.epoch)
        holdout = common_holdout([member.holdout for member in members])
        soup = replace(newest, path=output, state_dict=mean_weights(members), training=None, holdout=holdout)
        model = build_network(soup.spec.network, soup.spec.encoder)
        checkpoint.load_weights(model, soup)
        metrics = validate(args, soup, model).metrics["video"]
        names = [member.path.name for member in members]
        checkpoint.save_checkpoint(
            output,
            model,
            soup.spec,
            epoch=soup.epoch,
            bce_best=balanced_loss(metrics),
            metrics=metrics,
            holdout=holdout,
            average_of=names,
        )
    except (checkpoint.CheckpointError, FoldsError) as error:
        raise UsageError(str(error)) from error
    except TrainingError as error:
        print(f"average_checkpoints: {error}", file=sys.stderr)
        return 1
    width = max(map(len, [*names, output.name]))
    print(f"{'':{width}}  balanced log loss     AUC")
    for member in members:
        print(_row(member.path.name, member.metrics, width))
    print(_row(output.name, metrics, width))
    print(f"written: {output}")
    return 0


def _row(name: str, metrics: dict[str, float], width: int) -> str:
    values = [metrics.get("log_loss_balanced"), metrics.get("auc")]
    loss, auc = (f"{value:.4f}" if value is not None else "-" for value in values)
    return f"{name:{width}}  {loss:>17}  {auc:>6}"


if __name__ == "__main__":
    command_line.run_main(main)
