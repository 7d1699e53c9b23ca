"""Step 3: five points in every crop of the REAL videos -> DATA_ROOT/landmarks/<original>/<frame>_<face>.npy.

    python preprocessing/generate_landmarks.py --root-dir DATA_ROOT

Each file is int16 [5, 2]: x, y in crop pixels of left eye, right eye, nose, left and right mouth corner, as seen
in the picture. A FAKE uses its original's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dfdc import artifacts, command_line, layout, steps
from dfdc.detector_settings import LANDMARK_THRESHOLDS
from dfdc.faces import DETECTOR_SETTINGS, MIDDLE_OVERLAP, FaceDetector, Faces, middle_face
from dfdc.imaging import read_picture
from dfdc.landmarks import encode_landmarks
from dfdc.layout import REAL, Dataset, Video
from dfdc.rejections import Rejections, load_rejections
from preprocessing.orphans import prune

STEP = "generate_landmarks"
# Raised with every change that gives other points; tests/test_versions.py has those of a fixed clip for each version.
VERSION = 2
CROPS_AT_ONCE = 64  # read before the detector is called; of any sizes, it takes as many as its memory allows
SMALLEST = 0.2  # of a crop's shorter side; on 1049 crops, up to 0.25 changed no point
SETTINGS = {
    "version": VERSION,
    "thresholds": list(LANDMARK_THRESHOLDS),
    "smallest": SMALLEST,
    "middle_overlap": MIDDLE_OVERLAP,
    "detector": DETECTOR_SETTINGS,
}


class LandmarkStep(steps.Step):
    """Points in the crops of one REAL video.

    Args:
        root: DATA_ROOT.
        crops_dir: name of the folder of the crops in it.
    """

    name = STEP
    preload = ("torch", "cv2")

    def __init__(self, root: Path, crops_dir: str) -> None:
        self.root, self.crops_dir = root, crops_dir

    def check(self, video: Video) -> dict | None:
        stamp = artifacts.read_stamp(layout.landmarks_path(self.root, video.id))
        expected = {"settings": SETTINGS, "crops": artifacts.folder_identity(self._crops(video))}
        return stamp if artifacts.is_fresh(stamp, expected) else None

    def _crops(self, video: Video) -> Path:
        return layout.crops_path(self.root, video.id, self.crops_dir)

    def start(self, device: str) -> None:
        self.detector = FaceDetector(LANDMARK_THRESHOLDS, device)

    def work(self, video: Video) -> dict:
        """Write the landmarks of one video; return their stamp."""
        crops = self._crops(video)
        stamp = {
            "settings": SETTINGS,
            "crops": artifacts.folder_identity(crops),
            "made": {"landmarks": 0},
            "failed": None,
            "notes": [],
        }
        without: list[str] = []
        names = layout.list_crops(crops)
        target = layout.landmarks_path(self.root, video.id)
        artifacts.remove_unless(target, {"crops": stamp["crops"]})
        with artifacts.atomic_folder(target, stamp) as folder:
            for start in range(0, len(names), CROPS_AT_ONCE):
                pictures = {}
                for name in names[start : start + CROPS_AT_ONCE]:
                    try:
                        pictures[name] = read_picture(crops / layout.crop_name(*name))
                    except OSError as error:
                        stamp["notes"].append(f"{error}; remove {crops} and run step 2 again")
                found = find_landmarks([*pictures.values()], self.detector)
                for name, points in zip(pictures, found, strict=True):
                    if points is None:
                        without.append(layout.crop_name(*name))
                        continue
                    folder.write(layout.landmarks_name(*name), encode_landmarks(points))
                    stamp["made"]["landmarks"] += 1
            if without:
                stamp["notes"].append(f"no points in {len(without)} of {len(names)} crops, the first is {without[0]}")
        return stamp


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


def with_crops(dataset: Dataset, crops_dir: str, rejections: Rejections) -> tuple[list[Video], list[tuple[str, str]]]:
    """The REAL videos that have crops, and the rest with the reason."""
    skipped = [(name, entry.reason) for name, entry in dataset.skipped.items() if entry.video.label == REAL]
    videos = []
    for video in dataset.reals():
        reason = rejections.whole(video)
        if reason is None and not layout.crops_path(dataset.root, video.id, crops_dir).is_dir():
            reason = "it has no crops; step 2 (extract_crops.py) makes them, or says why not"
        if reason is None:
            videos.append(video)
        else:
            skipped.append((video.id, reason))
    return videos, skipped


def main(argv: Sequence[str] | None = None) -> int:
    parser = steps.step_parser(__doc__, crops=True, device=True)
    args = parser.parse_args(argv)
    dataset = layout.load_dataset(args.root_dir)
    layout.check_crops_dir(args.crops_dir, dataset.parts)
    rejections = load_rejections(args.root_dir)
    artifacts.remove_leftovers(args.root_dir / "landmarks")
    if args.prune is not None:
        prune(dataset, STEP, args.prune)
    step = LandmarkStep(args.root_dir, args.crops_dir)
    return steps.run_step(step, args, *with_crops(dataset, args.crops_dir, rejections))


if __name__ == "__main__":
    command_line.run_main(main)
