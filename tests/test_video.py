"""Reading videos (dfdc/video.py): frame numbers, broken files, rotation."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from helpers import REAL_VIDEOS, numbered_frames, on_both_kinds, read_number, run_script

from dfdc.video import VideoError, VideoReader, write_video

LONG = 240
GOP = {"g": "24", "keyint_min": "24", "sc_threshold": "0"}


def read(path, *arguments, **options):
    with VideoReader(path) as reader:
        return {number: read_number(frame) for number, frame in reader.frames(*arguments, **options)}, reader


def encode(path, codec="libx264", pix_fmt="yuv420p", count=40, pts=None, options=None, container_options=None):
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        stream.options = options or {}
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(numbered_frames(count)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = (pts(number) if pts else number * 40), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("wanted", [[0, 1, 2], [7], [39], [12, 25, 38], [5, 5, 5]])
def test_t10_frame_k_is_frame_k(write_numbered, wanted):
    found, reader = read(write_numbered(), wanted)
    assert found == {number: number for number in wanted}
    assert reader.lost == []


def test_every_tenth_frame_to_the_end(write_numbered):
    found, reader = read(write_numbered(count=41), stride=10)
    assert found == {0: 0, 10: 10, 20: 20, 30: 30, 40: 40}
    assert (reader.frame_count, reader.width, reader.height, reader.fps) == (41, 96, 64, 25.0)
    assert reader.duration == 41 / 25


def test_b_frames_are_numbered_as_shown(tmp_path):
    path = encode(tmp_path / "b.mp4", options={"bf": "3", "b-adapt": "0"})
    with av.open(str(path)) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert stamps != sorted(stamps), "the file has no B-frames, so it tests nothing"
    assert read(path, stride=1)[0] == {number: number for number in range(40)}


def test_t11_undecodable_frames_keep_the_others_numbers(tmp_path):
    # Motion JPEG: each frame stands by itself, so broken packets break just theirs.
    path = encode(tmp_path / "m.avi", codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    starts = [i for i in range(len(data) - 3) if data[i : i + 3] == b"\xff\xd8\xff"]
    assert len(starts) == 40
    for number in (10, 11):
        data[starts[number] : starts[number] + 200] = bytes(200)
    path.write_bytes(data)
    found, reader = read(path, stride=1)
    assert found == {number: number for number in range(40) if number not in (10, 11)}
    assert reader.lost == [10, 11]
    found, reader = read(path, [9, 10, 12, 39])
    assert found == {9: 9, 12: 12, 39: 39}
    assert reader.lost == [10]


def test_t11_a_damaged_h264_stream_never_shows_a_frame_under_another_number(tmp_path):
    path = encode(tmp_path / "x.mp4", options={"g": "8", "bf": "0"}, count=64)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in places[16:24]:  # a whole group of pictures
        data[position + 4 : position + size] = bytes(size - 4)
    path.write_bytes(data)
    found, reader = read(path, stride=1)
    assert len(found) + len(reader.lost) == 64
    undamaged = [number for number in found if not 16 <= number < 24]
    assert {number: found[number] for number in undamaged} == {number: number for number in undamaged}
    assert set(range(24, 64)) <= set(found)


def test_t11_a_picture_built_on_damage_is_lost_not_shown(tmp_path):
    path = encode(tmp_path / "x.mp4", options={"g": "60", "bf": "0"}, count=60)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in places[30:33]:
        data[position + 5 : position + size] = np.random.default_rng(0).bytes(size - 5)
    path.write_bytes(data)
    found, reader = read(path, stride=1)
    assert found == {number: number for number in found}
    assert set(range(30)) <= set(found)
    assert sorted([*found, *reader.lost]) == list(range(60))


def damage(path, numbers, how=bytes):
    """Overwrite the packets of these frames, in the order of the file, but for their first bytes."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in (places[number] for number in numbers):
        data[position + 6 : position + size] = how(size - 6)
    path.write_bytes(data)


def test_t11_what_is_built_on_a_damaged_key_frame_is_lost_by_either_way_of_reading(tmp_path):
    path = encode(tmp_path / "x.mp4", options={**GOP, "bf": "0"}, count=LONG)
    with av.open(str(path)) as container:
        position, size = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size][120]
    data = bytearray(path.read_bytes())
    start = position + size // 2  # its first half can be decoded: the decoder makes up the rest, and says so
    data[start : position + size] = np.random.default_rng(1).bytes(position + size - start)
    path.write_bytes(data)
    wanted = list(range(0, LONG, 10))
    for jumping in (True, False):
        with VideoReader(path) as reader:
            if not jumping:
                reader._key_frames = []
            found = [number for number, _ in reader.frames(wanted)]
            assert reader.lost == [120, 130, 140]
            assert sorted(found + reader.lost) == wanted


