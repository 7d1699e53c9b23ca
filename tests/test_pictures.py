"""Photographs of users (dfdc/pictures.py)."""

import io
import struct
import zlib

import cv2
import numpy as np
import pillow_heif
import pytest
import skimage.data
import tifffile
from helpers import run_script
from PIL import Image

from dfdc import layout, pictures
from dfdc.imaging import read_picture
from dfdc.pictures import PictureError, read_photo

PORTRAIT = np.ascontiguousarray(skimage.data.astronaut()[60:121, 180:243])  # 61 x 63
PIXELS16 = PORTRAIT.astype(np.uint16) * 257
GREY = PORTRAIT[..., :1].repeat(3, 2)
# How a picture must be stored so that each orientation turns it upright: EXIF 2.3, table of tag 274.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


def stored(pixels, orientation):
    return np.ascontiguousarray(STORED[orientation](pixels))


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def save(path, pixels=PORTRAIT, mode=None, **options):
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def png16(pixels):
    """A PNG of 16 bits from RGB, RGBA or grey."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", pixels)[1].tobytes()


def with_chunk(png, kind, content):
    """A PNG with a chunk more, after the first one, which is 33 bytes with the file's mark."""
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return png[:33] + chunk + png[33:]


def far(first, second):
    """The largest difference of two pictures."""
    assert first.shape == second.shape
    assert first.dtype == second.dtype == np.uint8
    return int(np.abs(first.astype(int) - second).max())


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize(
    ("suffix", "mode", "options"),
    [
        *((".jpg", "RGB", {"quality": 85, "subsampling": ratio}) for ratio in ("4:4:4", "4:2:2", "4:2:0")),
        (".jfif", "RGB", {"format": "JPEG", "progressive": True}),
        (".jpeg", "L", {}),
        *((".png", mode, {}) for mode in ("RGB", "L", "P", "1")),
        (".png", "RGB", {"compress_level": 0}),
    ],
)
def test_plain_jpeg_and_png_have_the_pixels_they_had(tmp_path, suffix, mode, options, orientation):
    path = tmp_path / f"a{suffix}"
    save(path, mode=mode, **options, **({} if orientation is None else {"exif": exif(orientation)}))
    photo = read_photo(path)
    assert np.array_equal(photo.pixels, read_picture(path))
    assert photo.notes == []
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.flags.writeable
    assert photo.pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("suffix", "options", "limit"),
    [
        (".heic", {"quality": 98, "chroma": 444}, 12),
        (".avif", {"quality": 98, "subsampling": "4:4:4"}, 12),
        (".webp", {"lossless": True}, 0),
        (".png", {}, 0),
        (".jpe", {"quality": 100, "subsampling": 0}, 5),
    ],
)
def test_pictures_come_upright(tmp_path, suffix, options, limit, orientation):
    pillow_heif.register_heif_opener()
    path = save(tmp_path / f"a{suffix}", stored(PORTRAIT, orientation), exif=exif(orientation), **options)
    assert far(read_photo(path).pixels, PORTRAIT) <= limit
    assert layout.is_picture(path)


def read_elsewhere(path):
    """What a process of its own says in which only dfdc/pictures.py was asked, and each warning is an error."""
    code = "import sys, warnings; from pathlib import Path; warnings.simplefilter('error')\n"
    code += "from dfdc.pictures import read_photo; print(read_photo(Path(sys.argv[1])).pixels.shape)"
    return run_script("-c", code, path)


def test_heic_is_read_by_who_has_not_asked_for_it_elsewhere(tmp_path):
    path = save(tmp_path / "a.hif", format="HEIF")
    assert read_elsewhere(path).stdout == f"{PORTRAIT.shape}\n"
    assert layout.is_picture(path)


