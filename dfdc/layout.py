"""The DATA_ROOT contract: parts, metadata, which fake belongs to which original, and where artifacts lie.

    dfdc_train_part_<n>/*.mp4, metadata.json   as downloaded; read, never written
    bboxes/<original>.json                     faces found in a REAL video
    crops/<video>/<frame>_<face>.png           REAL and FAKE
    landmarks/<original>/<frame>_<face>.npy    int16 [5, 2]
    diffs/<fake>/<frame>_<face>_diff.png       uint8 [h, w]
    failures/<step>.csv                        what could not be done, and why
    folds.csv                                  video,file,label,original,frame,fold
    report/index.html                          the page on all of this

Every path and naming rule of the project is written here and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

FRAME_STRIDE = 10  # boxes and crops come from every 10th frame
REAL, FAKE = "REAL", "FAKE"
METADATA_NAME = "metadata.json"
CROPS_DIR = "crops"
FOLDS_NAME = "folds.csv"
FOLDS_COLUMNS = ("video", "file", "label", "original", "frame", "fold")
# What the steps write. Never parts, even with a metadata.json: the boxes of a video metadata.mp4 have that name.
ARTIFACT_FOLDERS = frozenset(("bboxes", "landmarks", "diffs", "failures", "report"))
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".mts", ".m2ts",
     ".ogv", ".mxf", ".vob", ".asf")
)  # fmt: skip
PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))
_CROP_NAME = re.compile(r"(\d+)_(\d+)\.png")


class DataError(ValueError):
    """The data set is not as the contract says; the message names each fault and what to do."""


@dataclass(frozen=True, slots=True)
class Part:
    """One folder with a metadata.json, `dfdc_train_part_0` for one."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True, slots=True)
class Video:
    """One entry of a metadata.json. `id` is the file name without its suffix, and names all artifacts."""

    id: str
    path: Path
    part: str
    label: str
    original: str | None  # id of the REAL video a FAKE was made from

    @property
    def source(self) -> str:
        """Id of the REAL video whose boxes and landmarks this video shares: its original's, or its own."""
        return self.original or self.id


@dataclass
class Dataset:
    """All videos of a DATA_ROOT that can be worked on, and those that can't with the reason (`skipped`)."""

    root: Path
    parts: list[Part]
    videos: dict[str, Video] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    listed: dict[str, int] = field(default_factory=dict)  # part -> entries of its metadata.json, skipped ones too

    def reals(self) -> list[Video]:
        return [video for video in self.videos.values() if video.label == REAL]

    def fakes(self) -> list[Video]:
        return [video for video in self.videos.values() if video.label == FAKE]


# ---------------------------------------------------------------------------------------------- artifacts
def bboxes_path(root: Path, original: str) -> Path:
    return root / "bboxes" / f"{original}.json"


def crops_path(root: Path, video: str, crops_dir: str = CROPS_DIR) -> Path:
    return root / crops_dir / video


def landmarks_path(root: Path, original: str) -> Path:
    return root / "landmarks" / original


def diffs_path(root: Path, fake: str) -> Path:
    return root / "diffs" / fake


def ledger_path(root: Path, step: str) -> Path:
    return root / "failures" / f"{step}.csv"


def report_path(root: Path) -> Path:
    return root / "report" / "index.html"


def crop_name(frame: int, face: int) -> str:
    return f"{frame}_{face}.png"


def landmarks_name(frame: int, face: int) -> str:
    return f"{frame}_{face}.npy"


def diff_name(frame: int, face: int) -> str:
    return f"{frame}_{face}_diff.png"


def parse_crop_name(name: str) -> tuple[int, int]:
    """Frame and face of a crop's file name; ValueError for any other name."""
    match = _CROP_NAME.fullmatch(name)
    if not match:
        raise ValueError(f"{name!r} is no crop name: <frame>_<face>.png is expected")
    return int(match[1]), int(match[2])


def list_crops(folder: Path) -> list[tuple[int, int]]:
    """(frame, face) of every crop in `folder`, in order; an absent folder has none."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - Path.iterdir() makes a Path of each of 4 million crops
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted([(int(m[1]), int(m[2])) for m in map(_CROP_NAME.fullmatch, names) if m])


# ------------------------------------------------------------------------------------------------ metadata
def natural_key(name: str) -> list:
    """Sorting key by which part_2 comes before part_10."""
    return [int(piece) if piece.isdigit() else piece.lower() for piece in re.split(r"(\d+)", name)]


def find_parts(root: Path) -> list[Part]:
    """The folders right under `root` that hold a metadata.json, in natural order; artifact folders aside.

    Raises:
        DataError: `root` is no folder, or holds no part.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give the folder in which the dfdc_train_part_* folders lie")
    folders = [path for path in root.iterdir() if path.is_dir() and path.name not in ARTIFACT_FOLDERS]
    found = [path for path in folders if (path / METADATA_NAME).is_file()]
    if found:
        return [Part(path) for path in sorted(found, key=lambda path: (natural_key(path.name), path.name))]
    if (root / METADATA_NAME).is_file():
        raise DataError(f"{root} is itself a part (it holds a {METADATA_NAME}). Give the folder it lies in")
    raise DataError(
        f"no folder in {root} holds a {METADATA_NAME}. Unpack the DFDC archives there, so that "
        f"{root}/dfdc_train_part_0/{METADATA_NAME} and its videos exist"
    )


