"""Artifacts of videos that are in no metadata.json any more: counted by the report, removed by --prune."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dfdc import artifacts, layout
from dfdc.layout import FAKE, REAL, Dataset
from dfdc.parallel import UsageError
from preprocessing.folds_stamp import read_stamp, stamp_path


def find_orphans(dataset: Dataset, step: str, crops_dir: str = layout.CROPS_DIR) -> list[Path]:
    """What `step` once made of videos that the data set does not name, in order of name.

    What is not on disk just now, but named, is none. Only what carries the mark of a step counts: a folder with a
    stamp, or a boxes file.
    """
    root = dataset.root
    everything = [*dataset.videos.values(), *(entry.video for entry in dataset.skipped.values())]
    wanted = {
        "detect_original_faces": (layout.bboxes_path(root, "x").parent, (REAL,)),
        "extract_crops": (layout.crops_path(root, "x", crops_dir).parent, (REAL, FAKE)),
        "generate_landmarks": (layout.landmarks_path(root, "x").parent, (REAL,)),
        "generate_diffs": (layout.diffs_path(root, "x").parent, (FAKE,)),
    }
    folder, labels = wanted[step]
    known = {video.id for video in everything if video.label in labels}
    if not folder.is_dir():
        return []
    if step == "detect_original_faces":
        return sorted(path for path in folder.glob("[!.]*.json") if path.stem not in known)
    named = (path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in known)
    return sorted(path for path in named if _has_stamp(path))


def _has_stamp(folder: Path) -> bool:
    """Whether a step made this folder; not if that can't be seen."""
    try:
        return (folder / artifacts.STAMP_NAME).is_file()
    except OSError:
        return False


def absent_parts(dataset: Dataset) -> list[str]:
    """The parts that folds.csv was made from and that are not here now, in order."""
    stamp = read_stamp(stamp_path(dataset.root / layout.FOLDS_NAME))
    known = set() if stamp is None else set(stamp.assignment.parts)
    return sorted(known - {part.name for part in dataset.parts}, key=layout.natural_key)


def prune(dataset: Dataset, step: str, gone: Sequence[str], crops_dir: str = layout.CROPS_DIR) -> int:
    """Remove the orphans of `step`, and say how many; return their number.

    Args:
        gone: names of the parts that are not here now, and never will be.

    Raises:
        UsageError: another part is not here now: it may only be away.
    """
    away = [part for part in absent_parts(dataset) if part not in gone]
    if away:
        raise UsageError(
            f"--prune: {', '.join(away)} had videos in folds.csv, and what was made of them would go. Bring them back; "
            f"or, if they are gone for good, run {step}.py --prune {' '.join(away)}"
        )
    found = find_orphans(dataset, step, crops_dir)
    for path in found:
        artifacts.remove(path)
    if found:
        print(f"{step}: {len(found)} removed that belong to no video any more, {found[0].name} for one")
    return len(found)
