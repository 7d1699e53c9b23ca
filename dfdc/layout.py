"""The DATA_ROOT contract: parts, metadata, the original of each fake, and the paths of artifacts.

    dfdc_train_part_<n>/*.mp4, metadata.json   as downloaded; read, never written
    bboxes/<original>.json                     faces detected in a REAL video
    crops/<video>/<frame>_<face>.png           REAL and FAKE
    landmarks/<original>/<frame>_<face>.npy    int16 [5, 2]
    diffs/<fake>/<frame>_<face>_diff.png       uint8 [h, w]
    failures/<step>.csv                        failed, skipped and incomplete videos, with reasons
    failures/<step>.shard-<i>-of-<n>.csv       those of a shard of the videos (dfdc/shards.py)
    folds.csv                                  video,file,label,original,frame,fold (dfdc/folds.py)
    report/index.html                          report on the dataset
    rejected.csv                               video,frame,face[,reason]: crops rejected by a user; optional

All path and naming rules of the project are defined here.

An entry of metadata.json is `"a.mp4": {"label": "REAL"}` or `{"label": "FAKE", "original": "b.mp4"}`. The optional key
"donor" of a FAKE names the video whose face it shows. Other keys are ignored.

Names are compared in composed Unicode form (NFC), because macOS unpacks archives into decomposed names (NFD). Two
videos whose names differ only in that form, or in case, are an error: on some disks their artifacts would share files.

A line of rejected.csv names a video, with or without its suffix. An empty `frame` means all frames and an empty `face`
all faces; both empty reject the whole video. Rejecting crops of an original also rejects those of its fakes.
dfdc/rejections.py reads the file; the steps never write it.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dfdc.command_line import SettingError, UserError
from dfdc.identity import read_file
from dfdc.shards import WHOLE, Shard

FRAME_STRIDE = 10  # boxes and crops come from every 10th frame
REAL, FAKE = "REAL", "FAKE"
METADATA_NAME = "metadata.json"
LONGEST_ID = 250  # bytes of a video's id; most disks take names of 255 bytes, and an artifact may end with ".json"
CROPS_DIR = "crops"
FOLDS_NAME = "folds.csv"
REJECTED_NAME = "rejected.csv"
# Folders that the steps write. They are never parts, even with a metadata.json: boxes of metadata.mp4 have that name.
ARTIFACT_FOLDERS = frozenset(("bboxes", "landmarks", "diffs", "failures", "report"))
_USUAL_VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")
_RARE_VIDEOS = (".ts", ".mts", ".m2ts", ".ogv", ".mxf", ".vob", ".asf")
VIDEO_SUFFIXES = frozenset(_USUAL_VIDEOS + _RARE_VIDEOS)
# An animated GIF is read as a video nevertheless; see dfdc/pictures.py.
_USUAL_PICTURES = (".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif")
PICTURE_SUFFIXES = frozenset((*_USUAL_PICTURES, ".avif", ".heic", ".heif", ".hif"))
_CROP_NAME = re.compile(r"(0|[1-9][0-9]{0,8})_(0|[1-9][0-9]{0,8})\.png")


class DataError(UserError, ValueError):
    """The dataset violates the contract; the message lists each fault and says what to do."""


@dataclass(frozen=True, slots=True)
class Video:
    """One entry of a metadata.json. `id` is its name without suffix, in NFC; all artifacts are named by it."""

    id: str
    path: Path  # name as on disk; if the file is missing, as in metadata.json
    part: str
    label: str
    original: str | None  # id of the REAL video a FAKE was made from
    donor: str | None = None  # id of the video whose face a FAKE shows, if metadata.json names it

    @property
    def source(self) -> str:
        """Id of the REAL video whose boxes and landmarks this video shares: its original's, or its own."""
        return self.original or self.id


@dataclass(frozen=True, slots=True)
class Skipped:
    """A video in metadata.json that can't be processed, with the reason."""

    video: Video
    reason: str


