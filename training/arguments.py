"""The command line of the trainer: the flags, parsed into one dataclass."""

# ruff: noqa: RUF009 (`flag` returns a new field at each call, like dataclasses.field)
from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from dfdc import layout
from dfdc.command_line import UsageError
from dfdc.devices import DEVICE_HELP
from dfdc.imaging import MARGIN_PART

_SET_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class NamedSet:
    """A parsed --validate-on value: NAME=DATA_ROOT[:fold]."""

    name: str
    root: Path
    fold: int | None


def flag(help: str, default: Any = None, **options: Any) -> Any:
    """A dataclass field that `add_flags` turns into a flag; `options`: further arguments of `add_argument`."""
    return field(metadata={"help": help, "default": default, **options})


def add_flags(parser: argparse.ArgumentParser, settings: type[RunSettings | SoupSettings]) -> None:
    """Add one flag for each field of `settings`."""
    kinds = get_type_hints(settings)
    for one in fields(settings):
        options, kind = dict(one.metadata), kinds[one.name]
        names = options.pop("names", [f"--{one.name.replace('_', '-')}"])
        # The type of `X | None` and `list[X]` is X.
        options |= {"action": "store_true"} if kind is bool else {"type": (*get_args(kind), kind)[0]}
        parser.add_argument(*names, **options)


@dataclass(frozen=True)
class RunSettings:
    """The parsed command line: each field is the flag of that name. All of them are logged."""

    config: Path = flag("the configuration file (default: configs/b7.json)", Path("configs/b7.json"))
    set: list[str] = flag(
        "override one configuration key, e.g. optimizer.learning_rate=0.005; repeatable",
        default=[],
        action="append",
        metavar="KEY=VALUE",
    )
    data_dir: Path = flag("the preprocessed dataset (required)", required=True, metavar="DATA_ROOT")
    crops_dir: str = flag("the crops folder inside DATA_ROOT (default: crops)", layout.CROPS_DIR)
    folds_csv: Path = flag(
        "the folds file; DATA_ROOT is searched before the working directory (default: folds.csv)",
        Path(layout.FOLDS_NAME),
    )
    fold: int = flag("hold out this fold for validation (default: 0)", 0)
    validate_on: list[str] = flag(
        "also validate on another preprocessed dataset, or one fold of it; repeatable",
        default=[],
        action="append",
        metavar="NAME=DATA_ROOT[:FOLD]",
    )
    seed: int = flag("seed of the weights, order, sampling, dropout and augmentation (default: 777)", 777)
    prefix: str = flag("start the names of all files of this run with this text (default: classifier_)", "classifier_")
    output_dir: Path = flag("write checkpoints to this folder (default: weights)", Path("weights"))
    log_dir: Path = flag("write logs to this folder (default: logs)", Path("logs"))
    resume: str | None = flag(
        "auto: resume from this run's _last checkpoint, or start it; FILE: the old name of --init-from (default: off)",
        metavar="auto|FILE",
    )
    init_from: Path | None = flag(
        "start a new run from the weights of this checkpoint; if the run already has a _last, resume from that",
        metavar="FILE",
    )
    pretrained_path: Path | None = flag("load the encoder weights from this file (default: download)", metavar="FILE")
    epochs: int | None = flag("short for --set epochs=N", metavar="N")
    batch_size: int | None = flag("crops per GPU; short for --set batch_size=N", metavar="N")
    label_smoothing: float | None = flag("short for --set label_smoothing=X", metavar="X")
    freeze_epochs: int = flag("train only the last layer in the first N epochs (default: 0)", 0, metavar="N")
    test_every: int = flag("validate every N epochs (default: 1)", 1, metavar="N")
    save_every: float = flag(
        "also save _last within an epoch, every so many minutes (default: 10; 0: only after epochs)",
        10.0,
        metavar="MINUTES",
    )
    keep: int | None = flag("keep the checkpoints of the newest N and the best N epochs (default: all)", metavar="N")
    max_failed: float = flag(
        "stop if more than this share of an epoch's crops can't be read (default: 0.05)", 0.05, metavar="FRACTION"
    )
    no_hardcore: bool = flag("do not black out parts of the face (default: off)", False)
    no_oversample: bool = flag("use each crop once per epoch, without balancing the classes (default: off)", False)
    only_changed_frames: bool = flag("train only on fake crops whose mask shows a change (default: off)", False)
    padding_part: int = flag(
        f"crop with a margin of 1/N of the face; larger N is tighter (default: {MARGIN_PART}, unchanged crops)",
        default=MARGIN_PART,
        metavar="N",
    )
    workers: int = flag("loader processes per GPU; 0: none (default: the cores, shared by the GPUs)", -1, metavar="N")
    device: str = flag(DEVICE_HELP, "auto")
    local_rank: int | None = flag(argparse.SUPPRESS, names=("--local_rank", "--local-rank"))  # set by old launchers
    augmentation_grid: Path | None = flag("only draw augmented crops to this PNG, without training", metavar="FILE")

    @property
    def named_sets(self) -> list[NamedSet]:
        """The sets of --validate-on.

        Raises:
            UsageError: a value is invalid, or a name is given twice.
        """
        named = [parse_named_set(text) for text in self.validate_on]
        if len({one.name for one in named}) < len(named):
            raise UsageError(f"--validate-on {', '.join(self.validate_on)}: the same name is given twice")
        return named

    @property
    def folds_path(self) -> Path:
        """The path of --folds-csv; DATA_ROOT is searched first."""
        return find_folds(self.data_dir, self.folds_csv)


