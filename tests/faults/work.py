"""The commands under test: five preprocessing steps, training and scoring, on small data, and what they leave."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from demo_data.demo_dataset import make_demo_dataset
from networks.checkpoint import read_checkpoint, save_checkpoint
from networks.model import build_network
from networks.spec import ModelSpec
from tests import training_runs
from tests.faults.engines import Engine
from tests.helpers import make_crops, run_script

OUTPUTS = {
    "detect_original_faces": "bboxes",
    "extract_crops": "crops",
    "generate_landmarks": "landmarks",
    "generate_diffs": "diffs",
    "generate_folds": "folds.csv",
}
_RECORDED_TIMES = ("mtime_ns", "listing")  # keys of JSON files that hold the times of files
_WORKERS = 2


@dataclass(frozen=True)
class Work:
    """A command under test. It reads and writes files of one folder, its place.

    Attributes:
        name: of the step.
        prepare: fills the place.
        command: the command for a place.
        output: folder of the place that the command writes to.
        inputs: pattern of the files that it reads, in the place.
        distributes: whether it knows --engine local and ray.
        libraries: further values of its --engine.
        finishes: whether it may complete its work after a SIGTERM, if little is left.
    """

    name: str
    prepare: Callable[[Path], None]
    command: Callable[[Path], list[str]]
    output: str
    inputs: str
    distributes: bool = True
    libraries: tuple[str, ...] = ()
    finishes: bool = False

    def command_on(self, engine: Engine, place: Path) -> list[str]:
        """The whole command line, which uses `engine` if it can."""
        command = [sys.executable, *self.command(place)]
        if self.distributes:
            command += ["--engine", *self.libraries, engine.name, *engine.options]
        return command


def make_base(folder: Path) -> Path:
    """A demo dataset with the artifacts of all steps, at `folder`."""
    make_demo_dataset(folder, seed=3, people=2, fakes=2, frames=31, workers=2)
    for step in OUTPUTS:
        done = run_script(f"preprocessing/{step}.py", "--root-dir", folder)
        assert done.returncode == 0, done.stderr
    return folder


def list_work(base: Path) -> dict[str, Work]:
    """All commands by name; `base`: a preprocessed dataset."""
    inputs = {
        "detect_original_faces": "root/*/*.mp4",
        "extract_crops": "root/*/*.mp4",
        "generate_landmarks": "root/crops/*/*.png",
        "generate_diffs": "root/crops/*/*.png",
        "generate_folds": "root/*/metadata.json",
    }
    found = {step: _step(step, base, pattern) for step, pattern in inputs.items()}
    crops = "root/crops/*/*.png"
    found["train"] = Work("train", _prepare_training, _train, "weights", crops, distributes=False, finishes=True)
    videos = sorted(base.glob("*/*.mp4"))[::5]
    filled = partial(_prepare_scoring, videos=videos)
    found["score"] = Work("score", filled, _score, "out", "videos/*.mp4", libraries=("torch",))
    return found


def _step(name: str, base: Path, inputs: str) -> Work:
    later = list(OUTPUTS)[list(OUTPUTS).index(name) :]

    def prepare(place: Path) -> None:
        root = copy_dataset_plainly(base, place / "root")
        for step in later:
            remove(root / OUTPUTS[step])
        remove(root / ".folds.csv.stamp.json")
        for kept in ("failures", "report", "preprocess_data.out"):
            remove(root / kept)

    def command(place: Path) -> list[str]:
        many = [] if name == "generate_folds" else ["--workers", str(_WORKERS)]
        return [f"preprocessing/{name}.py", "--root-dir", str(place / "root"), *many]

    folder = "root" if name == "generate_folds" else f"root/{OUTPUTS[name]}"
    return Work(name, prepare, command, folder, inputs, distributes=name != "generate_folds")


def copy_dataset_plainly(source: Path, target: Path) -> Path:
    """A copy whose files may be damaged: no hard links."""
    return Path(shutil.copytree(source, target))


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _prepare_training(place: Path) -> None:
    make_crops(place / "root")
    training_runs.write_config(place, epochs=2, batches_per_epoch=3)


def _train(place: Path) -> list[str]:
    more = ("--workers", 1, "--resume", "auto", "--max-failed", 0)
    return [
        training_runs.SCRIPT,
        *map(str, training_runs.arguments(place / "root", place, place / "config.json", *more)),
    ]


def _prepare_scoring(place: Path, videos: Sequence[Path]) -> None:
    (place / "videos").mkdir(parents=True)
    for path in videos:
        shutil.copy2(path, place / "videos" / path.name)
    (place / "weights").mkdir()
    torch.manual_seed(1)
    network = build_network("DeepFakeClassifier", "test_efficientnet")
    spec = ModelSpec("DeepFakeClassifier", "test_efficientnet", 64)
    save_checkpoint(place / "weights/a", network, spec, epoch=0, bce_best=0.5, metrics={})


def _score(place: Path) -> list[str]:
    plain = ["--device", "cpu", "--compile", "off", "--no-report"]
    inputs = ["--weights-dir", str(place / "weights"), "--models", "a", "--test-dir", str(place / "videos")]
    return ["predict_folder.py", *inputs, "--output", str(place / "out/submission.csv"), *plain]


def results(place: Path) -> dict[str, str]:
    """What each file and folder of a place holds, by its name; times of files and the place's own path left out."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if "tfevents" in name or name.endswith("_before") or "__pycache__" in name:
            continue  # one file of events for each start, and the state before the last one
        found[name] = "folder" if path.is_dir() else _content(path, place)
    return found


def _content(path: Path, place: Path) -> str:
    if path.parent.name == "logs" or path.name.endswith("_config.json") or path.suffix == ".mp4":
        return "file"  # logs have times and are appended to
    if path.parent.name == "weights":
        weights = read_checkpoint(path).state_dict
        data = b"".join(name.encode() + value.numpy().tobytes() for name, value in sorted(weights.items()))
    elif path.suffix in (".json", ".progress"):
        lines = [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines()
        plain = sorted(json.dumps(_without_times(json.loads(line)), sort_keys=True) for line in lines)
        data = "\n".join(plain).replace(str(place), "PLACE").encode()
    else:
        data = path.read_bytes()
    return hashlib.sha256(data).hexdigest()


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_times(part) for key, part in value.items() if key not in _RECORDED_TIMES}
    return [_without_times(part) for part in value] if isinstance(value, list) else value
