"""Photographs of any kind that phones, cameras and browsers write, as RGB uint8 (Pillow, pillow-heif).

For what a user gives. The project's own crops are read by `dfdc.imaging.read_picture`, which is quicker.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pillow_heif
from PIL.Image import Image, Transpose
from PIL.TiffImagePlugin import TiffImageFile

from dfdc import layout
from dfdc.command_line import UserError

pillow_heif.register_heif_opener()  # Pillow reads HEIC from now on
# Of a damaged EXIF block, or of half the pixels that are an error: on stderr, without the file's name.
warnings.filterwarnings("ignore", module=r"PIL\.")

# No others: some of Pillow's readers start programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "HEIF", "GIF")
_ORIENTATION = 0x0112  # tag of EXIF and TIFF
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE_VALUE, _PLANAR = 258, 262, 281, 284  # tags of TIFF
_WHITE_IS_0, _BLACK_IS_0, _RGB = 0, 1, 2  # of _PHOTOMETRIC
_GUESSED_BITS = (8, 10, 12)  # what sensors and microscopes leave in the low bits of 16
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # ITU-T H.273, table 3


class PictureError(UserError, OSError):
    """A file that can't be read as a picture; `reason` says why, without the file's name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both, so that it can be pickled
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} is no picture that can be read: {self.reason}"


@dataclass
class Photo:
    """A picture as it is to be looked at, and what a reader should know of how it was read."""

    pixels: np.ndarray  # RGB uint8 [h, w, 3], upright
    notes: list[str] = field(default_factory=list)  # sentences without a full stop, mostly none


def is_still(path: Path) -> bool:
    """Whether `path` is to be read by `read_photo`, and not as a video: by its name, and for a GIF by its content."""
    return layout.is_picture(path) and not (path.suffix.lower() == ".gif" and _is_animated_gif(path))


def _is_animated_gif(path: Path) -> bool:
    try:
        with PIL.Image.open(path, formats=("GIF",)) as image:
            return image.is_animated
    except Exception:  # read_photo then says what is wrong with it
        return False


def read_photo(path: Path) -> Photo:
    """The first picture in a file, turned upright, without transparency, 8 bits a colour.

    What is transparent shows white, so that colours which nobody sees are not judged. 16 bits are scaled to 8. Where
    only the low bits of 16 are used, their number is taken from PNG's sBIT or TIFF's MaxSampleValue, or else guessed.

    Raises:
        PictureError: not there, not a picture, damaged, cut off, or of more pixels than Pillow's limit (178,956,970).
    """
    try:
        data = path.read_bytes()
        image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
        chunks = _png_chunks(data) if image.format == "PNG" else {}
        notes = _notes(image, data, chunks)
        if _bits(image, chunks) > 8:
            shown = _opaque(PIL.Image.fromarray(_read_deep(image, data, chunks, notes)))
        else:
            shown = _opaque(image)
        if not isinstance(image, TiffImageFile):  # which both libraries turn as they load it
            shown = _upright(shown, image, notes)
        return Photo(np.array(shown), notes)
    except MemoryError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise PictureError(path, f"too large ({str(error).partition(',')[0]})") from error
    except Exception as error:  # Pillow's readers raise what they come across: ValueError, SyntaxError, struct.error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, PIL.UnidentifiedImageError):
            reason = "unknown format, or damaged"
        raise PictureError(path, reason) from error


def _png_chunks(data: bytes) -> dict[bytes, bytes]:
    """A PNG's chunks before its pixels, by their type."""
    chunks, position = {}, 8
    while (kind := data[position + 4 : position + 8]) not in (b"IDAT", b""):
        length = int.from_bytes(data[position : position + 4], "big")
        chunks[kind] = data[position + 8 : position + 8 + length]
        position += 12 + length
    return chunks


