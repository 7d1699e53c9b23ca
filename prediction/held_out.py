"""Whether checkpoints have learned from the videos that they are asked to score."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from dfdc import layout
from dfdc.command_line import SettingError, UsageError, setting
from dfdc.text import printable
from networks.checkpoint import CheckpointError
from networks.files import model_names
from networks.onnx_model import check_model
from prediction.results import Held


def check_held_out(names: Iterable[str], fold: int, models: Sequence[Path]) -> list[Held]:
    """See that no checkpoint was trained on the videos of a fold. One that does not say is named on stderr.

    Args:
        names: file names of the fold's videos.

    Returns:
        what each checkpoint says.

    Raises:
        SettingError: one may have been trained on some of them.
        UsageError: one can't be read.
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
            unknown = "does not say what it was trained on; if on these videos, its scores flatter"
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
        advice = " or ".join(f"Give {setting('fold')} {own}" for own in sorted(folds))
        advice += " (each checkpoint by itself)" if len(folds) > 1 else ""
        if fold in folds:
            kept = "if its first weights had not learned from them either"
            advice = f"Score with the folds.csv it was trained with, {kept}"
        lines = "\n  ".join(["a checkpoint may have been trained on these videos", *faults])
        otherwise = f"if you mean to score what was learned, leave out {setting('fold')} and give {setting('labels')}"
        raise SettingError("fold", fold, f"{lines}\n{advice}; or, {otherwise}")
    return said
