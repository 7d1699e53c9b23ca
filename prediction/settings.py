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
        for name, value in (("faces", self.faces), ("side", self.side)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"the floor of {name}, {value}: a number from 0 on is expected")


@dataclass(frozen=True)
class FolderSettings:
    """A run of `prediction.folder.score_folder`.

    Attributes:
        models: names of checkpoints in `weights_dir`, or paths; @FILE: those named in FILE.
        places: folders of videos and pictures, and single files; with `fold` the one DATA_ROOT.
        lists: text files with a path a line.
        output: of submission.csv; the details go beside it, with .json.
        fold: score the videos of this fold of DATA_ROOT, whose labels are known.
        labels: a file of labels, see `prediction.inputs.read_labels`.
        calibrate: fit a temperature, and write it here.
        calibration: the file of a temperature to apply.
        compile: "on", "off", or "auto": where it may pay, and only if it is faster.
        report: folder of pages to write.
        force: score again what an earlier run has scored.

    The others are those of `prediction.Scorer`.
    """

    models: list[str]
    weights_dir: Path = Path("weights")
    places: list[Path] = field(default_factory=list)
    lists: list[Path] = field(default_factory=list)
    recursive: bool = False
    output: Path = Path("submission.csv")
    fold: int | None = None
    labels: Path | None = None
    calibrate: Path | None = None
    calibration: Path | None = None
    detector_scale: DetectorScale = "auto"
    strategy: str = "confident"
    floors: Floors = field(default_factory=Floors)
    device: str = "auto"
    precision: str = "auto"
    compile: str = "auto"
    report: Path | None = None
    force: bool = False


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
