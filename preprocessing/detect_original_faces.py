"""Step 1: find the faces of every REAL video, on every 10th frame -> DATA_ROOT/bboxes/<original>.json.

    python preprocessing/detect_original_faces.py --root-dir DATA_ROOT

Fakes are not searched: their crops are cut with their original's boxes. Each box is in full-size pixels and
comes with its score and the number of the person, which stays the same through the video.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dfdc import artifacts, layout, parallel
from dfdc.faces import DETECT_THRESHOLDS, FaceDetector, Tracker, detector_scale, parse_detector_scale
from dfdc.layout import FRAME_STRIDE, Video
from dfdc.video import VideoReader

if TYPE_CHECKING:
    import numpy as np

STEP = "detect_original_faces"


def step_settings(scale: str | float) -> dict:
    """What the boxes depend on besides the video; a change makes old ones stale."""
    return {"version": 1, "stride": FRAME_STRIDE, "thresholds": list(DETECT_THRESHOLDS), "detector_scale": scale}


def read_stamp(video: Video, root: Path, settings: dict) -> dict | None:
    """The boxes file of `video` if it is complete and fresh."""
    try:
        boxes = json.loads(layout.bboxes_path(root, video.id).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    fresh = isinstance(boxes, dict) and artifacts.is_fresh(boxes, {"settings": settings})
    return boxes if fresh and artifacts.same_file(boxes.get("source"), video.path) else None


def start(context: dict, device: str) -> dict:
    """A worker's context: the detector is made once, on the worker's own device."""
    import torch

    torch.set_num_threads(1)
    return {**context, "detector": FaceDetector(DETECT_THRESHOLDS, device)}


def detect(video: Video, context: dict) -> dict:
    """Write the boxes of one video; return them, which is also their stamp."""
    target = layout.bboxes_path(context["root"], video.id)
    artifacts.remove(target)  # stale: if this fails, the next steps must not take it for good
    source = artifacts.fingerprint(video.path)
    with VideoReader(video.path) as reader:
        scale = detector_scale(context["settings"]["detector_scale"], reader.width, reader.height)
        batch_size = context["detector"].batch_size(reader.width, reader.height, scale)
        tracker = Tracker()
        frames: dict[str, list[dict]] = {}
        batch: list[tuple[int, np.ndarray]] = []
        for numbered in reader.frames(stride=FRAME_STRIDE):
            batch.append(numbered)
            if len(batch) == batch_size:
                frames.update(_detect_batch(context["detector"], tracker, batch, scale))
                batch = []
        frames.update(_detect_batch(context["detector"], tracker, batch, scale))
    faces = sum(map(len, frames.values()))
    notes = [f"{len(reader.lost)} frames can't be decoded, the first is {reader.lost[0]}"] if reader.lost else []
    boxes = {
        "video": video.path.name,
        "width": reader.width,
        "height": reader.height,
        "frame_count": reader.frame_count,
        "source": source,
        "settings": context["settings"],
        "made": {"frames": len(frames), "faces": faces},
        "failed": None if faces else f"no face found in {len(frames)} frames; is one to be seen?",
        "notes": notes,
        "frames": frames,
    }
    artifacts.write_json(target, boxes)
    return {key: boxes[key] for key in ("made", "failed", "notes")}


def _detect_batch(
    detector: FaceDetector, tracker: Tracker, batch: Sequence[tuple[int, np.ndarray]], scale: float
) -> dict[str, list[dict[str, Any]]]:
    found = detector.detect([picture for _, picture in batch], scale)
    frames = {}
    for (number, _), faces in zip(batch, found, strict=True):
        people = tracker.update(number, faces.boxes)
        rows = [
            {"face": person, "box": [round(float(corner), 3) for corner in box], "score": round(float(score), 5)}
            for person, box, score in zip(people, faces.boxes, faces.scores, strict=True)
        ]
        frames[str(number)] = sorted(rows, key=lambda row: row["face"])
    return frames


def main(argv: Sequence[str] | None = None) -> int:
    parser = parallel.step_parser(__doc__, device=True)
    parser.add_argument("--detector-scale", type=parse_detector_scale, default="auto", metavar="auto|FACTOR",
                        help="resize frames by this before detection; auto: x2 where the longer side is under "
                        "300 pixels, x1 up to 1000, x0.5 above (auto)")  # fmt: skip
    args = parser.parse_args(argv)
    dataset = layout.load_dataset(args.root_dir)
    settings = step_settings(args.detector_scale)
    artifacts.remove_leftovers(args.root_dir / "bboxes")
    step = parallel.Step(
        STEP,
        detect,
        partial(read_stamp, root=args.root_dir, settings=settings),
        context={"root": args.root_dir, "settings": settings},
        start=start,
        preload=("torch", "cv2", "av", "scipy.optimize"),
    )
    return parallel.run_step(step, args, dataset.reals(), dataset.skipped)


if __name__ == "__main__":
    parallel.run_main(main)