def test_t11_behind_a_damaged_open_group_every_frame_that_is_shown_is_the_right_one(tmp_path):
    options = {**GOP, "bf": "3", "b-adapt": "0", "x264-params": "open-gop=1"}
    path = encode(tmp_path / "open.mkv", options=options, count=LONG)
    damage(path, range(74, 92))
    everything, _ = read(path)
    assert everything == {number: number for number in everything}
    wanted = list(range(0, LONG, 12))
    found, reader = read(path, wanted)
    assert found == {number: number for number in found}
    assert set(wanted) & set(everything) <= set(found)
    assert sorted([*found, *reader.lost]) == wanted


@pytest.mark.parametrize("name", ["x.avi", "x.asf", "x.wmv"])
def test_containers_without_a_time_of_showing_are_counted(tmp_path, name):
    path = encode(tmp_path / name, "libx264", options={"bf": "3", "b-adapt": "0"})
    assert read(path)[0] == {number: number for number in range(40)}
    assert read(path, [7, 21, 39])[0] == {7: 7, 21: 21, 39: 39}


def test_a_stream_that_refreshes_part_by_part_is_sound_again_some_time_after_damage(tmp_path):
    path = encode(tmp_path / "refresh.mp4", options={**GOP, "intra-refresh": "1", "bf": "0"}, count=LONG)
    damage(path, [60])
    found, reader = read(path)
    assert found == {number: number for number in found}
    # It refreshes from 72, 96 and 120 on; from the third on, whatever the decoder held back is out.
    assert reader.lost == list(range(60, 120))
    assert list(found) == [*range(60), *range(120, LONG)]


def test_two_packets_with_one_time_stamp_shift_nothing(tmp_path):
    source, path = encode(tmp_path / "s.mkv", codec="mjpeg", pix_fmt="yuvj420p"), tmp_path / "d.mkv"
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(packet for packet in container.demux(video=0) if packet.size):
            packet.stream = stream
            packet.pts = packet.dts = (number - (number == 5)) * 40
            output.mux(packet)
    found, reader = read(path, stride=1)
    assert found == {number: number for number in range(40)}
    assert reader._key_frames == []  # a stamp does not lead to one frame
    assert reader.times() == pytest.approx([(number - (number == 5)) * 0.04 for number in range(40)])


def test_a_headers_lie_about_the_length_costs_nothing(tmp_path, write_numbered):
    path = write_numbered(count=40)
    data = bytearray(path.read_bytes())
    place = data.index(b"stts") + 12  # version and flags, number of entries, then the first one's count
    data[place : place + 4] = (300_000_000).to_bytes(4, "big")
    path.write_bytes(data)
    found, reader = read(path, stride=10)
    assert found == {0: 0, 10: 10, 20: 20, 30: 30}
    assert len(reader.lost) < 10_000


@pytest.mark.parametrize(
    ("name", "codec", "options", "jumps"),
    [
        ("closed.mp4", "libx264", {**GOP, "bf": "3", "b-adapt": "0"}, True),
        ("open.mp4", "libx264", {**GOP, "bf": "3", "b-adapt": "0", "x264-params": "open-gop=1"}, True),
        ("open.mkv", "libx264", {**GOP, "bf": "3", "b-adapt": "0", "x264-params": "open-gop=1"}, True),
        ("short.mp4", "libx264", {"g": "2", "bf": "1"}, True),
        ("refresh.mp4", "libx264", {**GOP, "intra-refresh": "1", "bf": "0"}, False),
        ("one.mp4", "libx264", {"g": "1000", "keyint_min": "1000", "sc_threshold": "0"}, False),
        ("hevc.mp4", "libx265", {"x265-params": "log-level=none:keyint=24:min-keyint=24:open-gop=1:bframes=4"}, True),
        ("vp9.webm", "libvpx-vp9", {"g": "24", "cpu-used": "8", "deadline": "realtime"}, True),
        ("all.mkv", "mjpeg", {}, True),
        ("stream.ts", "libx264", GOP, False),  # a container without an index
    ],
)
def test_t10_jumping_over_frames_gives_those_of_reading_all(tmp_path, name, codec, options, jumps):
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = encode(tmp_path / name, codec, pix_fmt, LONG, options=options)
    with VideoReader(path) as reader:
        assert reader.frame_count == LONG
        expected = dict(reader.frames())
    assert len(expected) == LONG
    for wanted in ([0, 100, 101, 239], [200], [23, 24, 25, 71, 72, 73, 180], list(range(5, LONG, 60))):
        with VideoReader(path) as reader:
            found = dict(reader.frames(wanted))
            assert list(found) == wanted
            assert reader.lost == []
            assert all(np.array_equal(found[number], expected[number]) for number in wanted)
            decoded = [number for number, _, _ in reader.numbered_frames([200, 201])]
            assert (reader._key_frames == []) == name.endswith(".ts")
        assert (decoded.index(200) < 60) == jumps


