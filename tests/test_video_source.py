"""Reading odd videos (dfdc/video.py, dfdc/video_source.py): changes of size, several streams, hidden and empty packets,
formats that name other files, files with random bytes in them."""

import pickle
from fractions import Fraction

import av
import av.logging
import numpy as np
import pytest
from helpers import numbered_frames, read_number
from test_video import GOP, encode

from dfdc.video import VideoError, VideoReader
from dfdc.video_source import FORMATS, LISTS, choose_stream, is_hidden, open_container, packets

SMALL, LARGE = (64, 96), (128, 192)


def read(path, *arguments, any_size=False, as_shown=False, **options):
    """{frame number: (number in the picture, height, width)} and the reader."""
    with VideoReader(path, any_size=any_size, as_shown=as_shown) as reader:
        frames = reader.frames(*arguments, **options)
        return {number: (read_number(frame), *frame.shape[:2]) for number, frame in frames}, reader


def write(path, sizes, counts, codec="libx264", options=None, sound=False, change=lambda stream: None):
    """One stream of numbered frames for each (height, width), in one file."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=25) for _ in sizes]
        for stream, (height, width) in zip(streams, sizes, strict=True):
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            stream.options = options or {}
            stream.codec_context.thread_count = 1
            change(stream)
        voice = container.add_stream("mp2", rate=44100) if sound else None
        for stream, size, count in zip(streams, sizes, counts, strict=True):
            for number, picture in enumerate(numbered_frames(count, *size)):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        if sound:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            silence.rate = 44100
            container.mux([*voice.encode(silence), *voice.encode(None)])
    return path


def join(sources, path):
    """The packets of several files as one stream, one file after the other in time, as an adaptive stream has them."""
    with av.open(str(path), "w") as output:
        stream, shift = None, 0
        for source in sources:
            with av.open(str(source)) as container:
                stream = stream or output.add_stream_from_template(container.streams.video[0])
                found = [packet for packet in container.demux(video=0) if packet.size]
                first, length = min(packet.pts for packet in found), found[0].duration * len(found)
                for packet in found:
                    packet.stream = stream
                    packet.pts, packet.dts = packet.pts - first + shift, packet.dts - first + shift
                    output.mux(packet)
                shift += length
    return path


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [
        ("libx264", "ts", {"g": "12", "bf": "2"}),
        ("libx264", "flv", {"g": "12", "bf": "2", "x264-params": "repeat-headers=1"}),
        ("libx265", "ts", {"x265-params": "log-level=none"}),
        ("libvpx", "webm", {"deadline": "realtime", "cpu-used": "8"}),
        ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_frames_of_another_size_are_given_in_it_or_told_apart_from_damage(tmp_path, codec, suffix, options):
    parts = [
        write(tmp_path / f"{index}.{suffix}", [size], [30], codec, options) for index, size in enumerate([SMALL, LARGE])
    ]
    path = join(parts, tmp_path / f"joined.{suffix}")
    expected = {number: (number % 30, *(SMALL if number < 30 else LARGE)) for number in range(60)}
    found, reader = read(path, any_size=True)
    assert found == expected
    assert (reader.lost, reader.other_size, reader.frame_count) == ([], list(range(30, 60)), 60)
    assert (reader.height, reader.width) == SMALL
    assert read(path, [3, 29, 30, 59], any_size=True)[0] == {number: expected[number] for number in (3, 29, 30, 59)}
    found, reader = read(path)
    assert found == {number: expected[number] for number in range(30)}
    assert reader.lost == reader.other_size == list(range(30, 60))
    with VideoReader(path) as reader:
        list(reader.frames([0, 40]))
        assert reader.lost == reader.other_size == [40]
        list(reader.frames([0, 1]))
        assert reader.lost == reader.other_size == []
        with pytest.raises(VideoError, match="none of the requested"):
            list(reader.frames([40]))


@pytest.mark.parametrize("suffix", ["ts", "h264"])
def test_files_put_one_behind_the_other_are_read_through(tmp_path, suffix):
    parts = [write(tmp_path / f"{index}.{suffix}", [size], [20]) for index, size in enumerate([SMALL, LARGE])]
    path = tmp_path / f"joined.{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    found, reader = read(path, any_size=True)
    assert found == {number: (number % 20, *(SMALL if number < 20 else LARGE)) for number in range(40)}
    assert (reader.lost, reader.times()) == ([], None)  # the times begin anew


def test_a_frame_whose_damage_hides_its_size_is_lost_and_not_of_another_size(tmp_path):
    path = encode(tmp_path / "m.avi", codec="mjpeg", pix_fmt="yuvj420p", count=12)
    data = bytearray(path.read_bytes())
    start = data.rindex(b"\xff\xd8\xff")
    data[start : start + 200] = bytes(200)
    path.write_bytes(data)
    found, reader = read(path, any_size=True)
    assert list(found) == list(range(11))
    assert (reader.lost, reader.other_size) == ([11], [])


def test_a_stream_that_appears_late_costs_no_picture(tmp_path):
    """PyAV's demux allocates for the streams known at the beginning, and stumbles over one more when all is read."""
    silent = write(tmp_path / "silent.ts", [SMALL], [40]).read_bytes()
    spoken = write(tmp_path / "spoken.ts", [SMALL], [40], sound=True).read_bytes()
    path, nothing = tmp_path / "both.ts", b"\x47\x1f\xff\x10" + bytes(184)  # a transport packet without content
    path.write_bytes(silent + spoken + nothing * 3000 + silent)  # FFmpeg looks for streams at the end too
    with av.open(str(path)) as container:
        assert len(container.streams) == 1, "the sound is known at once, so this tests nothing"
        assert sum(1 for _ in packets(container, container.streams[0])) == 120
    found, reader = read(path)
    assert [shown for shown, *_ in found.values()] == [*range(40)] * 3
    assert (reader.frame_count, reader.lost) == (120, [])


