"""What each step makes of a fixed clip, version by version: a changed result needs a new version (T65).

    python tests/test_versions.py     records what the steps make today, for the versions they have today

The clip (tests/data/clip) shows two people, one of whom is gone for a moment, and a fake of it.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dfdc import identity, layout
from dfdc.boxes import read_boxes
from dfdc.imaging import read_picture
from preprocessing import (
    detect_original_faces,
    extract_crops,
    generate_diffs,
    generate_folds,
    generate_landmarks,
)
from preprocessing.crop_step import CropStep
from preprocessing.detect_step import DetectStep
from preprocessing.diff_step import DiffStep
from preprocessing.folds_step import FoldsStep
from preprocessing.landmark_step import LandmarkStep

ROOT = Path(__file__).resolve().parents[1]
STEPS = {
    DetectStep: detect_original_faces,
    CropStep: extract_crops,
    LandmarkStep: generate_landmarks,
    DiffStep: generate_diffs,
    FoldsStep: generate_folds,
}
RECORD = ROOT / "tests" / "data" / "steps.json"
# Other processors add up in another order; MTCNN's corners move by a thousandth of a pixel.
CORNERS = 0.01
GREY = 0.05


def make(root: Path) -> Path:
    """Run all steps on the clip."""
    shutil.copytree(ROOT / "tests" / "data" / "clip", root / "part_0")
    for script in STEPS.values():
        assert script.main(["--root-dir", str(root)]) == 0
    return root


def results(root: Path) -> dict:
    """What the steps made, in numbers and checksums: step -> result."""
    boxes = read_boxes(layout.bboxes_path(root, "real"))
    crops = {
        f"{video}/{path.name}": identity.digest_of(read_picture(path).tolist())
        for video in ("real", "fake")
        for path in sorted(layout.crops_path(root, video).glob("*.png"))
    }
    points = {path.name: np.load(path).tolist() for path in sorted(layout.landmarks_path(root, "real").glob("*.npy"))}
    masks = {
        path.name: [round(float(value), 3) for value in _quarters(read_picture(path, grey=True))]
        for path in sorted(layout.diffs_path(root, "fake").glob("*.png"))
    }
    return {
        "detect_original_faces": {
            "numbers": [boxes.width, boxes.height, boxes.frame_count, boxes.rate, boxes.duration],
            "times": {str(number): seconds for number, seconds in boxes.times.items()},
            "faces": [[number, face.face, *face.box] for number, faces in boxes.frames.items() for face in faces],
        },
        "extract_crops": crops,
        "generate_landmarks": points,
        "generate_diffs": masks,
        "generate_folds": {"rows": sorted((root / layout.FOLDS_NAME).read_text().splitlines())},
    }


def _quarters(mask: np.ndarray) -> list[np.floating]:
    """Mean grey of the four quarters of a mask."""
    y, x = mask.shape[0] // 2, mask.shape[1] // 2
    return [part.mean() for part in (mask[:y, :x], mask[:y, x:], mask[y:, :x], mask[y:, x:])]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return results(make(tmp_path_factory.mktemp("clip") / "root"))


@pytest.fixture(scope="module")
def recorded():
    return json.loads(RECORD.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_t65_a_changed_result_needs_a_new_version(step, made, recorded):
    version, found = str(step.version), made[step.name]
    known = recorded[step.name]
    assert version in known, f"no result is recorded for version {version} of {step.name}: run {Path(__file__).name}"
    assert max(map(int, known)) == int(version), f"{step.name} went back to version {version}"
    expected = known[version]
    told = f"{step.name} makes something else than version {version} did: raise its VERSION, and run this file"
    assert found.keys() == expected.keys(), told
    for key, value in expected.items():
        tolerance = {"faces": CORNERS}.get(key, GREY if step is DiffStep else 0)
        if step is LandmarkStep:  # whole pixels: one that lies between two may fall on either side
            moved = np.abs(np.array(found[key]) - value)
            assert moved.max() <= 1, told
            assert moved.sum() <= 1, told
        elif tolerance:
            assert np.asarray(found[key]) == pytest.approx(np.asarray(value), abs=tolerance, rel=0), told
        else:
            assert found[key] == value, told


def test_the_clip_shows_what_it_should(recorded):
    """Two people, one of whom keeps her number after a frame without her; no corner so near a pixel's edge that it
    could fall on either side."""
    faces = recorded["detect_original_faces"][str(DetectStep.version)]["faces"]
    assert [(number, face) for number, face, *_ in faces] == [
        (0, 0),
        (0, 1),
        (10, 0),
        (10, 1),
        (20, 1),
        (30, 0),
        (30, 1),
    ]
    corners = np.array([corners for _, _, *corners in faces])
    assert (np.abs(corners - np.rint(corners)) > CORNERS).all()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        new = results(make(Path(folder) / "root"))
    stored = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    for one in STEPS:
        stored.setdefault(one.name, {})[str(one.version)] = new[one.name]
    RECORD.write_text(json.dumps(stored, indent=1) + "\n")
