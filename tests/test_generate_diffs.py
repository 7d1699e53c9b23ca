"""The command of step 4, and the masks that it writes (preprocessing/generate_diffs.py)."""

import numpy as np
import pytest
from families import cut
from step_commands import run

from dfdc import layout
from dfdc.imaging import read_picture, ssim_difference


@pytest.mark.slow
def test_masks_show_where_the_fake_differs(preprocessed):
    dataset = layout.load_dataset(preprocessed)
    for video in dataset.fakes():
        fake, real = (layout.crops_path(preprocessed, name) for name in (video.id, video.source))
        for frame, face in layout.list_crops(fake):
            path = layout.diffs_path(preprocessed, video.id) / layout.diff_name(frame, face)
            name = layout.crop_name(frame, face)
            mask = read_picture(path, grey=True)
            assert np.array_equal(mask, ssim_difference(read_picture(real / name), read_picture(fake / name)))
            assert mask.max() > 40
    assert {path.name for path in (preprocessed / "diffs").iterdir()} == {video.id for video in dataset.fakes()}


def test_the_level_of_the_pngs_arrives(family_copy, started):
    run("generate_diffs", family_copy)
    run("generate_diffs", family_copy, "--png-level", 7)
    assert [step.png_level for step, *_ in started] == [1, 7]
    with pytest.raises(SystemExit):
        run("generate_diffs", family_copy, "--png-level", 10)


def test_videos_without_crops_are_skipped_with_the_reason(family_copy, started):
    cut(family_copy, "fake")
    run("generate_diffs", family_copy)
    _, _, videos, skipped, _ = started[0]
    assert videos == []
    assert skipped == [("fake", "no crops of real; run step 2 (extract_crops.py), or see failures/extract_crops.csv")]


@pytest.mark.slow
def test_the_command_compares_every_fake_and_no_original(family_copy):
    cut(family_copy)
    assert run("generate_diffs", family_copy, "--workers", 1) == 0
    assert [path.name for path in (family_copy / "diffs").iterdir()] == ["fake"]
    folder = layout.diffs_path(family_copy, "fake")
    masks = {path.name: read_picture(path, grey=True) for path in folder.glob("*.png")}
    assert masks.keys() == {layout.diff_name(frame, 0) for frame in range(0, 61, 10)}
    for mask in masks.values():
        assert mask[30:40, 30:40].min() > 0  # where the fake's face is brighter
