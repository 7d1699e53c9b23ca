"""Step 1: find the faces of every REAL video, on every 10th frame -> DATA_ROOT/bboxes/<original>.json.

    python preprocessing/detect_original_faces.py --root-dir DATA_ROOT

Fakes are not searched: their crops are cut with their original's boxes. Each box is in full-size pixels and
comes with its score and the number of the person, which stays the same through the video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dfdc import artifacts, command_line, layout, steps
from dfdc.boxes import Boxes, BoxesError, FaceBox, read_boxes
from dfdc.detector_settings import DETECT_THRESHOLDS, SCALE_LIMITS, detector_scale, parse_detector_scale
from dfdc.faces import DETECTOR_SETTINGS, FaceDetector
from dfdc.identity import fingerprint, same_file, same_record
from dfdc.layout import FRAME_STRIDE, Video
from dfdc.rejections import load_rejections
from dfdc.tracking import Tracker, TrackerSettings
from dfdc.video import VideoError, VideoReader
from preprocessing.orphans import prune

if TYPE_CHECKING:
    import numpy as np

STEP = "detect_original_faces"
# Raised with every change that gives other boxes (decoder, detector, tracker, rounding): those of an older way are
# stale. tests/test_versions.py has the boxes of a fixed clip for each version.
VERSION = 2


class DetectStep(steps.Step):
    """Boxes of one REAL video.

    Args:
        root: DATA_ROOT.
        scale: --detector-scale, "auto" or a factor.
    """

    name = STEP
    preload = ("torch", "cv2", "av", "scipy.optimize")

    def __init__(self, root: Path, scale: str | float) -> None:
        self.root, self.scale = root, scale
        self.settings = {
            "version": VERSION,
            "stride": FRAME_STRIDE,
            "thresholds": list(DETECT_THRESHOLDS),
            "detector_scale": scale,
            "scale_limits": [list(limit) for limit in SCALE_LIMITS],
            "detector": DETECTOR_SETTINGS,
            "tracker": asdict(TrackerSettings()),
        }

    def check(self, video: Video) -> dict | None:
        boxes = self._stored(video)
        fresh = boxes is not None and artifacts.is_fresh(boxes.stamp, {"settings": self.settings})
        return boxes.stamp if fresh and same_file(boxes.stamp["source"], video.path) else None

    def _stored(self, video: Video) -> Boxes | None:
        try:
            return read_boxes(layout.bboxes_path(self.root, video.id))
        except BoxesError:
            return None  # of an earlier version, or broken: made anew

    def start(self, device: str) -> None:
        self.detector = FaceDetector(DETECT_THRESHOLDS, device)

    def work(self, video: Video) -> dict:
        """Write the boxes of one video; return their stamp."""
        target = layout.bboxes_path(self.root, video.id)
        source = fingerprint(video.path)
        try:
            boxes = self._detect(video, source)
        except VideoError:
            # Boxes of another video must not be taken for this one's. Those of this very video are no worse for it.
            stored = self._stored(video)
            if stored is None or not same_record(stored.stamp["source"], source):
                artifacts.remove(target)
            raise
        boxes.write(target, video.path.name)
        return boxes.stamp

    def _detect(self, video: Video, source: dict) -> Boxes:
        with VideoReader(video.path) as reader:
            scale = detector_scale(self.scale, reader.width, reader.height)
            batch_size = self.detector.batch_size(reader.width, reader.height, scale)
            tracker = Tracker()
            frames: dict[int, list[FaceBox]] = {}
            batch: list[tuple[int, np.ndarray]] = []
            for numbered in reader.frames(stride=FRAME_STRIDE):
                batch.append(numbered)
                if len(batch) == batch_size:
                    frames.update(self._detect_batch(tracker, batch, scale))
                    batch = []
            frames.update(self._detect_batch(tracker, batch, scale))
            shown = reader.times()
        faces = sum(map(len, frames.values()))
        lost = reader.lost
        stamp = {
            "source": source,
            "settings": self.settings,
            "made": {"frames": len(frames), "faces": faces},
            "failed": None if faces else f"no face found in {len(frames)} frames; is one to be seen?",
            "notes": [f"{len(lost)} frames can't be decoded, the first is {lost[0]}"] if lost else [],
        }
        times = {} if shown is None else {number: float(shown[number]) for number in frames if number < len(shown)}
        return Boxes(reader.width, reader.height, reader.frame_count, reader.fps, reader.duration, times, frames, stamp)

    def _detect_batch(
        self, tracker: Tracker, batch: Sequence[tuple[int, np.ndarray]], scale: float
    ) -> dict[int, list[FaceBox]]:
        found = self.detector.detect([picture for _, picture in batch], scale)
        frames = {}
        for (number, _), faces in zip(batch, found, strict=True):
            people = tracker.update(number, faces.boxes)
            # Not rounded: a corner that moves over a whole number moves the crop by a pixel.
            rows = [
                FaceBox(person, tuple(map(float, box)), float(score))
                for person, box, score in zip(people, faces.boxes, faces.scores, strict=True)
            ]
            frames[number] = sorted(rows, key=lambda row: row.face)
        return frames


def main(argv: Sequence[str] | None = None) -> int:
    parser = steps.step_parser(__doc__, device=True)
    scale_help = (
        "resize frames by this before detection; auto: x2 where the longer side is under 300 pixels, x1 up to 1000, "
        "x0.5 above (auto)"
    )
    parser.add_argument(
        "--detector-scale", type=parse_detector_scale, default="auto", metavar="auto|FACTOR", help=scale_help
    )
    args = parser.parse_args(argv)
    dataset = layout.load_dataset(args.root_dir)
    rejections = load_rejections(args.root_dir)
    artifacts.remove_leftovers(args.root_dir / "bboxes")
    if args.prune is not None:
        prune(dataset, STEP, args.prune)
    rejected = {video.id: reason for video in dataset.reals() if (reason := rejections.whole(video))}
    videos = [video for video in dataset.reals() if video.id not in rejected]
    skipped = [(name, entry.reason) for name, entry in dataset.skipped.items() if entry.video.label == layout.REAL]
    skipped += rejected.items()
    return steps.run_step(DetectStep(args.root_dir, args.detector_scale), args, videos, skipped)


if __name__ == "__main__":
    command_line.run_main(main)
