"""Step 3: five points in every crop of the REAL videos -> DATA_ROOT/landmarks/<original>/<frame>_<face>.npy.

    python preprocessing/generate_landmarks.py --root-dir DATA_ROOT

Each file is int16 [5, 2]: x, y in crop pixels of left eye, right eye, nose, left and right mouth corner, as seen
in the picture. A FAKE uses its original's.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dfdc import artifacts, layout, parallel
from dfdc.faces import LANDMARK_THRESHOLDS, FaceDetector, Faces, middle_face
from dfdc.imaging import read_picture
from dfdc.layout import Dataset, Video

STEP = "generate_landmarks"
CROPS_AT_ONCE = 64  # read before the detector is called; of any sizes, it takes as many as its memory allows
SMALLEST = 0.2  # of a crop's shorter side; on 1049 crops, up to 0.25 changed no point
SETTINGS = {"version": 1, "thresholds": list(LANDMARK_THRESHOLDS)}


def crops_digest(root: Path, crops_dir: str, video: str) -> str | None:
    """Digest of the stamp of a video's crops; None if they are not complete."""
    return artifacts.folder_digest(layout.crops_path(root, video, crops_dir))


def read_stamp(video: Video, root: Path, crops_dir: str) -> dict | None:
    """The stamp of the landmarks of `video` if they are complete, and made of today's crops."""
    stamp = artifacts.read_stamp(layout.landmarks_path(root, video.id))
    expected = {"settings": SETTINGS, "crops": crops_digest(root, crops_dir, video.id)}
    return stamp if artifacts.is_fresh(stamp, expected) else None


def start(context: dict, device: str) -> dict:
    """A worker's context: the detector is made once, on the worker's own device."""
    import torch

    torch.set_num_threads(1)
    return {**context, "detector": FaceDetector(LANDMARK_THRESHOLDS, device)}


def find_landmarks(pictures: Sequence[np.ndarray], detector: FaceDetector) -> list[np.ndarray | None]:
    """int16 [5, 2] of the face in the middle of each crop, clipped to it; None where there is none."""
    # A crop's own face is 3/5 of it: smaller ones are looked for only where that finds none.
    found = [_middle_points(p, f) for p, f in zip(pictures, detector.detect(pictures, smallest=SMALLEST), strict=True)]
    without = [index for index, points in enumerate(found) if points is None]
    for index, faces in zip(without, detector.detect([pictures[index] for index in without]), strict=True):
        found[index] = _middle_points(pictures[index], faces)
    return found


def _middle_points(picture: np.ndarray, faces: Faces) -> np.ndarray | None:
    height, width = picture.shape[:2]
    index = middle_face(faces, width, height)
    if index is None:
        return None
    return np.rint(np.clip(faces.landmarks[index], 0, (width - 1, height - 1))).astype(np.int16)


def generate(video: Video, context: dict) -> dict:
    """Write the landmarks of one video; return their stamp."""
    root, crops_dir = context["root"], context["crops_dir"]
    target = layout.landmarks_path(root, video.id)
    artifacts.remove(target)
    crops = layout.crops_path(root, video.id, crops_dir)
    stamp = {
        "settings": SETTINGS,
        "crops": crops_digest(root, crops_dir, video.id),
        "made": {"landmarks": 0},
        "failed": None,
        "notes": [],
    }
    without: list[str] = []
    names = layout.list_crops(crops)
    with artifacts.atomic_folder(target, stamp) as folder:
        for start in range(0, len(names), CROPS_AT_ONCE):
            pictures = {}
            for name in names[start : start + CROPS_AT_ONCE]:
                try:
                    pictures[name] = read_picture(crops / layout.crop_name(*name))
                except OSError as error:
                    stamp["notes"].append(f"{error}; remove {crops} and run step 2 again")
            for name, points in zip(pictures, find_landmarks([*pictures.values()], context["detector"]), strict=True):
                if points is None:
                    without.append(layout.crop_name(*name))
                    continue
                buffer = io.BytesIO()
                np.save(buffer, points)
                (folder / layout.landmarks_name(*name)).write_bytes(buffer.getvalue())
                stamp["made"]["landmarks"] += 1
        if without:
            stamp["notes"].append(f"no points in {len(without)} of {len(names)} crops, the first is {without[0]}")
    return stamp


def with_crops(dataset: Dataset, crops_dir: str) -> tuple[list[Video], dict[str, str]]:
    """The REAL videos that have crops, and the rest with the reason."""
    skipped = {video: reason for video, reason in dataset.skipped.items() if "is not on disk" in reason}
    videos = []
    for video in dataset.reals():
        if layout.crops_path(dataset.root, video.id, crops_dir).is_dir():
            videos.append(video)
        else:
            skipped[video.id] = "it has no crops; step 2 (extract_crops.py) makes them"
    return videos, skipped


def main(argv: Sequence[str] | None = None) -> int:
    parser = parallel.step_parser(__doc__, crops=True, device=True)
    args = parser.parse_args(argv)
    dataset = layout.load_dataset(args.root_dir)
    layout.check_crops_dir(args.crops_dir, dataset.parts)
    artifacts.remove_leftovers(args.root_dir / "landmarks")
    step = parallel.Step(
        STEP,
        generate,
        partial(read_stamp, root=args.root_dir, crops_dir=args.crops_dir),
        context={"root": args.root_dir, "crops_dir": args.crops_dir},
        start=start,
        preload=("torch", "cv2"),
    )
    return parallel.run_step(step, args, *with_crops(dataset, args.crops_dir))


if __name__ == "__main__":
    parallel.run_main(main)
