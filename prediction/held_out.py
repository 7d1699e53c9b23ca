"""Check whether checkpoints were trained on the videos that they are to score."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from dfdc import layout
from dfdc.command_line import SettingError, UsageError, setting
from dfdc.text import plural, printable
from networks.engines import check_model
from networks.files import model_names
from networks.spec import CheckpointError
from prediction.results import Held

_FEW_VIDEOS = 1000  # DFDC has 119,154; the demo's network was trained on 48


def warn_of_few(models: Sequence[Path]) -> list[str]:
    """Name on stderr the checkpoints trained on so few videos that they can't judge other people's faces.

    Returns:
        the same warnings, one per checkpoint, for the results.

    Raises:
        CheckpointError: a checkpoint can't be read.
    """
    warnings = []
    for path, name in zip(models, model_names(models), strict=True):
        _, holdout = check_model(path)
        if holdout and holdout.trained_on_videos < _FEW_VIDEOS:
            few = f"was trained on {plural(holdout.trained_on_videos, 'video')} only"
            warnings.append(f"{name} {few}; its scores of other people mean nothing")
            print(f"warning: {printable(warnings[-1])}", file=sys.stderr)
    return warnings


def check_held_out(names: Iterable[str], fold: int, models: Sequence[Path]) -> list[Held]:
    """Check that no checkpoint was trained on the videos of a fold. Checkpoints without a record are named on stderr.

    Args:
        names: file names of the fold's videos.

    Returns:
        the record of each checkpoint.

    Raises:
        SettingError: a checkpoint may have been trained on some of the videos.
        UsageError: a checkpoint can't be read.
    """
    videos = [layout.video_id(name) for name in names]
    said: list[Held] = []
    faults, folds = [], set()
    for path, name in zip(models, model_names(models), strict=True):
        try:
            _, holdout = check_model(path)
        except CheckpointError as error:
            raise UsageError(printable(error)) from error
        if holdout is None:
            unknown = "does not record what it was trained on; if it was these videos, its metrics are optimistic"
            print(f"warning: {printable(name)} {unknown}", file=sys.stderr)
            said.append(Held(name, "unknown"))
            continue
        learned = holdout.learned(videos)
        if learned:
            first = printable(", ".join(learned[:3])) + (", ..." if len(learned) > 3 else "")
            share = f"{len(learned)} of {len(videos)} videos ({first})"
            faults.append(f"{printable(name)}, which held out fold {holdout.fold}: {share}")
            folds.add(holdout.fold)
        said.append(Held(name, holdout.fold, holdout.folds_sha256, holdout.trained_on_videos))
    if faults:
        advice = " or ".join(f"use {setting('fold')} {own}" for own in sorted(folds))
        advice += " (each checkpoint alone)" if len(folds) > 1 else ""
        if fold in folds:
            kept = "unless its initial weights were trained on these videos"
            advice = f"use the folds.csv that it was trained with, {kept}"
        lines = "\n  ".join(["a checkpoint may have been trained on these videos", *faults])
        otherwise = f"to score training videos on purpose, give {setting('labels')} instead of {setting('fold')}"
        raise SettingError("fold", fold, f"{lines}\n{advice}; {otherwise}")
    return said
