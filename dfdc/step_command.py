"""The command line of a preprocessing step; light, so that `--help` comes at once."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from dfdc.command_line import SettingError
from dfdc.devices import DEVICE_HELP


@dataclass(frozen=True)
class RunOptions:
    """How a step is run; none of it decides what the artifacts hold.

    Attributes:
        workers: processes; 0 for what suits the machine.
        device: "auto", "cpu", "cuda" or "cuda:N"; None for a step that needs no such choice.
        force: redo what is complete.
        max_failed: the part of the videos (0 to 1) that may fail before the step counts as failed.
        prune: remove artifacts of videos that no metadata.json names; the parts named here are gone for good. None:
            leave them.

    Raises:
        SettingError: a value that can't be used.
    """

    workers: int = 0
    device: str | None = None
    force: bool = False
    max_failed: float = 0.05
    prune: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise SettingError("workers", self.workers, "give a number from 1 on, or leave it out")
        if not 0 <= self.max_failed <= 1:
            raise SettingError("max_failed", self.max_failed, "a fraction from 0 to 1 is expected, such as 0.05")

    @classmethod
    def of(cls, args: argparse.Namespace) -> RunOptions:
        """What a command line says, parsed by `step_parser`."""
        prune = None if args.prune is None else tuple(args.prune)
        return cls(args.workers, getattr(args, "device", None), args.force, args.max_failed, prune)


def step_parser(
    doc: str | None, *, crops: bool = False, device: bool = False, png: bool = False, workers: bool = True
) -> argparse.ArgumentParser:
    """The arguments of a step; `doc` is its docstring, `workers` whether it makes an artifact of each video."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "folder in which the dfdc_train_part_* folders lie; artifacts are written there"
    parser.add_argument("--root-dir", type=Path, required=True, metavar="DATA_ROOT", help=where)
    if crops:
        parser.add_argument("--crops-dir", default="crops", help="folder of the crops, in DATA_ROOT (crops)")
    if workers:
        many = "processes, at most one per core (all cores; where --device uses GPUs, one for each)"
        parser.add_argument("--workers", type=int, default=0, metavar="N", help=many)
    if device:
        parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    if png:
        level = "compression of the PNGs, all lossless: 0 (twice the size of 1) to 9 (a tenth smaller, and slow) (1)"
        parser.add_argument("--png-level", type=int, choices=range(10), default=1, metavar="0..9", help=level)
    parser.add_argument("--force", action="store_true", help="redo what is already complete")
    if not workers:
        return parser
    prune = (
        "remove this step's artifacts of videos that are in no metadata.json any more; if a part that folds.csv knows "
        "is not here now, only when that part is named: --prune PART"
    )
    parser.add_argument("--prune", nargs="*", metavar="PART", help=prune)
    failed = "exit with status 1 if a larger part of the videos fails (0.05)"
    parser.add_argument("--max-failed", type=float, default=0.05, metavar="FRACTION", help=failed)
    return parser