@dataclass
class Dataset:
    """All videos of a DATA_ROOT that can be processed, and those that can't (`skipped`), both by id."""

    root: Path
    parts: list[Path]  # folders with a metadata.json, such as `dfdc_train_part_0`
    videos: dict[str, Video] = field(default_factory=dict)
    skipped: dict[str, Skipped] = field(default_factory=dict)
    listed: dict[str, int] = field(default_factory=dict)  # part -> number of metadata.json entries, with skipped ones

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


def ledger_path(root: Path, step: str, shard: Shard = WHOLE) -> Path:
    return shard.file(root / "failures" / f"{step}.csv")


def artifacts_folder(root: Path, step: str, crops_dir: str = CROPS_DIR) -> Path:
    """The artifact folder of a step that creates one artifact per video."""
    steps = ("detect_original_faces", "extract_crops", "generate_landmarks", "generate_diffs")
    return root / ("bboxes", crops_dir, "landmarks", "diffs")[steps.index(step)]


def artifact_folders(root: Path, crops_dir: str = CROPS_DIR) -> list[Path]:
    """The artifact folders of videos that exist and can be written to."""
    folders = [root / name for name in ("bboxes", crops_dir, "landmarks", "diffs")]
    return [folder for folder in folders if folder.is_dir() and os.access(folder, os.W_OK)]


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
        raise ValueError(f"{name!r} is not a crop name; expected <frame>_<face>.png")
    return int(match[1]), int(match[2])


def list_crops(folder: Path) -> list[tuple[int, int]]:
    """(frame, face) of every crop in `folder`, sorted; empty if the folder does not exist."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - Path.iterdir() makes a Path of each of 4 million crops
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted([(int(m[1]), int(m[2])) for m in map(_CROP_NAME.fullmatch, names) if m])


# ------------------------------------------------------------------------------------------------ metadata
def natural_key(name: str) -> list:
    """Sort key that puts part_2 before part_10."""
    # No file name is longer than 255, but a table may hold any name; Python refuses to parse over 4300 digits.
    return [int(piece[:255]) if piece.isdecimal() else piece.lower() for piece in re.split(r"(\d+)", name)]


def find_parts(root: Path) -> list[Path]:
    """The direct subfolders of `root` with a metadata.json, in natural order, except artifact folders.

    Raises:
        DataError: `root` is not a folder, has no part, or has a dangling link to a part or artifact folder, or a link
            of an artifact folder to the videos.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Pass the folder that contains the dfdc_train_part_* folders")
    paths = [path for path in root.iterdir() if not path.name.startswith(".")]
    away = sorted(str(path) for path in paths if path.is_symlink() and not path.exists() and not path.suffix)
    if away:  # otherwise the part would look removed, and artifacts would be rebuilt elsewhere
        raise DataError(f"{', '.join(away)}: dangling links. Mount the missing disk, or remove the links")
    folders = [path for path in paths if path.is_dir() and path.name not in ARTIFACT_FOLDERS]
    found = [path for path in folders if (path / METADATA_NAME).exists()]
    for name in sorted(ARTIFACT_FOLDERS):
        _check_link(root / name, [root, *found])
    if found:
        return sorted(found, key=lambda path: (natural_key(path.name), path.name))
    if (root / METADATA_NAME).is_file():
        raise DataError(f"{root} is itself a part (it contains a {METADATA_NAME}). Pass its parent folder")
    raise DataError(
        f"no folder in {root} contains a {METADATA_NAME}. Unpack the DFDC archives there, so that "
        f"{root}/dfdc_train_part_0/{METADATA_NAME} and its videos exist"
    )


def _check_link(folder: Path, inputs: Sequence[Path]) -> None:
    """Raise DataError if the artifact folder `folder` is a link to one of `inputs`, or to a folder above or in a part.

    An artifact replaces what has its name. There, it would replace videos.
    """
    if not folder.is_symlink():
        return
    target = Path(os.path.realpath(folder))
    root, *parts = (Path(os.path.realpath(path)) for path in inputs)
    if root.is_relative_to(target) or any(p.is_relative_to(target) or target.is_relative_to(p) for p in parts):
        raise DataError(f"{folder} is a link to {target}, where the videos are; let it lead to a folder of its own")


