"""Images with more pixels than the limit are refused before they are decoded (dfdc/pictures.py, dfdc/video.py)."""

import io
import os
import zlib
from fractions import Fraction

import numpy as np
import pytest
from helpers import run_script
from PIL import Image
from test_pictures import read_elsewhere, save
from test_video_source import LARGE, SMALL, join, read, write

from dfdc import limits
from dfdc.pictures import PictureError, read_photo
from dfdc.video import VideoError, VideoReader


def too_large(side):
    data = bytearray(save(io.BytesIO(), np.zeros((2, 2, 3), np.uint8), format="PNG").getvalue())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_too_many_pixels_are_refused_with_their_number_and_the_limit(tmp_path):
    path = tmp_path / "a.png"
    for side in (60_000, 10_955):
        path.write_bytes(too_large(side))  # without the pixels: they are not needed for this
        with pytest.raises(PictureError) as error:
            read_photo(path)
        assert error.value.reason == f"too large: {side} x {side} pixels; the limit is 120,000,000 pixels"
    path.write_bytes(too_large(10_954))  # would be read, were it whole
    assert read_elsewhere(path).stderr.splitlines()[-1].endswith("truncated (0 bytes not processed)")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".tif", ".bmp", ".avif", ".heic"])
def test_t72_every_format_has_the_limit(tmp_path, monkeypatch, suffix):
    path = save(tmp_path / f"a{suffix}")
    monkeypatch.setattr(limits, "PHOTO_PIXELS", 61 * 63)
    assert read_photo(path).pixels.shape == (61, 63, 3)
    monkeypatch.setattr(limits, "PHOTO_PIXELS", 61 * 63 - 1)
    monkeypatch.setattr(Image.Image, "load", None)  # nothing may be decoded
    with pytest.raises(PictureError, match="too large: 63 x 61 pixels; the limit is 3,842 pixels"):
        read_photo(path)


def test_a_crop_has_the_limit_as_well(tmp_path):
    code = "import sys; from pathlib import Path; from dfdc.imaging import read_picture\n"
    code += "for path in sys.argv[1:]: print(read_picture(Path(path), grey=True).shape)"
    paths = [tmp_path / f"{side}.png" for side in (10_954, 10_955)]
    for path in paths:
        Image.new("1", (int(path.stem), int(path.stem))).save(path)
    done = run_script("-c", code, *paths)
    assert done.stdout == "(10954, 10954)\n"
    assert done.stderr.endswith("10955.png can't be decoded as an image (pixels <= CV_IO_MAX_IMAGE_PIXELS)\n")


def test_a_file_of_more_bytes_than_a_photo_can_have_is_not_read(tmp_path):
    path = save(tmp_path / "a.png")
    os.truncate(path, limits.PHOTO_BYTES + 1)  # takes no space on the disk
    with pytest.raises(PictureError, match="too large: 1,073,741,825 bytes; the limit is 1,073,741,824 bytes"):
        read_photo(path)


@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx264", "mp4"), ("libx264", "ts"), ("mpeg4", "avi"), ("libvpx-vp9", "webm")]
)
def test_a_video_over_the_limit_is_refused_with_its_size(tmp_path, monkeypatch, codec, suffix):
    path = write(tmp_path / f"a.{suffix}", [(480, 640)], [9], codec)
    monkeypatch.setattr(limits, "FRAME_PIXELS", 480 * 640)
    assert read(path, [7])[0] == {7: (7, 480, 640)}
    monkeypatch.setattr(limits, "FRAME_PIXELS", 480 * 640 - 1)
    with pytest.raises(VideoError) as error:
        VideoReader(path)
    assert error.value.reason == "its frames are too large: 640 x 480 pixels; the limit is 307,199 pixels"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_under_the_name_of_a_video_is_refused_with_its_size(tmp_path, monkeypatch, kind):
    path = tmp_path / "a.mp4"
    Image.new("RGB", (640, 480)).save(path, kind)
    VideoReader(path)
    monkeypatch.setattr(limits, "FRAME_PIXELS", 200_000)
    with pytest.raises(VideoError, match="its frames are too large: 640 x 480 pixels; the limit is 200,000 pixels"):
        VideoReader(path)


def test_a_broken_image_under_the_name_of_a_video_is_not_called_too_large(tmp_path):
    path = tmp_path / "a.mp4"
    Image.new("RGB", (64, 48)).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(VideoError, match="no frame can be decoded"):
        VideoReader(path)


@pytest.mark.parametrize(
    ("limit", "sound"),
    [
        (LARGE[0] * LARGE[1] - 1, 20),
        (LARGE[0] * LARGE[1] // 2, 18),  # the decoder refuses them, and forgets two that it has not given out
    ],
)
def test_frames_that_grow_over_the_limit_are_lost(tmp_path, monkeypatch, limit, sound):
    parts = [write(tmp_path / f"{index}.ts", [size], [20]) for index, size in enumerate([SMALL, LARGE])]
    path = join(parts, tmp_path / "joined.ts")
    monkeypatch.setattr(limits, "FRAME_PIXELS", limit)
    found, reader = read(path, any_size=True)
    assert found == {number: (number, *SMALL) for number in range(sound)}
    assert reader.lost == list(range(sound, 40))


def test_square_pixels_count_for_the_limit(tmp_path, monkeypatch):
    def squeeze(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 1)

    path = write(tmp_path / "a.mp4", [SMALL], [3], change=squeeze)
    monkeypatch.setattr(limits, "FRAME_PIXELS", 2 * SMALL[0] * SMALL[1])
    VideoReader(path)
    with pytest.raises(VideoError, match="384 x 64 pixels; the limit is 12,288 pixels"):
        VideoReader(path, as_shown=True)