def _notes(image: Image, data: bytes, chunks: dict[bytes, bytes]) -> list[str]:
    notes = []
    if getattr(image, "is_animated", False):
        if image.format in ("TIFF", "HEIF"):
            notes.append("the file holds several pictures; only its main one is judged")
        elif image.format != "MPO":  # a phone's JPEG, with the picture again at another size, or its depth
            notes.append("an animation; only its first picture is judged")
    colours = chunks.get(b"cICP", b"")
    if image.format in ("AVIF", "HEIF"):
        colours = data.partition(b"colrnclx")[2][1:5:2]  # two bytes each: primaries, transfer
    if len(colours) > 1 and colours[1] in _HDR_TRANSFERS:
        notes.append(f"high dynamic range ({_HDR_TRANSFERS[colours[1]]}), shown as standard")
    return notes


def _bits(image: Image, chunks: dict[bytes, bytes]) -> int:
    """How many bits each colour has in the file, where OpenCV is to read them; Pillow keeps the high 8 of others."""
    if image.format == "PNG":
        return chunks[b"IHDR"][8]
    if not isinstance(image, TiffImageFile):
        return 8
    tags = image.tag_v2
    bits = max(tags.get(_BITS_PER_SAMPLE, (1,)))
    if bits > 8 and tags.get(_PLANAR, 1) != 1:  # neither library gets that right
        raise ValueError(f"{bits} bits a colour, and each colour by itself (PlanarConfiguration)")
    return bits if tags[_PHOTOMETRIC] in (_WHITE_IS_0, _BLACK_IS_0, _RGB) else 8


def _read_deep(image: Image, data: bytes, chunks: dict[bytes, bytes], notes: list[str]) -> np.ndarray:
    """A picture of more than 8 bits, uint8 [h, w], [h, w, 3] or [h, w, 4] (RGB, alpha); OpenCV keeps all its bits."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("damaged, or its pixels are no whole numbers of 16 bits")
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    colours = pixels[..., :3] if pixels.ndim == 3 else pixels
    bits = _used_bits(int(colours.max()), image, chunks, notes)
    scaled = _scale(pixels, bits)
    if pixels.ndim == 3 and pixels.shape[2] == 4 and pixels[..., 3].max() >= 1 << bits:
        scaled[..., 3] = _scale(pixels[..., 3], 16)
    if isinstance(image, TiffImageFile) and image.tag_v2[_PHOTOMETRIC] == _WHITE_IS_0:
        scaled = 255 - scaled
    return scaled


def _used_bits(largest: int, image: Image, chunks: dict[bytes, bytes], notes: list[str]) -> int:
    """How many of 16 bits are used; what the file says wins over a guess, unless a value is larger than that."""
    # PNG asks a writer to scale values up to 16 bits, whatever sBIT says; not all do.
    told = max(chunks.get(b"sBIT", b"")[:3], default=0)
    if isinstance(image, TiffImageFile):
        told = int(np.max(image.tag_v2.get(_MAX_SAMPLE_VALUE, 0))).bit_length()
    if told:
        return told if told >= 8 and largest < 1 << told else 16
    guessed = next((bits for bits in _GUESSED_BITS if largest < 1 << bits), 16)
    if guessed < 16:
        notes.append(f"16 bits a colour, of which {guessed} seem to be used (the largest value is {largest})")
    return guessed


def _scale(values: np.ndarray, bits: int) -> np.ndarray:
    """uint16 of 0..2^bits - 1 to uint8 of 0..255, rounded."""
    return np.clip(np.rint(values * np.float32(255 / ((1 << bits) - 1))), 0, 255).astype(np.uint8)


def _opaque(image: Image) -> Image:
    """As RGB, on white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = PIL.Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")


def _upright(image: Image, stored: Image, notes: list[str]) -> Image:
    """Turned as the EXIF block of the stored one says; Pillow and pillow-heif put the turns of AVIF and HEIC there."""
    try:
        orientation = stored.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # Pillow's reader of EXIF has no errors of its own; the pixels are whole
        notes.append(f"its EXIF block is broken ({error}), so that it may lie on its side")
        return image
    method = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return image if method is None else image.transpose(method)
