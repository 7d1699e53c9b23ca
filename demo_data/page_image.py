"""Shrink a screenshot for the repository: remove its empty end and reduce its colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dfdc.artifacts import write_bytes
from dfdc.imaging import encode_small_png

_EDGE = 24  # pixels of background kept below the page


def trim_page(source: Path, output: Path, height: int) -> None:
    """Write the first `height` rows of the image `source` to `output`, without rows below the page, in 256 colours."""
    image = Image.open(source).convert("RGB")
    image = image.crop((0, 0, image.width, min(height, image.height)))
    pixels = np.asarray(image)
    used = np.flatnonzero((pixels != pixels[-1, 0]).any(axis=(1, 2)))
    end = min(image.height, int(used[-1]) + 1 + _EDGE) if used.size else image.height
    write_bytes(output, encode_small_png(image.crop((0, 0, image.width, end))))
