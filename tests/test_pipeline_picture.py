"""The picture on top of the README (demo_data/pipeline_picture.py)."""

import numpy as np
import pytest
from families import compare, cut
from helpers import write_part

from demo_data.pipeline_picture import draw, find_example
from dfdc import layout
from dfdc.command_line import UsageError
from dfdc.imaging import read_picture
from dfdc.landmarks import encode_landmarks


@pytest.fixture
def dataset(crops_root):
    """A data set with crops, masks and landmarks of three pairs."""
    names = {f"real{n}.mp4": {"label": "REAL"} for n in range(3)}
    names |= {f"fake{n}.mp4": {"label": "FAKE", "original": f"real{n}.mp4"} for n in range(3)}
    part = write_part(crops_root / "part_0", names)
    for name in names:
        (part / name).write_bytes(b"x")
    return layout.load_dataset(crops_root)


def test_the_example_is_the_first_that_has_everything(dataset):
    root, mask, points = dataset.root, layout.diff_name(0, 0), layout.landmarks_name(10, 0)
    fake, frame, face = find_example(dataset, "crops")
    assert (fake.id, frame, face) == ("fake0", 0, 0)
    (layout.diffs_path(root, "fake0") / mask).unlink()
    (layout.landmarks_path(root, "real0") / points).unlink()
    fake, frame, face = find_example(dataset, "crops")
    assert (fake.id, frame, face) == ("fake0", 20, 0)
    for path in layout.landmarks_path(root, "real0").iterdir():
        path.unlink()
    assert find_example(dataset, "crops")[0].id == "fake1"
    with pytest.raises(UsageError, match=r"no fake in .* has a crop, landmarks and a mask; run \./preprocess_data\.sh"):
        find_example(dataset, "other")


@pytest.mark.slow
def test_the_picture_shows_boxes_and_points(family_copy, tmp_path, no_display):
    cut(family_copy)
    compare(family_copy)
    folder = layout.landmarks_path(family_copy, "real")
    folder.mkdir(parents=True)
    points = np.array([(22, 24), (44, 24), (33, 36), (24, 48), (42, 48)], np.int16)
    (folder / layout.landmarks_name(20, 0)).write_bytes(encode_landmarks(points))
    output = tmp_path / "deep" / "picture.png"
    draw(layout.load_dataset(family_copy), "crops", output)
    picture = read_picture(output)
    assert picture.shape == (560, 1150, 3)
    left = picture[:, :450]  # where the frames are
    green, red, yellow = (
        np.argwhere((part == colour).all(axis=-1))
        for part, colour in ((left, (44, 160, 44)), (left, (214, 39, 40)), (picture, (255, 255, 0)))
    )
    assert len(green) > 100
    assert len(red) > 100
    assert green[:, 0].max() < 280 < red[:, 0].min()  # the original is above its fake
    assert len(yellow) > 5 * 4
    again = output.read_bytes()
    draw(layout.load_dataset(family_copy), "crops", output)
    assert output.read_bytes() == again
