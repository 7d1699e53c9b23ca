"""Artifacts of videos that are in no metadata.json any more: counted by the report, removed by --prune."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dfdc import artifacts, layout
from dfdc.boxes import BoxesError, read_boxes
from dfdc.command_line import UsageError, setting
from dfdc.layout import FAKE, REAL, Dataset
from dfdc.rejections import Rejection, Rejections
from dfdc.steps import VideoStep
from preprocessing.folds_stamp import read_folds_stamp, stamp_path


def find_orphans(dataset: Dataset, step: str, crops_dir: str = layout.CROPS_DIR) -> list[Path]:
    """What `step` once made of videos that the data set does not name, in order of name.

    What is not on disk just now, but named, is none. Only what carries the mark of a step counts: a folder with a
    stamp, or a boxes file.
    """
    folder = layout.artifacts_folder(dataset.root, step, crops_dir)
    everything = [*dataset.videos.values(), *(entry.video for entry in dataset.skipped.values())]
    labels = {"extract_crops": (REAL, FAKE), "generate_diffs": (FAKE,)}.get(step, (REAL,))
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


def rows_without_effect(dataset: Dataset, rejections: Rejections) -> list[str]:
    """The rows of rejected.csv that name no video of the data set, or no face of its boxes, as they stand there."""
    named = dataset.videos | {name: entry.video for name, entry in dataset.skipped.items()}
    found = []
    for row in rejections.rows:
        video = named.get(row.video)
        if video is None or not _has_face(dataset.root, video.source, row):
            numbers = ("" if number is None else str(number) for number in (row.frame, row.face))
            found.append(",".join((row.video, *numbers)))
    return found


def _has_face(root: Path, original: str, row: Rejection) -> bool:
    """Whether boxes hold a face that `row` means; True where there are none that could be looked at."""
    if row.frame is None and row.face is None:
        return True
    try:
        boxes = read_boxes(layout.bboxes_path(root, original))
    except (OSError, BoxesError):
        return True
    if boxes is None:
        return True
    found = [faces for frame, faces in boxes.frames.items() if row.frame in (None, frame)]
    return any(row.face in (None, face.face) for faces in found for face in faces)


def absent_parts(dataset: Dataset) -> list[str]:
    """The parts that folds.csv was made from and that are not here now, in order."""
    stamp = read_folds_stamp(stamp_path(dataset.root / layout.FOLDS_NAME))
    known = set() if stamp is None else set(stamp.assignment.parts)
    return sorted(known - {part.name for part in dataset.parts}, key=layout.natural_key)


class PruningStep(VideoStep):
    """A step that can remove its orphans."""

    def prune(self, dataset: Dataset, gone: Sequence[str]) -> None:
        """As the base says.

        Raises:
            UsageError: a part is not here now, nor among those `gone` for good: it may only be away.
        """
        found = find_orphans(dataset, self.name, self.crops_dir)
        away = [part for part in absent_parts(dataset) if part not in gone]
        if found and away:
            flag = setting("prune")
            raise UsageError(
                f"{flag}: {len(found)} artifacts would go, {found[0].name} for one, which may be of a part that had "
                f"a fold and is not here now: {', '.join(away)}. Bring it back; or, if it is gone for good, name it: "
                f"{flag} {' '.join(away)} (preprocess_data.sh takes the names too)"
            )
        for path in found:
            artifacts.remove(path)
        if found:
            print(f"{self.name}: {len(found)} removed that belong to no video any more, {found[0].name} for one")
