"""The command of step 1, and the boxes that it writes (preprocessing/detect_original_faces.py)."""

import json

import pytest
from step_commands import run

from dfdc import layout
from dfdc.video import VideoReader


@pytest.mark.slow
def test_t16_boxes_are_of_every_10th_frame_and_follow_the_contract(preprocessed):
    dataset = layout.load_dataset(preprocessed)
    for video in dataset.reals():
        boxes = json.loads(layout.bboxes_path(preprocessed, video.id).read_text())
        with VideoReader(video.path) as reader:
            assert (boxes["width"], boxes["height"]) == (reader.width, reader.height)
        assert list(boxes["frames"]) == ["0", "10", "20", "30"]
        for rows in boxes["frames"].values():
            (row,) = rows
            x1, y1, x2, y2 = row["box"]
            assert 0 < x2 - x1 < boxes["width"]
            assert 0 < y2 - y1 < boxes["height"]
            assert 0.95 <= row["score"] <= 1
            assert row["face"] == 0
    assert {path.stem for path in (preprocessed / "bboxes").iterdir()} == {video.id for video in dataset.reals()}


def test_detector_scale_and_device_arrive(family_copy, started):
    run("detect_original_faces", family_copy)
    run("detect_original_faces", family_copy, "--detector-scale", 0.5, "--device", "cpu")
    assert [step.scale for step, *_ in started] == ["auto", 0.5]
    assert [options.device for _, options, *_ in started] == ["auto", "cpu"]
    with pytest.raises(SystemExit):
        run("detect_original_faces", family_copy, "--detector-scale", 5)
