"""Reads and writes landmarks/<original>/<frame>_<face>.npy: five facial points in a crop.

int16 [5, 2]: x, y in pixels of the crop, of left eye, right eye, nose, left and right mouth corner, as seen.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from dfdc.command_line import UserError


class LandmarksError(UserError, ValueError):
    """A file that is not valid output of step 3; the message names it and says what to do."""


def encode_landmarks(points: np.ndarray) -> bytes:
    """The file content for `points`, int16 [5, 2]."""
    buffer = io.BytesIO()
    np.save(buffer, points)
    return buffer.getvalue()


def read_landmarks(path: Path) -> np.ndarray | None:
    """int16 [5, 2]; None if there is no such file, which is normal: not every crop has landmarks.

    Raises:
        OSError: it exists, but can't be read.
        LandmarksError: it is not valid output of step 3.
    """
    try:
        # Not np.load, which by a file's first bytes may read it as a pickle or an archive.
        points = np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except FileNotFoundError:
        return None
    except (ValueError, EOFError) as error:
        raise LandmarksError(f"{path}: invalid landmarks file ({error}); run preprocessing step 3 again") from None
    if points.shape != (5, 2) or points.dtype != np.int16:
        said = f"{points.dtype} {list(points.shape)}, expected int16 [5, 2]"
        raise LandmarksError(f"{path}: invalid landmarks file ({said}); run preprocessing step 3 again")
    return points
