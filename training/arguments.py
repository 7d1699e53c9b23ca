"""The trainer's command line: its flags, and what they said as one object."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class RunSettings:
    """What the command line said: each field is the flag of its name, see --help. The log keeps all of them."""

    config: Path
    set: list[str]
    data_dir: Path
    crops_dir: str
    folds_csv: Path
    fold: int
    validate_on: list[str]
    seed: int
    prefix: str
    output_dir: Path
    log_dir: Path
    resume: str | None
    init_from: Path | None
    pretrained_path: Path | None
    epochs: int | None
    batch_size: int | None
    label_smoothing: float | None
    freeze_epochs: int
    test_every: int
    save_every: float
    keep: int | None
    max_failed: float
    no_hardcore: bool
    no_oversample: bool
    only_changed_frames: bool
    padding_part: int
    workers: int
    device: str
    local_rank: int | None
    augmentation_grid: Path | None

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
    """What the command line of average_checkpoints.py said: each field is the flag of its name, see --help."""

    checkpoints: list[Path]
    data_dir: Path
    crops_dir: str
    folds_csv: Path
    fold: int | None
    output: Path | None
    batch_size: int
    workers: int
    max_failed: float
    device: str


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
        raise UsageError(
            f"--validate-on {text}: NAME=DATA_ROOT or NAME=DATA_ROOT:FOLD is expected (name: A-Z a-z 0-9 _ -)"
        )
    return NamedSet(name, Path(root), int(fold) if fold else None)


def parse_arguments(description: str | None, argv: Sequence[str] | None) -> RunSettings:
    """The command line of train_classifier.py, checked.

    Raises:
        UsageError: a value that can't be used.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    _add_what_to_train_on(parser)
    _add_where_to_write_and_begin(parser)
    _add_how_to_train(parser)
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


def _add_what_to_train_on(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", type=Path, default=Path("configs/b7.json"), help="settings (configs/b7.json)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the configuration, such as optimizer.learning_rate=0.005; may be given several times",
    )
    add("--data-dir", type=Path, required=True, metavar="DATA_ROOT", help="where preprocessing wrote")
    add("--crops-dir", default=layout.CROPS_DIR, help="folder of the crops, in DATA_ROOT (crops)")
    add(
        "--folds-csv",
        type=Path,
        default=Path(layout.FOLDS_NAME),
        help="a relative path is looked for in DATA_ROOT, then here (folds.csv)",
    )
    add("--fold", type=int, default=0, help="the fold held out for validation (0)")
    add(
        "--validate-on",
        action="append",
        default=[],
        metavar="NAME=DATA_ROOT[:FOLD]",
        help="another preprocessed data set, or a fold of it, to validate on each epoch; may be given several times",
    )


def _add_where_to_write_and_begin(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seed", type=int, default=777, help="decides weights, order, draws and augmentation (777)")
    add("--prefix", default="classifier_", help="begins the names of all files of this run")
    add("--output-dir", type=Path, default=Path("weights"), help="for checkpoints (weights)")
    add("--log-dir", type=Path, default=Path("logs"), help="for logs (logs)")
    add(
        "--resume",
        metavar="auto|FILE",
        help="auto: go on with this run's _last, or begin; FILE: the old name of --init-from",
    )
    add(
        "--init-from",
        type=Path,
        metavar="FILE",
        help="begin a new run, where there is none of this name, with the weights of this checkpoint; once the run has "
        "a _last, it goes on from that",
    )
    add("--pretrained-path", type=Path, metavar="FILE", help="encoder weights from a file, where there is no internet")


def _add_how_to_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--epochs", type=int, metavar="N", help="short for --set epochs=N")
    add("--batch-size", type=int, metavar="N", help="per GPU; short for --set batch_size=N")
    add("--label-smoothing", type=float, metavar="X", help="short for --set label_smoothing=X")
    add("--freeze-epochs", type=int, default=0, metavar="N", help="train only the last layer in the first N epochs (0)")
    add("--test-every", type=int, default=1, metavar="N", help="validate every N epochs (1)")
    add(
        "--save-every",
        type=float,
        default=10.0,
        metavar="MINUTES",
        help="write _last within an epoch, too (10; 0: only after epochs)",
    )
    add("--keep", type=int, metavar="N", help="keep the checkpoints of the newest N and the best N epochs (all)")
    add(
        "--max-failed",
        type=float,
        default=0.05,
        metavar="FRACTION",
        help="stop if a larger part of an epoch's crops can't be read (0.05)",
    )
    add("--no-hardcore", action="store_true", help="no blacking out of parts of the face")
    add("--no-oversample", action="store_true", help="an epoch is every crop once, no balanced draw")
    add(
        "--only-changed-frames",
        action="store_true",
        help="train on a fake crop only where its mask shows a change",
    )
    add(
        "--padding-part",
        type=int,
        default=MARGIN_PART,
        metavar="N",
        help=f"margin as a part 1/N of the face; a larger N is tighter ({MARGIN_PART}: crops as they are)",
    )
    add(
        "--workers",
        type=int,
        default=-1,
        metavar="N",
        help="loader processes for each GPU (the cores shared among them; 0: none)",
    )
    add("--device", default="auto", help=DEVICE_HELP)
    add("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)  # given by old launchers
    add(
        "--augmentation-grid",
        type=Path,
        metavar="FILE",
        help="only draw what augmentation does to some crops, to this PNG",
    )