def load_dataset(root: Path) -> Dataset:
    """Read every metadata.json under `root` and match fakes to their originals.

    Entries whose file is not on disk, and fakes whose original is not, go to `skipped`.

    Raises:
        DataError: no parts, or faults in metadata.json files; all of them are named at once.
    """
    dataset = Dataset(root, find_parts(root))
    faults: list[str] = []
    absent: dict[str, str] = {}
    listed: dict[str, Path] = {}
    for part in dataset.parts:
        entries, part_faults = _read_metadata(part)
        faults += part_faults
        dataset.listed[part.name] = len(entries)
        on_disk = {path.name for path in part.path.iterdir()}
        for video in entries:
            if video.id in listed:
                faults.append(f"{listed[video.id]} and {video.path} have the same name; artifacts are named by it")
                continue
            listed[video.id] = video.path
            if video.path.name in on_disk:
                dataset.videos[video.id] = video
            else:
                absent[video.id] = f"{video.path} is not on disk"
    if faults:
        shown = "\n  ".join(faults[:20]) + (f"\n  ... and {len(faults) - 20} more" if len(faults) > 20 else "")
        raise DataError(f"the metadata under {root} can't be used; mend it or take the part away:\n  {shown}")

    for video in list(dataset.videos.values()):
        if video.label == REAL:
            continue
        original = dataset.videos.get(video.original) if video.original else None
        if original is None:
            reason = f"its original {video.original} is not on disk" if video.original else "it names no original"
        elif original.label != REAL:
            reason = f"its original {video.original} is not REAL"
        else:
            continue
        absent[video.id] = reason
        del dataset.videos[video.id]
    dataset.skipped = absent
    return dataset


def _read_metadata(part: Part) -> tuple[list[Video], list[str]]:
    """The entries of a part and the faults in them. A name may only name a file right in the part's folder."""
    path = part.path / METADATA_NAME
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        return [], [f"{path}: not UTF-8 text ({error})"]
    except OSError as error:
        return [], [f"{path}: can't be read ({error.strerror})"]
    except (ValueError, RecursionError) as error:
        return [], [f"{path}: broken JSON ({error})"]
    if not isinstance(metadata, dict):
        return [], [f"{path}: a JSON object is expected, this is a {type(metadata).__name__}"]

    videos, faults = [], []
    for name, entry in metadata.items():
        fault = _name_fault(name)
        label = entry.get("label") if isinstance(entry, dict) else None
        original = entry.get("original") if isinstance(entry, dict) else None
        if fault:
            pass
        elif not isinstance(entry, dict):
            fault = f"an object is expected, this is {entry!r}"
        elif label not in (REAL, FAKE):
            fault = f"label {label!r} is neither REAL nor FAKE"
        elif original is not None and not isinstance(original, str):
            fault = f"original {original!r} is not a file name"
        elif original is not None and _name_fault(original):
            fault = f"original: {_name_fault(original)}"
        if fault:
            faults.append(f"{path}, entry {name!r}: {fault}")
            continue
        source = Path(original).stem if original and label == FAKE else None
        videos.append(Video(Path(name).stem, part.path / name, part.name, label, source))
    return videos, faults


def _name_fault(name: str) -> str | None:
    """Why `name` can't be a video of its part, or None."""
    if "/" in name or "\\" in name or "\0" in name or name in ("", ".", ".."):
        return f"{name!r} is not a plain file name"
    if name.startswith("."):
        return f"{name!r} is a hidden file"
    if not name.isprintable():  # line ends, and what is no text at all
        return f"{name!r} holds characters that can't be in a list of files"
    return None


def check_crops_dir(name: str, parts: Sequence[Part]) -> str:
    """`name`, if crops may be kept in that folder of DATA_ROOT.

    Raises:
        DataError: it is not a plain name, or a folder that holds something else.
    """
    taken = {*ARTIFACT_FOLDERS, "weights", "logs", *(part.name for part in parts)}
    if _name_fault(name) or name in taken:
        raise DataError(f"--crops-dir {name}: give the plain name of a folder of its own in DATA_ROOT, such as crops")
    return name


def is_picture(path: Path) -> bool:
    """Whether `path` is a picture and not a video, by its name."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def list_videos(
    folder: Path, *, recursive: bool = False, pictures: bool = False, broken_links: bool = False
) -> list[Path]:
    """Video files in `folder` by suffix, in upper or lower case, in natural order; hidden ones aside.

    Args:
        recursive: also of the folders in it.
        pictures: picture files as well.
        broken_links: links to files that are not there as well, so that somebody can say so.
    """
    suffixes = VIDEO_SUFFIXES | (PICTURE_SUFFIXES if pictures else frozenset())
    paths = folder.rglob("*") if recursive else folder.iterdir()
    named = [path for path in paths if path.suffix.lower() in suffixes and not path.name.startswith(".")]
    videos = [p for p in named if p.is_file() or (broken_links and p.is_symlink() and not p.exists())]
    return sorted(videos, key=lambda path: (natural_key(str(path)), str(path)))