@pytest.mark.parametrize("orientation", STORED)
def test_tiff_and_16_bits_come_upright(tmp_path, orientation):
    for name, pixels, expected in (
        ("8", PORTRAIT, PORTRAIT),
        ("16", PIXELS16, PORTRAIT),
        ("grey", PIXELS16[..., 0], GREY),
    ):
        path = tmp_path / f"{name}.tif"
        kind = "rgb" if pixels.ndim == 3 else "minisblack"
        turn = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, stored(pixels, orientation), photometric=kind, extratags=turn)
        assert np.array_equal(read_photo(path).pixels, expected)
    path = tmp_path / "16.png"
    path.write_bytes(with_chunk(png16(stored(PIXELS16, orientation)), b"eXIf", exif(orientation)[6:]))
    assert np.array_equal(read_photo(path).pixels, PORTRAIT)


@pytest.mark.parametrize("suffix", [".bmp", ".gif", ".tiff"])
def test_further_formats(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", GREY)
    assert np.array_equal(read_photo(path).pixels, GREY)


def test_the_suffix_does_not_decide(tmp_path):
    path = save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(read_photo(path).pixels, PORTRAIT)


def test_t4_colours_that_nobody_sees_are_not_judged(tmp_path):
    alpha = np.full(PORTRAIT.shape[:2], 255, np.uint8)
    alpha[:20] = 0
    alpha[20:40] = 128
    expected = PORTRAIT.copy()
    expected[:20] = 255
    half = PORTRAIT[20:40] * (128 / 255) + 255 * (127 / 255)
    for name, options in (("a.png", {}), ("a.webp", {"lossless": True, "exact": True}), ("a.tif", {})):
        pixels = read_photo(save(tmp_path / name, np.dstack([PORTRAIT, alpha]), **options)).pixels
        assert np.array_equal(pixels[:20], expected[:20]), name
        assert np.abs(pixels[20:40] - half).max() <= 1
        assert np.array_equal(pixels[40:], PORTRAIT[40:])
    grey = read_photo(save(tmp_path / "la.png", np.dstack([PORTRAIT[..., 0], alpha]))).pixels
    assert np.array_equal(grey[40:], GREY[40:])
    assert grey[:20].min() == 255
    for suffix, options in ((".gif", {}), (".png", {})):  # a colour of the palette, or one of all
        path = save(tmp_path / f"p{suffix}", PORTRAIT[..., 0], transparency=int(PORTRAIT[0, 0, 0]), **options)
        pixels = read_photo(path).pixels
        hidden = PORTRAIT[..., 0] == PORTRAIT[0, 0, 0]
        assert pixels[hidden].min() == 255
        assert np.array_equal(pixels[~hidden], GREY[~hidden])
    deep = np.dstack([PIXELS16, alpha.astype(np.uint16) * 257])
    (tmp_path / "16.png").write_bytes(png16(deep))
    tifffile.imwrite(tmp_path / "16.tif", deep, photometric="rgb", extrasamples=["unassalpha"])
    for name in ("16.png", "16.tif"):
        pixels = read_photo(tmp_path / name).pixels
        assert np.array_equal(pixels[:20], expected[:20])
        assert np.array_equal(pixels[40:], PORTRAIT[40:])
    (tmp_path / "key.png").write_bytes(
        with_chunk(png16(PIXELS16), b"tRNS", struct.pack(">HHH", *map(int, PIXELS16[0, 0])))
    )
    assert read_photo(tmp_path / "key.png").pixels[0, 0].tolist() == [255, 255, 255]


def test_cmyk_and_white_as_0(tmp_path):
    path = save(tmp_path / "a.jpg", mode="CMYK", quality=100, subsampling=0)
    assert far(read_photo(path).pixels, PORTRAIT) <= 6
    assert far(read_photo(path).pixels, read_picture(path)) <= 1
    for pixels in (255 - PORTRAIT[..., 0], 65535 - PIXELS16[..., 0]):
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
        assert np.array_equal(read_photo(tmp_path / "a.tif").pixels, GREY)
    inks = 65535 - np.dstack([PIXELS16, np.full(PORTRAIT.shape[:2], 65535, np.uint16)])
    tifffile.imwrite(tmp_path / "a.tif", inks, photometric="separated")
    assert far(read_photo(tmp_path / "a.tif").pixels, PORTRAIT) <= 1


def test_16_bits_are_rounded_to_8():
    values = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(pictures._scale(values, 16), np.rint(values / 257).astype(np.uint8))
    assert pictures._scale(np.uint16([0, 2047, 4095, 5000]), 12).tolist() == [0, 127, 255, 255]
    assert pictures._scale(np.uint16([0, 255]), 8).tolist() == [0, 255]


def test_16_bits_are_shown_as_bright_as_they_are(tmp_path):
    dim = (PORTRAIT.astype(np.uint16) * 80).clip(0, 16383)  # 14 bits, with nothing that says so: a dim picture
    for name, pixels in (("a.png", dim), ("a.tif", dim)):
        path = tmp_path / name
        if name == "a.png":
            path.write_bytes(png16(pixels))
        else:
            tifffile.imwrite(path, pixels, photometric="rgb")
        photo = read_photo(path)
        assert far(photo.pixels, np.rint(dim / 257).astype(np.uint8)) == 0
        assert photo.notes == []


@pytest.mark.parametrize(("bits", "used"), [(8, 8), (9, 10), (10, 10), (11, 12), (12, 12), (13, 16), (16, 16)])
@pytest.mark.parametrize("grey", [False, True])
def test_the_bits_that_are_used_are_guessed_by_the_largest_value(tmp_path, bits, used, grey):
    pixels = np.rint(PORTRAIT / 255 * ((1 << bits) - 1)).astype(np.uint16)
    pixels[0, 0], pixels[0, 1] = (1 << bits) - 1, 0
    expected = np.rint(pixels * (255 / ((1 << used) - 1))).astype(np.uint8)
    if grey:
        pixels, expected = pixels[..., 0], expected[..., :1].repeat(3, 2)
    (tmp_path / "a.png").write_bytes(png16(pixels))
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack" if grey else "rgb")
    for name in ("a.png", "a.tif"):
        photo = read_photo(tmp_path / name)
        assert far(photo.pixels, expected) == 0
        said = f"16 bits per channel, of which {used} seem to be used (the largest value is {(1 << bits) - 1})"
        assert photo.notes == ([] if used == 16 else [said])


def test_the_bits_that_a_file_names_are_believed_where_they_can_be(tmp_path):
    low = PORTRAIT.astype(np.uint16) * 64  # in the low 14 bits
    path = tmp_path / "a.png"
    for content, pixels, expected in (
        (b"\x0e\x0e\x0e", low, np.rint(low * (255 / 16383)).astype(np.uint8)),
        (b"\x0c\x0e\x0c", low, np.rint(low * (255 / 16383)).astype(np.uint8)),
        (b"\x0c\x0c\x0c", PIXELS16, PORTRAIT),  # scaled up, as PNG wants it
        (b"\x08\x08\x08", PORTRAIT.astype(np.uint16), PORTRAIT),
        (b"\x10\x10\x10", PORTRAIT.astype(np.uint16) * 8, np.rint(PORTRAIT * (8 / 257)).astype(np.uint8)),
        (b"\x05\x05\x05", PORTRAIT.astype(np.uint16) // 16, np.rint(PORTRAIT // 16 / 257).astype(np.uint8)),
    ):
        path.write_bytes(with_chunk(png16(pixels), b"sBIT", content))
        photo = read_photo(path)
        assert far(photo.pixels, expected) == 0
        assert photo.notes == []
    for largest in (16383, 9000):
        tag = [(281, "H", 3, (largest,) * 3, True)]
        tifffile.imwrite(tmp_path / "a.tif", low, photometric="rgb", extratags=tag)
        photo = read_photo(tmp_path / "a.tif")
        assert far(photo.pixels, np.rint(low * (255 / 16383)).astype(np.uint8)) == 0
        assert photo.notes == []


@pytest.mark.parametrize(("limit", "bits"), [(256, 10), (1024, 12), (4096, 16)])
def test_a_value_over_the_limit_takes_more_bits(tmp_path, limit, bits):
    pixels = np.full((9, 9), limit, np.uint16)
    (tmp_path / "a.png").write_bytes(png16(pixels))
    assert set(read_photo(tmp_path / "a.png").pixels.ravel()) == {round(limit * 255 / ((1 << bits) - 1))}
    told = bytes([limit.bit_length() - 1])
    (tmp_path / "a.png").write_bytes(with_chunk(png16(pixels), b"sBIT", told))
    assert set(read_photo(tmp_path / "a.png").pixels.ravel()) == {round(limit / 257)}


@pytest.mark.parametrize(
    ("largest", "alpha", "told"),
    [(4095, 65535, b""), (4095, 4095, b""), (4095, 4096, b""), (16383, 65535, b"\x0e\x0e\x0e\x10")],
)
def test_alpha_has_either_scale(tmp_path, largest, alpha, told):
    pixels = np.rint(PORTRAIT / 255 * largest).astype(np.uint16)
    pixels[0, 0] = largest
    opacity = np.full(pixels.shape[:2], alpha, np.uint16)
    opacity[30:] = alpha // 2
    data = png16(np.dstack([pixels, opacity]))
    (tmp_path / "a.png").write_bytes(with_chunk(data, b"sBIT", told) if told else data)
    expected = pixels * (255 / largest)
    opaque = 4096 / 65535 if alpha == 4096 else 1  # one more than 12 bits hold: on the scale of 16
    expected = 255 + (expected - 255) * np.where(np.arange(len(pixels)) < 30, opaque, opaque / 2)[:, None, None]
    assert np.abs(read_photo(tmp_path / "a.png").pixels - expected).max() <= 2


def test_12_bits_packed_into_a_tiff(tmp_path):
    values = PORTRAIT[:, :62, 0].astype(int) * 16
    first, second = values[:, ::2], values[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 2).astype(np.uint8).tobytes()
    tags = [(256, 62), (257, 61), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 61), (279, len(packed))]
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    (tmp_path / "a.tif").write_bytes(head + entries + bytes(4) + packed)
    assert far(read_photo(tmp_path / "a.tif").pixels, GREY[:, :62]) <= 1


@pytest.mark.parametrize(
    ("name", "options", "note"),
    [
        ("a.webp", {"lossless": True}, "an animation; only its first frame is scored"),
        ("a.png", {}, "an animation; only its first frame is scored"),
        ("a.avif", {"quality": 98, "subsampling": "4:4:4"}, "an animation; only its first frame is scored"),
        ("a.gif", {}, "an animation; only its first frame is scored"),
        ("a.tif", {}, "the file contains several images; only the main one is scored"),
        ("a.heic", {"quality": 98, "chroma": 444}, "the file contains several images; only the main one is scored"),
    ],
)
def test_of_several_pictures_the_first_is_read_and_it_is_said(tmp_path, name, options, note):
    pillow_heif.register_heif_opener()
    path = save(tmp_path / name, GREY, save_all=True, append_images=[Image.fromarray(255 - GREY)], **options)
    photo = read_photo(path)
    assert far(photo.pixels, GREY) <= 12
    assert photo.notes == [note]
    assert pictures.is_still(path) is (name != "a.gif")


def test_a_phones_jpeg_with_a_second_picture_is_one_picture(tmp_path):
    path = save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(255 - PORTRAIT)])
    with Image.open(path) as image:
        assert image.format == "MPO"
        assert image.is_animated, "the file does not test what it should"
    photo = read_photo(path)
    assert np.array_equal(photo.pixels, read_picture(path))
    assert photo.notes == []