class _Container:
    """A container whose demux hands out packets and then raises."""

    def __init__(self, found, error):
        self.found, self.error = found, error

    def demux(self, *_):
        yield from self.found
        raise self.error


@pytest.mark.parametrize("error", [IndexError("list index out of range"), av.InvalidDataError(1, "broken")])
def test_packets_end_where_demuxing_fails_and_leave_out_empty_ones(error):
    full, empty = av.Packet(b"1"), av.Packet()
    assert list(packets(_Container([full, empty, full, empty], error))) == [full, full]
    with pytest.raises(KeyError):
        list(packets(_Container([full], KeyError("not of a file"))))


def test_an_empty_packet_does_not_end_the_video(tmp_path):
    source, path = encode(tmp_path / "s.avi", codec="mjpeg", pix_fmt="yuvj420p", count=12), tmp_path / "e.nut"
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        found = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        for number, data in enumerate([*found[:5], b"", *found[5:]]):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 25), True, stream
            output.mux(packet)
    with av.open(str(path)) as container:
        assert [packet.size == 0 for packet in container.demux(video=0)].index(True) == 5
    found, reader = read(path)
    assert {number: shown for number, (shown, *_) in found.items()} == {number: number for number in range(12)}
    assert (reader.frame_count, reader.lost) == (12, [])


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("film", [0, 1])
def test_of_two_streams_the_film_is_read_and_not_the_larger_preview(tmp_path, suffix, film):
    sizes, counts = ([SMALL, LARGE], [40, 1]) if film == 0 else ([LARGE, SMALL], [1, 40])
    path = write(tmp_path / f"two.{suffix}", sizes, counts)
    found, reader = read(path)
    assert found == {number: (number, *SMALL) for number in range(40)}
    assert reader.frame_count == 40


def dispose(*dispositions):
    marks = iter(dispositions)

    def change(stream):
        stream.disposition = getattr(av.stream.Disposition, next(marks))

    return change


@pytest.mark.parametrize(
    ("sizes", "counts", "marks", "size"),
    [
        ([SMALL, LARGE], [20, 20], ["dub", "dub"], LARGE),  # the larger
        ([LARGE, SMALL], [20, 20], ["dub", "default"], SMALL),  # the one that is marked
        ([SMALL, LARGE], [20, 10], ["dub", "dub"], LARGE),  # both long enough to be the film
        ([SMALL, LARGE], [20, 9], ["dub", "default"], SMALL),  # a preview, whatever it is marked as
    ],
)
def test_of_several_films_the_default_and_then_the_largest_is_read(tmp_path, sizes, counts, marks, size):
    path = write(tmp_path / "two.mkv", sizes, counts, change=dispose(*marks))
    reader = VideoReader(path)
    assert (reader.height, reader.width) == size


def test_without_a_packet_the_largest_is_the_film(tmp_path, monkeypatch):
    path = write(tmp_path / "two.mkv", [SMALL, LARGE], [5, 5])
    monkeypatch.setattr("dfdc.video_source.packets", lambda *_: iter(()))
    with open_container(path) as container:
        assert choose_stream(container, path) == 1


def test_a_title_in_another_code_does_not_matter(tmp_path):
    path = write(tmp_path / "named.mkv", [SMALL], [3], change=lambda stream: stream.metadata.update(title="a title"))
    data = path.read_bytes()
    assert b"a title" in data
    path.write_bytes(data.replace(b"a title", b"\xe9\xe8 \xff\xfe\xfd\xfc"))
    assert list(read(path)[0]) == [0, 1, 2]


