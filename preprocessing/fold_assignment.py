"""Which fold each video goes to. No fold number changes later, unless somebody asks for it.

Videos that show the same people belong to one family, and a family goes to one fold: an original, its fakes, and the
videos whose faces its fakes show (their donors). Parts go to folds in blocks of neighbours, since the parts of the DFDC
share fewer people than the videos of one part do; a family goes where the part of its originals goes.
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
    """How messages name the settings that change what folds.csv keeps."""
    return f"{setting('force')} (preprocess_data.sh: {setting('force_folds')})"


@dataclass
class Listing:
    """A video that folds.csv can list.

    Attributes:
        crops: int64 [n, 2], (frame, face) of each crop in order.
        content: checksum of the names and contents of all its crops.
        looks: what step 2 kept of a few of its crops.
        family: what all videos of its family, and no others, have here.
        fold: the fold it goes to.
    """

    video: Video
    crops: np.ndarray
    content: str = ""
    looks: tuple[Look, ...] = ()
    family: str = ""
    fold: int = 0


@dataclass
class Assignment:
    """The folds that were given out, without a hold-out of single videos: by part, and by original.

    What is not in the data set today stays here, so that it has its fold again when it comes back.
    """

    parts: dict[str, Fold] = field(default_factory=dict)
    originals: dict[str, Fold] = field(default_factory=dict)


@dataclass
class _Family:
    """What decides where a family goes."""

    name: str
    listings: list[Listing] = field(default_factory=list)
    home_crops: Counter[str] = field(default_factory=Counter)  # of the originals themselves, by part

    def crops_by_fold(self, originals: dict[str, int]) -> Counter[int]:
        """Its crops by the fold that their original had, where it had one."""
        counts: Counter[int] = Counter()
        for listing in self.listings:
            if listing.video.source in originals:
                counts[originals[listing.video.source]] += len(listing.crops)
        return counts


def find_families(videos: Sequence[Video]) -> dict[str, str]:
    """The name of each video's family, by the video's id: the first, by name, of the originals in it.

    What links the videos (an original, a donor) need not be one of them.
    """
    leads_to: dict[str, str] = {}  # a name to another of its family, the last to itself

    def last(name: str) -> str:
        while leads_to.setdefault(name, name) != name:
            leads_to[name] = leads_to[leads_to[name]]  # half the way next time
            name = leads_to[name]
        return name

    for video in videos:
        for other in (video.source, video.donor or video.id):
            leads_to[last(video.id)] = last(other)
    names: dict[str, str] = {}  # by the last
    for video in videos:
        end = last(video.id)
        names[end] = min(names.get(end, video.source), video.source)
    return {video.id: names[last(video.id)] for video in videos}


def block_folds(parts: Sequence[str], n_splits: int) -> dict[str, int]:
    """Part -> fold for the first time: blocks of neighbours, as equal as possible, the larger ones last.

    `parts` are in natural order; with fewer of them than folds, each part is a fold.
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
    """Set family and fold of each listing.

    A part and an original that had a fold keep it. A new part goes to the fold with the fewest crops. A family goes
    where its originals were, else where the part goes that holds most of their crops.

    Args:
        earlier: what was given out before; empty for the first time.
        force: whether a donor may bring families together that were in different folds, and that then go where most
            of their crops were; else that is a UsageError.
        first: the number that fold 0 has in the file (1 beside a hold-out), for messages.

    Returns:
        What is given out now, with all that stood in `earlier`; and what a person should know of it, a sentence each.
    """
    families = _gather(listings, dataset)
    place = {part.name: index for index, part in enumerate(dataset.parts)}
    present = sorted({part for family in families for part in family.home_crops}, key=place.__getitem__)
    parts, moved = dict(earlier.parts) or block_folds(present, n_splits), []
    crops: Counter[int] = Counter()  # by fold
    waiting: dict[str, list[_Family]] = defaultdict(list)  # for a new part to get its fold

    def settle(family: _Family, fold: int) -> None:
        for listing in family.listings:
            crops[fold] += len(listing.crops)
            listing.family, listing.fold = family.name, fold

    for family in families:
        home = min(family.home_crops, key=lambda part: (-family.home_crops[part], place[part]))
        had = family.crops_by_fold(earlier.originals)
        if had:
            fold = min(had, key=lambda number: (-had[number], number))
            settle(family, fold)
            if len(had) > 1:
                folds, to = [number + first for number in sorted(had)], fold + first
                moved.append(f"a donor links videos of folds {folds}: the family of {family.name} in fold {to}")
        elif home in parts:
            settle(family, parts[home])
        else:
            waiting[home].append(family)
    if moved and not force:
        raise UsageError(
            "Donors in metadata.json link videos that are in different folds, one of which may have been held out. "
            f"Take the donors out again, or move the videos with {by_force()}:\n  {layout.list_faults(moved)}"
        )
    for part in present:
        if part not in parts:
            parts[part] = min(range(n_splits), key=lambda number: (crops[number], number))
            for family in waiting[part]:
                settle(family, parts[part])
    originals = earlier.originals | {listing.video.source: listing.fold for listing in listings}
    return Assignment(parts, originals), moved + _donor_notes(families, len(listings))


def _gather(listings: Sequence[Listing], dataset: Dataset) -> list[_Family]:
    """The families, in order of their first video."""
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
    """What to say if donors link so much that folds lose their meaning."""
    if len(families) == 1 and len({listing.video.source for listing in families[0].listings}) > 1:
        linked = f"donors link all {plural(videos, 'video')} into one family"
        return [f"{linked}: one fold holds them, and nothing can be held out"]
    across = [len(family.listings) for family in families if len(family.home_crops) > 1]
    if sum(across) * 2 <= videos:
        return []
    return [f"donors link {sum(across)} of {videos} videos across parts; the largest such family has {max(across)}"]


def hold_out(listings: Sequence[Listing], val_ids: Sequence[str]) -> tuple[list[Listing], list[Listing]]:
    """Make fold 0 of just the videos `val_ids`; the folds of the others go up by one.

    Returns:
        The listings to write, and those left out: the other videos of the families of the hold-out.

    Raises:
        UsageError: `val_ids` names videos that are not listed.
    """
    wanted = set(val_ids)
    unknown = sorted(wanted - {listing.video.id for listing in listings})
    if unknown:
        flag = setting("val_ids")
        raise UsageError(
            f"{flag}: {len(unknown)} of {plural(len(wanted), 'video')} can't be listed, {', '.join(unknown[:5])} among "
            "them. They must lie in a part of DATA_ROOT (any folder with a metadata.json), and have gone through step "
            "2; failures/generate_folds.csv has the reasons of those that are in a metadata.json. Mend that, or give "
            f"another hold-out ({flag} FILE, or {flag} none) with {by_force()}"
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
