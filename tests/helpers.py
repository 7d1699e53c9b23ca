"""What tests share: where things lie, marks, and small makers of frames, metadata, crops and data sets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from dfdc import folds, layout
from dfdc.faces import Faces
from dfdc.imaging import encode_png

ROOT = Path(__file__).resolve().parents[1]
REAL_VIDEOS = ROOT.parent / "shared" / "videos"

needs_real_videos = pytest.mark.skipif(
    not REAL_VIDEOS.is_dir(), reason="the real videos (../shared/videos) are not here"
)
# Long tests take the real videos where they are; elsewhere generated ones do as well.
on_either_kind = pytest.mark.parametrize("kind", ["real" if REAL_VIDEOS.is_dir() else "generated"])
# The same test on generated videos, which every clone has, and on the real ones.
on_both_kinds = pytest.mark.parametrize("kind", ["generated", pytest.param("real", marks=needs_real_videos)])


def run_script(*arguments: object, env: dict[str, str] | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run a Python script of the project as a user would."""
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}  # whatever other copy is installed
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False, timeout=600)


def numbered_frames(count: int, height: int = 64, width: int = 96) -> Iterator[np.ndarray]:
    """Frames whose number can be read back: 8 bits as black and white bars."""
    for number in range(count):
        frame = np.zeros((height, width, 3), np.uint8)
        for bit in range(8):
            if number >> bit & 1:
                frame[:, bit * width // 8 : (bit + 1) * width // 8] = 255
        yield frame


def read_number(frame: np.ndarray) -> int:
    """The number that `numbered_frames` wrote."""
    width = frame.shape[1]
    centres = [int((bit + 0.5) * width / 8) for bit in range(8)]
    return sum(1 << bit for bit, x in enumerate(centres) if frame[:, x].mean() > 127)


def no_faces() -> Faces:
    """What a detector finds in an empty room."""
    return Faces(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))


def write_part(folder: Path, metadata: object) -> Path:
    """A part with this as its metadata.json: text as it is, all else as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    (folder / "metadata.json").write_text(text, encoding="utf-8")
    return folder


def copy_dataset(source: Path, target: Path) -> Path:
    """Copy a data set, videos as hard links."""
    shutil.copytree(source, target, copy_function=link_or_copy)
    return target


def link_or_copy(source: str, target: str) -> None:
    """What `copy_dataset` does with one file."""
    if source.endswith(".mp4"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def write_crop(path: Path, seed: int, size: tuple[int, int] = (60, 50)) -> np.ndarray:
    """A smooth random picture as PNG; returns it."""
    rng = np.random.default_rng(seed)
    picture = cv2.resize(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(picture))
    return picture


def make_crops(root: Path, families: int = 6, frames: int = 6) -> Path:
    """Crops, masks, landmarks and a folds.csv of three folds: real<n> and its fake<n>, which has a dark square."""
    lines = [",".join(folds.COLUMNS)]
    for family in range(families):
        original, fake = f"real{family}", f"fake{family}"
        for index in range(frames):
            frame = index * layout.FRAME_STRIDE
            name = layout.crop_name(frame, 0)
            picture = write_crop(layout.crops_path(root, original) / name, seed=family * 100 + index)
            forged = picture.copy()
            forged[20:40, 15:35] //= 4
            path = layout.crops_path(root, fake) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(forged))
            mask = np.zeros(picture.shape[:2], np.uint8)
            mask[20:40, 15:35] = 200
            path = layout.diffs_path(root, fake) / layout.diff_name(frame, 0)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(mask))
            path = layout.landmarks_path(root, original) / layout.landmarks_name(frame, 0)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.array([(17, 22), (33, 22), (25, 31), (19, 40), (31, 40)], np.int16))
            for video, label in ((original, 0), (fake, 1)):
                lines.append(f"{video},{name},{label},{original},{frame},{family % 3}")
    (root / layout.FOLDS_NAME).write_text("\n".join(lines) + "\n")
    return root


def mapped_bytes(path):
    """Bytes of a mapped file that are in this process's memory now."""
    found, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:  # the first line of a mapping, such as "7f30-7f31 r--s ... /path"
            here = line.endswith(f" {path}")
        elif here and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found
