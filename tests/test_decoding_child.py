"""The side of decoding that runs in a process of its own (prediction/decoding_child.py)."""

import os

import cv2
import numpy as np
import pytest

from dfdc.video import VideoError
from prediction.decoding_child import frame_numbers


@pytest.mark.parametrize(("count", "expected"), [(300, 32), (33, 32), (32, 32), (31, 31), (5, 5), (1, 1)])
def test_t1_frames_are_spread_and_a_short_clip_is_read_whole(count, expected):
    numbers = frame_numbers(count, 32)
    assert len(numbers) == len(set(numbers)) == expected
    assert (numbers[0], numbers[-1]) == (0, count - 1)
    if count >= 32:
        assert numbers == np.linspace(0, count - 1, 32).astype(int).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("zero.mp4", "zero bytes"),
        ("text.mp4", "not a readable video"),
        ("gone.mp4", "No such file"),
        ("text.png", "not a readable image"),
    ],
)
def test_a_file_that_cant_be_read_says_why_and_costs_no_child(decoder, clip, tmp_path, name, said):
    with decoder.read(clip, 1) as reading:
        list(reading.frames())
    child = decoder._child.pid
    path = tmp_path / name
    if "gone" not in name:
        path.write_text("" if "zero" in name else "no video")
    with pytest.raises(VideoError, match=said):
        decoder.read(path, 32)
    with decoder.read(clip, 1) as reading:
        list(reading.frames())
    assert decoder._child.pid == child


def test_libraries_of_the_child_say_nothing_on_the_terminal(tmp_path, capfd, decoder):
    picture = np.random.default_rng(0).integers(0, 65536, (40, 40, 3), dtype=np.uint16)
    data = cv2.imencode(".png", picture)[1].tobytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="not a readable image"):
        decoder.read(tmp_path / "cut.png", 32)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pipe.mp4", "pipe.png", "pipe.gif"])
def test_a_pipe_is_not_waited_for(decoder, tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(VideoError, match="can't be opened: not a regular file"):
        decoder.read(tmp_path / name, 2)