def load_dataset(root: Path) -> Dataset:
    """Read every metadata.json under `root` and match fakes to their originals.

    Entries whose file is missing or a dangling link, and fakes whose original is not available, go to `skipped`.

    Raises:
        DataError: no parts, or faults in metadata.json files; the message lists all of them.
    """
    dataset = Dataset(root, find_parts(root))
    faults: list[str] = []
    twins: dict[str, Video] = {}
    for part in dataset.parts:
        entries, part_faults = _read_metadata(part)
        faults += part_faults
        dataset.listed[part.name] = len(entries)
        files = _files_in(part)
        for video in entries:
            file = files.get(video.path.name) or files.get(_nfc(video.path.name))
            if file and file.name != video.path.name:
                video = replace(video, path=part / file.name)
            twin = twins.setdefault(_caseless(video.id), video)
            if twin is not video:
                faults.append(f"{twin.path} and {video.path} {_likeness(twin, video)}; artifact names must be unique")
            elif file is None:
                dataset.skipped[video.id] = Skipped(video, f"{video.path} is not on disk")
            elif _leads_nowhere(file):
                reason = f"{video.path} is a dangling link; mount the missing disk, or remove the link"
                dataset.skipped[video.id] = Skipped(video, reason)
            else:
                dataset.videos[video.id] = video
    if faults:
        raise DataError(
            f"the metadata under {root} is invalid; correct it or remove the part:\n  {list_faults(faults)}"
        )

    orphans = {}
    for video in dataset.fakes():
        original = dataset.videos.get(video.source)
        if video.original is None:
            reason = "it names no original"
        elif original is None:
            reason = f"its original {video.original} is not on disk"
        elif original.label != REAL:
            reason = f"its original {video.original} is not REAL"
        else:
            continue
        orphans[video.id] = Skipped(video, reason)
    for name in orphans:
        del dataset.videos[name]
    dataset.skipped |= orphans
    return dataset


def _files_in(folder: Path) -> dict[str, os.DirEntry[str]]:
    """The entries of `folder`, by name and by the NFC form of the name."""
    with os.scandir(folder) as entries:
        files = {entry.name: entry for entry in entries}
    return {_nfc(name): entry for name, entry in files.items()} | files


def _leads_nowhere(file: os.DirEntry[str]) -> bool:
    """Whether `file` is a dangling link; only links are checked."""
    if not file.is_symlink():
        return False
    try:
        file.stat()
    except OSError as error:  # otherwise the target exists, and its reader reports the error
        return isinstance(error, (FileNotFoundError, NotADirectoryError))
    return False


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _caseless(name: str) -> str:
    """A key that is equal for names of the same file on a disk that ignores case and Unicode form."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def _likeness(first: Video, second: Video) -> str:
    """How the names of two conflicting videos are alike, for a message."""
    if first.path.stem == second.path.stem:
        return "have the same name"
    return "have names that differ only in case or in Unicode form (NFC, NFD)"


def video_id(name: str) -> str:
    """The id of a video from a user-given name, with or without one of VIDEO_SUFFIXES."""
    suffix = Path(name).suffix
    return _nfc(name.removesuffix(suffix) if suffix.lower() in VIDEO_SUFFIXES else name)


def list_faults(faults: Sequence[str]) -> str:
    """The first 20 faults, one per line, and the number of the others."""
    more = [f"... and {len(faults) - 20} more"] if len(faults) > 20 else []
    return "\n  ".join([*faults[:20], *more])


class _JsonObject(dict):
    """A JSON object that records its duplicate keys (`repeated`)."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs) if len(self) != len(pairs) else {}
        self.repeated = [key for key, count in counts.items() if count > 1]


