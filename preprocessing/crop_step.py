"""Step 2: cut the crops of one video with the boxes of its original."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dfdc import artifacts, layout
from dfdc.artifacts import NewFolder, Stamp
from dfdc.boxes import Boxes, BoxesError, read_boxes
from dfdc.identity import digest_of, fingerprint, same_file
from dfdc.imaging import MARGIN_PART, crop_face, encode_png, margin_box
from dfdc.layout import Dataset, Video
from dfdc.rejections import Rejections
from dfdc.shards import WHOLE, Shard
from dfdc.text import plural, shown
from dfdc.video import VideoError, VideoReader
from dfdc.workers import FailVideo, SkipVideo
from preprocessing import frame_matching, likeness
from preprocessing.frame_matching import Match, match_frames
from preprocessing.orphans import PruningStep, rows_without_effect

# Increase when a change alters the crops. tests/test_versions.py holds the crops of a fixed clip for each version.
VERSION = 2
SETTINGS = {
    "version": VERSION,
    "margin_part": MARGIN_PART,
    "matching": frame_matching.SETTINGS,
    "looks": [likeness.LOOKS, likeness.TINY],
}
_REMEMBERED = 64  # boxes files kept in memory: a fake follows soon after its original

Places = dict[int, list[tuple[int, tuple[float, float, float, float]]]]  # frame -> (face, box) of each crop


class CropStep(PruningStep):
    """Cut the crops of one video.

    Args:
        rejections: crops to leave out; default: the rows of rejected.csv.
        png_level: PNG compression level; it does not change the pixels.
    """

    name = "extract_crops"
    version = VERSION
    labels = (layout.REAL, layout.FAKE)
    preload = ("preprocessing.crop_step",)

    def __init__(self, root: Path, crops_dir: str, rejections: Rejections | None = None, png_level: int = 1) -> None:
        super().__init__(root, crops_dir)
        self.png_level = png_level
        if rejections is not None:
            self.rejections = rejections
        # These caches serve only `check` during one run. Each worker reads its own boxes.
        self._remembered = lru_cache(_REMEMBERED)(self._boxes)
        self._known_digests: dict[str, str | None] = {}  # by original; used only without rejections
        self._has_boxes = cache(lambda original: layout.bboxes_path(root, original).is_file())

    def __getstate__(self) -> dict[str, Any]:
        memories = ("_remembered", "_known_digests", "_has_boxes")
        return {key: value for key, value in self.__dict__.items() if key not in memories}

    def obstacle(self, video: Video) -> str | None:
        if self._has_boxes(video.source):
            return None
        return f"{video.source} has no boxes; run step 1 (detect_original_faces.py)"

    def select(self, dataset: Dataset, shard: Shard = WHOLE) -> tuple[list[Video], list[tuple[str, str]]]:
        """See `VideoStep.select`; also print the rows of rejected.csv that have no effect."""
        idle = rows_without_effect(dataset, self.rejections)
        if idle:
            rows = plural(len(idle), "row")
            print(shown(f"{layout.REJECTED_NAME}: {rows} without a matching video or face: {'; '.join(idle[:5])}"))
        return super().select(dataset, shard)

    def check(self, video: Video) -> Stamp | None:
        stamp = artifacts.read_stamp(self.crops_of(video.id))
        if stamp is None:
            return None
        digest = self.boxes_digest(video)
        if digest is None or not stamp.is_fresh({"settings": SETTINGS, "boxes": digest}):
            return None
        return stamp if same_file(stamp.made_from.get("source"), video.path) else None

    def boxes_digest(self, video: Video) -> str | None:
        """Return a digest of the boxes and times that decide the crops; None if no valid boxes file exists."""
        known = {} if self.rejections.rows else self._known_digests
        if video.source not in known:
            try:
                boxes = self._remembered(video.source)
            except BoxesError:  # `work` reports the error
                boxes = None
            known[video.source] = None if boxes is None else self._inputs(boxes, self._places(boxes, video))
        return known[video.source]

    def work(self, video: Video) -> Stamp:
        """Write the crops of one video and return their stamp."""
        try:
            boxes = self._boxes(video.source)
        except BoxesError as error:
            raise FailVideo(f"{error}; rerun step 1 (detect_original_faces.py)") from None
        if boxes is None:
            ledger = layout.ledger_path(self.root, "detect_original_faces")
            raise SkipVideo(f"{video.source} has no boxes; see {ledger}")
        source, places = fingerprint(video.path), self._places(boxes, video)
        made_from = {"settings": SETTINGS, "boxes": self._inputs(boxes, places), "source": source}
        try:
            if not boxes.faces:
                raise SkipVideo(f"no face detected in {video.source}")
            if not places:
                raise SkipVideo(f"{layout.REJECTED_NAME} rejects all of its faces")
            with VideoReader(video.path) as reader, artifacts.atomic_folder(self.crops_of(video.id)) as folder:
                if (reader.width, reader.height) != (boxes.width, boxes.height):
                    # The boxes would cut a different area (T19: report it).
                    sizes = (
                        f"{reader.width}x{reader.height} pixels, but {video.source} has {boxes.width}x{boxes.height}"
                    )
                    raise FailVideo(f"it has {sizes}; shared boxes need the same size")
                match = match_frames(boxes, places, reader, video.source)
                folder.stamp = stamp = self._cut(match, places, reader, folder, made_from)
        except (VideoError, FailVideo, SkipVideo):
            # Remove crops that were made from another video or from other boxes. Keep crops of the same inputs.
            artifacts.remove_unless(self.crops_of(video.id), {"boxes": made_from["boxes"]}, source)
            raise
        return stamp

    def _cut(
        self, match: Match, places: Places, reader: VideoReader, folder: NewFolder, made_from: dict[str, Any]
    ) -> Stamp:
        """Write the crops to `folder` and return their stamp."""
        names = [layout.crop_name(number, face) for number in places for face, _ in places[number]]
        looked_at = set(likeness.pick(names))
        looks, degenerate, notes = [], [], list(match.notes)
        for number, frame in reader.frames(match.frames):
            for original in match.frames[number]:
                for face, box in places[original]:
                    crop, name = crop_face(frame, box), layout.crop_name(original, face)
                    if crop is None:
                        degenerate.append(name)
                        continue
                    folder.write(name, encode_png(crop, self.png_level))
                    if name in looked_at:
                        looks.append(likeness.look(name, np.ascontiguousarray(crop)))
        if reader.lost:
            notes.append(f"{len(reader.lost)} frames can't be decoded (first: {reader.lost[0]})")
        if degenerate:
            notes.append(f"{len(degenerate)} boxes are degenerate or outside the frame (first: {degenerate[0]})")
        if not folder.content.files:
            raise FailVideo("; ".join(notes) or "no crop was cut")
        return Stamp(made_from, {"crops": folder.content.files}, notes=tuple(notes), looks=tuple(looks))

    def _boxes(self, original: str) -> Boxes | None:
        return read_boxes(layout.bboxes_path(self.root, original))

    def _places(self, boxes: Boxes, video: Video) -> Places:
        """Return the boxes to cut by frame, without rejected ones."""
        places: Places = {}
        for number, faces in boxes.frames.items():
            kept = [(f.face, f.box) for f in faces if not self.rejections.covers(video, number, f.face)]
            if kept:
                places[number] = kept
        return places

    def _inputs(self, boxes: Boxes, places: Places) -> str:
        """Return a digest of all inputs from the boxes: pixel areas, frame size and count, duration and timestamps."""
        size = boxes.width, boxes.height
        cuts = [[n, face, margin_box(box, *size)] for n, faces in sorted(places.items()) for face, box in faces]
        times = [round(boxes.times[number], 3) for number in sorted(places) if number in boxes.times]
        return digest_of([size, boxes.frame_count, round(boxes.duration, 3), times, cuts])
