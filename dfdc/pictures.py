"""Reads photos in all common formats of phones, cameras and browsers as RGB uint8 (Pillow, pillow-heif).

For files given by users. The project's own crops are read by `dfdc.imaging.read_picture`, which is faster.
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

from dfdc import layout, limits
from dfdc.command_line import UserError
from dfdc.identity import regular

pillow_heif.register_heif_opener()  # lets Pillow read HEIC
PIL.Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit; `read_photo` has another
# Pillow warns of corrupt EXIF blocks without the file's name.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Only these, because some of Pillow's readers start programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "HEIF", "GIF")
_ORIENTATION = 0x0112  # tag of EXIF and TIFF
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE_VALUE, _PLANAR = 258, 262, 281, 284  # tags of TIFF
_WHITE_IS_0, _BLACK_IS_0, _RGB = 0, 1, 2  # of _PHOTOMETRIC
_GUESSED_BITS = (8, 10, 12)  # bit depths that sensors and microscopes store in the low bits of 16
_AT_ONCE = 1 << 20  # values scaled at once, which bounds the memory
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # ITU-T H.273, table 3


class PictureError(UserError, OSError):
    """A file that can't be read as an image; `reason` says why, without the file's name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both, so that it can be pickled
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} is not a readable image: {self.reason}"


@dataclass
class Photo:
    """An image as it should be displayed, and notes on how it was read."""

    pixels: np.ndarray  # RGB uint8 [h, w, 3], upright
    notes: list[str] = field(default_factory=list)  # sentences without a full stop; usually empty


def is_still(path: Path) -> bool:
    """Whether `path` is a still image for `read_photo` and not a video: by its suffix, and for a GIF by its content."""
    return layout.is_picture(path) and not (path.suffix.lower() == ".gif" and _is_animated_gif(path))


def _is_animated_gif(path: Path) -> bool:
    try:
        with PIL.Image.open(path, formats=("GIF",)) as image:
            return image.is_animated
    except Exception:  # read_photo then reports the error
        return False


def size_of_image(path: Path) -> tuple[int, int] | None:
    """(width, height) in pixels by the header of an image file, whatever its suffix; None if it is none."""
    try:
        with PIL.Image.open(path, formats=_FORMATS) as image:
            return image.size
    except Exception:  # Pillow's readers raise many classes
        return None


def read_photo(path: Path) -> Photo:
    """The first image in a file, rotated upright, without transparency, 8 bits per channel.

    Transparent pixels become white, so that invisible colours are not scored. 16 bits are scaled to 8. If only the low
    bits of 16 are used, their number comes from PNG's sBIT or TIFF's MaxSampleValue, or is guessed.

    Raises:
        PictureError: missing, not an image, corrupt, truncated, or over the limits of dfdc/limits.py. The size is
            read from the header, before pixels are decoded.
    """
    try:
        if (size := regular(path).st_size) > limits.PHOTO_BYTES:
            raise ValueError(f"too large: {size:,} bytes; the limit is {limits.PHOTO_BYTES:,} bytes")
        data = path.read_bytes()
        image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
        if excess := limits.excess(image.width, image.height, limits.PHOTO_PIXELS):
            raise ValueError(f"too large: {excess}")
        chunks = _png_chunks(data) if image.format == "PNG" else {}
        notes = _notes(image, data, chunks)
        if _bits(image, chunks) > 8:
            shown = _opaque(PIL.Image.fromarray(_read_deep(image, data, chunks, notes)))
        else:
            shown = _opaque(image)
        if not isinstance(image, TiffImageFile):  # both libraries rotate TIFF while loading
            shown = _upright(shown, image, notes)
        return Photo(np.array(shown), notes)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise many classes: ValueError, SyntaxError, struct.error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, PIL.UnidentifiedImageError):
            reason = "unknown format, or corrupt"
        raise PictureError(path, reason) from error


def _png_chunks(data: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG before its pixel data, by type."""
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
            notes.append("the file contains several images; only the main one is scored")
        elif image.format != "MPO":  # a phone's JPEG, with the same image at another size, or its depth map
            notes.append("an animation; only its first frame is scored")
    colours = chunks.get(b"cICP", b"")
    if image.format in ("AVIF", "HEIF"):
        colours = data.partition(b"colrnclx")[2][1:5:2]  # the low bytes of primaries and transfer, two bytes each
    if len(colours) > 1 and colours[1] in _HDR_TRANSFERS:
        notes.append(f"high dynamic range ({_HDR_TRANSFERS[colours[1]]}), converted to standard range")
    return notes


def _bits(image: Image, chunks: dict[bytes, bytes]) -> int:
    """Bits per channel if OpenCV should read the pixels, else 8; of other deep images, Pillow keeps the high 8 bits."""
    if image.format == "PNG":
        return chunks[b"IHDR"][8]
    if not isinstance(image, TiffImageFile):
        return 8
    tags = image.tag_v2
    bits = max(tags.get(_BITS_PER_SAMPLE, (1,)))
    if bits > 8 and tags.get(_PLANAR, 1) != 1:  # neither library reads this correctly
        raise ValueError(f"{bits} bits per channel in separate planes (PlanarConfiguration) are not supported")
    return bits if tags[_PHOTOMETRIC] in (_WHITE_IS_0, _BLACK_IS_0, _RGB) else 8


def _read_deep(image: Image, data: bytes, chunks: dict[bytes, bytes], notes: list[str]) -> np.ndarray:
    """Decode over 8 bits with OpenCV, which keeps all bits; uint8 [h, w], [h, w, 3] or [h, w, 4] (RGB, alpha)."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("corrupt, or its pixels are not 16-bit integers")
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
    """How many of 16 bits are used: as the file states unless a value is larger, otherwise a guess."""
    # The PNG standard requires values scaled to 16 bits, whatever sBIT says; not all writers comply.
    told = max(chunks.get(b"sBIT", b"")[:3], default=0)
    if isinstance(image, TiffImageFile):
        told = int(np.max(image.tag_v2.get(_MAX_SAMPLE_VALUE, 0))).bit_length()
    if told:
        return told if told >= 8 and largest < 1 << told else 16
    guessed = next((bits for bits in _GUESSED_BITS if largest < 1 << bits), 16)
    if guessed < 16:
        notes.append(f"16 bits per channel, of which {guessed} seem to be used (the largest value is {largest})")
    return guessed


def _scale(values: np.ndarray, bits: int) -> np.ndarray:
    """Scale uint16 in 0..2^bits - 1 to uint8 in 0..255, rounded."""
    table = np.clip(np.rint(np.arange(1 << 16) * (255 / ((1 << bits) - 1))), 0, 255).astype(np.uint8)
    scaled, flat = np.empty(values.size, np.uint8), values.reshape(-1)
    for start in range(0, values.size, _AT_ONCE):  # NumPy makes 8 bytes of each index
        scaled[start : start + _AT_ONCE] = table[flat[start : start + _AT_ONCE]]
    return scaled.reshape(values.shape)


def _opaque(image: Image) -> Image:
    """Convert to RGB on a white background."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = PIL.Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")


def _upright(image: Image, stored: Image, notes: list[str]) -> Image:
    """Rotate `image` by the EXIF orientation of `stored`; for AVIF and HEIC, the libraries put the rotation there."""
    try:
        orientation = stored.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # Pillow's EXIF reader has no error class; the pixels are valid
        notes.append(f"its EXIF block is corrupt ({error}), so it may be rotated")
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
