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
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dfdc import artifacts, command_line, identity, layout, steps
from dfdc.command_line import UsageError
from dfdc.folds import FoldsFileError, FoldsRow, read_distinct
from dfdc.layout import FAKE, REAL, Dataset
from dfdc.ledger import Ledger
from dfdc.page import plural
from preprocessing.fold_assignment import FORCE, Assignment, Listing, assign_folds, hold_out
from preprocessing.folds_file import find_leaks, name_some, write_folds
from preprocessing.folds_listing import Checks, list_crops, open_checks
from preprocessing.folds_stamp import (
    Options,
    Stamp,
    adopt,
    choose_options,
    listed_digest,
    read_stamp,
    stamp_path,
)

STEP = "generate_folds"


class LeakError(Exception):
    """Folds that know of each other; the message lists the leaks."""


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


def read_rows(target: Path) -> list[FoldsRow]:
    """What the folds.csv `target` says; nothing if there is none.

    Raises:
        ValueError: it is no file that this step writes.
    """
    try:
        return read_distinct(target)
    except FileNotFoundError:
        return []
    except FoldsFileError as error:
        raise ValueError(error.reason) from None


def take_over(
    target: Path, dataset: Dataset, listings: Sequence[Listing], given: dict[str, Any], *, force: bool
) -> tuple[Options, Assignment]:
    """Options and folds where `target` has no stamp: those that it shows, or the first ones if there is no such file.

    Raises:
        UsageError: this step does not understand the file, or other options than its own are given.
    """
    try:
        rows = read_rows(target)
        if not rows:
            return Options(**given), Assignment()
        earlier, assignment = adopt(rows, dataset, [listing.video.id for listing in listings], given)
    except UsageError:
        raise
    except ValueError as error:
        if not force:
            raise UsageError(
                f"{target} is not what this step makes ({error}). Move it away, or replace it with {FORCE}"
            ) from None
        print(f"{target} is not what this step makes ({error}); it is replaced")
        return Options(**given), Assignment()
    held = (
        "" if earlier.val_ids is None else f"; fold 0, a hold-out of {plural(len(earlier.val_ids), 'video')}, stays one"
    )
    print(f"{target} has no stamp of this version: the folds are taken from the file itself{held}")
    return change_options(given, earlier, assignment, force=force)


def change_options(
    given: dict[str, Any], earlier: Options, assignment: Assignment, *, force: bool
) -> tuple[Options, Assignment]:
    """The earlier options with those that are `given`, and the folds that stay with them.

    Raises:
        UsageError: they differ, and that is not forced.
    """
    options = choose_options(given, earlier, force=force)
    if options.n_splits != earlier.n_splits:
        print(f"{options.n_splits} folds instead of {earlier.n_splits}: all are given out anew")
        assignment = Assignment()
    return options, assignment


def check_nothing_is_lost(target: Path, away: Mapping[str, str]) -> None:
    """Raise UsageError if `target` lists videos that are `away`: the reason why they can't be worked on now, by id."""
    if not away:
        return
    try:
        rows = read_rows(target)
    except ValueError as error:
        raise UsageError(f"{target} can't be understood any more ({error}); {FORCE} makes it anew") from None
    lost = [name for name in dict.fromkeys(row.video for row in rows) if name in away]
    if lost:
        shown = "".join(f"\n  {name}: {away[name]}" for name in lost[:5])
        raise UsageError(
            f"{target} lists {plural(len(lost), 'video')} that can't be looked at now. Bring them back, or leave them "
            f"out with {FORCE}. The first are:{shown}"
        )


def write(
    target: Path, dataset: Dataset, listings: Sequence[Listing], options: Options, assignment: Assignment, digest: str
) -> None:
    """Write folds.csv and its stamp, if no fold knows of another.

    Raises:
        LeakError: one does.
    """
    with artifacts.atomic_file(target) as temp:
        write_folds(temp, listings, options.seed)
        leaks = find_leaks(temp, dataset, listings, options.similar)
        if leaks:
            more = [f"... and {len(leaks) - 20} more"] if len(leaks) > 20 else []
            raise LeakError("\n  ".join(leaks[:20] + more))
        # Before the file has its name: a kill in between leaves a hold-out that is known, not one that is not.
        Stamp(options, assignment, digest, identity.fingerprint(temp)).write(stamp_path(target))


