"""Step 5: assign folds and write folds.csv."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dfdc import artifacts, identity, layout
from dfdc.command_line import SettingError, UsageError, UserError, setting
from dfdc.folds import FoldsFileError, read_distinct
from dfdc.layout import FAKE, REAL, Dataset
from dfdc.ledger import Ledger
from dfdc.step_command import RunOptions
from dfdc.steps import Step
from dfdc.text import plural, shown
from preprocessing import folds_stamp
from preprocessing.fold_assignment import Assignment, Listing, assign_folds, by_force, hold_out
from preprocessing.folds_file import find_leaks, name_some, write_folds
from preprocessing.folds_listing import Checks, list_crops, open_checks
from preprocessing.folds_stamp import (
    FoldsStamp,
    Options,
    adopt,
    choose_options,
    listed_digest,
    read_folds_stamp,
    stamp_path,
)


class LeakError(UserError):
    """Folds leak into each other; the message lists the leaks."""

    status = 1


class FoldsStep(Step):
    """Write the table of all videos to `out`, relative to `root`; `given`: fields of `Options` that the user set."""

    name = "generate_folds"
    version = folds_stamp.VERSION

    def __init__(self, root: Path, out: Path, given: Mapping[str, Any]) -> None:
        super().__init__(root)
        self.out, self.target, self.given = out, root / out, given

    def check_options(self, *, force: bool) -> tuple[Dataset, FoldsStamp | None, Options, Assignment]:
        """Return the dataset, the stamp of folds.csv, and the resulting options and folds.

        Raises:
            SettingError: `out` is not a valid file name.
            UsageError: the options differ from those of folds.csv, or its stamp is lost.
        """
        dataset = layout.load_dataset(self.root)
        layout.check_crops_dir(self.given["crops_dir"], dataset.parts)
        target, beside = self.target, stamp_path(self.target)
        if target.exists() and not target.is_file():
            raise SettingError("out", self.out, f"{target} is not a file; choose another name")
        for path in (target, beside):
            artifacts.remove_leftovers(path.parent, of=path.name)
        stamp = read_folds_stamp(beside)
        if stamp is None:
            if beside.exists() and not target.exists() and not force:
                raise UsageError(
                    f"{beside} is invalid and {target} is missing, so a hold-out may be lost. Restore one of them, or "
                    f"start over with {by_force()}"
                )
            return dataset, None, Options(**self.given), Assignment()  # `take_over` may read more from the file
        options, assignment = change_options(self.given, stamp.options, stamp.assignment, force=force)
        if options == stamp.options:
            print(shown(f"{self.name}: unchanged options: {options}"))
        return dataset, stamp, options, assignment

    def run(self, options: RunOptions) -> int:
        """See `Step.run`."""
        layout.find_parts(self.root)  # raises before the lock is written to a folder that is no dataset
        with self.only_run():
            return self._run(options)

    def _run(self, options: RunOptions) -> int:
        force, target = options.force, self.target
        dataset, stamp, chosen, assignment = self.check_options(force=force)
        ledger = Ledger(layout.ledger_path(self.root, self.name), len(dataset.videos))
        with refusal_noted(ledger, target.name):
            checks = open_checks(self.root, chosen.crops_dir)
            listings, away = self._list(dataset, chosen, checks, ledger)
            if stamp is None:
                chosen, assignment = take_over(target, dataset, listings, self.given, force=force)
            first = 0 if chosen.val_ids is None else 1
            assignment, notes = assign_folds(listings, dataset, chosen.n_splits, assignment, force=force, first=first)
            gone = sorted(assignment.parts.keys() - {part.name for part in dataset.parts}, key=layout.natural_key)
            if gone:
                notes.append(f"missing parts, whose folds are kept: {', '.join(gone)}")
            held = chosen.val_ids or ()
            if not force and not away.keys().isdisjoint(held):
                check_nothing_is_lost(target, away)
            rejected = [name for name in held if name in dataset.videos and checks.rejected(dataset.videos[name])]
            if rejected:
                notes.append(f"rejected and therefore not held out: {name_some(rejected)}")
            kept, dropped = hold_out(listings, sorted(set(held) - set(rejected))) if held else (listings, [])
            digest = listed_digest(kept, chosen)
            edited = stamp is not None and target.is_file() and not identity.same_file(stamp.file, target)
            fresh = stamp is not None and target.is_file() and not edited and stamp.digest == digest and not force
            if not fresh and not force:
                check_nothing_is_lost(target, away)
            if edited:
                print(f"{target} was edited after this step wrote it; overwriting it")
            if not fresh and not self._write(dataset, kept, chosen, assignment, digest, ledger):
                return LeakError.status
        ledger.finish()
        if stamp is not None and chosen != stamp.options:
            print(shown(f"{self.name}: new options: {chosen}"))
        print_table(kept)
        print_notes(kept, dropped, notes, ledger)
        rows = sum(len(listing.crops) for listing in kept)
        print(f"{self.name}: {rows} crops of {len(kept)} videos -> {target}" + (" (was complete)" if fresh else ""))
        return 0

    def _list(
        self, dataset: Dataset, options: Options, checks: Checks, ledger: Ledger
    ) -> tuple[list[Listing], dict[str, str]]:
        """Return the listings (UsageError: none), and video id -> reason for videos that can't be read now."""
        listings, unreadable = list_crops(dataset, options.crops_dir, checks, ledger)
        away = {name: skipped.reason for name, skipped in dataset.skipped.items()} | unreadable
        if not listings:
            missing = f" ({plural(len(away), 'video')} can't be read now)" if away else ""
            raise UsageError(
                f"{self.root / options.crops_dir} holds no complete and fresh crops of the videos in "
                f"metadata.json{missing}. Check that all disks are mounted. Otherwise run steps 1 and 2 first "
                f"(preprocess_data.sh runs all); see {ledger.path}"
            )
        return listings, away

    def _write(
        self, dataset: Dataset, kept: list[Listing], options: Options, folds: Assignment, digest: str, ledger: Ledger
    ) -> bool:
        """Write folds.csv and its stamp; return False if a leak prevented it."""
        target = self.target
        try:
            with artifacts.atomic_file(target) as temp:
                write_folds(temp, kept, options.seed)
                leaks = find_leaks(temp, dataset, kept, options.similar)
                if leaks:
                    raise LeakError(layout.list_faults(leaks))
                # Write the stamp before the rename: if the process dies in between, the hold-out is still recorded.
                FoldsStamp(options, folds, digest, identity.fingerprint(temp)).write(stamp_path(target))
        except LeakError as error:
            ledger.add(target.name, "failed", f"not written because folds leak into each other: {error}")
            ledger.finish()
            print(
                f"{self.name}: {target} was not written because folds leak into each other:\n  {error}\n"
                f"Remove one of these videos, or add it to {self.root / layout.REJECTED_NAME} and rerun "
                "preprocess_data.sh. If videos look alike but are not the same, set "
                f"{setting('similar')} to a smaller number or to off",
                file=sys.stderr,
            )
            return False
        return True


