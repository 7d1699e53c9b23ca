"""Orphans: artifacts of videos that no metadata.json lists. The report counts them, --prune removes them."""

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
    """Return the sorted artifacts of `step` for videos that no metadata.json lists.

    Videos that are listed but missing on disk have no orphans. Only folders with a stamp and boxes files count.
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
    """Return whether a step made this folder; False if it can't be read."""
    try:
        return (folder / artifacts.STAMP_NAME).is_file()
    except OSError:
        return False


def rows_without_effect(dataset: Dataset, rejections: Rejections) -> list[str]:
    """Return the rows of rejected.csv, as `video,frame,face`, without a matching video or face."""
    named = dataset.videos | {name: entry.video for name, entry in dataset.skipped.items()}
    found = []
    for row in rejections.rows:
        video = named.get(row.video)
        if video is None or not _has_face(dataset.root, video.source, row):
            numbers = ("" if number is None else str(number) for number in (row.frame, row.face))
            found.append(",".join((row.video, *numbers)))
    return found


def _has_face(root: Path, original: str, row: Rejection) -> bool:
    """Return whether the boxes hold a face that matches `row`; True if the boxes are missing or unreadable."""
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
    """Return the parts in the stamp of folds.csv that are missing now, in natural order."""
    stamp = read_folds_stamp(stamp_path(dataset.root / layout.FOLDS_NAME))
    known = set() if stamp is None else set(stamp.assignment.parts)
    return sorted(known - {part.name for part in dataset.parts}, key=layout.natural_key)


class PruningStep(VideoStep):
    """A step that can remove its orphans."""

    def prune(self, dataset: Dataset, gone: Sequence[str]) -> None:
        """See `VideoStep.prune`.

        Raises:
            UsageError: a part is missing and not listed in `gone`, so it may be missing only temporarily.
        """
        found = find_orphans(dataset, self.name, self.crops_dir)
        away = [part for part in absent_parts(dataset) if part not in gone]
        if found and away:
            flag = setting("prune")
            raise UsageError(
                f"{flag}: would remove {len(found)} artifacts, such as {found[0].name}, that may belong to missing "
                f"parts: {', '.join(away)}. Restore these parts. If they are gone for good, pass {flag} "
                f"{' '.join(away)} (preprocess_data.sh takes the same arguments)"
            )
        for path in found:
            artifacts.remove(path)
        if found:
            print(f"{self.name}: removed {len(found)} artifacts without a video, such as {found[0].name}")
