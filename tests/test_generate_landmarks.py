"""The command of step 3, and the points that it writes (preprocessing/generate_landmarks.py)."""

import numpy as np
import pytest
from families import cut
from step_commands import run

from dfdc import layout
from dfdc.imaging import read_picture


@pytest.mark.slow
def test_landmarks_lie_in_the_face(preprocessed):
    dataset = layout.load_dataset(preprocessed)
    found = 0
    for video in dataset.reals():
        for frame, face in layout.list_crops(layout.crops_path(preprocessed, video.id)):
            path = layout.landmarks_path(preprocessed, video.id) / layout.landmarks_name(frame, face)
            if not path.exists():
                continue
            found += 1
            points = np.load(path)
            height, width = read_picture(layout.crops_path(preprocessed, video.id) / f"{frame}_{face}.png").shape[:2]
            assert points.dtype == np.int16
            assert points.shape == (5, 2)
            left_eye, right_eye, nose, left_mouth, right_mouth = points / (width, height)
            assert 0.15 < left_eye[0] < right_eye[0] < 0.85
            assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1]) < 0.95
    assert found >= 0.9 * 4 * len(dataset.reals())
    assert {path.name for path in (preprocessed / "landmarks").iterdir()} == {video.id for video in dataset.reals()}


def test_videos_without_crops_are_skipped_with_the_reason(family_copy, started):
    cut(family_copy, "fake")
    run("generate_landmarks", family_copy)
    _, _, videos, skipped, _ = started[0]
    assert videos == []
    assert skipped == [("real", "no crops; run step 2 (extract_crops.py), or see failures/extract_crops.csv")]
    cut(family_copy, "real")
    run("generate_landmarks", family_copy, "--device", "cuda:1")
    _, options, videos, skipped, _ = started[1]
    assert (options.device, [video.id for video in videos], skipped) == ("cuda:1", ["real"], [])
