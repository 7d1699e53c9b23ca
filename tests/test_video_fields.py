"""H.264 whose frames are coded field by field (dfdc/video_fields.py), as camcorders write it (AVCHD).

No encoder here makes such streams, so they are put together bit by bit (ITU-T H.264, clause 7.3), of macroblocks that
hold their pixels as they are (I_PCM).
"""

import re
from fractions import Fraction

import av
import numpy as np
import pytest
from helpers import numbered_frames, read_number
from test_video import encode

from dfdc.video import VideoReader
from dfdc.video_fields import Fields, _Bits, _frame_bits, _units

WIDE, HIGH, FRAMES = 6, 4, 24  # macroblocks of a frame; frames
DELIMITER = b"\0\0\0\1\x09\xf0"


def number(value):
    """ue(v)."""
    return f"{value + 1:b}".zfill(2 * (value + 1).bit_length() - 1)


def unit(kind, bits):
    bits += "1"
    data = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    data = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", data)  # emulation prevention
    return b"\0\0\0\1" + bytes([96 | kind]) + data


def sequence(profile="main", order=2):
    """frame_num has 8 bits; pictures may be fields."""
    bits = f"{ {'main': 77, 'high': 100}[profile]:08b}" + "0" * 8 + f"{30:08b}" + number(0)
    if profile == "high":
        bits += number(1) + number(0) + number(0) + "00"
    bits += number(4) + number(order)
    bits += {0: number(4), 1: "1" + "".join(map(number, (4, 7, 3, 1, 9, 0))), 2: ""}[order]
    bits += number(1) + "0" + number(WIDE - 1) + number(HIGH // 2 - 1) + "0010"
    timing = "0000" + "1" + f"{1:032b}{50:032b}" + "1" + "0000"  # 50 fields a second
    return unit(7, bits + "1" + timing)


PICTURE = unit(8, number(0) * 2 + "00" + number(0) * 3 + "000" + number(0) * 3 + "000")


def coded(index, parity, grey):
    """One picture: a field of parity 0 (top) or 1 (bottom), or a frame (None). A key frame, but for bottom fields."""
    bits = number(0) + number(7) + number(0) + "0" * 8 + ("0" if parity is None else f"1{parity}")
    bits += number(index % 2) + "00" if parity != 1 else "0"
    bits += number(0)
    for top in range(0, grey.shape[0], 16):
        for left in range(0, grey.shape[1], 16):
            bits += number(25)
            bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
            bits += "".join(f"{value:08b}" for value in grey[top : top + 16, left : left + 16].ravel())
            bits += f"{128:08b}" * 128
    return unit(1 if parity == 1 else 5, bits)


def pictures(in_fields):
    """For each frame the units of its pictures: two fields, or one frame."""
    head = sequence() + PICTURE
    for index, frame in enumerate(numbered_frames(FRAMES, 16 * HIGH, 16 * WIDE)):
        grey = (16 + frame[..., 0] // 255 * 219).astype(np.uint8)
        if in_fields(index):
            yield [DELIMITER + head + coded(index, 0, grey[::2]), DELIMITER + coded(index, 1, grey[1::2])]
        else:
            yield [DELIMITER + head + coded(index, None, grey)]


def write(path, in_fields, together):
    """Mux the frames; `together` puts both fields into one packet."""
    found = list(pictures(in_fields))
    bare, options = path.with_suffix(".h264"), {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    bare.write_bytes(b"".join(b"".join(parts) for parts in found))
    with av.open(str(bare)) as container, av.open(str(path), "w", options=options) as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for index, parts in enumerate(found):
            parts = [b"".join(parts)] if together else parts
            for place, data in enumerate(parts):
                packet = av.Packet(data)
                packet.pts = packet.dts = 2 * index + place
                packet.duration = 2 // len(parts)
                packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 50), stream, place == 0
                output.mux(packet)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["ts", "mp4", "mkv"])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("kind", ["fields", "mixed", "frames"])
def test_two_fields_are_one_frame(tmp_path, suffix, together, kind):
    in_fields = {"fields": lambda _: True, "mixed": lambda index: index % 3 != 1, "frames": lambda _: False}[kind]
    path = write(tmp_path / f"fields.{suffix}", in_fields, together)
    if (suffix, together, kind) == ("ts", True, "fields"):
        with av.open(str(path)) as container:
            count = sum(packet.size > 0 for packet in container.demux(video=0))
            assert count == 2 * FRAMES, "FFmpeg hands out whole frames, so this tests nothing"
    with VideoReader(path) as reader:
        assert {n: read_number(frame) for n, frame in reader.frames()} == {n: n for n in range(FRAMES)}
        assert (reader.frame_count, reader.lost) == (FRAMES, [])
        assert (reader.fps, reader.duration) == pytest.approx((25, FRAMES / 25))
        assert reader.times() == pytest.approx(np.arange(FRAMES) / 25)
        assert {n: read_number(frame) for n, frame in reader.frames([3, 20])} == {3: 3, 20: 20}


def test_a_cut_file_of_fields_announces_frames(tmp_path):
    path = write(tmp_path / "fields.mp4", lambda _: True, together=False)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.7)])
    with VideoReader(path) as reader:
        found = {number: read_number(frame) for number, frame in reader.frames()}
        assert reader.frame_count == FRAMES
    assert found == {number: number for number in range(len(found))}
    assert 14 <= len(found) <= 17
    assert reader.lost == list(range(len(found), FRAMES))