def test_what_ffmpeg_says_of_a_file_is_passed_on(tmp_path):
    path = tmp_path / "noise.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(VideoError) as error:
        VideoReader(path)
    assert str(error.value) == "not a readable video: Invalid data found when processing input"


@pytest.mark.parametrize("mark", ["attached_pic", "still_image", "timed_thumbnails"])
def test_cover_pictures_and_thumbnails_are_never_the_film(tmp_path, monkeypatch, mark):
    path = write(tmp_path / "two.mkv", [LARGE, SMALL], [40, 20])

    def opened(place):
        container = open_container(place)
        container.streams[0].disposition = getattr(av.stream.Disposition, mark)
        return container

    monkeypatch.setattr("dfdc.video.open_container", opened)
    assert VideoReader(path).frame_count == 20
    monkeypatch.undo()
    assert VideoReader(path).frame_count == 40
    one = write(tmp_path / "one.mkv", [LARGE], [2])
    monkeypatch.setattr("dfdc.video.open_container", opened)
    with pytest.raises(VideoError, match="no video stream"):
        VideoReader(one)


def test_a_cover_picture_before_the_film_is_passed_over(tmp_path):
    """As music players write it: a Matroska attachment, which FFmpeg shows as a stream of one picture."""
    path = write(tmp_path / "film.mkv", [SMALL], [20])
    plain = VideoReader(path)
    covered = tmp_path / "covered.mp4"
    with av.open(str(path)) as source, av.open(str(covered), "w") as output:
        cover = output.add_stream("mjpeg", rate=25)
        cover.height, cover.width, cover.pix_fmt = 64, 96, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        film = output.add_stream_from_template(source.streams.video[0])
        white = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 255, np.uint8), format="rgb24")
        output.mux([*cover.encode(white), *cover.encode(None)])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = film
                output.mux(packet)
    with av.open(str(covered)) as container:
        stills = [bool(s.disposition & s.disposition.attached_pic) for s in container.streams.video]
        assert sorted(stills) == [False, True], "the file has no cover picture, so it tests nothing"
    found, reader = read(covered)
    assert found == {number: (number, *SMALL) for number in range(20)}
    assert reader.frame_count == plain.frame_count == 20


@pytest.mark.parametrize("suffix", ["webm", "avi", "ivf"])
def test_frames_that_are_decoded_but_never_shown_are_not_counted(tmp_path, suffix):
    """VP8's alternate reference frames: the bit show_frame of the first byte is 0."""
    source = encode(tmp_path / "s.webm", "libvpx", options={"deadline": "realtime", "cpu-used": "8"})
    path, hidden = tmp_path / f"h.{suffix}", (5, 6, 20, 39)
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(packet for packet in container.demux(video=0) if packet.size):
            data = bytearray(bytes(packet))
            if number in hidden:
                data[0] &= ~0x10
            new = av.Packet(bytes(data))
            new.pts, new.dts, new.time_base, new.is_keyframe = number, number, Fraction(1, 25), packet.is_keyframe
            new.stream = stream
            output.mux(new)
    shown = [number for number in range(40) if number not in hidden]
    found, reader = read(path)
    assert (reader.frame_count, reader.lost) == (36, [])
    assert {number: picture for number, (picture, *_) in found.items()} == dict(enumerate(shown))
    assert [picture for picture, *_ in read(path, [4, 5, 17, 35])[0].values()] == [4, 7, 19, 38]


@pytest.mark.parametrize(
    ("codec", "data", "hidden"),
    [
        ("vp8", [0b00010001, 0], False),
        ("vp8", [0b00000001, 0], True),
        ("vp9", [0b10000110, 0], False),  # profile 0, between key frames, shown
        ("vp9", [0b10000100, 0], True),
        ("vp9", [0b10001000, 0], False),  # shows a frame that was hidden until then
        ("vp9", [0b10110001, 0], False),  # profile 3: all one place further right
        ("vp9", [0b10110010, 0], True),
        ("vp9", [0b10110100, 0], False),
        ("vp9", [0b10010100, 0], True),  # profile 2
        ("vp9", [0b10000100, 0b11000001], False),  # a superframe
        ("vp9", [0b10000100, 0b11100001], True),  # ends as no superframe does
        ("h264", [0, 0], False),
    ],
)
def test_hidden_frames_are_told_by_their_first_byte(codec, data, hidden):
    assert is_hidden(av.Packet(bytes(data)), codec) is hidden


