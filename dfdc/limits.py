"""Limits for one file: time and pixels. Separate from workers.py, so that a decoding process need not import it."""

from pathlib import Path

# Ten minutes plus one second per 10 KB. The slowest steps need a hundredth of that.
_LEAST_SECONDS = 600.0
_BYTES_A_SECOND = 10_000

# A larger image is refused before it is decoded. Phones take photos of 108 million pixels. A frame of 8K video has 33
# million; a decoder may hold 16 frames.
PHOTO_PIXELS = 120_000_000
FRAME_PIXELS = 70_000_000
PHOTO_BYTES = 1 << 30  # maximum size of a photo's file: more than 16 bits in 4 channels need


def time_limit(size: int) -> float:
    """Generous time limit in seconds for an item of `size` bytes."""
    return _LEAST_SECONDS + size / _BYTES_A_SECOND


def late(size: int) -> str:
    """What happened to an item that exceeded its time limit, as a text for users."""
    return f"it exceeded the time limit of {time_limit(size):.0f} s"


def known_size(path: Path) -> int:
    """Size of a file in bytes; 0 if it can't be read, which the work on it reports."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def excess(width: int, height: int, limit: int) -> str:
    """How an image exceeds `limit` pixels, as a text for users; empty if it does not."""
    return f"{width} x {height} pixels; the limit is {limit:,} pixels" if width * height > limit else ""
