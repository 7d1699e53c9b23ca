"""Write folds.csv and check the written file for leaks between folds."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dfdc import layout
from dfdc.folds import COLUMNS, FoldsRow, read_distinct
from dfdc.layout import FAKE, Dataset
from preprocessing import likeness
from preprocessing.fold_assignment import Listing, find_families

WRITE_ROWS = 1 << 14  # rows per write; limits the text held in memory


def csv_field(text: str) -> str:
    """Return `text` as one field of folds.csv, quoted if necessary."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow((text, ""))
    return buffer.getvalue().removesuffix(",\n")


def write_folds(path: Path, listings: Sequence[Listing], seed: int) -> int:
    """Write the rows in the random order of `seed` and return their number."""
    owner = np.repeat(np.arange(len(listings), dtype=np.int32), [len(listing.crops) for listing in listings])
    crops = np.concatenate([listing.crops for listing in listings])
    order = np.random.default_rng(seed).permutation(len(owner))
    # Format the values shared by all rows of a video only once, in the order of COLUMNS.
    before = [f"{csv_field(listing.video.id)}," for listing in listings]
    between = [f",{int(x.video.label == FAKE)},{csv_field(x.video.source)}," for x in listings]
    after = [f",{listing.fold}\n" for listing in listings]

    def line(at: int, frame: int, face: int) -> str:
        return f"{before[at]}{layout.crop_name(frame, face)}{between[at]}{frame}{after[at]}"

    with path.open("w", encoding="utf-8", newline="") as handle:
        handle.write(",".join(COLUMNS) + "\n")
        for start in range(0, len(order), WRITE_ROWS):
            rows = order[start : start + WRITE_ROWS]
            columns = owner[rows].tolist(), crops[rows, 0].tolist(), crops[rows, 1].tolist()
            handle.write("".join(map(line, *columns)))
    return len(order)


def find_leaks(path: Path, dataset: Dataset, listings: Iterable[Listing], similar: int | None) -> list[str]:
    """Return the leaks between folds in the written file `path`, one sentence each.

    The sources are the file, metadata.json and the looks from step 2. Three kinds of leaks are checked, for real and
    fake videos alike:
    - families: rows of one video, an original and its fakes, one person of one original, donors;
    - identical images under two names;
    - videos that look alike.

    Args:
        listings: the listings, with looks, of all videos in the file.
        similar: two videos look alike if at least two crops differ in at most this many bits; None disables the check.
    """
    rows = read_distinct(path)
    video_folds: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        video_folds[row.video].add(row.fold)
    held = [listing for listing in listings if listing.video.id in video_folds]
    same = _same_pictures(video_folds, held)
    leaks = _family_leaks(rows, video_folds, dataset)
    leaks += [f"{name_some(videos, ' and ')} are the same video in different folds" for videos in same]
    if similar is not None:
        leaks += _alike_leaks(video_folds, held, similar, same)
    return leaks


def _family_leaks(rows: Sequence[FoldsRow], video_folds: Mapping[str, set[int]], dataset: Dataset) -> list[str]:
    """Return the videos, originals with their fakes, persons and families that are in several folds."""
    original_folds: dict[str, set[int]] = defaultdict(set)
    person_folds: dict[tuple[str, str], set[int]] = defaultdict(set)
    for row in rows:
        original = dataset.videos[row.video].source
        original_folds[original].add(row.fold)
        person_folds[(original, row.face)].add(row.fold)
    family_folds: dict[str, set[int]] = defaultdict(set)
    family_originals: dict[str, set[str]] = defaultdict(set)
    videos = [dataset.videos[name] for name in video_folds]
    families = find_families(videos)
    for video in videos:
        family_folds[families[video.id]] |= video_folds[video.id]
        family_originals[families[video.id]].add(video.source)
    said = [(f"video {video} is", folds) for video, folds in video_folds.items()]
    said += [(f"{original} and its fakes are", folds) for original, folds in original_folds.items()]
    said += [
        (f"person {face.removesuffix('.png')} of {name} is", folds) for (name, face), folds in person_folds.items()
    ]
    for family, originals in family_originals.items():
        if len(originals) > 1:
            names = name_some(sorted(originals), " and ")
            said.append((f"donors link {names}; they are", family_folds[family]))
    return [f"{who} in folds {sorted(folds)}" for who, folds in said if len(folds) > 1]


def _same_pictures(video_folds: Mapping[str, set[int]], listings: Sequence[Listing]) -> list[tuple[str, ...]]:
    """Return sorted names of videos in different folds that share a crop with identical pixels."""
    holders: dict[bytes, set[str]] = defaultdict(set)
    for listing in listings:
        for look in listing.looks:
            holders[look.pixels].add(listing.video.id)
    groups = dict.fromkeys(tuple(sorted(videos)) for videos in holders.values())
    apart = [videos for videos in groups if len(set().union(*(video_folds[video] for video in videos))) > 1]
    return [videos for videos in apart if len(videos) > 1]


def _alike_leaks(
    video_folds: Mapping[str, set[int]], listings: Sequence[Listing], similar: int, same: Sequence[Sequence[str]]
) -> list[str]:
    """Return videos in different folds that look alike, except those already reported in `same`."""
    groups: dict[str, set[int]] = defaultdict(set)
    for number, videos in enumerate(same):
        for video in videos:
            groups[video].add(number)
    folds = [min(video_folds[listing.video.id]) for listing in listings]
    leaks = []
    for pair in likeness.find_alike([listing.looks for listing in listings], folds, similar):
        first, second = sorted((listings[pair.first].video.id, listings[pair.second].video.id))
        if groups[first].isdisjoint(groups[second]):
            bits = " and ".join(map(str, pair.bits))
            both = sorted(video_folds[first] | video_folds[second])
            leaks.append(f"{first} and {second} look alike (crops differ in {bits} of 64 bits) and are in folds {both}")
    return leaks


def name_some(names: Sequence[str], between: str = ", ") -> str:
    """Join the first five names and the number of further names."""
    more = [f"{len(names) - 5} more"] if len(names) > 5 else []
    return between.join([*names[:5], *more])