def print_table(listings: Sequence[Listing]) -> None:
    """Which parts each fold holds, and how much of either class."""
    print(f"{'fold':>4}  {'real':>6} {'fake':>6} videos  {'real':>9} {'fake':>9} crops  parts")
    for fold in sorted({listing.fold for listing in listings}):
        inside = [listing for listing in listings if listing.fold == fold]
        parts = sorted({listing.video.part for listing in inside}, key=layout.natural_key)
        shown = ", ".join(parts) if len(parts) <= 4 else f"{parts[0]} ... {parts[-1]} ({len(parts)} parts)"
        videos = {label: sum(x.video.label == label for x in inside) for label in (REAL, FAKE)}
        crops = {label: sum(len(x.crops) for x in inside if x.video.label == label) for label in (REAL, FAKE)}
        numbers = f"{videos[REAL]:>6} {videos[FAKE]:>6}         {crops[REAL]:>9} {crops[FAKE]:>9}"
        print(f"{fold:>4}  {numbers}        {shown}")


def print_notes(kept: Sequence[Listing], dropped: Sequence[Listing], notes: Sequence[str], ledger: Ledger) -> None:
    """What a person should know besides the table."""
    for note in notes:
        print(note)
    if dropped:
        names = name_some(sorted(listing.video.id for listing in dropped))
        print(f"left out, being of the families of the hold-out: {plural(len(dropped), 'video')} ({names})")
    if len({listing.fold for listing in kept}) < 2:
        print(
            "only one fold has crops, so that nothing is left to train on when it is held out; add another part, "
            "or name a hold-out with --val-ids"
        )
    first = Counter(listing.video.label for listing in kept if listing.fold == 0)
    lacking = [label for label in (REAL, FAKE) if not first[label]]
    if lacking:
        print(f"fold 0, which training holds out unless told otherwise, has no {' and no '.join(lacking)} video")
    counts = ledger.counts()
    if counts:
        print(
            f"  not listed: {plural(counts['skipped'], 'video')}, listed with a note: {counts['incomplete']}; "
            f"reasons: {ledger.path}"
        )


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
    parser = steps.step_parser(__doc__, crops=True, workers=False)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(layout.FOLDS_NAME),
        metavar="FILE",
        help="where to write; a relative path is taken in DATA_ROOT (folds.csv)",
    )
    first = Options()
    parser.add_argument("--n_splits", "--n-splits", type=int, help=f"number of folds, 2 or more ({first.n_splits})")
    parser.add_argument("--seed", type=int, help=f"decides the order of the rows ({first.seed})")
    parser.add_argument(
        "--val-ids",
        type=Path,
        metavar="FILE",
        help="hold out just these: a file with one video id a line, or a folder of videos; "
        "none takes such a hold-out back",
    )
    parser.add_argument(
        "--similar",
        type=read_similar,
        default=argparse.SUPPRESS,
        metavar="BITS",
        help="videos in two folds are a leak if the hashes of their crops differ in so many of 64 bits or fewer, and "
        f"their colours agree; off: only the very same pixels are ({first.similar})",
    )
    check = "check the options, and that they agree with those of folds.csv, and do no more"
    parser.add_argument("--check-options", action="store_true", help=check)
    args = parser.parse_args(argv)
    # Not that of the first run: steps 2 to 4 do not know it.
    given = {"crops_dir": args.crops_dir}
    given |= {name: getattr(args, name) for name in ("n_splits", "seed") if getattr(args, name) is not None}
    if hasattr(args, "similar"):
        given["similar"] = args.similar
    if given.get("n_splits", 2) < 2:
        raise UsageError(f"--n_splits {args.n_splits}: two folds or more are needed, one of them to hold out")
    if given.get("seed", 0) < 0:
        raise UsageError(f"--seed {args.seed}: give a number from 0 on")
    if args.val_ids is not None:
        given["val_ids"] = None if str(args.val_ids) == "none" else read_val_ids(args.val_ids)
    return args, given


@contextlib.contextmanager
def refusal_noted(ledger: Ledger, name: str) -> Iterator[None]:
    """Let the ledger, and so the page, say why folds.csv (`name`) was not written."""
    try:
        yield
    except UsageError as error:
        ledger.add(name, "failed", f"refused: {error}")
        ledger.finish()
        raise


