"""The hold-out of a checkpoint, with which scoring distinguishes held-out videos from training videos."""

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
    """The "data" section of a checkpoint."""

    fold: int  # held-out fold of the run
    folds_sha256: str  # SHA-256 of the run's folds.csv
    held_out: tuple[str, ...]  # sorted ids of videos these weights were not trained on; a subset of the fold
    trained_on_videos: int  # number of training videos

    def learned(self, videos: Iterable[str]) -> list[str]:
        """The ids in `videos` that these weights may have been trained on, in the same order."""
        held_out = frozenset(self.held_out)
        return [video for video in videos if video not in held_out]


def read_holdout(table: pd.DataFrame, fold: int, path: Path) -> Holdout:
    """The hold-out of a run that trains on all rows of `table`, read from `path`, except those of `fold`.

    A video that also has rows in another fold is not held out.
    """
    inside = table["fold"] == fold
    trained = set(table.loc[~inside, "video"].astype(str))
    held_out = set(table.loc[inside, "video"].astype(str)) - trained
    return Holdout(fold, sha256_of(path), tuple(sorted(held_out)), len(trained))


def describe_start(own: Holdout, holdout: Holdout | None) -> str:
    """Why the hold-out of a run that started from a checkpoint is invalid; empty if it is valid.

    Args:
        own: hold-out of the run.
        holdout: hold-out of the initial weights.
    """
    if holdout is None:
        return "the training set of the initial weights is unknown and may include held-out videos"
    learned = holdout.learned(own.held_out)
    if not learned:
        return ""
    return f"the initial weights may have been trained on {len(learned)} of the {len(own.held_out)} held-out videos"


def common_holdout(parts: Sequence[Holdout | None]) -> Holdout | None:
    """The hold-out of weights combined from several checkpoints: the videos held out by all; None if one is unknown.

    Fold, checksum and number of training videos are those of the first checkpoint.
    """
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    videos = frozenset(known[0].held_out).intersection(*(part.held_out for part in known))
    return replace(known[0], held_out=tuple(sorted(videos)))