def test_a_gif_that_moves_is_a_video(tmp_path):
    still, moving = save(tmp_path / "still.GIF"), tmp_path / "moving.GIF"
    save(moving, save_all=True, append_images=[Image.fromarray(255 - PORTRAIT)])
    assert pictures.is_still(still)
    assert not pictures.is_still(moving)
    assert pictures.is_still(moving.rename(tmp_path / "moving.png"))
    assert pictures.is_still(tmp_path / "absent.gif")  # reading it will say what is wrong
    assert not pictures.is_still(tmp_path / "a.mp4")


def test_high_dynamic_range_is_noted(tmp_path):
    path = tmp_path / "a.heic"
    for transfer, said in ((16, "PQ"), (18, "HLG"), (13, None), (1, None)):
        deep = pillow_heif.from_bytes(mode="RGB;16", size=PORTRAIT.shape[1::-1], data=PIXELS16.tobytes())
        colours = {"color_primaries": 9, "transfer_characteristics": transfer, "matrix_coefficients": 9}
        deep.save(path, quality=98, chroma=444, save_nclx_profile=True, **colours)
        photo = read_photo(path)
        assert photo.notes == ([f"high dynamic range ({said}), converted to standard range"] if said else [])
        assert far(photo.pixels, PORTRAIT) <= 12
    plain = save(tmp_path / "a.avif").read_bytes()
    at = plain.index(b"colrnclx") + 8
    (tmp_path / "a.avif").write_bytes(plain[:at] + bytes((0, 9, 0, 16)) + plain[at + 4 :])
    assert read_photo(tmp_path / "a.avif").notes == ["high dynamic range (PQ), converted to standard range"]
    plain = save(tmp_path / "a.png").read_bytes()
    for transfer, said in ((18, ["high dynamic range (HLG), converted to standard range"]), (13, [])):
        (tmp_path / "a.png").write_bytes(with_chunk(plain, b"cICP", bytes((16, transfer, 0, 1))))
        assert read_photo(tmp_path / "a.png").notes == said
    (tmp_path / "a.png").write_bytes(with_chunk(plain, b"cICP", b"\x10"))  # cut off
    assert read_photo(tmp_path / "a.png").notes == []


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.jpg", b"", "unknown format, or corrupt"),
        ("text.png", b"hello", "unknown format, or corrupt"),
        ("program.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unknown format, or corrupt"),
        ("short.png", save(io.BytesIO(), format="PNG").getvalue()[:40], "unknown format, or corrupt"),
        ("half.png", save(io.BytesIO(), format="PNG").getvalue()[:-3000], "truncated"),
        ("half.jpg", save(io.BytesIO(), format="JPEG").getvalue()[:-300], "truncated"),
        ("half.png", png16(PIXELS16)[:-3000], "not 16-bit integers"),
    ],
)
def test_t15_what_is_no_whole_picture_is_named(tmp_path, name, data, reason):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(PictureError, match=reason) as error:
        read_photo(path)
    assert str(error.value) == f"{path} is not a readable image: {error.value.reason}"
    assert isinstance(error.value, OSError)