def take_over(
    target: Path, dataset: Dataset, listings: Sequence[Listing], given: Mapping[str, Any], *, force: bool
) -> tuple[Options, Assignment]:
    """Return options and folds of a `target` without a stamp: read from the file, or initial if it is missing.

    Raises:
        UsageError: the file is invalid, or `given` options differ from it, without `force`.
    """
    try:
        rows = read_distinct(target) if target.exists() else []
        if not rows:
            return Options(**given), Assignment()
        earlier, assignment = adopt(rows, dataset, [listing.video.id for listing in listings], given)
    except UsageError:
        raise
    except ValueError as error:
        fault = (
            f"{target} was not written by this step ({error.reason if isinstance(error, FoldsFileError) else error})"
        )
        if not force:
            raise UsageError(f"{fault}. Move it elsewhere, or overwrite it with {by_force()}") from None
        print(f"{fault}; overwriting it")
        return Options(**given), Assignment()
    held = f"; fold 0 stays a hold-out of {plural(len(earlier.val_ids), 'video')}" if earlier.val_ids else ""
    print(f"{target} has no stamp of this version; its folds are read from the file{held}")
    return change_options(given, earlier, assignment, force=force)


def change_options(
    given: Mapping[str, Any], earlier: Options, assignment: Assignment, *, force: bool
) -> tuple[Options, Assignment]:
    """Return the earlier options updated with `given`, and the folds that remain valid.

    Raises:
        UsageError: a given option differs, without `force`.
    """
    options = choose_options(given, earlier, force=force)
    if options.n_splits != earlier.n_splits:
        print(f"{options.n_splits} folds instead of {earlier.n_splits}: reassigning all folds")
        assignment = Assignment()
    return options, assignment


