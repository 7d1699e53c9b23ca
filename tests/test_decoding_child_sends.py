"""What the decoding child sends of a file (prediction/decoding_child.py), without its process."""

import json

import numpy as np
import pytest
from helpers import ROOT, numbered_frames, read_number

from dfdc.pictures import read_photo
from dfdc.video import VideoError, VideoReader, write_video
from prediction import decoding_child
from prediction.decoding_child import _send_frames, _serve

ODD = ROOT / "tests/data/odd"


class Wire:
    """In place of a connection: keeps what is sent, and gives requests until there is no more."""

    def __init__(self, *requests):
        self.sent, self.requests = [], list(requests)

    def send_bytes(self, data):
        self.sent.append(bytes(data))

    def recv_bytes(self):
        if not self.requests:
            raise EOFError
        return json.dumps(self.requests.pop(0)).encode()


def send(path, wanted=32):
    """What is known of the file, its pictures by number, and what was lost."""
    wire = Wire()
    lost = _send_frames(wire, path, wanted)
    opened = json.loads(wire.sent[0])["opened"]
    pictures = {}
    for head, data in zip(wire.sent[1::2], wire.sent[2::2], strict=True):
        head = json.loads(head)
        pictures[head["number"]] = np.frombuffer(data, np.uint8).reshape(head["height"], head["width"], 3)
    return opened, pictures, lost


def test_frames_spread_over_a_video(tmp_path):
    write_video(tmp_path / "v.mp4", numbered_frames(40), fps=24)
    opened, pictures, lost = send(tmp_path / "v.mp4", 5)
    assert opened == {"picture": False, "frame_count": 40, "frames_per_second": 24.0, "wanted": 5, "notes": []}
    assert [*pictures] == [read_number(picture) for picture in pictures.values()] == [0, 9, 19, 29, 39]
    assert lost == []
    _, pictures, _ = send(tmp_path / "v.mp4", [7, 30])
    assert [read_number(picture) for picture in pictures.values()] == [7, 30]


def test_frames_of_any_size_come(tmp_path):
    opened, pictures, lost = send(ODD / "sizes.ts")
    assert len(pictures) == opened["wanted"]
    assert lost == []
    assert len({picture.shape for picture in pictures.values()}) > 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("squeezed.mp4", "non-square pixels (2 times as wide as high), resampled to square"),
        ("hlg.mp4", "high dynamic range (HLG), converted to standard range"),
    ],
)
def test_pictures_come_as_they_are_shown(name, said):
    opened, pictures, _ = send(ODD / name, 2)
    assert len(opened["notes"]) == 1
    assert opened["notes"][0].startswith(said)
    with VideoReader(ODD / name, any_size=True, as_shown=True) as reader:
        expected = dict(reader.frames([*pictures]))
    for number, picture in pictures.items():
        assert np.array_equal(picture, expected[number])


def test_a_photo_is_one_frame(tmp_path):
    opened, pictures, lost = send(ODD / "transparent.webp")
    assert (opened["picture"], opened["frame_count"], opened["wanted"], opened["frames_per_second"]) == (True, 1, 1, 0)
    assert np.array_equal(pictures[0], read_photo(ODD / "transparent.webp").pixels)
    assert lost == []


def test_a_rate_that_is_not_known_is_0(tmp_path, monkeypatch):
    write_video(tmp_path / "v.mp4", numbered_frames(3))
    monkeypatch.setattr(
        VideoReader, "fps", property(lambda self: float("nan"), lambda self, value: None), raising=False
    )
    assert send(tmp_path / "v.mp4")[0]["frames_per_second"] == 0


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff")
    said = {"absent.mp4": "can't be opened: No such file", ".": "can't be opened", "x.jpg": "not a readable image"}
    for name, reason in said.items():
        with pytest.raises(VideoError, match=reason):
            send(tmp_path / name)


def test_each_request_ends_with_what_was_lost_or_why_it_failed(tmp_path, monkeypatch):
    ends = {"good": [3, 4], "memory": MemoryError(), "odd": KeyError("k"), "bad": VideoError("bad", "cut off")}
    wrapped = VideoError("wrapped", "no room")
    wrapped.__cause__ = MemoryError()
    ends["wrapped"] = wrapped

    def end(connection, path, wanted):
        assert wanted == 7
        if isinstance(ends[path.name], Exception):
            raise ends[path.name]
        return ends[path.name]

    monkeypatch.setattr(decoding_child, "_send_frames", end)
    wire = Wire(*({"path": str(tmp_path / name), "wanted": 7} for name in ends))
    _serve(wire)
    assert wire.sent[0] == b"ready"
    assert [json.loads(data) for data in wire.sent[1:]] == [
        {"lost": [3, 4]},
        {"memory": "not enough memory to decode the file"},
        {"error": "KeyError: 'k'"},
        {"unreadable": "cut off"},
        {"memory": "no room"},
    ]


def test_it_ends_where_nobody_listens(monkeypatch):
    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr(decoding_child, "_send_frames", gone)
    wire = Wire({"path": "x", "wanted": 1}, {"path": "y", "wanted": 1})
    _serve(wire)
    assert wire.sent == [b"ready"]
    assert len(wire.requests) == 1
