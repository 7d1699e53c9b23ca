"""Step 5: list every crop with its label and fold -> DATA_ROOT/folds.csv.

    python preprocessing/generate_folds.py --root-dir DATA_ROOT --out folds.csv

Whole parts go to folds, in contiguous blocks, since parts share fewer people than videos of one part do: with
the 50 parts of the full set and 16 folds, fold 0 holds parts 0-2. An original, its fakes, and the videos whose faces
these show (donors) stay together. Training holds out one fold.

With --val-ids, fold 0 is just the videos named there; their originals, fakes and donors are left out of the file, and
the others are folds 1, 2, ... .

Options and fold numbers are those of the first run until --force and another option change them, so that no video that
was held out is ever trained on by accident.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dfdc import layout
from dfdc.command_line import UsageError, run_main
from dfdc.step_command import RunOptions, step_parser


def read_val_ids(path: Path) -> tuple[str, ...]:
    """Video ids from a file (one a line, with or without suffix) or a folder of videos, sorted.

    Raises:
        UsageError: there are none.
    """
    if path.is_dir():
        names = [video.name for video in layout.list_videos(path)]
    else:
        try:
            names = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--val-ids {path}: can't be read ({error})") from None
    ids = {layout.video_id(name.strip()) for name in names if name.strip()}
    if not ids:
        raise UsageError(f"--val-ids {path}: no video is named there; give a file with one id a line, or a folder")
    return tuple(sorted(ids))


def read_similar(text: str) -> int | None:
    """`--similar`: bits, or None for off (argparse type)."""
    if text == "off":
        return None
    if not text.isdecimal() or int(text) > 64:
        raise argparse.ArgumentTypeError(f"{text!r} is neither off nor a number of bits from 0 to 64")
    return int(text)


def parse_args(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The command line, and of it the fields of `Options` that are given.

    Raises:
        UsageError: a value that can't be used.
    """
    parser = step_parser(__doc__, crops=True, workers=False)
    add, unsaid = parser.add_argument, argparse.SUPPRESS
    out = "where to write; a relative path is taken in DATA_ROOT (folds.csv)"
    add("--out", type=Path, default=Path(layout.FOLDS_NAME), metavar="FILE", help=out)
    add("--n-splits", "--n_splits", type=int, default=unsaid, help="number of folds, 2 or more (16)")
    add("--seed", type=int, default=unsaid, help="decides the order of the rows (777)")
    one = "hold out just these: a file with one video id a line, or a folder of videos; none takes such a hold-out back"
    add("--val-ids", type=Path, default=unsaid, metavar="FILE", help=one)
    similar = (
        "videos in two folds are a leak if the hashes of their crops differ in so many of 64 bits or fewer, and "
        "their colours agree; off: only the very same pixels are (10)"
    )
    add("--similar", type=read_similar, default=unsaid, metavar="BITS", help=similar)
    check = "check the options, and that they agree with those of folds.csv, and do no more"
    add("--check-options", action="store_true", help=check)
    args = parser.parse_args(argv)
    # The folder of the crops is not that of the first run: steps 2 to 4 do not know it.
    options = ("crops_dir", "n_splits", "seed", "similar", "val_ids")
    given = {name: getattr(args, name) for name in options if hasattr(args, name)}
    if given.get("n_splits", 2) < 2:
        raise UsageError(f"--n-splits {args.n_splits}: two folds or more are needed, one of them to hold out")
    if given.get("seed", 0) < 0:
        raise UsageError(f"--seed {args.seed}: give a number from 0 on")
    if "val_ids" in given:
        given["val_ids"] = None if str(args.val_ids) == "none" else read_val_ids(args.val_ids)
    return args, given


def main(argv: Sequence[str] | None = None) -> int:
    args, given = parse_args(argv)
    from preprocessing.folds_step import FoldsStep  # heavy: only once there is something to do

    step = FoldsStep(args.root_dir, args.out, given)
    if args.check_options:
        step.check_options(force=args.force)
        return 0
    return step.run(RunOptions(force=args.force))


if __name__ == "__main__":
    run_main(main)
