"""The command of step 2, and the crops that it cuts (preprocessing/extract_crops.py)."""

import json

import numpy as np
import pytest
from step_commands import run

from dfdc import layout
from dfdc.imaging import read_picture
from dfdc.video import VideoReader


@pytest.mark.slow
def test_crops_are_cut_with_the_originals_boxes_losslessly(preprocessed):
    dataset = layout.load_dataset(preprocessed)
    for video in dataset.videos.values():
        boxes = json.loads(layout.bboxes_path(preprocessed, video.source).read_text())["frames"]
        crops = layout.crops_path(preprocessed, video.id)
        assert layout.list_crops(crops) == [(int(frame), row["face"]) for frame, rows in boxes.items() for row in rows]
        with VideoReader(video.path) as reader:
            for number, frame in reader.frames([0, 30]):
                x1, y1, x2, y2 = (int(corner) for corner in boxes[str(number)][0]["box"])
                w, h = (x2 - x1) // 3, (y2 - y1) // 3
                expected = frame[max(y1 - h, 0) : y2 + h, max(x1 - w, 0) : x2 + w]
                assert np.array_equal(read_picture(crops / layout.crop_name(number, 0)), expected)


def test_the_level_of_the_pngs_arrives(family_copy, started):
    run("extract_crops", family_copy)
    run("extract_crops", family_copy, "--png-level", 7)
    assert [step.png_level for step, *_ in started] == [1, 7]
    with pytest.raises(SystemExit):
        run("extract_crops", family_copy, "--png-level", 10)


@pytest.mark.slow
def test_the_command_cuts_every_video_into_its_folder(family_copy):
    assert run("extract_crops", family_copy, "--workers", 1, "--crops-dir", "cut") == 0
    for video in ("real", "fake"):
        crops = layout.list_crops(layout.crops_path(family_copy, video, "cut"))
        assert crops == [(frame, 0) for frame in range(0, 61, 10)]
    assert not (family_copy / "crops").exists()
