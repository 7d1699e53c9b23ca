"""The landmarks file, there and back (dfdc/landmarks.py)."""

import io

import numpy as np
import pytest

from dfdc.identity import NotAFileError
from dfdc.landmarks import LandmarksError, encode_landmarks, read_landmarks

POINTS = np.arange(10, dtype=np.int16).reshape(5, 2)


def test_there_and_back(tmp_path):
    path = tmp_path / "0_0.npy"
    path.write_bytes(encode_landmarks(POINTS))
    np.save(tmp_path / "plain.npy", POINTS)
    assert path.read_bytes() == (tmp_path / "plain.npy").read_bytes()
    found = read_landmarks(path)
    assert found.dtype == np.int16
    assert found.tolist() == POINTS.tolist()
    found += 1  # it may be written to
    path.write_bytes(encode_landmarks(np.asfortranarray(POINTS)))
    assert read_landmarks(path).tolist() == POINTS.tolist()


def test_no_file_is_no_landmarks_and_a_folder_is_an_error(tmp_path):
    assert read_landmarks(tmp_path / "absent.npy") is None
    with pytest.raises(NotAFileError, match="a folder"):
        read_landmarks(tmp_path)


def archive():
    buffer = io.BytesIO()
    np.savez(buffer, POINTS)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"text",
        encode_landmarks(POINTS)[:-3],
        encode_landmarks(POINTS) + b"\0",
        encode_landmarks(POINTS).replace(b"}", b"\0"),  # NumPy's reader raises tokenize.TokenError
        archive(),
        encode_landmarks(np.array([{}], object)),
        encode_landmarks(POINTS[:4]),
        encode_landmarks(POINTS.astype(float)),
    ],
)
def test_what_step_3_does_not_write_is_told(tmp_path, content):
    path = tmp_path / "0_0.npy"
    path.write_bytes(content)
    with pytest.raises(
        LandmarksError, match=r"0_0\.npy: invalid landmarks file, expected int16 \[5, 2\]; .*step 3 again"
    ):
        read_landmarks(path)
