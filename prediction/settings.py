"""What a run is asked to do, and what of it its results hang on. Light: a command reads it before it loads anything."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from networks.files import ModelFile

FRAMES_PER_VIDEO = 32
STRATEGIES = ("confident", "mean", "person-max", "smooth")  # the names in dfdc.scoring.STRATEGIES

DetectorScale = float | Literal["auto"]


@dataclass(frozen=True)
class Floors:
    """Under which a verdict stands with a doubt.

    Attributes:
        faces: frames that show a face that decides; for videos only.
        side: of a face, in pixels of the video.

    Raises:
        ValueError: one is negative or not finite.
    """

    faces: int = 8
    side: float = 50.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"the floor of {name}, {value}: a number from 0 on is expected")


@dataclass(frozen=True)
class FolderSettings:
    """A run of `prediction.folder.score_folder`; settings without a comment are those of `prediction.Scorer`."""

    models: list[str] = field(default_factory=list)  # as `networks.files.find_models` takes them
    weights_dir: Path = Path("weights")
    places: list[Path] = field(default_factory=list)  # folders and single files; with `fold` the one DATA_ROOT
    lists: list[Path] = field(default_factory=list)  # text files with a path a line
    recursive: bool = False  # also the folders' own folders
    output: Path = Path("submission.csv")  # the details go beside it, with .json
    fold: int | None = None  # score the videos of this fold of DATA_ROOT, whose labels are known
    labels: Path | None = None  # a file of labels, see `prediction.inputs.read_labels`
    calibrate: Path | None = None  # fit a temperature, and write it here
    calibration: Path | None = None  # the file of a temperature to apply
    detector_scale: DetectorScale = "auto"
    strategy: str = "confident"
    floors: Floors = field(default_factory=Floors)
    device: str = "auto"
    precision: str = "auto"
    compile: str = "auto"  # "on", "off", or "auto": where it may pay, and only if it is faster
    report: Path | None = None  # folder of pages to write
    force: bool = False  # score again what an earlier run has scored


@dataclass(frozen=True)
class RunSettings:
    """What the scores of a run hang on, as it stands in submission.json.

    Attributes:
        frames: of a video that are searched for faces.
        margin_part: a crop has 1 / margin_part of the face's box as margin on each side.
        precision: of the networks: fp32, bf16 or fp16.
        detector_thresholds: of the face detector's three stages.
        temperature: by which the verdicts are calibrated; absent where they are not.
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
