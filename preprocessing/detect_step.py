"""Step 1: detect and track the faces of one REAL video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dfdc import artifacts, layout
from dfdc.artifacts import Stamp
from dfdc.boxes import Boxes, BoxesError, FaceBox, read_boxes
from dfdc.detector_settings import DETECT_THRESHOLDS, DETECTOR_SETTINGS, SCALE_LIMITS, detector_scale
from dfdc.identity import fingerprint, same_file, same_record
from dfdc.layout import FRAME_STRIDE, Video
from dfdc.mtcnn import module_on_cpu
from dfdc.tracking import Tracker, TrackerSettings
from dfdc.video import VideoError, VideoReader
from preprocessing.orphans import PruningStep

# Increase when a change to decoder, detector, tracker or rounding alters the boxes; older boxes then become stale.
# tests/test_versions.py holds the boxes of a fixed clip for each version.
VERSION = 3


class DetectStep(PruningStep):
    """Detect the boxes of one REAL video; `scale` (--detector-scale) is "auto" or a factor."""

    name = "detect_original_faces"
    version = VERSION
    labels = (layout.REAL,)
    uses_crops = False
    preload = ("preprocessing.detect_step", "dfdc.faces", module_on_cpu())

    def __init__(self, root: Path, scale: str | float) -> None:
        super().__init__(root)
        self.scale = scale
        self.settings = {
            "version": VERSION,
            "stride": FRAME_STRIDE,
            "thresholds": list(DETECT_THRESHOLDS),
            "detector_scale": scale,
            "scale_limits": [list(limit) for limit in SCALE_LIMITS],
            "detector": DETECTOR_SETTINGS,
            "tracker": asdict(TrackerSettings()),
        }

    def obstacle(self, video: Video) -> str | None:
        return None

    def check(self, video: Video) -> Stamp | None:
        boxes = self._stored(video)
        if boxes is None or not boxes.stamp.is_fresh({"settings": self.settings}):
            return None
        return boxes.stamp if same_file(boxes.source, video.path) else None

    def _stored(self, video: Video) -> Boxes | None:
        try:
            return read_boxes(layout.bboxes_path(self.root, video.id))
        except BoxesError:
            return None  # an old format or an invalid file: detect again

    def start(self, device: str) -> None:
        from dfdc.faces import FaceDetector  # delayed: only workers need it

        self.detector = FaceDetector(DETECT_THRESHOLDS, device)

    def work(self, video: Video) -> Stamp:
        """Write the boxes of one video and return their stamp."""
        target = layout.bboxes_path(self.root, video.id)
        source = fingerprint(video.path)
        try:
            boxes = self._detect(video, source)
        except VideoError:
            # Remove boxes that belong to another version of the video. Keep boxes of this exact file.
            stored = self._stored(video)
            if stored is None or not same_record(stored.source, source):
                artifacts.remove(target)
            raise
        boxes.write(target)
        return boxes.stamp

    def _detect(self, video: Video, source: dict[str, Any]) -> Boxes:
        with VideoReader(video.path) as reader:
            scale = detector_scale(self.scale, reader.width, reader.height)
            batch_size = self.detector.batch_size(reader.width, reader.height, scale)
            tracker = Tracker()
            frames: dict[int, list[FaceBox]] = {}
            pictures = reader.frames(stride=FRAME_STRIDE)
            while batch := list(islice(pictures, batch_size)):
                frames.update(self._detect_batch(tracker, batch, scale))
            shown = reader.times()
        faces, lost = sum(map(len, frames.values())), reader.lost
        return Boxes(
            video=video.path.name,
            width=reader.width,
            height=reader.height,
            frame_count=reader.frame_count,
            rate=reader.fps,
            duration=reader.duration,
            times={} if shown is None else {number: float(shown[number]) for number in frames if number < len(shown)},
            source=source,
            settings=self.settings,
            made={"frames": len(frames), "faces": faces},
            failed=None if faces else f"no face detected in {len(frames)} frames; check that the video shows a face",
            notes=(f"{len(lost)} frames can't be decoded (first: {lost[0]})",) if lost else (),
            frames=frames,
        )

    def _detect_batch(
        self, tracker: Tracker, batch: Sequence[tuple[int, np.ndarray]], scale: float
    ) -> dict[int, list[FaceBox]]:
        found = self.detector.detect([picture for _, picture in batch], scale)
        frames = {}
        for (number, _), faces in zip(batch, found, strict=True):
            people = tracker.update(number, faces.boxes)
            # Do not round: rounding a corner across an integer would shift the crop by a pixel.
            rows = []
            for person, box, score in zip(people, faces.boxes, faces.scores, strict=True):
                x1, y1, x2, y2 = map(float, box)
                rows.append(FaceBox(person, (x1, y1, x2, y2), float(score)))
            frames[number] = sorted(rows, key=lambda row: row.face)
        return frames
