"""The command line of a preprocessing step. Imports little, so that `--help` is fast."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from dfdc.command_line import PLACES, SettingError, add_ray_address, check_ray_address, setting
from dfdc.devices import DEVICE_HELP
from dfdc.shards import SHARD_HELP, WHOLE, Shard, parse_shard


@dataclass(frozen=True)
class RunOptions:
    """How to run a step; these options do not affect the content of artifacts.

    Attributes:
        workers: number of processes; 0 chooses it automatically.
        device: "auto", "cpu", "cuda" or "cuda:N"; None for a step without a device option.
        force: redo complete artifacts.
        max_failed: fraction of the videos (0 to 1) that may fail before the step fails.
        prune: remove artifacts of videos that are in no metadata.json; lists the parts that were removed for good.
            None keeps all artifacts.
        shard: the videos to process.
        engine: where the workers run, one of `dfdc.command_line.PLACES`.
        ray_address: see `dfdc.ray_connection.connected`.

    Raises:
        SettingError: a value is invalid.
    """

    workers: int = 0
    device: str | None = None
    force: bool = False
    max_failed: float = 0.05
    prune: tuple[str, ...] | None = None
    shard: Shard = WHOLE
    engine: str = "local"
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise SettingError("workers", self.workers, "use a number of at least 1, or omit it")
        if not 0 <= self.max_failed <= 1:
            raise SettingError("max_failed", self.max_failed, "expected a fraction from 0 to 1, such as 0.05")
        check_ray_address(self.engine, self.ray_address)
        if self.prune is not None and not self.shard.is_whole:
            advice = f"one shard can't prune for all; use {setting('prune')} without {setting('shard')}"
            raise SettingError("shard", str(self.shard), advice)

    @classmethod
    def of(cls, args: argparse.Namespace) -> RunOptions:
        """The options in `args`, parsed by `step_parser`."""
        prune = None if args.prune is None else tuple(args.prune)
        device = getattr(args, "device", None)
        where = args.shard, args.engine, args.ray_address
        return cls(args.workers, device, args.force, args.max_failed, prune, *where)


def step_parser(
    doc: str | None, *, crops: bool = False, device: bool = False, png: bool = False, workers: bool = True
) -> argparse.ArgumentParser:
    """The argument parser of a step; `doc` is its docstring, `workers` whether it creates one artifact per video."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "folder that contains the dfdc_train_part_* folders; artifacts are written there"
    parser.add_argument("--root-dir", type=Path, required=True, metavar="DATA_ROOT", help=where)
    if crops:
        parser.add_argument(
            "--crops-dir", default="crops", help="name of the crops folder in DATA_ROOT (default: crops)"
        )
    if workers:
        many = "number of processes, at most one per core (default: all cores; with GPUs, one per GPU)"
        parser.add_argument("--workers", type=int, default=0, metavar="N", help=many)
        where = "where they run: on this machine, or on a Ray cluster, see docs/cluster.md (default: local)"
        parser.add_argument("--engine", choices=PLACES, default="local", help=where)
        add_ray_address(parser.add_argument)
    if device:
        parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    if png:
        level = "lossless PNG compression, from 0 (twice the size of 1) to 9 (a tenth smaller, but slow) (default: 1)"
        parser.add_argument("--png-level", type=int, choices=range(10), default=1, metavar="0..9", help=level)
    folds = "write the file again, even if this changes existing folds and the hold-out"
    parser.add_argument("--force", action="store_true", help="redo complete artifacts" if workers else folds)
    if not workers:
        return parser
    prune = (
        "remove this step's artifacts of videos that are no longer in any metadata.json. If a part listed in "
        "folds.csv is missing, this requires naming it: --prune PART"
    )
    parser.add_argument("--prune", nargs="*", metavar="PART", help=prune)
    parser.add_argument("--shard", type=parse_shard, default=WHOLE, metavar="I/N", help=SHARD_HELP)
    failed = "exit with status 1 if a larger fraction of the videos fails (default: 0.05)"
    parser.add_argument("--max-failed", type=float, default=0.05, metavar="FRACTION", help=failed)
    return parser
