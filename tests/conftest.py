"""Data for the tests: generated videos, a small preprocessed demo dataset, and the real videos where they lie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from dfdc.faces import Faces

ROOT = Path(__file__).resolve().parents[1]
REAL_VIDEOS = ROOT.parent / "shared" / "videos"
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks of most tests are too small for more to help

needs_real_videos = pytest.mark.skipif(
    not REAL_VIDEOS.is_dir(), reason="the real videos (../shared/videos) are not here"
)
# The same test on generated videos, which every clone has, and on the real ones.
# Long tests take the real videos where they are; elsewhere generated ones do as well.
on_either_kind = pytest.mark.parametrize("kind", ["real" if REAL_VIDEOS.is_dir() else "generated"])
on_both_kinds = pytest.mark.parametrize("kind", ["generated", pytest.param("real", marks=needs_real_videos)])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="record what tests/test_scoring_version.py compares with")


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


@pytest.fixture
def write_numbered(tmp_path: Path) -> Callable[..., Path]:
    from dfdc.video import write_video

    def write(name: str = "numbered.mp4", count: int = 40, **options: object) -> Path:
        path = tmp_path / name
        write_video(path, numbered_frames(count), **options)
        return path

    return write


def no_faces() -> Faces:
    """What a detector finds in an empty room."""
    return Faces(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))


def write_part(folder: Path, metadata: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    (folder / "metadata.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo dataset, not preprocessed; not to be written to."""
    from demo_data.demo_dataset import make_demo_dataset

    root = tmp_path_factory.mktemp("demo") / "data"
    make_demo_dataset(root, seed=3, people=2, fakes=2, frames=31, workers=2)
    return root


@pytest.fixture(scope="session")
def preprocessed(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small demo dataset, with all artifacts; not to be written to."""
    root = copy_dataset(demo_root, tmp_path_factory.mktemp("preprocessed") / "data root")
    environment = {**os.environ, "VENV": str(Path(sys.executable).parents[1])}
    done = subprocess.run(
        [ROOT / "preprocess_data.sh", root], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (root / "preprocess_data.out").write_text(done.stdout)
    return root


@pytest.fixture(scope="session")
def face_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wide.mp4, square.mp4 and tall.mp4, each 60 frames of a made-up person; not to be written to."""
    from demo_data.demo_dataset import load_portraits
    from demo_data.demo_faces import frames, make_person, make_scene
    from dfdc.video import write_video

    folder = tmp_path_factory.mktemp("clips")
    person = make_person(load_portraits(None)[0], np.random.default_rng(0))
    made: set[str] = set()
    for seed in range(20):
        scene = make_scene(person, 60, (seed,))
        name = "square" if scene.width == scene.height else "wide" if scene.width > scene.height else "tall"
        if name not in made:
            write_video(folder / f"{name}.mp4", (frame for frame, _ in frames(scene)), crf=scene.crf)
            made.add(name)
    assert len(made) == 3
    return folder


def copy_dataset(source: Path, target: Path) -> Path:
    """Copy a data set, videos as hard links."""
    import shutil

    shutil.copytree(source, target, copy_function=link_or_copy)
    return target


def link_or_copy(source: str, target: str) -> None:
    import shutil

    if source.endswith(".mp4"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def write_crop(path: Path, seed: int, size: tuple[int, int] = (60, 50)) -> np.ndarray:
    """A smooth random picture as PNG; returns it."""
    from dfdc.imaging import encode_png

    rng = np.random.default_rng(seed)
    picture = cv2.resize(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(picture))
    return picture


@pytest.fixture
def crops_root(tmp_path: Path) -> Path:
    """A DATA_ROOT with crops, masks, landmarks and folds.csv of random pictures; fakes have a dark square."""
    return make_crops(tmp_path / "root")


def make_crops(root: Path, families: int = 6, frames: int = 6) -> Path:
    from dfdc import layout
    from dfdc.imaging import encode_png

    lines = [",".join(layout.FOLDS_COLUMNS)]
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


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small seeded checkpoints, a and b, of other encoders and sizes (T13); not to be written to."""
    from scoring_runs import make_checkpoint

    folder = tmp_path_factory.mktemp("weights")
    make_checkpoint(folder, "a", seed=1, bias=1.0)
    make_checkpoint(folder, "b", "test_resnet", size=96, seed=2, bias=-0.5)
    return folder
