"""The landmarks file, there and back (dfdc/landmarks.py)."""

import io

import numpy as np
import pytest

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


def test_no_file_is_no_landmarks_and_a_folder_is_an_error(tmp_path):
    assert read_landmarks(tmp_path / "absent.npy") is None
    with pytest.raises(IsADirectoryError):
        read_landmarks(tmp_path)


def archive():
    buffer = io.BytesIO()
    np.savez(buffer, POINTS)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "magic"),
        (b"\x93NUMPY", "magic"),
        (b"text", "magic"),
        (encode_landmarks(POINTS)[:-3], "expected 20 bytes"),
        (archive(), "magic"),
        (encode_landmarks(np.array([{}], object)), "Object arrays"),
        (encode_landmarks(POINTS[:4]), r"int16 \[4, 2\], expected"),
        (encode_landmarks(POINTS.astype(float)), r"float64 \[5, 2\], expected int16 \[5, 2\]"),
    ],
)
def test_what_step_3_does_not_write_is_told(tmp_path, content, said):
    path = tmp_path / "0_0.npy"
    path.write_bytes(content)
    with pytest.raises(LandmarksError, match=rf"0_0\.npy: invalid landmarks file \(.*({said}).*step 3 again"):
        read_landmarks(path)