def check_nothing_is_lost(target: Path, away: Mapping[str, str]) -> None:
    """Raise UsageError if `target` lists videos in `away` (id -> reason why they can't be read now)."""
    if not away:
        return
    try:
        rows = read_distinct(target) if target.exists() else []
    except FoldsFileError as error:
        raise UsageError(f"{target} is invalid ({error.reason}); recreate it with {by_force()}") from None
    lost = [name for name in dict.fromkeys(row.video for row in rows) if name in away]
    if lost:
        first = "".join(f"\n  {name}: {away[name]}" for name in lost[:5])
        raise UsageError(
            f"{target} lists {plural(len(lost), 'video')} that can't be read now. Restore them, or remove them from "
            f"the file with {by_force()}. The first are:{first}"
        )


def print_table(listings: Sequence[Listing]) -> None:
    """Print the parts of each fold and its number of real and fake videos and crops."""
    print(f"{'fold':>4}  {'real':>6} {'fake':>6} videos  {'real':>9} {'fake':>9} crops  parts")
    for fold in sorted({listing.fold for listing in listings}):
        inside = [listing for listing in listings if listing.fold == fold]
        parts = sorted({listing.video.part for listing in inside}, key=layout.natural_key)
        names = ", ".join(parts) if len(parts) <= 4 else f"{parts[0]} ... {parts[-1]} ({len(parts)} parts)"
        videos = {label: sum(x.video.label == label for x in inside) for label in (REAL, FAKE)}
        crops = {label: sum(len(x.crops) for x in inside if x.video.label == label) for label in (REAL, FAKE)}
        numbers = f"{videos[REAL]:>6} {videos[FAKE]:>6}         {crops[REAL]:>9} {crops[FAKE]:>9}"
        print(f"{fold:>4}  {numbers}        {shown(names)}")


def print_notes(kept: Sequence[Listing], dropped: Sequence[Listing], notes: Sequence[str], ledger: Ledger) -> None:
    """Print notes for the user below the table."""
    for note in notes:
        print(shown(note))
    if dropped:
        names = name_some(sorted(listing.video.id for listing in dropped))
        print(f"excluded as relatives of the hold-out: {plural(len(dropped), 'video')} ({names})")
    if len({listing.fold for listing in kept}) < 2:
        print(
            "only one fold has crops, so holding it out leaves no training set; add another part, "
            f"or choose a hold-out with {setting('val_ids')}"
        )
    first = Counter(listing.video.label for listing in kept if listing.fold == 0)
    lacking = [label for label in (REAL, FAKE) if not first[label]]
    if lacking:
        print(f"fold 0, the default hold-out of training, has no {' and no '.join(lacking)} video")
    counts = ledger.counts()
    if counts:
        print(
            f"  not listed: {plural(counts['skipped'], 'video')}, listed with a note: {counts['incomplete']}; "
            f"see {ledger.path}"
        )


@contextlib.contextmanager
def refusal_noted(ledger: Ledger, name: str) -> Generator[None]:
    """Record in the ledger, and therefore on the page, why folds.csv (`name`) was not written."""
    try:
        yield
    except UsageError as error:
        ledger.add(name, "failed", f"refused: {error}")
        ledger.finish()
        raise
