"""The boxes file, there and back (dfdc/boxes.py)."""

import dataclasses
import json

import pytest

from dfdc.artifacts import Stamp
from dfdc.boxes import Boxes, BoxesError, FaceBox, read_boxes
from dfdc.identity import NotAFileError

FRAMES = {
    0: [FaceBox(0, (1.5, -2.25, 30.123456789, 40.0), 0.99), FaceBox(2, (5.0, 6.0, 7.0, 8.0), 1.0)],
    10: [],
    30: [FaceBox(0, (1.0, 2.0, 3.0, 4.0), 0.5)],
}
BOXES = Boxes(
    video="a.mp4",
    width=640,
    height=480,
    frame_count=41,
    rate=29.97,
    duration=1.368,
    times={0: 0.0, 10: 0.3337, 30: 1.001},
    source={"size": 1, "mtime_ns": 2, "xxh3": "a"},
    settings={"version": 2},
    made={"frames": 2, "faces": 3},
    failed=None,
    notes=("1 frames can't be decoded, the first is 20",),
    frames=FRAMES,
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "bboxes" / "a.json"
    BOXES.write(path)
    return path


def test_there_and_back(path):
    assert read_boxes(path) == BOXES
    assert BOXES.faces == 3
    assert BOXES.stamp == Stamp(
        {"source": {"size": 1, "mtime_ns": 2, "xxh3": "a"}, "settings": {"version": 2}},
        {"frames": 2, "faces": 3},
        notes=("1 frames can't be decoded, the first is 20",),
    )
    content = json.loads(path.read_text(), parse_constant=pytest.fail)  # plain JSON: no NaN, no Infinity
    assert content["video"] == "a.mp4"
    assert content["frames"]["0"][0] == {"face": 0, "box": [1.5, -2.25, 30.123456789, 40.0], "score": 0.99}
    assert dataclasses.replace(BOXES, frames={}).faces == 0


def test_no_file_is_no_boxes(tmp_path):
    assert read_boxes(tmp_path / "absent.json") is None


def test_t61_a_file_that_cant_be_read_is_not_an_absent_one(tmp_path):
    with pytest.raises(NotAFileError, match="a folder"):
        read_boxes(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"frames": 3},
        {"frames": None},
        {"frames": {"x": []}},
        {"frames": {"-1": []}},
        {"frames": {str(10**9): []}},
        {"frames": {"0": [{"face": 10**9, "score": 1, "box": [1, 2, 3, 4]}]}},
        {"frames": {"0": [{"face": 0, "score": 1}]}},
        {"frames": {"0": [{"face": 0, "score": 1, "box": [1, 2, 3]}]}},
        {"frames": {"0": [7]}},
        {"width": "wide"},
        {"height": None},
        {"times": 7},
        {"times": {"0": "now"}},
        {"rate": None},
        {"made": 7},
        {"made": {"faces": -1}},
        {"notes": None},
        {"failed": 3},
        {"width": "640"},
        {"width": 640.5},
        {"source": None},
    ],
)
def test_what_step_1_does_not_write_is_told(path, change):
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps(content))
    with pytest.raises(BoxesError, match=r"a\.json is not valid output of step 1"):
        read_boxes(path)


@pytest.mark.parametrize(
    "key", ["width", "height", "frame_count", "rate", "duration", "times", "frames", *BOXES.stamp.to_json()]
)
def test_a_file_of_an_earlier_version_lacks_something(path, key):
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(BoxesError, match=rf"\({key}: Field required\)"):
        read_boxes(path)


def test_of_many_wrong_values_ten_are_told(path):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"frames": {"0": [7] * 12}}))
    with pytest.raises(BoxesError, match=r"frames\.0\.0: Input should be .*; frames\.0\.9: [^;]*; and 2 more\)$"):
        read_boxes(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 99999])
def test_a_broken_file_is_told(path, text):
    path.write_text(text)
    with pytest.raises(BoxesError):
        read_boxes(path)