def test_t11_after_a_lost_key_frame_the_numbers_are_right_and_jumping_changes_nothing(tmp_path):
    path = encode(tmp_path / "x.mp4", options=GOP, count=LONG)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in places[96:100]:  # a key frame, and what follows
        data[position + 4 : position + size] = bytes(size - 4)
    path.write_bytes(data)
    wanted = [10, 60, 110, 160, 210]
    everything, reader = read(path)  # with B-frames, the decoder hands out some of those before in a wrong order
    assert everything == {number: number for number in everything}
    assert set(range(94)) | set(range(120, LONG)) <= set(everything)
    assert sorted([*everything, *reader.lost]) == list(range(LONG))
    found, reader = read(path, wanted)
    assert found == {number: number for number in wanted if number != 110}
    assert reader.lost == [110]


def test_two_recordings_in_one_stream_are_counted_through(tmp_path):
    source, path = encode(tmp_path / "s.ts", options=GOP, count=60), tmp_path / "d.ts"
    path.write_bytes(source.read_bytes() * 2)
    with VideoReader(path) as reader:
        assert reader.frame_count == 120
        found = {number: read_number(frame) for number, frame in reader.frames([0, 30, 70, 119])}
    assert found == {0: 0, 30: 30, 70: 10, 119: 59}


def test_t15_variable_frame_rate_and_an_offset_start(tmp_path):
    def milliseconds(n):
        return 500 + n * 40 + (n % 3) * 11 + (n // 20) * 900

    path = encode(tmp_path / "v.mkv", pts=milliseconds)
    found, reader = read(path, stride=1)
    assert found == {number: number for number in range(40)}
    assert reader.times() == pytest.approx([(milliseconds(n) - 500) / 1000 for n in range(40)])
    assert read(path, [0, 21, 39])[0] == {0: 0, 21: 21, 39: 39}


def test_t15_ten_bit(tmp_path):
    path = encode(
        tmp_path / "ten.mp4", codec="libx265", pix_fmt="yuv420p10le", options={"x265-params": "log-level=none"}
    )
    found, _ = read(path, [0, 20, 39])
    assert found == {0: 0, 20: 20, 39: 39}


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_t15_rotation_is_applied_as_by_opencv(tmp_path, angle):
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:20, :30] = (255, 0, 0)
    plain, rotated = tmp_path / "plain.mp4", tmp_path / "rotated.mp4"
    write_video(plain, [picture] * 5)
    _set_display_matrix(plain, rotated, angle)
    with VideoReader(rotated) as reader:
        _, frame = next(iter(reader.frames([0])))
    capture = cv2.VideoCapture(str(rotated))
    expected = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
    assert frame.shape == expected.shape == (reader.height, reader.width, 3)
    assert not np.array_equal(frame[:64, :64], _first_frame(plain)[:64, :64])
    assert np.array_equal(frame, expected)


def _first_frame(path):
    with VideoReader(path) as reader:
        return next(iter(reader.frames([0])))[1]


def _set_display_matrix(source, target, angle):
    """Write the rotation into the track header's matrix, where phones put it."""
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[angle]
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # version and flags, times, ids, duration, reserved, layer, volume
    values = [cos, sin, 0, -sin, cos, 0, 0, 0, 0x4000]
    for index, value in enumerate(values):
        scale = 1 if index == 8 else 1 << 16
        number = 0x40000000 if index == 8 else value * scale
        data[place + 4 * index : place + 4 * index + 4] = (number & 0xFFFFFFFF).to_bytes(4, "big")
    target.write_bytes(data)