def test_files_out_of_reach_and_strange_pixels_are_named(tmp_path):
    for path, reason in (
        (tmp_path / "absent.png", "No such file or directory"),
        (tmp_path, "not a regular file but a folder"),
    ):
        with pytest.raises(PictureError) as error:
            read_photo(path)
        assert error.value.reason == reason
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.moveaxis(PIXELS16, 2, 0), photometric="rgb", planarconfig="separate")
    with pytest.raises(PictureError, match="in separate planes"):
        read_photo(path)
    tifffile.imwrite(path, np.moveaxis(PORTRAIT, 2, 0), photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_photo(path).pixels, PORTRAIT)
    tifffile.imwrite(path, PORTRAIT[..., 0].astype(np.float32), photometric="minisblack")
    with pytest.raises(PictureError, match="not 16-bit integers"):
        read_photo(path)


def test_no_memory_is_no_damage(tmp_path, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr(pictures, "_opaque", fail)
    with pytest.raises(MemoryError):
        read_photo(save(tmp_path / "a.png"))


def test_a_broken_exif_block_costs_no_picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(with_chunk(save(path).read_bytes(), b"eXIf", b"garbage!"))
    photo = read_photo(path)
    assert np.array_equal(photo.pixels, PORTRAIT)
    assert len(photo.notes) == 1
    assert photo.notes[0].startswith("its EXIF block is corrupt (")
    path = tmp_path / "a.jpg"
    data = save(path).read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1\x00\x10Exif\0\0garbage!" + data[2:])
    assert np.array_equal(read_photo(path).pixels, read_picture(path))
