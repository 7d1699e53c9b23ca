"""Which videos step 5 lists: those whose crops are complete and fresh, and whose fake is a pair with its original."""

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
NOT_FRESH = (
    "its crops are not complete and fresh; step 2 (extract_crops.py) makes them, or says in failures/extract_crops.csv "
    "why it can't"
)
NOT_COMPARED = "it was not compared with its original (step 4, generate_diffs.py)"


@dataclass(frozen=True)
class Checks:
    """What the earlier steps know of a video.

    Attributes:
        rejected: why a person does not want it; None if they do.
        crops: the stamp of its crops if they are complete and fresh, else None. UserError or OSError: that can't be
            known now.
        pair: the same of a FAKE's masks.
    """

    rejected: Callable[[Video], str | None]
    crops: Callable[[Video], Stamp | None]
    pair: Callable[[Video], Stamp | None]


def open_checks(root: Path, crops_dir: str) -> Checks:
    """The checks of steps 2 and 4 on a DATA_ROOT."""
    rejections = load_rejections(root)
    return Checks(rejections.whole, CropStep(root, crops_dir, rejections).check, DiffStep(root, crops_dir).check)


@dataclass
class _Found:
    """What came of looking at a video: a listing, or the reason why there is none; or a note on the listing."""

    listing: Listing | None = None
    reason: str = ""
    unreadable: bool = False  # there may be good crops, but they can't be read now


def list_crops(
    dataset: Dataset, crops_dir: str, checks: Checks, ledger: Ledger
) -> tuple[list[Listing], dict[str, str]]:
    """Every video with fresh crops; the others go to the ledger with the reason.

    Returns:
        The listings, and the reasons why other videos can't be looked at now, by their ids.
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
    """Whether `video` can be listed with the crops in `folder`, and what there is to say of it."""
    reason = checks.rejected(video)
    if reason is not None:
        return _Found(reason=reason)
    notes = []
    try:
        stamp = checks.crops(video)
    except (UserError, OSError) as error:  # "can't be read" is not "changed": what was made of it stays
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
        return _Found(reason=f"{folder} holds no crops; step 2 (extract_crops.py) could cut none")
    array = np.array(crops, np.int64)  # 4 million tuples would fill half a gigabyte
    return _Found(Listing(video, array, stamp.content, read_looks(stamp, folder, crops)), "; ".join(notes))


def read_looks(stamp: Stamp, folder: Path, crops: Sequence[tuple[int, int]]) -> tuple[likeness.Look, ...]:
    """What step 2 kept of its crops to tell videos apart; looked at again where its stamp has nothing that fits.

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