@pytest.mark.parametrize("b_frames", ["0", "2"])
def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path, b_frames):
    """A phone that cuts a video without encoding it again leaves the frames since the last key frame in the file."""
    options, faststart = {**GOP, "bf": b_frames}, {"movflags": "faststart"}
    path = encode(tmp_path / "e.mp4", options=options, count=100, container_options=faststart)
    data = bytearray(path.read_bytes())
    times = {name: data.index(name) + 16 for name in (b"mvhd", b"mdhd")}  # units in a second, of the film and the track
    movie, track = (int.from_bytes(data[place : place + 4], "big") for place in times.values())
    place = data.index(b"elst") + 12  # the length of the only part, and where it begins
    length, begin = (int.from_bytes(data[start : start + 4], "big") for start in (place, place + 4))
    data[place : place + 8] = b"".join(
        value.to_bytes(4, "big") for value in (length - 30 * movie // 25, begin + 30 * track // 25)
    )
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert any(packet.is_discard for packet in container.demux(video=0)), "nothing is hidden"
    found, reader = read(path)
    assert {number: shown for number, (shown, *_) in found.items()} == {number: number + 30 for number in range(70)}
    assert (reader.frame_count, reader.lost) == (70, [])
    assert [shown for shown, *_ in read(path, [0, 10, 40, 69])[0].values()] == [30, 40, 70, 99]
    path.write_bytes(data[: int(len(data) * 0.7)])  # the index still lists 100
    found, reader = read(path)
    assert reader.frame_count == 70
    assert 0 < len(found) < 65
    assert sorted([*found, *reader.lost]) == list(range(70))


def test_no_format_that_names_other_files_is_on_the_list():
    others = {"avisynth", "vapoursynth", "svg_pipe", "lavfi", "alsa", "x11grab", "video4linux2", "v4l2", "fbdev"}
    assert not (LISTS | others) & set(FORMATS.split(","))
    known = {name for kind in av.formats_available for name in kind.split(",")}
    assert set(FORMATS.split(",")) <= known
    assert {"concat", "dash", "hls", "image2", "mlv", "rtp", "rtsp", "sap", "sdp", "vobsub"} <= known & LISTS


@pytest.mark.parametrize("name", ["list.mp4", "list.txt"])
def test_a_list_of_other_files_is_refused_and_says_so(tmp_path, write_numbered, name):
    other, path = write_numbered("other.mp4"), tmp_path / name
    path.write_text(f"ffconcat version 1.0\nfile {other.name}\n")
    with av.open(str(path)) as container:
        assert container.format.name == "concat", "FFmpeg does not take it as a list, so it tests nothing"
    with pytest.raises(VideoError, match=r"^its format 'concat' is not allowed: it refers to other files") as error:
        VideoReader(path)
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.reason, again.path) == (str(error.value), error.value.reason, path)
    assert av.logging.get_level() is None


def test_a_sound_is_not_taken_for_a_list(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
        silence.rate = 44100
        container.mux([*stream.encode(silence), *stream.encode(None)])
    with pytest.raises(VideoError, match=r"its format 'wav' is not allowed: it is not a video$"):
        VideoReader(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{other}\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{other}\n#EXT-X-ENDLIST\n"),
        (
            "list.sdp",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        ),
        (
            "list.mpd",
            '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{other}</BaseURL></MPD>',
        ),
        ("%d.jpg", ""),
    ],
)
def test_playlists_and_numbered_pictures_open_no_other_file(tmp_path, write_numbered, name, text):
    path = tmp_path / name
    path.write_text(text.format(other=write_numbered("other.ts")) or "x")
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(VideoError, match=r"not allowed|not a readable video"):
        VideoReader(path)


def test_another_fault_of_the_arguments_is_told_as_it_is(tmp_path, monkeypatch):
    """FFmpeg's error for a refused format is one that it has for other things too."""
    path = tmp_path / "x.mp4"
    path.write_bytes(b"x")

    def refuse(*_, **__):
        raise av.ArgumentError(22, "Invalid argument")

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(VideoError, match="not a readable video: Invalid argument"):
        open_container(path)


@pytest.mark.parametrize("suffix", ["ts", "flv", "mp4"])
def test_random_bytes_in_a_file_give_a_video_error_or_pictures(tmp_path, suffix):
    data = write(tmp_path / f"sound.{suffix}", [SMALL], [25], options={"g": "12", "bf": "2"}).read_bytes()
    path, read_whole = tmp_path / f"broken.{suffix}", 0
    for seed in range(12):
        rng, broken = np.random.default_rng(seed), bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 40)):
            broken[place] = rng.integers(0, 256)
        path.write_bytes(broken)
        try:
            with VideoReader(path, any_size=True, as_shown=True) as reader:
                found = [number for number, _ in reader.frames(stride=3)]
                assert sorted(found + reader.lost) == list(range(0, max(reader.frame_count, found[-1] + 1), 3))
                read_whole += 1
        except VideoError:
            continue
    assert read_whole
