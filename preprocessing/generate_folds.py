"""Step 5: list every crop with its label and fold -> DATA_ROOT/folds.csv.

    python preprocessing/generate_folds.py --root-dir DATA_ROOT --out folds.csv

Each fold is a contiguous block of whole parts, because two parts share fewer people than the videos of one part.
With the 50 parts of the full dataset and 16 folds, fold 0 holds parts 0-2. An original, its fakes, and the videos
whose faces these show (donors) share one fold. Training holds out one fold.

With --val-ids, fold 0 holds only the listed videos. Their originals, fakes and donors are excluded from the file, and
the other videos are in folds 1, 2, ... .

Later runs keep the options and fold numbers of the first run, so that training never includes a held-out video by
accident. To change them, pass --force and the new option.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dfdc import layout
from dfdc.command_line import UsageError, run_main
from dfdc.identity import regular
from dfdc.step_command import RunOptions, step_parser


def read_val_ids(path: Path) -> tuple[str, ...]:
    """Return sorted video ids from a file (one per line, with or without suffix) or from a folder of videos.

    Raises:
        UsageError: the file can't be read, or lists no video.
    """
    if path.is_dir():
        names = [video.name for video in layout.list_videos(path)]
    else:
        try:
            regular(path)
            names = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--val-ids {path}: can't be read ({error})") from None
    ids = {layout.video_id(name.strip()) for name in names if name.strip()}
    if not ids:
        raise UsageError(
            f"--val-ids {path}: it lists no video; pass a file with one id per line, or a folder of videos"
        )
    return tuple(sorted(ids))


def read_similar(text: str) -> int | None:
    """Parse `--similar` (argparse type): a number of bits, or None for off."""
    if text == "off":
        return None
    if not text.isdecimal() or int(text) > 64:
        raise argparse.ArgumentTypeError(f"{text!r} is neither off nor a number of bits from 0 to 64")
    return int(text)


def parse_args(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the parsed arguments, and the fields of `Options` set on the command line.

    Raises:
        UsageError: a value is invalid.
    """
    parser = step_parser(__doc__, crops=True, workers=False)
    add, unsaid = parser.add_argument, argparse.SUPPRESS
    out = "file to write; a relative path is relative to DATA_ROOT (default: folds.csv)"
    add("--out", type=Path, default=Path(layout.FOLDS_NAME), metavar="FILE", help=out)
    add("--n-splits", "--n_splits", type=int, default=unsaid, help="number of folds, 2 or more (default: 16)")
    add("--seed", type=int, default=unsaid, help="seed of the row order (default: 777)")
    one = (
        "hold out exactly these videos: a file with one video id per line, or a folder of videos; none: remove "
        "such a hold-out (default: none)"
    )
    add("--val-ids", type=Path, default=unsaid, metavar="FILE", help=one)
    similar = (
        "largest hash distance, of 64 bits, at which crops with the same colours in two folds are a leak "
        "(default: 10). off: report only identical pixels"
    )
    add("--similar", type=read_similar, default=unsaid, metavar="BITS", help=similar)
    check = "check the options, including against those of folds.csv, then exit"
    add("--check-options", action="store_true", help=check)
    args = parser.parse_args(argv)
    # Always take crops_dir from the command line: steps 2 to 4 don't store the value of the first run.
    options = ("crops_dir", "n_splits", "seed", "similar", "val_ids")
    given = {name: getattr(args, name) for name in options if hasattr(args, name)}
    if given.get("n_splits", 2) < 2:
        raise UsageError(f"--n-splits {args.n_splits}: at least 2 folds are needed, one of them as hold-out")
    if given.get("seed", 0) < 0:
        raise UsageError(f"--seed {args.seed}: give a number of 0 or more")
    if "val_ids" in given:
        given["val_ids"] = None if str(args.val_ids) == "none" else read_val_ids(args.val_ids)
    return args, given


def main(argv: Sequence[str] | None = None) -> int:
    args, given = parse_args(argv)
    from preprocessing.folds_step import FoldsStep  # heavy import: delayed until the arguments are parsed

    step = FoldsStep(args.root_dir, args.out, given)
    if args.check_options:
        step.check_options(force=args.force)
        return 0
    return step.run(RunOptions(force=args.force))


if __name__ == "__main__":
    run_main(main)
