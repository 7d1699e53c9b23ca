"""The trainer's command line: its flags, the configuration that comes of them, and advice in its terms."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfdc import layout
from dfdc.command_line import UsageError
from dfdc.devices import DEVICE_HELP
from dfdc.imaging import MARGIN_PART
from training.config import ConfigError, TrainConfig, load_config, parse_changes

if TYPE_CHECKING:
    from training.saving import RunFiles


def parse_arguments(description: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of train_classifier.py, checked.

    Raises:
        UsageError: a value that can't be used.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
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
    return args


def changes_asked(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of the configuration, by dotted key."""
    changes = parse_changes(args.set)
    for name in ("epochs", "batch_size", "label_smoothing"):
        value = getattr(args, name)
        if value is not None:
            if name in changes:
                raise UsageError(f"--{name.replace('_', '-')} and --set {name}=... are the same; give one of them")
            changes[name] = value
    return changes


def resolve_config(args: argparse.Namespace) -> TrainConfig:
    """The configuration file with the command line's changes, checked as a whole."""
    try:
        return load_config(args.config, changes_asked(args))
    except ConfigError as error:
        raise UsageError(str(error)) from None


def advise_after_not_finite(files: RunFiles, config: TrainConfig) -> str:
    """What to do after losses that were not finite."""
    half = config.optimizer.learning_rate / 2
    if not files.last.exists():
        return (
            f"There is no checkpoint of this run yet; begin with a smaller rate: --set optimizer.learning_rate={half:g}"
        )
    earlier = f" The one before it is {files.before}." if files.before.exists() else ""
    return (
        f"The last good checkpoint is {files.last}.{earlier} Go on from it with a smaller rate: "
        f"--resume auto --set optimizer.learning_rate={half:g}"
    )


def advise_after_out_of_memory(config: TrainConfig) -> str:
    """A smaller batch with more accumulation, which a run may go on with."""
    size = config.batch_size
    part = next((n for n in range(2, size + 1) if size % n == 0), None)
    if part is None:
        return "A batch is one crop already: take gradient_checkpointing, a smaller size, or another encoder"
    return (
        f"The same steps with less memory: --resume auto --batch-size {size // part} "
        f"--set accumulate={config.accumulate * part} (or --set gradient_checkpointing=true for a new run)"
    )