def test_t15_odd_sizes(tmp_path):
    path = tmp_path / "odd.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 97, 65, "yuvj420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((65, 97, 3), 99, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        frames = dict(reader.frames([0, 2]))
    assert {number: frame.shape for number, frame in frames.items()} == {0: (65, 97, 3), 2: (65, 97, 3)}


def test_t15_unreadable_files_are_named_failures(tmp_path, write_numbered):
    zero, text, cut, audio = (tmp_path / name for name in ("zero.mp4", "text.mp4", "cut.mp4", "audio.mp4"))
    zero.write_bytes(b"")
    text.write_text("not a video at all\n" * 50)
    cut.write_bytes(write_numbered().read_bytes()[:-800])  # the index stands at the end
    with av.open(str(audio), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.rate = 44100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    unknown = tmp_path / "unknown.mp4"
    unknown.write_bytes(write_numbered("known.mp4").read_bytes().replace(b"avc1", b"zzzz"))
    for path, reason in (
        (zero, "zero bytes"),
        (unknown, "no decoder is available"),
        (text, "not a readable video"),
        (cut, "not a readable video"),
        (audio, "no video stream"),
        (tmp_path / "absent.mp4", "can't be opened"),
    ):
        with pytest.raises(VideoError) as error:
            VideoReader(path)
        assert reason in str(error.value), path
        assert error.value.path == path


def test_t15_a_cut_stream_gives_what_is_there_and_counts_the_rest(tmp_path):
    path = encode(tmp_path / "cut.mp4", container_options={"movflags": "faststart"}, count=120, options={"g": "10"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    found, reader = read(path, stride=10)
    assert reader.frame_count == 120
    assert found == {number: number for number in found}
    assert 0 < len(found) < 12
    assert sorted([*found, *reader.lost]) == list(range(0, 120, 10))


@pytest.mark.parametrize(
    "name",
    [
        "-dash.mp4",
        "with space.mp4",
        "naïve 影片.mp4",
        "http:colon.mp4",
        "a'b\"c.mp4",
        "%d.mp4",
        "clip%03d.mp4",
        "concat:a|b.mp4",
        "a,b.mp4",
    ],
)
def test_t28_names_are_only_names(tmp_path, monkeypatch, write_numbered, name):
    path = write_numbered(name, count=3)
    monkeypatch.chdir(tmp_path)
    assert read(name, [0, 2])[0] == {0: 0, 2: 2}
    assert read(path, [1])[0] == {1: 1}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list open files")
def test_a_reader_has_one_file_open_and_then_none(write_numbered):
    path = write_numbered()

    def opened():
        return [link for link in Path("/proc/self/fd").iterdir() if link.exists() and link.resolve() == path.resolve()]

    with VideoReader(path) as reader:
        assert opened() == []
        first = reader.frames()
        next(first)
        second = reader.frames()
        next(second)
        assert len(opened()) == 1
    assert opened() == []


def test_same_frames_give_the_same_file(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, numbered_frames(10))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert b"Lavf" not in (tmp_path / "a.mp4").read_bytes()  # nor does another version of FFmpeg change it


@pytest.mark.parametrize("shapes", [[], [(63, 96)], [(64, 96), (64, 98)]])
def test_writer_refuses_what_h264_cant_hold(tmp_path, shapes):
    with pytest.raises(ValueError, match="frame"):
        write_video(tmp_path / "a.mp4", [np.zeros((*shape, 3), np.uint8) for shape in shapes])
    assert list(tmp_path.iterdir()) == []


def write_textured(path, height, width, count=22):
    """A soft random picture that moves: colours and edges of all kinds."""
    rng = np.random.default_rng(height)
    scene = cv2.resize(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8), (width + 60, height + 60))
    write_video(path, (scene[n : n + height, 2 * n : 2 * n + width] for n in range(count)))
    return path


@pytest.mark.slow
@on_both_kinds
def test_pixels_are_those_of_opencv(kind, tmp_path):
    if kind == "real":
        paths = [REAL_VIDEOS / "faces/d20.mp4", REAL_VIDEOS / "dfdc_mini/dfdc_train_part_10/yhffcuhhjy.mp4"]
    else:
        paths = [write_textured(tmp_path / f"{size[0]}.mp4", *size) for size in ((96, 160), (162, 90), (720, 1280))]
    for path in paths:
        capture = cv2.VideoCapture(str(path))
        with VideoReader(path) as reader:
            assert reader.frame_count == capture.get(cv2.CAP_PROP_FRAME_COUNT)
            for number, frame in reader.frames(range(0, 22 if kind == "generated" else 80, 7)):
                while capture.get(cv2.CAP_PROP_POS_FRAMES) < number:
                    capture.grab()
                assert np.array_equal(frame, cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)), (path.name, number)


@pytest.mark.slow
def test_t_memory_does_not_grow_with_the_length(tmp_path):
    sizes = {}
    for count in (50, 500):
        path = tmp_path / f"{count}.mp4"
        write_video(path, (np.full((360, 640, 3), number % 256, np.uint8) for number in range(count)))
        code = (
            "import resource;"
            "from dfdc.video import VideoReader;"
            f"n = sum(1 for _ in VideoReader({str(path)!r}).frames(stride=10));"
            "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = run_script("-c", code)
        assert done.returncode == 0, done.stderr
        out = done.stdout.split()
        assert int(out[0]) == count // 10
        sizes[count] = int(out[1])
    # 45 more frames of 0.7 MB would be 31 MB more, were they kept
    assert sizes[500] < sizes[50] + 15_000
