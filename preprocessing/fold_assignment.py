"""Assign each video to a fold. Fold numbers stay fixed unless the user forces a change.

A family is an original, its fakes, and the videos whose faces the fakes show (donors). Each family is in one fold.
Neighbouring parts form one fold, because two parts of the DFDC share fewer people than the videos of one part.
A family goes to the fold of the part that holds its originals.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from pydantic import Field

from dfdc import layout
from dfdc.command_line import UsageError, setting
from dfdc.layout import Dataset, Video
from dfdc.text import plural
from preprocessing.likeness import Look

Fold = Annotated[int, Field(ge=0)]


def by_force() -> str:
    """Return how messages name the flags that overwrite the stored folds."""
    return f"{setting('force')} (preprocess_data.sh: {setting('force_folds')})"


@dataclass
class Listing:
    """A video that folds.csv can list.

    Attributes:
        crops: int64 [n, 2], sorted (frame, face) of each crop.
        content: checksum of the names and contents of all crops.
        looks: the hashes and thumbnails that step 2 stored for some crops.
        family: name shared by exactly the videos of one family.
        fold: the assigned fold.
    """

    video: Video
    crops: np.ndarray
    content: str = ""
    looks: tuple[Look, ...] = ()
    family: str = ""
    fold: int = 0


@dataclass
class Assignment:
    """Fold of each part and each original, excluding a hold-out of single videos.

    Parts and originals missing from the dataset keep their entry, so they get the same fold when they return.
    """

    parts: dict[str, Fold] = field(default_factory=dict)
    originals: dict[str, Fold] = field(default_factory=dict)


@dataclass
class _Family:
    """The data that decides the fold of a family."""

    name: str
    listings: list[Listing] = field(default_factory=list)
    home_crops: Counter[str] = field(default_factory=Counter)  # crops of the originals, by part

    def crops_by_fold(self, originals: dict[str, int]) -> Counter[int]:
        """Return the number of crops by the earlier fold of their original; new originals are skipped."""
        counts: Counter[int] = Counter()
        for listing in self.listings:
            if listing.video.source in originals:
                counts[originals[listing.video.source]] += len(listing.crops)
        return counts


def find_families(videos: Sequence[Video]) -> dict[str, str]:
    """Return video id -> family name, which is the alphabetically first original of the family.

    An original or donor links videos even if it is not in `videos` itself.
    """
    leads_to: dict[str, str] = {}  # union-find: name -> parent; a root is its own parent

    def last(name: str) -> str:
        while leads_to.setdefault(name, name) != name:
            leads_to[name] = leads_to[leads_to[name]]  # path halving
            name = leads_to[name]
        return name

    for video in videos:
        for other in (video.source, video.donor or video.id):
            leads_to[last(video.id)] = last(other)
    names: dict[str, str] = {}  # by root
    for video in videos:
        end = last(video.id)
        names[end] = min(names.get(end, video.source), video.source)
    return {video.id: names[last(video.id)] for video in videos}


def block_folds(parts: Sequence[str], n_splits: int) -> dict[str, int]:
    """Return the initial part -> fold: contiguous blocks of nearly equal size, larger blocks last.

    `parts` are in natural order. With fewer parts than folds, each part is one fold.
    """
    n_splits = min(n_splits, len(parts))
    folds: dict[str, int] = {}
    for fold in range(n_splits):
        size = (len(parts) + fold) // n_splits
        folds |= dict.fromkeys(parts[len(folds) : len(folds) + size], fold)
    return folds


def assign_folds(
    listings: Sequence[Listing],
    dataset: Dataset,
    n_splits: int,
    earlier: Assignment,
    *,
    force: bool = False,
    first: int = 0,
) -> tuple[Assignment, list[str]]:
    """Set family and fold of each listing; return the assignment, with all of `earlier`, and notes for the user.

    Parts and originals with an earlier fold keep it. A new part gets the fold with the fewest crops. A family gets the
    earlier fold of its originals, or else the fold of the part that holds most of their crops.

    Args:
        earlier: the earlier assignment; empty on the first run.
        force: let a donor merge families of different folds; they move to the fold with most of their crops.
        first: number of fold 0 in messages: 1 if a hold-out of single videos exists, else 0.

    Raises:
        UsageError: a donor links videos of different folds, without `force`.
    """
    families = _gather(listings, dataset)
    place = {part.name: index for index, part in enumerate(dataset.parts)}
    present = sorted({part for family in families for part in family.home_crops}, key=place.__getitem__)
    parts, moved = dict(earlier.parts) or block_folds(present, n_splits), []
    crops = Counter[int]()  # per fold
    waiting: dict[str, list[_Family]] = defaultdict(list)  # families of parts that have no fold yet

    def settle(family: _Family, fold: int) -> None:
        for listing in family.listings:
            crops[fold] += len(listing.crops)
            listing.family, listing.fold = family.name, fold

    for family in families:
        home = min(family.home_crops, key=lambda part: (-family.home_crops[part], place[part]))
        had = family.crops_by_fold(earlier.originals)
        if had:
            settle(family, fold := min(had, key=lambda number: (-had[number], number)))
            folds, to = [number + first for number in sorted(had)], fold + first
            if len(folds) > 1:
                moved.append(f"a donor links videos of folds {folds}: the family of {family.name} goes to fold {to}")
        elif home in parts:
            settle(family, parts[home])
        else:
            waiting[home].append(family)
    if moved and not force:
        raise UsageError(
            "Donors in metadata.json link videos of different folds; one of these folds may be the hold-out. "
            f"Remove these donors, or move the videos with {by_force()}:\n  {layout.list_faults(moved)}"
        )
    for part in present:
        if part not in parts:
            parts[part] = min(range(n_splits), key=lambda number: (crops[number], number))
            for family in waiting[part]:
                settle(family, parts[part])
    originals = earlier.originals | {listing.video.source: listing.fold for listing in listings}
    return Assignment(parts, originals), moved + _donor_notes(families, len(listings))


def _gather(listings: Sequence[Listing], dataset: Dataset) -> list[_Family]:
    """Return the families in the order of their first video."""
    families: dict[str, _Family] = {}
    names = find_families([listing.video for listing in listings])
    for listing in listings:
        name = names[listing.video.id]
        family = families.setdefault(name, _Family(name))
        family.listings.append(listing)
        original = dataset.videos[listing.video.source]
        family.home_crops[original.part] += len(listing.crops) if listing.video.id == original.id else 0
    return list(families.values())


def _donor_notes(families: Sequence[_Family], videos: int) -> list[str]:
    """Return a note if donors link so many videos that the folds are not useful."""
    if len(families) == 1 and len({listing.video.source for listing in families[0].listings}) > 1:
        linked = f"donors link all {plural(videos, 'video')} into one family"
        return [f"{linked}: they share one fold, so no fold can be held out"]
    across = [len(family.listings) for family in families if len(family.home_crops) > 1]
    if sum(across) * 2 <= videos:
        return []
    return [f"donors link {sum(across)} of {videos} videos across parts; the largest such family has {max(across)}"]


def hold_out(listings: Sequence[Listing], val_ids: Sequence[str]) -> tuple[list[Listing], list[Listing]]:
    """Make the videos `val_ids` fold 0 and increase all other folds by one.

    Returns:
        The listings to write, and the excluded listings: all other videos of the held-out families.

    Raises:
        UsageError: `val_ids` names videos that have no listing.
    """
    wanted = set(val_ids)
    unknown = sorted(wanted - {listing.video.id for listing in listings})
    if unknown:
        flag = setting("val_ids")
        raise UsageError(
            f"{flag}: {len(unknown)} of {plural(len(wanted), 'video')} can't be listed, including "
            f"{', '.join(unknown[:5])}. Each must be in a metadata.json of a part of DATA_ROOT and have crops from "
            f"step 2; see failures/generate_folds.csv. Fix that, or change the hold-out ({flag} FILE or {flag} none) "
            f"with {by_force()}"
        )
    families = {listing.family for listing in listings if listing.video.id in wanted}
    kept, dropped = [], []
    for listing in listings:
        if listing.video.id in wanted:
            listing.fold = 0
        elif listing.family in families:
            dropped.append(listing)
            continue
        else:
            listing.fold += 1
        kept.append(listing)
    return kept, dropped
