"""The trainer's command line: its flags, and what they said as one object."""

# ruff: noqa: RUF009 (`flag` makes a field anew each time, as dataclasses.field does)
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
    """What --validate-on gave: NAME=DATA_ROOT[:fold]."""

    name: str
    root: Path
    fold: int | None


def flag(help: str, default: Any = None, **options: Any) -> Any:
    """A field of settings that is a flag of its name and type; `options`: more of argparse's, see `add_flags`."""
    return field(metadata={"help": help, "default": default, **options})


def add_flags(parser: argparse.ArgumentParser, settings: type[RunSettings | SoupSettings]) -> None:
    """Add the flags that the fields of `settings` stand for."""
    kinds = get_type_hints(settings)
    for one in fields(settings):
        options, kind = dict(one.metadata), kinds[one.name]
        names = options.pop("names", [f"--{one.name.replace('_', '-')}"])
        # Of `X | None` and `list[X]` an X is read.
        options |= {"action": "store_true"} if kind is bool else {"type": (*get_args(kind), kind)[0]}
        parser.add_argument(*names, **options)


@dataclass(frozen=True)
class RunSettings:
    """What the command line said: each field is the flag of its name. The log keeps all of them."""

    config: Path = flag("settings (configs/b7.json)", Path("configs/b7.json"))
    set: list[str] = flag(
        "a key of the configuration, such as optimizer.learning_rate=0.005; may be given several times",
        default=[],
        action="append",
        metavar="KEY=VALUE",
    )
    data_dir: Path = flag("where preprocessing wrote", required=True, metavar="DATA_ROOT")
    crops_dir: str = flag("folder of the crops, in DATA_ROOT (crops)", layout.CROPS_DIR)
    folds_csv: Path = flag("a relative path is looked for in DATA_ROOT, then here (folds.csv)", Path(layout.FOLDS_NAME))
    fold: int = flag("the fold held out for validation (0)", 0)
    validate_on: list[str] = flag(
        "another preprocessed data set, or a fold of it, to validate on each epoch; may be given several times",
        default=[],
        action="append",
        metavar="NAME=DATA_ROOT[:FOLD]",
    )
    seed: int = flag("decides weights, order, draws and augmentation (777)", 777)
    prefix: str = flag("begins the names of all files of this run", "classifier_")
    output_dir: Path = flag("for checkpoints (weights)", Path("weights"))
    log_dir: Path = flag("for logs (logs)", Path("logs"))
    resume: str | None = flag(
        "auto: go on with this run's _last, or begin; FILE: the old name of --init-from", metavar="auto|FILE"
    )
    init_from: Path | None = flag(
        "begin a new run, where there is none of this name, with the weights of this checkpoint; once the run has "
        "a _last, it goes on from that",
        metavar="FILE",
    )
    pretrained_path: Path | None = flag("encoder weights from a file, where there is no internet", metavar="FILE")
    epochs: int | None = flag("short for --set epochs=N", metavar="N")
    batch_size: int | None = flag("per GPU; short for --set batch_size=N", metavar="N")
    label_smoothing: float | None = flag("short for --set label_smoothing=X", metavar="X")
    freeze_epochs: int = flag("train only the last layer in the first N epochs (0)", 0, metavar="N")
    test_every: int = flag("validate every N epochs (1)", 1, metavar="N")
    save_every: float = flag("write _last within an epoch, too (10; 0: only after epochs)", 10.0, metavar="MINUTES")
    keep: int | None = flag("keep the checkpoints of the newest N and the best N epochs (all)", metavar="N")
    max_failed: float = flag("stop if a larger part of an epoch's crops can't be read (0.05)", 0.05, metavar="FRACTION")
    no_hardcore: bool = flag("no blacking out of parts of the face", False)
    no_oversample: bool = flag("an epoch is every crop once, no balanced draw", False)
    only_changed_frames: bool = flag("train on a fake crop only where its mask shows a change", False)
    padding_part: int = flag(
        f"margin as a part 1/N of the face; a larger N is tighter ({MARGIN_PART}: crops as they are)",
        default=MARGIN_PART,
        metavar="N",
    )
    workers: int = flag("loader processes for each GPU (the cores shared among them; 0: none)", -1, metavar="N")
    device: str = flag(DEVICE_HELP, "auto")
    local_rank: int | None = flag(argparse.SUPPRESS, names=("--local_rank", "--local-rank"))  # given by old launchers
    augmentation_grid: Path | None = flag("only draw what augmentation does to some crops, to this PNG", metavar="FILE")

    @property
    def named_sets(self) -> list[NamedSet]:
        """The sets of --validate-on.

        Raises:
            UsageError: a text that is none, or a name that is given twice.
        """
        named = [parse_named_set(text) for text in self.validate_on]
        if len({one.name for one in named}) < len(named):
            raise UsageError(f"--validate-on {', '.join(self.validate_on)}: the same name is given twice")
        return named

    @property
    def folds_path(self) -> Path:
        """--folds-csv, looked for in DATA_ROOT first."""
        return find_folds(self.data_dir, self.folds_csv)


