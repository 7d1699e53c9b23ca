"""Pictures as a player shows them (dfdc/video_picture.py): high dynamic range, pixels that are not square, turned
frames, deep colours. The pictures are put into the files by formulas of their own."""

from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import skimage.data
from av.bitstream import BitStreamFilterContext
from av.video.reformatter import VideoReformatter
from helpers import numbered_frames, read_number
from test_video import GOP, _set_display_matrix, encode
from test_video_source import SMALL, join, write

from dfdc.video import VideoReader
from dfdc.video_picture import hlg_light, pq_light, to_sdr

KNEE = 216  # grey level above which bright parts are rolled off
WHITE = 203  # cd/m2


@pytest.fixture(scope="module")
def portrait():
    return cv2.resize(skimage.data.astronaut()[:400, 60:460], (200, 200), interpolation=cv2.INTER_AREA)


def first_frame(path, **options):
    with VideoReader(path, **options) as reader:
        return next(iter(reader.frames([0])))[1], reader


def signal_of(kind, light):
    """HDR signals of linear light, 1 at reference white (ITU-R BT.2100, tables 4 and 5; figures of SMPTE ST 2084)."""
    if kind == "pq":
        power = (light * WHITE / 10_000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    scene = light * (np.exp((0.75 - 0.55991073) / 0.17883277) + 0.28466892) / 12  # 75 % is reference white
    return np.where(
        scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(np.maximum(12 * scene, 1) - 0.28466892) + 0.55991073
    )


def light_of(kind, picture):
    """Linear BT.2020 light of an SDR picture in BT.709, 1 at white."""
    signal = picture / 255
    light = (
        signal**2.4 if kind == "pq" else np.where(signal < 0.081, signal / 4.5, ((signal + 0.099) / 1.099) ** (20 / 9))
    )
    # ITU-R BT.2087, from BT.709 to BT.2020
    matrix = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    return light @ matrix.T


def write_hdr(path, kind, light, codec="ffv1", options=None, matrix=9):
    """Six frames of 10 bits 4:4:4, limited range, of linear BT.2020 light, 1 at reference white."""
    red, green, blue = np.moveaxis(signal_of(kind, light), -1, 0)
    of_red, of_blue = (0.2126, 0.0722) if matrix == 1 else (0.2627, 0.0593)  # ITU-R BT.709, BT.2020
    grey = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    differences = [(blue - grey) / (2 - 2 * of_blue), (red - grey) / (2 - 2 * of_red)]
    planes = [876 * grey + 64, *(896 * difference + 512 for difference in differences)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *light.shape[:2], "yuv444p10le"
        stream.options = options or {}
        context = stream.codec_context
        context.color_trc, context.color_primaries = {"pq": 16, "hlg": 18, "sdr": 1}[kind], 9
        context.colorspace, context.color_range = matrix, 1
        for number in range(6):
            frame = av.VideoFrame(stream.width, stream.height, "yuv444p10le")
            frame.pts, frame.time_base, frame.colorspace, frame.color_range = number, Fraction(1, 25), matrix, 1
            for plane, values in zip(frame.planes, planes, strict=True):
                rows = np.zeros((values.shape[0], plane.line_size // 2), np.uint16)
                rows[:, : values.shape[1]] = np.rint(values)
                plane.update(rows)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("codec", "options", "worst", "mean"),
    [("ffv1", {}, 3, 1), ("libx265", {"x265-params": "log-level=none:qp=1"}, 9, 1.5)],
)
@pytest.mark.parametrize("kind", ["pq", "hlg"])
def test_a_picture_put_into_hdr_comes_out_as_it_was(tmp_path, portrait, kind, codec, options, worst, mean):
    path = write_hdr(tmp_path / "h.mkv", kind, light_of(kind, portrait), codec, options)
    found, reader = first_frame(path, as_shown=True)
    assert reader.dynamic_range == kind
    below = portrait.max(axis=-1) <= KNEE
    off = np.abs(found.astype(int) - portrait)[below]
    assert np.percentile(off, 99.9) <= worst
    assert off.mean() < mean
    plain, reader = first_frame(path)
    assert reader.dynamic_range == kind
    assert np.abs(plain.astype(int) - portrait)[below].mean() > 10


@pytest.mark.parametrize("kind", ["pq", "hlg"])
def test_what_is_brighter_than_white_is_told_apart_up_to_the_peak(tmp_path, kind):
    peak = 1000 / WHITE if kind == "pq" else 1 / 0.26496
    levels = np.concatenate([np.linspace(0, 1, 32), np.linspace(1.1, peak, 16), [peak * 1.5] * 4])
    grey = np.repeat(np.tile(levels, (8, 1))[..., None], 3, axis=2)
    if kind == "hlg":
        grey = np.minimum(grey, peak)  # its signal ends there
    found, _ = first_frame(write_hdr(tmp_path / "h.mkv", kind, grey), as_shown=True)
    line = found[4].astype(int)
    assert np.ptp(line, axis=1).max() <= 1, "a grey is no longer grey"
    steps = np.diff(line[:48, 1])
    assert (steps >= 0).all()
    assert (steps[:36] > 0).all()  # no part of it is cut
    assert (line[0] == 0).all()
    assert 230 < line[31, 1] < 242  # reference white leaves room for what is brighter
    assert line[42, 1] <= 253  # three quarters of the peak
    assert (line[47:, 1] >= 254).all()
    # the formula by hand: 1/4 of white is below the knee
    quarter = round(255 * (0.25 ** (1 / 2.4) if kind == "pq" else 1.099 * 0.25**0.45 - 0.099))
    assert np.interp(0.25, levels[:32], line[:32, 1]) == pytest.approx(quarter, abs=1.5)


def test_the_curves_go_through_the_points_that_the_recommendations_name():
    """ITU-R BT.2408, table 1: 203 cd/m2 is 58 % of PQ and 75 % of HLG; BT.2100: the HLG curve's parts meet at 1/12."""
    assert pq_light(np.array([0.0, 0.5806889, 1.0])) == pytest.approx([0, 203, 10_000], rel=1e-5)
    assert hlg_light(np.array([0.0, 0.5, 0.75, 1.0])) == pytest.approx([0, 1 / 12, 0.26496, 1], abs=1e-5)


def test_a_stream_that_does_not_name_its_matrix_is_taken_as_bt2020(tmp_path, portrait):
    named = first_frame(write_hdr(tmp_path / "a.mkv", "hlg", light_of("hlg", portrait)), as_shown=True)[0]
    unnamed = first_frame(write_hdr(tmp_path / "b.mkv", "hlg", light_of("hlg", portrait), matrix=2), as_shown=True)[0]
    assert np.array_equal(named, unnamed)


def test_the_matrix_that_a_stream_names_is_used(tmp_path, portrait):
    path = write_hdr(tmp_path / "h.mkv", "hlg", light_of("hlg", portrait), matrix=1)
    off = np.abs(first_frame(path, as_shown=True)[0].astype(int) - portrait)[portrait.max(axis=-1) <= KNEE]
    assert off.mean() < 1


def test_colours_of_half_the_resolution_are_interpolated_as_in_the_usual_range(portrait):
    frame = av.VideoFrame.from_ndarray(portrait, format="rgb24").reformat(format="yuv420p10le")
    frame.colorspace = 9
    whole = frame.reformat(format="rgb48le", interpolation="BICUBIC")
    assert np.array_equal(to_sdr(frame, "hlg", VideoReformatter()), to_sdr(whole, "hlg", VideoReformatter()))


def test_the_usual_range_is_read_as_ever(tmp_path, portrait):
    path = write_hdr(tmp_path / "s.mkv", "sdr", light_of("hlg", portrait))
    found, reader = first_frame(path, as_shown=True)
    assert reader.dynamic_range == "sdr"
    assert np.array_equal(found, first_frame(path)[0])


def test_an_hdr_frame_is_contiguous_uint8(tmp_path, portrait):
    with VideoReader(write_hdr(tmp_path / "h.mkv", "pq", light_of("pq", portrait))) as reader:
        picture = to_sdr(next(frame for _, frame, _ in reader.numbered_frames()), "pq", VideoReformatter())
    assert (picture.dtype, picture.shape, picture.flags.c_contiguous) == (np.uint8, portrait.shape, True)


def set_aspect(width, height):
    def change(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(width, height)

    return change


@pytest.mark.parametrize(
    ("ratio", "aspect", "size"),
    [
        ((64, 45), 64 / 45, (64, 137)),
        ((16, 11), 16 / 11, (64, 140)),
        ((8, 9), 8 / 9, (72, 96)),
        ((1, 1), 1.0, SMALL),
        ((1009, 1000), 1.0, SMALL),  # within 1 %
        ((991, 1000), 1.0, SMALL),
        ((102, 100), 1.02, (64, 98)),
        ((98, 100), 0.98, (65, 96)),
        ((4, 1), 4.0, (64, 384)),
        ((1, 4), 0.25, (256, 96)),
        ((41, 10), 1.0, SMALL),  # a lie
        ((10, 41), 1.0, SMALL),
    ],
)
def test_pixels_are_made_square_where_the_file_says_that_they_are_not(tmp_path, ratio, aspect, size):
    path = write(tmp_path / "a.ts", [SMALL], [4], change=set_aspect(*ratio))
    with VideoReader(path, as_shown=True) as reader:
        assert reader.pixel_aspect == pytest.approx(aspect)
        assert (reader.height, reader.width) == size
        found = dict(reader.frames())
        assert reader.lost == []
    assert {number: (read_number(frame), *frame.shape) for number, frame in found.items()} == {
        number: (number, *size, 3) for number in range(4)
    }
    plain, reader = first_frame(path)
    assert (plain.shape[:2], reader.height, reader.width) == (SMALL, *SMALL)
    assert reader.pixel_aspect == pytest.approx(aspect)


def test_a_squeezed_picture_gets_its_shape_back(tmp_path, portrait):
    path = tmp_path / "s.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25)  # in VP9 only the container can say it
        stream.height, stream.width, stream.pix_fmt = 200, 100, "yuv420p"
        stream.codec_context.sample_aspect_ratio, stream.codec_context.bit_rate = Fraction(2), 5_000_000
        squeezed = cv2.resize(portrait, (100, 200), interpolation=cv2.INTER_AREA)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(squeezed, format="rgb24")))
        container.mux(stream.encode(None))
    found, reader = first_frame(path, as_shown=True)
    assert (found.shape, reader.pixel_aspect) == (portrait.shape, 2.0)
    assert np.abs(found.astype(int) - portrait).mean() < 6


def test_what_the_container_says_of_pixels_goes_before_what_the_frames_say(tmp_path):
    path = write(tmp_path / "a.mp4", [SMALL], [4], change=set_aspect(3, 2))
    data = path.read_bytes()
    place = data.index(b"pasp") + 4
    path.write_bytes(data[:place] + (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + data[place + 8 :])
    reader = VideoReader(path, as_shown=True)
    assert (reader.pixel_aspect, reader.width) == (2.0, 192)


def test_each_frame_has_pixels_of_its_own_shape(tmp_path):
    """A broadcast that goes from 4:3 to 16:9 keeps its number of pixels."""
    options = {"g": "12", "bf": "0"}
    parts = [
        write(tmp_path / f"{width}.ts", [SMALL], [30], options=options, change=set_aspect(width, 1)) for width in (1, 2)
    ]
    path = join(parts, tmp_path / "joined.ts")
    with VideoReader(path, any_size=True, as_shown=True) as reader:
        shapes = [frame.shape[:2] for _, frame in reader.frames()]
        assert (reader.lost, reader.width, len(shapes)) == ([], 96, 60)
    assert shapes == [SMALL] * 30 + [(64, 192)] * 30
    with VideoReader(path, as_shown=True) as reader:
        assert len(list(reader.frames())) == 30
        assert reader.other_size == reader.lost == list(range(30, 60))


def test_pixels_are_made_square_before_the_picture_is_turned(tmp_path):
    path = write(tmp_path / "a.mp4", [SMALL], [4], change=set_aspect(2, 1))
    _set_display_matrix(path, path, 90)
    found, reader = first_frame(path, as_shown=True)
    assert found.shape[:2] == (reader.height, reader.width) == (192, 64)


def turned(source, path, angle):
    """The file with a message at its key frames of how to turn the picture against the clock."""
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        insert = f"h264_metadata=display_orientation=insert:rotate={angle}"
        message = BitStreamFilterContext(insert, container.streams.video[0])
        for packet in container.demux(video=0):
            for changed in message.filter(packet if packet.size else None):
                changed.stream = stream
                output.mux(changed)
    return path


@pytest.mark.parametrize("stride", [1, 7, 50])
def test_a_turn_that_is_told_at_key_frames_holds_until_the_next(tmp_path, stride):
    options = {**GOP, "bf": "2", "x264-params": "repeat-headers=1"}
    plain = encode(tmp_path / "p.mp4", options=options, count=60)
    parts = [turned(plain, tmp_path / f"{angle}.mp4", angle) for angle in (90, 180)]
    path = join(parts, tmp_path / "joined.mkv")
    with VideoReader(path, any_size=True) as reader:
        assert (reader.height, reader.width) == (96, 64)
        found = dict(reader.frames(stride=stride))
        assert list(found) == list(range(0, 120, stride))
    for number, frame in found.items():
        upright = np.rot90(frame, -1 if number < 60 else 2)
        assert read_number(upright) == number % 60
    with VideoReader(path, any_size=True) as reader:
        for _ in range(2):  # what was decoded last time is forgotten
            jumped = dict(reader.frames([5, 55, 100]))
            assert [read_number(np.rot90(jumped[n], k)) for n, k in ((5, -1), (55, -1), (100, 2))] == [5, 55, 40]


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "mean"),
    [
        ("ffv1", "gray", 1),
        ("ffv1", "gray10le", 1),
        ("ffv1", "gray12le", 1),
        ("ffv1", "gray16le", 1),
        ("ffv1", "yuv420p12le", 3),
        ("ffv1", "yuv444p16le", 1),
        ("ffv1", "gbrp12le", 1),
        ("ffv1", "gbrp16le", 1),
        ("ffv1", "rgb48le", 1),
        ("ffv1", "yuva420p", 3),
        ("libx265", "gray12le", 1),
        ("libx265", "yuv420p12le", 3),
        ("libx265", "gbrp12le", 1),
        ("prores_ks", "yuva444p10le", 1),
    ],
)
def test_t15_deep_colours_fill_the_range_of_8_bits(tmp_path, portrait, codec, pix_fmt, mean):
    if pix_fmt.startswith("gray"):
        portrait = np.repeat(cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    path = tmp_path / "deep.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *portrait.shape[:2], pix_fmt
        stream.options = {"x265-params": "log-level=none:qp=1"} if codec == "libx265" else {}
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(portrait, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for as_shown in (False, True):
        found, _ = first_frame(path, as_shown=as_shown)
        assert np.abs(found.astype(int) - portrait).mean() < mean
        assert abs(int(found.max()) - int(portrait.max())) <= 3


def test_the_number_of_a_frame_is_legible_whatever_is_asked_for(tmp_path):
    path = encode(tmp_path / "ten.mkv", "libx265", "yuv420p10le", 12, options={"x265-params": "log-level=none"})
    for options in ({}, {"any_size": True}, {"as_shown": True}, {"any_size": True, "as_shown": True}):
        with VideoReader(path, **options) as reader:
            assert [read_number(frame) for _, frame in reader.frames()] == list(range(12))
            assert all(frame.shape == next(numbered_frames(1)).shape for _, frame in reader.frames())


def test_what_is_transparent_shows_white_where_pictures_are_as_shown(tmp_path):
    picture = np.random.default_rng(4).integers(0, 256, (32, 48, 4), dtype=np.uint8)
    picture[:, :16, 3], picture[:, 16:32, 3] = 0, 255
    path = tmp_path / "transparent.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.pix_fmt, stream.height, stream.width = "rgba", 32, 48
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba")))
        container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        plain = dict(reader.frames())[1]
    assert np.array_equal(plain, picture[..., :3])
    with VideoReader(path, as_shown=True) as reader:
        shown = dict(reader.frames())[1].astype(int)
    assert (shown[:, :16] == 255).all()
    assert np.array_equal(shown[:, 16:32], picture[:, 16:32, :3])
    alpha = picture[:, 32:, 3:] / 255
    assert np.abs(shown[:, 32:] - (picture[:, 32:, :3] * alpha + 255 * (1 - alpha))).max() <= 0.5