def _read_metadata(part: Path) -> tuple[list[Video], list[str]]:
    """The entries of a part and the faults in them. Names must be of files directly in the part's folder."""
    path = part / METADATA_NAME
    try:
        metadata = json.loads(read_file(path).decode("utf-8"), object_pairs_hook=_JsonObject)
    except UnicodeDecodeError as error:
        return [], [f"{path}: not UTF-8 text ({error})"]
    except OSError as error:
        return [], [f"{path}: can't be read ({error.strerror})"]
    except (ValueError, RecursionError) as error:
        return [], [f"{path}: invalid JSON ({error})"]
    if not isinstance(metadata, _JsonObject):
        return [], [f"{path}: expected a JSON object, not a {type(metadata).__name__}"]

    faults = [f"{path}, entry {name!r}: duplicate entry; keep one" for name in metadata.repeated]
    videos = []
    for name, entry in metadata.items():
        fault = _name_fault(name) or _entry_fault(entry)
        if fault:
            faults.append(f"{path}, entry {name!r}: {fault}")
            continue
        label = entry["label"]
        related = [entry.get(key) if label == FAKE else None for key in ("original", "donor")]
        original, donor = (None if file is None else _nfc(Path(file).stem) for file in related)
        videos.append(Video(_nfc(Path(name).stem), part / name, part.name, label, original, donor))
    return videos, faults


def _entry_fault(entry: object) -> str | None:
    """Why `entry` is not a valid entry of metadata.json, or None."""
    if not isinstance(entry, _JsonObject):
        return f"expected an object, not {entry!r}"
    if entry.repeated:
        return f"duplicate key {' and '.join(map(repr, entry.repeated))}; keep one"
    if entry.get("label") not in (REAL, FAKE):
        return f"label {entry.get('label')!r} is neither REAL nor FAKE"
    for key in ("original", "donor"):
        file = entry.get(key)
        if file is not None and not isinstance(file, str):
            return f"{key} {file!r} is not a file name"
        if file is not None and _name_fault(file):
            return f"{key}: {_name_fault(file)}"
    return None


def _name_fault(name: str) -> str | None:
    """Why `name` is not a valid file name in a part, or None."""
    if "/" in name or "\\" in name or "\0" in name or name in ("", ".", ".."):
        return f"{name!r} is not a plain file name"
    if name.startswith("."):
        return f"{name!r} is a hidden file"
    if not name.isprintable():  # line breaks, and bytes that are not text
        return f"{name!r} contains non-printable characters"
    if (length := len(os.fsencode(_nfc(Path(name).stem)))) > LONGEST_ID:
        said = f"has {length} bytes without its suffix, and names of artifacts need a limit of {LONGEST_ID}"
        return f"{name!r} {said}; rename the video, here and on disk"
    return None


def check_crops_dir(name: str, parts: Sequence[Path]) -> str:
    """`name`, if that folder of DATA_ROOT may contain crops.

    Raises:
        SettingError: it is not a plain name, or the folder has another use.
        DataError: it is a link to the videos.
    """
    taken = {*ARTIFACT_FOLDERS, "weights", "logs", *(part.name for part in parts)}
    if _name_fault(name) or name in taken:
        raise SettingError("crops_dir", name, "choose the plain name of a separate folder in DATA_ROOT, such as crops")
    _check_link(parts[0].parent / name, [parts[0].parent, *parts])
    return name


def is_picture(path: Path) -> bool:
    """Whether `path` is an image and not a video, by its suffix; `dfdc.pictures.is_still` also reads GIF files."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def list_files(
    folder: Path, *, recursive: bool = False, onerror: Callable[[OSError], None] | None = None
) -> list[Path]:
    """Files in `folder`, including dangling links, in natural order; hidden files are skipped.

    Args:
        recursive: also search subfolders and linked folders, each once; hidden folders are skipped.
        onerror: called for a folder that can't be listed; the folder is then skipped.

    Raises:
        OSError: a folder can't be listed, and there is no `onerror`.
    """

    def stop(error: OSError) -> None:
        raise error

    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=onerror or stop):
        real = os.path.realpath(place)
        if real in seen:  # a circular link, or a second link
            folders.clear()
            continue
        seen.add(real)
        found += (Path(place, name) for name in files if not name.startswith("."))
        # Links last, so that a folder is listed under its own name and not under that of a link to it.
        folders.sort(key=lambda name, place=place: (Path(place, name).is_symlink(), name))
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
    return sorted(found, key=lambda path: (natural_key(str(path)), str(path)))


def list_videos(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Video files in `folder`, by suffix, ignoring its case; order and errors are those of `list_files`."""
    files = list_files(folder, recursive=recursive)
    return [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