@dataclass(frozen=True)
class SoupSettings:
    """What the command line of average_checkpoints.py said: each field is the flag of its name."""

    checkpoints: list[Path] = flag(
        "epochs of one run: RUN_30, or RUN_30_ema", names=("checkpoints",), nargs="+", metavar="CHECKPOINT"
    )
    data_dir: Path = flag("where preprocessing wrote", required=True, metavar="DATA_ROOT")
    crops_dir: str = flag("folder of the crops, in DATA_ROOT (crops)", layout.CROPS_DIR)
    folds_csv: Path = flag("in DATA_ROOT, or here (folds.csv)", Path(layout.FOLDS_NAME))
    fold: int | None = flag("the fold that the run held out (the last number of its name)")
    output: Path | None = flag("(<run>_soup beside the first checkpoint)", metavar="FILE")
    batch_size: int = flag("crops that are scored at once (16)", 16, metavar="N")
    workers: int = flag("loader processes (all cores; 0: none)", -1, metavar="N")
    max_failed: float = flag("stop if a larger part can't be read (0.05)", 0.05, metavar="FRACTION")
    device: str = flag(DEVICE_HELP, "auto")


def find_folds(data_dir: Path, folds_csv: Path) -> Path:
    """A folds.csv by its path, looked for in DATA_ROOT first, then here."""
    inside = data_dir / folds_csv
    return folds_csv if folds_csv.is_file() and not inside.is_file() else inside


def parse_named_set(text: str) -> NamedSet:
    """`NAME=DATA_ROOT` or `NAME=DATA_ROOT:fold`; a fold is digits after the last colon.

    Raises:
        UsageError: no name, a name with other characters than letters, digits, - and _, or no folder.
    """
    name, _, place = text.partition("=")
    root, colon, fold = place.rpartition(":")
    if not colon or not fold.isdecimal():
        root, fold = place, ""
    if not _SET_NAME.fullmatch(name) or not root:
        forms = "NAME=DATA_ROOT or NAME=DATA_ROOT:FOLD is expected (name: A-Z a-z 0-9 _ -)"
        raise UsageError(f"--validate-on {text}: {forms}")
    return NamedSet(name, Path(root), int(fold) if fold else None)


def parse_arguments(description: str | None, argv: Sequence[str] | None) -> RunSettings:
    """The command line of train_classifier.py; raises UsageError for a value that can't be used."""
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
        raise UsageError(f"--max-failed {args.max_failed}: 1 at most is expected")
    if args.augmentation_grid and args.augmentation_grid.suffix.lower() != ".png":
        raise UsageError(f"--augmentation-grid {args.augmentation_grid}: a name that ends in .png is expected")
    if "/" in args.prefix:
        raise UsageError(
            f"--prefix {args.prefix}: it begins file names and can't hold a /; --output-dir names a folder"
        )
    if args.resume and args.resume != "auto":
        if args.init_from:
            raise UsageError("--resume FILE is the old name of --init-from FILE; give one of them")
        args.init_from, args.resume = Path(args.resume), None
    return RunSettings(**vars(args))