@dataclass(frozen=True)
class SoupSettings:
    """The parsed command line of average_checkpoints.py: each field is the flag of that name."""

    checkpoints: list[Path] = flag(
        "checkpoints of one run, e.g. RUN_30 or RUN_30_ema", names=("checkpoints",), nargs="+", metavar="CHECKPOINT"
    )
    data_dir: Path = flag("the preprocessed dataset (required)", required=True, metavar="DATA_ROOT")
    crops_dir: str = flag("the crops folder inside DATA_ROOT (default: crops)", layout.CROPS_DIR)
    folds_csv: Path = flag(
        "the folds file; DATA_ROOT is searched before the working directory (default: folds.csv)",
        Path(layout.FOLDS_NAME),
    )
    fold: int | None = flag("the fold that the run held out (default: the last number of its name)")
    output: Path | None = flag(
        "write the average to this file (default: <run>_soup beside the first checkpoint)", metavar="FILE"
    )
    batch_size: int = flag("crops scored at once (default: 16)", 16, metavar="N")
    workers: int = flag("loader processes; 0: none (default: one per core, up to 16)", -1, metavar="N")
    max_failed: float = flag(
        "stop if more than this share of the crops can't be read (default: 0.05)", 0.05, metavar="FRACTION"
    )
    device: str = flag(DEVICE_HELP, "auto")


def find_folds(data_dir: Path, folds_csv: Path) -> Path:
    """The path of a folds.csv: inside DATA_ROOT, or else relative to the working directory."""
    inside = data_dir / folds_csv
    return folds_csv if folds_csv.is_file() and not inside.is_file() else inside


def parse_named_set(text: str) -> NamedSet:
    """Parse `NAME=DATA_ROOT` or `NAME=DATA_ROOT:fold`; the fold is the digits after the last colon.

    Raises:
        UsageError: the name or the folder is missing, or the name contains invalid characters.
    """
    name, _, place = text.partition("=")
    root, colon, fold = place.rpartition(":")
    if not colon or not fold.isdecimal():
        root, fold = place, ""
    if not _SET_NAME.fullmatch(name) or not root:
        forms = "NAME=DATA_ROOT or NAME=DATA_ROOT:FOLD is expected (NAME may contain A-Z a-z 0-9 _ -)"
        raise UsageError(f"--validate-on {text}: {forms}")
    return NamedSet(name, Path(root), int(fold) if fold else None)


def parse_arguments(description: str | None, argv: Sequence[str] | None) -> RunSettings:
    """Parse the command line of train_classifier.py; raises UsageError for an invalid value."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_flags(parser, RunSettings)
    args = parser.parse_args(argv)
    least_values = {"seed": 0, "freeze_epochs": 0, "test_every": 1, "save_every": 0, "workers": -1, "max_failed": 0}
    least_values |= {"padding_part": MARGIN_PART} | ({} if args.keep is None else {"keep": 1})
    for name, least in least_values.items():
        if not getattr(args, name) >= least:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(args, name)}: {max(least, 0)} or more is expected")
    if args.max_failed > 1:
        raise UsageError(f"--max-failed {args.max_failed}: a number from 0 to 1 is expected")
    if args.augmentation_grid and args.augmentation_grid.suffix.lower() != ".png":
        raise UsageError(f"--augmentation-grid {args.augmentation_grid}: a file name ending in .png is expected")
    if "/" in args.prefix:
        raise UsageError(
            f"--prefix {args.prefix}: it starts file names and can't contain a /; name a folder with --output-dir"
        )
    if args.resume and args.resume != "auto":
        if args.init_from:
            raise UsageError("--resume FILE is the old name of --init-from FILE; give only one of them")
        args.init_from, args.resume = Path(args.resume), None
    return RunSettings(**vars(args))
