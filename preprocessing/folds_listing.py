"""Select the videos for step 5: crops must be complete and fresh, and a fake must match its original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dfdc import artifacts, layout, progress
from dfdc.artifacts import Stamp
from dfdc.command_line import UserError, reason_of
from dfdc.imaging import read_picture
from dfdc.layout import FAKE, Dataset, Video
from dfdc.ledger import Ledger
from dfdc.rejections import load_rejections
from preprocessing import likeness
from preprocessing.crop_step import CropStep
from preprocessing.diff_step import DiffStep
from preprocessing.fold_assignment import Listing

STEP = "generate_folds"
NOT_FRESH = "its crops are not complete and fresh; run step 2 (extract_crops.py), or see failures/extract_crops.csv"
NOT_COMPARED = "it was not compared with its original (step 4, generate_diffs.py)"


@dataclass(frozen=True)
class Checks:
    """Checks of a video against the results of earlier steps.

    Attributes:
        rejected: returns the reason for a rejection by the user, or None.
        crops: returns the stamp of complete and fresh crops, else None. Raises UserError or OSError if unreadable.
        pair: the same for the masks of a FAKE.
    """

    rejected: Callable[[Video], str | None]
    crops: Callable[[Video], Stamp | None]
    pair: Callable[[Video], Stamp | None]


def open_checks(root: Path, crops_dir: str) -> Checks:
    """Return the checks of steps 2 and 4 for a DATA_ROOT."""
    rejections = load_rejections(root)
    return Checks(rejections.whole, CropStep(root, crops_dir, rejections).check, DiffStep(root, crops_dir).check)


@dataclass
class _Found:
    """Result for one video: a listing with optional notes in `reason`, or the reason for skipping the video."""

    listing: Listing | None = None
    reason: str = ""
    unreadable: bool = False  # valid crops may exist but can't be read now


def list_crops(
    dataset: Dataset, crops_dir: str, checks: Checks, ledger: Ledger
) -> tuple[list[Listing], dict[str, str]]:
    """List every video with fresh crops; write the reason for each other video to the ledger.

    Returns:
        The listings, and video id -> reason for videos that can't be read now.
    """
    videos = list(dataset.videos.values())

    def look(video: Video) -> tuple[Video, _Found]:
        try:
            return video, _examine(video, layout.crops_path(dataset.root, video.id, crops_dir), checks)
        except OSError as error:
            return video, _Found(reason=f"its crops can't be read: {reason_of(error)}", unreadable=True)

    listings, unreadable = [], {}
    found = progress.progress_bar(progress.disk_map(look, videos), total=len(videos), desc=STEP, unit="video")
    for video, one in found:
        ledger.looked_at(video.id)
        if one.listing is not None:
            listings.append(one.listing)
        elif one.unreadable:
            unreadable[video.id] = one.reason
        if one.reason:
            ledger.add(video.id, "skipped" if one.listing is None else "incomplete", one.reason)
    ledger.skip((name, skipped.reason) for name, skipped in dataset.skipped.items())
    ledger.write()
    return listings, unreadable


def _examine(video: Video, folder: Path, checks: Checks) -> _Found:
    """Decide whether `video` can be listed with the crops in `folder`; return the listing or the reason."""
    reason = checks.rejected(video)
    if reason is not None:
        return _Found(reason=reason)
    notes = []
    try:
        stamp = checks.crops(video)
    except (UserError, OSError) as error:  # an unreadable video has not changed: keep its crops
        stamp = artifacts.read_stamp(folder)
        notes.append(reason_of(error))
    if stamp is None:
        return _Found(reason="; ".join([NOT_FRESH, *notes]))
    pair = None
    if video.label == FAKE:
        try:
            pair = checks.pair(video)
            if pair is None:
                notes.append(NOT_COMPARED)
        except (UserError, OSError) as error:
            notes.append(f"{NOT_COMPARED}: {reason_of(error)}")
    failed = stamp.failed or (pair.failed if pair is not None else None)
    if failed:
        return _Found(reason=failed)
    crops = layout.list_crops(folder)
    if not crops:
        return _Found(reason=f"{folder} holds no crops; step 2 (extract_crops.py) cut none")
    array = np.array(crops, np.int64)  # 4 million tuples would fill half a gigabyte
    return _Found(Listing(video, array, stamp.content, read_looks(stamp, folder, crops)), "; ".join(notes))


def read_looks(stamp: Stamp, folder: Path, crops: Sequence[tuple[int, int]]) -> tuple[likeness.Look, ...]:
    """Return the looks that step 2 stored in `stamp`; recompute them from the crops if missing or invalid.

    Raises:
        OSError: a crop can't be read.
    """
    try:
        looks = tuple(likeness.read_look(kept) for kept in stamp.looks or ())
    except (KeyError, TypeError, ValueError):
        looks = ()
    if looks:
        return looks
    names = likeness.pick([layout.crop_name(*crop) for crop in crops])
    return tuple(likeness.read_look(likeness.look(name, read_picture(folder / name))) for name in names)
