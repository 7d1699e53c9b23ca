"""Reads and writes landmarks/<original>/<frame>_<face>.npy: five facial points in a crop.

int16 [5, 2]: x, y in pixels of the crop, of left eye, right eye, nose, left and right mouth corner, as seen.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np

from dfdc.command_line import UserError
from dfdc.identity import read_file


class LandmarksError(UserError, ValueError):
    """A file that is not valid output of step 3; the message names it and says what to do."""


def encode_landmarks(points: np.ndarray) -> bytes:
    """The file content for `points`, int16 [5, 2]."""
    buffer = io.BytesIO()
    np.save(buffer, points)
    return buffer.getvalue()


_BYTES = 20  # of the five points
_ORDERS: tuple[Literal["C"], Literal["F"]] = "C", "F"
_HEADERS = {encode_landmarks(np.zeros((5, 2), np.int16, order))[:-_BYTES]: order for order in _ORDERS}


def read_landmarks(path: Path) -> np.ndarray | None:
    """int16 [5, 2]; None if there is no such file, which is normal: not every crop has landmarks.

    Raises:
        OSError: it exists, but can't be read.
        LandmarksError: it is not valid output of step 3.
    """
    try:
        data = read_file(path)
    except FileNotFoundError:
        return None
    # Not NumPy's reader: of a damaged header, it raises errors of Python's tokenizer, or reserves any amount of memory.
    order = _HEADERS.get(data[:-_BYTES])
    if order is None:
        raise LandmarksError(f"{path}: invalid landmarks file, expected int16 [5, 2]; run preprocessing step 3 again")
    return np.frombuffer(data[-_BYTES:], np.int16).reshape((5, 2), order=order).copy()