def main(argv: Sequence[str] | None = None, open_checks: Callable[[Path, str], Checks] = open_checks) -> int:
    args, given = parse_args(argv)
    dataset = layout.load_dataset(args.root_dir)
    layout.check_crops_dir(args.crops_dir, dataset.parts)
    target = args.root_dir / args.out
    if target.exists() and not target.is_file():
        raise UsageError(f"--out {args.out}: {target} is no file; give the name of one")
    for path in (target, stamp_path(target)):
        artifacts.remove_leftovers(path.parent, of=path.name)
    stamp = read_stamp(stamp_path(target))
    if stamp is None:
        if stamp_path(target).exists() and not target.exists() and not args.force:
            raise UsageError(
                f"{stamp_path(target)} can't be understood, and {target} is not there: a hold-out may be lost. Bring "
                f"either back, or begin anew with {FORCE}"
            )
        options, assignment = Options(**given), Assignment()  # unless the file itself tells more
    else:
        options, assignment = change_options(given, stamp.options, stamp.assignment, force=args.force)
        if options == stamp.options:
            print(f"{STEP}: as before: {options}")
    if args.check_options:
        return 0

    ledger = Ledger(layout.ledger_path(args.root_dir, STEP), len(dataset.videos))
    with refusal_noted(ledger, target.name):
        checks = open_checks(args.root_dir, options.crops_dir)
        listings, unreadable = list_crops(dataset, options.crops_dir, checks, ledger)
        away = {name: skipped.reason for name, skipped in dataset.skipped.items()} | unreadable
        if not listings:
            missing = f", {plural(len(away), 'video')} can't be looked at now" if away else ""
            raise UsageError(
                f"{args.root_dir / options.crops_dir} holds no crops of the videos in metadata.json that are complete "
                f"and fresh{missing}. Is a disk away? Else run steps 1 and 2 first (preprocess_data.sh runs all); "
                f"{ledger.path} has the reasons"
            )
        if stamp is None:
            options, assignment = take_over(target, dataset, listings, given, force=args.force)
        first = 0 if options.val_ids is None else 1
        assignment, notes = assign_folds(listings, dataset, options.n_splits, assignment, force=args.force, first=first)
        gone = sorted(assignment.parts.keys() - {part.name for part in dataset.parts}, key=layout.natural_key)
        if gone:
            notes.append(f"not here now, and their folds are kept for them: {', '.join(gone)}")
        kept, dropped = listings, []
        if options.val_ids is not None:
            if not args.force and not away.keys().isdisjoint(options.val_ids):
                check_nothing_is_lost(target, away)
            rejected = [
                name for name in options.val_ids if name in dataset.videos and checks.rejected(dataset.videos[name])
            ]
            if rejected:
                notes.append(f"rejected, and so not held out: {name_some(rejected)}")
            kept, dropped = hold_out(listings, sorted(set(options.val_ids) - set(rejected)))
        digest = listed_digest(kept, options)
        same = stamp is not None and target.is_file() and identity.same_file(stamp.file, target)
        fresh = same and stamp.digest == digest and not args.force
        if not fresh:
            if not args.force:
                check_nothing_is_lost(target, away)
            if stamp is not None and target.is_file() and not same:
                print(f"{target} was edited since this step wrote it; it is written anew")
            try:
                write(target, dataset, kept, options, assignment, digest)
            except LeakError as error:
                ledger.add(target.name, "failed", f"it was not written, since folds leak into each other: {error}")
                ledger.finish()
                print(
                    f"{STEP}: {target} was not written, since folds leak into each other:\n  {error}\n"
                    f"Remove one of the videos named, or put it into {args.root_dir / layout.REJECTED_NAME} and run "
                    "preprocess_data.sh again. Where videos look alike and are not the same, give --similar a smaller "
                    "number, or off",
                    file=sys.stderr,
                )
                return 1
    ledger.finish()
    if stamp is not None and options != stamp.options:
        print(f"{STEP}: from now on: {options}")
    print_table(kept)
    print_notes(kept, dropped, notes, ledger)
    rows = sum(len(listing.crops) for listing in kept)
    print(f"{STEP}: {rows} crops of {len(kept)} videos -> {target}" + (" (was complete)" if fresh else ""))
    return 0


if __name__ == "__main__":
    command_line.run_main(main)
