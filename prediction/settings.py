"""Settings of a run, and those that its scores depend on. No heavy imports: commands read it before loading PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dfdc.shards import WHOLE, Shard
from networks.files import ModelFile

FRAMES_PER_VIDEO = 32
STRATEGIES = ("confident", "mean", "person-max", "smooth")  # the names in dfdc.scoring.STRATEGIES

DetectorScale = float | Literal["auto"]


@dataclass(frozen=True)
class Floors:
    """Thresholds below which a verdict gets a doubt.

    Attributes:
        faces: number of frames that show a deciding face; for videos only.
        side: side of a face, in pixels of the video.

    Raises:
        ValueError: a value is negative or not finite.
    """

    faces: int = 8
    side: float = 50.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"the floor of {name} is {value}; give a finite number of at least 0")


@dataclass(frozen=True)
class FolderSettings:
    """Settings of `prediction.folder.score_folder`; those without a comment are described in `prediction.Scorer`."""

    models: list[str] = field(default_factory=list)  # names or paths, see `networks.files.find_models`
    weights_dir: Path = Path("weights")
    places: list[Path] = field(default_factory=list)  # folders and single files; with `fold`, only the DATA_ROOT
    lists: list[Path] = field(default_factory=list)  # text files with one path per line
    recursive: bool = False  # also search subfolders
    output: Path = Path("submission.csv")  # the details are written beside it, as .json
    fold: int | None = None  # score this fold of the DATA_ROOT, whose labels are known
    labels: Path | None = None  # file of labels, see `prediction.inputs.read_labels`
    calibrate: Path | None = None  # fit a temperature, and write it to this file
    calibration: Path | None = None  # file of a temperature to apply
    detector_scale: DetectorScale = "auto"
    strategy: str = "confident"
    floors: Floors = field(default_factory=Floors)
    device: str = "auto"
    precision: str = "auto"
    engine: str = "auto"
    place: str = "local"  # where the work runs, one of dfdc.command_line.PLACES
    ray_address: str | None = None  # see `dfdc.ray_connection.connected`
    compile: str = "auto"  # "on", "off", or "auto": if there are enough videos, and only if it is faster
    report: Path | None = None  # folder of the pages; None: no pages
    force: bool = False  # score all videos again
    shard: Shard = WHOLE  # score only these videos, and write only the progress file of this shard


@dataclass(frozen=True)
class RunSettings:
    """The settings that the scores of a run depend on, as stored in submission.json.

    Attributes:
        frames: number of frames of a video that are searched for faces.
        margin_part: each side of a crop adds 1 / margin_part of the face's box as margin.
        precision: precision of the networks: fp32, bf16 or fp16.
        engine: library that ran the networks: torch, openvino or onnx; "" in files of earlier versions.
        detector_thresholds: thresholds of the face detector's three stages.
        temperature: temperature of the calibration; absent without one.
    """

    models: list[ModelFile]
    frames: int
    detector_scale: DetectorScale
    margin_part: int
    strategy: str
    floors: Floors
    precision: str
    detector_thresholds: tuple[float, float, float]
    temperature: float | None = None
    engine: str = ""
