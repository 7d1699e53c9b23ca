"""Fixtures: generated videos, a small preprocessed demo dataset, crops, checkpoints. Functions are in helpers.py."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # before anything imports it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks of most tests are too small for more to help

import numpy as np
import pytest
from families import make_family
from helpers import (
    ROOT,
    copy_dataset,
    make_crops,
    numbered_frames,
)
from lock_files import Clock
from loss_logs import FULL_LOG, LOG, write_log

from demo_data.demo_dataset import load_portraits, make_demo_dataset
from demo_data.demo_faces import Portrait, frames, make_person, make_scene
from dfdc import locks, steps
from dfdc.plotting import plt
from dfdc.video import write_video
from prediction.decoding import Decoder

if TYPE_CHECKING:
    from clusters import TwoNodes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="record what tests/test_scoring_version.py compares with")


@pytest.fixture
def write_numbered(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str = "numbered.mp4", count: int = 40, **options) -> Path:
        path = tmp_path / name
        write_video(path, numbered_frames(count), **options)
        return path

    return write


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo dataset, not preprocessed; not to be written to."""
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


@pytest.fixture
def crops_root(tmp_path: Path) -> Path:
    """A DATA_ROOT with crops, masks, landmarks and folds.csv of random pictures; fakes have a dark square."""
    return make_crops(tmp_path / "root")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small seeded checkpoints, a and b, of other encoders and sizes (T13); not to be written to."""
    from scoring_runs import make_checkpoint  # brings PyTorch, which most tests do without

    folder = tmp_path_factory.mktemp("weights")
    make_checkpoint(folder, "a", seed=1, bias=1.0)
    make_checkpoint(folder, "b", "test_resnet", size=96, seed=2, bias=-0.5)
    return folder


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small checkpoint `a`, converted for OpenVINO and measured in fp32; not to be written to."""
    from test_export import make  # brings PyTorch, which most tests do without

    from networks.conversion import convert

    folder = tmp_path_factory.mktemp("converted") / "w"
    folder.mkdir()
    make(folder / "a")
    convert(folder / "a", "openvino", "fp32")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    """A Ray cluster of two nodes on this machine; a test that kills one restores it."""
    pytest.importorskip("ray", reason="Ray is not installed: requirements-cluster.txt has it")
    from clusters import TwoNodes  # brings Ray, which most tests do without

    nodes = TwoNodes()
    yield nodes
    nodes.stop()


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    with contextlib.closing(Decoder()) as found:
        yield found


@pytest.fixture
def clip(write_numbered: Callable[..., Path]) -> Path:
    """40 frames whose numbers can be read."""
    return write_numbered("clip.mp4")


@pytest.fixture
def no_display(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_log(tmp_path / "run.jsonl", *LOG)


@pytest.fixture
def full_log(tmp_path: Path) -> Path:
    return write_log(tmp_path / "full.jsonl", *FULL_LOG)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATA_ROOT of families.make_family; not to be written to."""
    root = tmp_path_factory.mktemp("family") / "root"
    make_family(root)
    return root


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """(step, options, videos, skipped) of each step that would have been run."""
    calls: list[tuple] = []
    monkeypatch.setattr(steps, "run_step", lambda *arguments: calls.append(arguments) or 0)
    return calls


@pytest.fixture
def family_copy(family: Path, tmp_path: Path) -> Path:
    """A DATA_ROOT of families.make_family that may be written to."""
    return copy_dataset(family, tmp_path / "root")


@pytest.fixture(scope="session")
def portrait() -> Portrait:
    """The portrait that the demo's people are made of."""
    return load_portraits(None)[0]


# Files whose tests run OpenVINO's networks in this process. They come last, see `no_handler_of_ended_children`.
ENGINE_FILES = ("test_agreement", "test_conversion", "test_engines", "test_openvino_model", "test_predict_engines")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem in ENGINE_FILES)


@pytest.fixture(autouse=True)
def no_handler_of_ended_children():
    """Remove the handler that PyTorch's DataLoader leaves in this process.

    After OpenVINO has run in the same process, the next end of a child then ended the tests with a segmentation fault.
    No command uses both.
    """
    yield
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def own_signal_handlers():
    """Put the handlers back that a command in this process has changed: Ctrl-C would end the tests without a word."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.unraisablehook
    yield
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def ended():
    """A process that has ended, and whose parent has not asked for it yet."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    while "Z" not in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2]:
        time.sleep(0.01)
    yield process
    process.wait()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of dfdc/locks.py, which runs as fast as it is asked."""
    clock = Clock()
    monkeypatch.setattr(locks, "time", clock)
    monkeypatch.setattr(locks, "_LOOK_EVERY", 5.0)
    return clock
