"""Step 3: detect five landmarks in the crops of one REAL video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dfdc import artifacts, layout
from dfdc.artifacts import Stamp
from dfdc.detector_settings import DETECTOR_SETTINGS, LANDMARK_THRESHOLDS
from dfdc.imaging import MIDDLE_OVERLAP, middle_box, read_picture
from dfdc.landmarks import encode_landmarks
from dfdc.layout import REAL, Video
from dfdc.mtcnn import module_on_cpu
from preprocessing.orphans import PruningStep

if TYPE_CHECKING:
    from dfdc.faces import FaceDetector, Faces

# Increase when a change alters the landmarks. tests/test_versions.py holds those of a fixed clip for each version.
VERSION = 2
CROPS_AT_ONCE = 64  # crops per detector call, of any size; the detector splits them to fit its memory
SMALLEST = 0.2  # smallest face, as a fraction of the crop's shorter side; on 1049 crops, up to 0.25 changed no landmark
SETTINGS = {
    "version": VERSION,
    "thresholds": list(LANDMARK_THRESHOLDS),
    "smallest": SMALLEST,
    "middle_overlap": MIDDLE_OVERLAP,
    "detector": DETECTOR_SETTINGS,
}


class LandmarkStep(PruningStep):
    """Write the landmarks of the crops of one REAL video."""

    name = "generate_landmarks"
    version = VERSION
    labels = (REAL,)
    preload = ("preprocessing.landmark_step", "dfdc.faces", module_on_cpu())

    def obstacle(self, video: Video) -> str | None:
        if self.crops_of(video.id).is_dir():
            return None
        return "no crops; run step 2 (extract_crops.py), or see failures/extract_crops.csv"

    def check(self, video: Video) -> Stamp | None:
        stamp = artifacts.read_stamp(layout.landmarks_path(self.root, video.id))
        return stamp if stamp is not None and stamp.is_fresh(self._inputs(video)) else None

    def _inputs(self, video: Video) -> dict[str, Any]:
        return {"settings": SETTINGS, "crops": artifacts.folder_identity(self.crops_of(video.id))}

    def start(self, device: str) -> None:
        from dfdc.faces import FaceDetector  # delayed: only workers need it

        self.detector = FaceDetector(LANDMARK_THRESHOLDS, device)

    def work(self, video: Video) -> Stamp:
        """Write the landmarks of one video and return their stamp."""
        crops, inputs = self.crops_of(video.id), self._inputs(video)
        made, notes, without = 0, [], []
        names = layout.list_crops(crops)
        target = layout.landmarks_path(self.root, video.id)
        artifacts.remove_unless(target, {"crops": inputs["crops"]})
        with artifacts.atomic_folder(target) as folder:
            for start in range(0, len(names), CROPS_AT_ONCE):
                pictures = {}
                for name in names[start : start + CROPS_AT_ONCE]:
                    try:
                        pictures[name] = read_picture(crops / layout.crop_name(*name))
                    except OSError as error:
                        notes.append(f"{error}; remove {crops} and rerun step 2")
                found = find_landmarks([*pictures.values()], self.detector)
                for name, points in zip(pictures, found, strict=True):
                    if points is None:
                        without.append(layout.crop_name(*name))
                        continue
                    folder.write(layout.landmarks_name(*name), encode_landmarks(points))
                    made += 1
            if without:
                notes.append(f"no landmarks in {len(without)} of {len(names)} crops (first: {without[0]})")
            folder.stamp = stamp = Stamp(inputs, {"landmarks": made}, notes=tuple(notes))
        return stamp


def find_landmarks(pictures: Sequence[np.ndarray], detector: FaceDetector) -> list[np.ndarray | None]:
    """Return the landmarks, int16 [5, 2], of the middle face of each crop, clipped to the crop; None without a face."""
    # The face of a crop spans 3/5 of it. Detect smaller faces only if the first pass detects none.
    found = [_middle_points(p, f) for p, f in zip(pictures, detector.detect(pictures, smallest=SMALLEST), strict=True)]
    without = [index for index, points in enumerate(found) if points is None]
    for index, faces in zip(without, detector.detect([pictures[index] for index in without]), strict=True):
        found[index] = _middle_points(pictures[index], faces)
    return found


def _middle_points(picture: np.ndarray, faces: Faces) -> np.ndarray | None:
    height, width = picture.shape[:2]
    index = middle_box(faces.boxes, width, height)
    if index is None:
        return None
    return np.rint(np.clip(faces.landmarks[index], 0, (width - 1, height - 1))).astype(np.int16)