@pytest.mark.parametrize(("profile", "order"), [("main", 0), ("main", 1), ("main", 2), ("high", 2)])
@pytest.mark.parametrize("form", ["start codes", "sizes"])
def test_second_fields_are_told_by_the_slice_header(profile, order, form):
    header, grey = sequence(profile, order), np.full((32, 96), 90, np.uint8)
    parts = {"top": coded(0, 0, grey), "bottom": coded(0, 1, grey), "frame": coded(0, None, np.repeat(grey, 2, axis=0))}
    parts["none"] = unit(6, "1" * 40)  # a message without a picture
    if form == "sizes":
        header = bytes([1, 77, 0, 30, 0xFF, 0xE1]) + (len(header) - 4).to_bytes(2, "big") + header[4:]
        parts = {name: (len(data) - 4).to_bytes(4, "big") + data[4:] for name, data in parts.items()}
    else:
        header = (DELIMITER + header)[1:]  # the first zero of a start code may be left out
        parts = {name: data[1:] for name, data in parts.items()}
    fields = Fields("h264", header)
    row = [
        "top",
        "bottom",
        "top",
        "bottom",
        "frame",
        "bottom",
        "top",
        "top",
        "top",
        "bottom",
        "bottom",
        "frame",
        "none",
    ]
    told = [fields.is_second(av.Packet(parts[name])) for name in row]
    assert [index for index, second in enumerate(told) if second] == [1, 3, 6, 9]
    assert not any(Fields("hevc", header).is_second(av.Packet(parts[name])) for name in row)


@pytest.mark.parametrize("header", [None, b"", b"\1", b"\1" * 9, b"\0\0\1", b"\0\0\1\x67", b"\0\0\1\x67" + bytes(9)])
def test_a_header_that_is_broken_means_frames(header):
    fields = Fields("h264", header)
    assert not any(fields.is_second(av.Packet(data)) for data in (b"\0\0\1\x65", b"\0\0\1", b"\1", bytes(99)) * 2)


def test_ordinary_videos_have_no_fields(tmp_path):
    path = encode(tmp_path / "x.mp4", count=4)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        fields = Fields("h264", stream.codec_context.extradata)
        assert fields._frame_bits is None
        assert not any(fields.is_second(packet) for packet in container.demux(stream) if packet.size)


def test_units_that_are_empty_are_passed_over():
    assert list(_units(b"\0\0\1\x09\0\0\1", 0)) == [b"\x09"]
    assert list(_units(bytes([0, 0, 0, 0, 9, 0, 0, 0, 2, 7, 8]), 4)) == [b"\x09", b"\x07\x08"]


@pytest.mark.parametrize(("separate", "bits"), [("1", None), ("0", 8)])
def test_planes_coded_apart_have_no_fields(separate, bits):
    """4:4:4: chroma_format_idc is 3, and a flag says whether each colour is a picture of its own."""
    text = f"{244:08b}" + "0" * 8 + f"{30:08b}" + number(0) + number(3) + separate + number(0) * 2 + "00"
    text += number(4) + number(2) + number(1) + "0" + number(WIDE - 1) + number(HIGH // 2 - 1) + "0010" + "0"
    assert _frame_bits(unit(7, text)[4:]) == bits


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("only", ["0", "1"])
def test_the_flag_of_frames_is_read_where_it_stands(order, only):
    """frame_mbs_only_flag, between bits that are its opposite."""
    text = f"{77:08b}" + "0" * 8 + f"{30:08b}" + number(0) + number(4) + number(order)
    text += {0: number(4), 1: "1" + "".join(map(number, (4, 7, 3, 1, 9, 0))), 2: ""}[order]
    text += number(1) + "0" + number(9) + number(5 if only == "1" else 6)  # ue(v) of 5 ends with 0, of 6 with 1
    bits = text + only
    bits = bits.ljust(len(bits) // 8 * 8 + 16, "10"[int(only)])
    assert _frame_bits(b"\x67" + int(bits, 2).to_bytes(len(bits) // 8, "big")) == (None if only == "1" else 8)


def test_behind_the_end_all_bits_are_1():
    bits = _Bits(b"\x67\0")
    assert [bits.take(7), bits.take(1), bits.take(2)] == [0, 0, 3]


class Packet(bytes):
    """In place of a packet."""


@pytest.mark.parametrize("data", [b"\0\0\1\0\0\1", b"\0\0\1\0\0\1\x65\x88", b"\0\0\1", b"\0\0\1\x65\0\0\1\0\0\1"])
def test_units_without_a_byte_are_none(data):
    assert all(_units(data, 0))
    assert Fields("h264", sequence() + PICTURE).is_second(Packet(data)) is False


@pytest.mark.parametrize("bits", [number(13), number((1 << 60) - 2), "0" * 80_000])
def test_a_sequence_with_a_frame_number_of_more_than_16_bits_is_corrupt(bits):
    """Its bits would be counted one by one, for ever."""
    corrupt = unit(7, f"{77:08b}" + "0" * 8 + f"{30:08b}" + number(0) + bits + number(2) + number(1) + "0" * 20)
    assert _frame_bits(corrupt[4:]) is None
