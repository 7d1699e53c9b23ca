"""What a checkpoint was not trained on, so that scoring can tell a held-out video from one that was learned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dfdc.artifacts import sha256_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Holdout:
    """The "data" of a checkpoint."""

    fold: int  # that the run held out
    folds_sha256: str  # of the folds.csv that it read
    held_out: tuple[str, ...]  # ids of videos that these weights have not learned from, sorted; at most the fold's
    trained_on_videos: int  # how many

    def learned(self, videos: Iterable[str]) -> list[str]:
        """Those of the video ids that these weights may have learned from, in their order."""
        held_out = frozenset(self.held_out)
        return [video for video in videos if video not in held_out]


def read_holdout(table: pd.DataFrame, fold: int, path: Path) -> Holdout:
    """What a run holds out that trains on the rows of `table`, read from `path`, without those of `fold`.

    A video with rows in another fold as well is not held out.
    """
    inside = table["fold"] == fold
    trained = set(table.loc[~inside, "video"].astype(str))
    held_out = set(table.loc[inside, "video"].astype(str)) - trained
    return Holdout(fold, sha256_of(path), tuple(sorted(held_out)), len(trained))


def describe_start(own: Holdout, holdout: Holdout | None) -> str:
    """What is wrong with the hold-out of a run that began with a checkpoint's weights; empty if nothing is.

    Args:
        own: what the run holds out.
        holdout: what its weights never learned from.
    """
    if holdout is None:
        return "the weights it began with do not say what they learned from, which may be held-out videos"
    learned = holdout.learned(own.held_out)
    if not learned:
        return ""
    return f"the weights it began with may have learned from {len(learned)} of the {len(own.held_out)} held-out videos"


def common_holdout(parts: Sequence[Holdout | None]) -> Holdout | None:
    """What weights that come of several checkpoints held out: what all of them did; None if that is not known of one.

    Fold, checksum and number are the first's.
    """
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    videos = frozenset(known[0].held_out).intersection(*(part.held_out for part in known))
    return replace(known[0], held_out=tuple(sorted(videos)))
