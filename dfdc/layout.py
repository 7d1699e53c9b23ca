"""The DATA_ROOT contract: parts, metadata, which fake belongs to which original, and where artifacts lie.

    dfdc_train_part_<n>/*.mp4, metadata.json   as downloaded; read, never written
    bboxes/<original>.json                     faces found in a REAL video
    crops/<video>/<frame>_<face>.png           REAL and FAKE
    landmarks/<original>/<frame>_<face>.npy    int16 [5, 2]
    diffs/<fake>/<frame>_<face>_diff.png       uint8 [h, w]
    failures/<step>.csv                        what could not be done, and why
    folds.csv                                  video,file,label,original,frame,fold (dfdc/folds.py)
    report/index.html                          the page on all of this
    rejected.csv                               video,frame,face[,reason]: crops a person does not want; may be absent

Every path and naming rule of the project is written here and nowhere else.

An entry of metadata.json is `"a.mp4": {"label": "REAL"}` or `{"label": "FAKE", "original": "b.mp4"}`. A FAKE may also
name, as "donor", the video whose face it shows. Other keys are ignored.

Names match by their composed Unicode form (NFC), since macOS unpacks archives into decomposed names (NFD). Two videos
whose names differ only in that form, or in upper and lower case, are an error: on some disks their artifacts would be
the same files.

A line of rejected.csv names a video, with or without its suffix. An empty `frame` means all frames and an empty `face`
all faces, so that both empty reject the whole video. What is rejected of an original is rejected of its fakes too.
dfdc/rejections.py reads it, and the steps never write it.
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

FRAME_STRIDE = 10  # boxes and crops come from every 10th frame
REAL, FAKE = "REAL", "FAKE"
METADATA_NAME = "metadata.json"
CROPS_DIR = "crops"
FOLDS_NAME = "folds.csv"
REJECTED_NAME = "rejected.csv"
# What the steps write. Never parts, even with a metadata.json: the boxes of a video metadata.mp4 have that name.
ARTIFACT_FOLDERS = frozenset(("bboxes", "landmarks", "diffs", "failures", "report"))
_USUAL_VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")
_RARE_VIDEOS = (".ts", ".mts", ".m2ts", ".ogv", ".mxf", ".vob", ".asf")
VIDEO_SUFFIXES = frozenset(_USUAL_VIDEOS + _RARE_VIDEOS)
# A GIF that moves is read as a video all the same: see dfdc/pictures.py.
_USUAL_PICTURES = (".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".gif")
PICTURE_SUFFIXES = frozenset((*_USUAL_PICTURES, ".avif", ".heic", ".heif", ".hif"))
_CROP_NAME = re.compile(r"(\d+)_(\d+)\.png")


class DataError(UserError, ValueError):
    """The data set is not as the contract says; the message names each fault and what to do."""


@dataclass(frozen=True, slots=True)
class Video:
    """One entry of a metadata.json. `id` is the name there without its suffix, in NFC, and names all artifacts."""

    id: str
    path: Path  # as the file lies on disk; where it does not, as metadata.json has it
    part: str
    label: str
    original: str | None  # id of the REAL video a FAKE was made from
    donor: str | None = None  # id of the video whose face a FAKE shows, where metadata.json says so

    @property
    def source(self) -> str:
        """Id of the REAL video whose boxes and landmarks this video shares: its original's, or its own."""
        return self.original or self.id


@dataclass(frozen=True, slots=True)
class Skipped:
    """A video that metadata.json lists and that can't be worked on, with the reason."""

    video: Video
    reason: str


@dataclass
class Dataset:
    """All videos of a DATA_ROOT that can be worked on, and those that can't (`skipped`), both by their id."""

    root: Path
    parts: list[Path]  # folders with a metadata.json, `dfdc_train_part_0` for one
    videos: dict[str, Video] = field(default_factory=dict)
    skipped: dict[str, Skipped] = field(default_factory=dict)
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


def artifacts_folder(root: Path, step: str, crops_dir: str = CROPS_DIR) -> Path:
    """Where a step that makes one artifact of each video keeps them."""
    steps = ("detect_original_faces", "extract_crops", "generate_landmarks", "generate_diffs")
    return root / ("bboxes", crops_dir, "landmarks", "diffs")[steps.index(step)]


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
    return [int(piece) if piece.isdecimal() else piece.lower() for piece in re.split(r"(\d+)", name)]


def find_parts(root: Path) -> list[Path]:
    """The folders right under `root` that hold a metadata.json, in natural order; artifact folders aside.

    Raises:
        DataError: `root` is no folder, or holds no part, or a link to a part or to artifacts that are not there.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give the folder in which the dfdc_train_part_* folders lie")
    paths = [path for path in root.iterdir() if not path.name.startswith(".")]
    away = sorted(str(path) for path in paths if path.is_symlink() and not path.exists() and not path.suffix)
    if away:  # going on without would look as if the part had been taken away, and make artifacts anew elsewhere
        raise DataError(f"{', '.join(away)}: links to what is not there. Is a disk away? Else remove them")
    folders = [path for path in paths if path.is_dir() and path.name not in ARTIFACT_FOLDERS]
    found = [path for path in folders if (path / METADATA_NAME).is_file()]
    if found:
        return sorted(found, key=lambda path: (natural_key(path.name), path.name))
    if (root / METADATA_NAME).is_file():
        raise DataError(f"{root} is itself a part (it holds a {METADATA_NAME}). Give the folder it lies in")
    raise DataError(
        f"no folder in {root} holds a {METADATA_NAME}. Unpack the DFDC archives there, so that "
        f"{root}/dfdc_train_part_0/{METADATA_NAME} and its videos exist"
    )


def load_dataset(root: Path) -> Dataset:
    """Read every metadata.json under `root` and match fakes to their originals.

    Entries whose file is not on disk, and fakes whose original is not, go to `skipped`. So do links to nowhere.

    Raises:
        DataError: no parts, or faults in metadata.json files; all of them are named at once.
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
                faults.append(f"{twin.path} and {video.path} {_likeness(twin, video)}; artifacts are named by it")
            elif file is None:
                dataset.skipped[video.id] = Skipped(video, f"{video.path} is not on disk")
            elif _leads_nowhere(file):
                reason = f"{video.path} is a link to a file that is not there; is a disk away?"
                dataset.skipped[video.id] = Skipped(video, reason)
            else:
                dataset.videos[video.id] = video
    if faults:
        raise DataError(
            f"the metadata under {root} can't be used; mend it or take the part away:\n  {list_faults(faults)}"
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
    """What lies in `folder`, by name and by the NFC form of the name."""
    with os.scandir(folder) as entries:
        files = {entry.name: entry for entry in entries}
    return {_nfc(name): entry for name, entry in files.items()} | files


def _leads_nowhere(file: os.DirEntry[str]) -> bool:
    """Whether `file` is a link whose target is not there; only links are looked at."""
    if not file.is_symlink():
        return False
    try:
        file.stat()
    except OSError as error:  # else there is something: who reads it says what is wrong with it
        return isinstance(error, (FileNotFoundError, NotADirectoryError))
    return False


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _caseless(name: str) -> str:
    """Equal for two names that can be the same file on a disk that ignores case and Unicode form."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def _likeness(first: Video, second: Video) -> str:
    """What is the same in the names of two videos that can't lie side by side."""
    if first.path.stem == second.path.stem:
        return "have the same name"
    return "have names that differ only in upper and lower case or in Unicode form (NFC, NFD)"


def video_id(name: str) -> str:
    """The id of a video that a person names with or without one of VIDEO_SUFFIXES."""
    suffix = Path(name).suffix
    return _nfc(name.removesuffix(suffix) if suffix.lower() in VIDEO_SUFFIXES else name)


def list_faults(faults: Sequence[str]) -> str:
    """The first 20 faults, one a line, and how many more there are."""
    more = [f"... and {len(faults) - 20} more"] if len(faults) > 20 else []
    return "\n  ".join([*faults[:20], *more])


class _JsonObject(dict):
    """A JSON object that knows which of its keys stand there more than once (`repeated`)."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs) if len(self) != len(pairs) else {}
        self.repeated = [key for key, count in counts.items() if count > 1]


def _read_metadata(part: Path) -> tuple[list[Video], list[str]]:
    """The entries of a part and the faults in them. A name may only name a file right in the part's folder."""
    path = part / METADATA_NAME
    try:
        metadata = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=_JsonObject)
    except UnicodeDecodeError as error:
        return [], [f"{path}: not UTF-8 text ({error})"]
    except OSError as error:
        return [], [f"{path}: can't be read ({error.strerror})"]
    except (ValueError, RecursionError) as error:
        return [], [f"{path}: broken JSON ({error})"]
    if not isinstance(metadata, _JsonObject):
        return [], [f"{path}: a JSON object is expected, this is a {type(metadata).__name__}"]

    faults = [f"{path}, entry {name!r}: it stands there more than once; leave one" for name in metadata.repeated]
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
    """Why `entry` can't be what metadata.json says of a video, or None."""
    if not isinstance(entry, _JsonObject):
        return f"an object is expected, this is {entry!r}"
    if entry.repeated:
        return f"it has {' and '.join(map(repr, entry.repeated))} more than once; leave one"
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
    """Why `name` can't be a video of its part, or None."""
    if "/" in name or "\\" in name or "\0" in name or name in ("", ".", ".."):
        return f"{name!r} is not a plain file name"
    if name.startswith("."):
        return f"{name!r} is a hidden file"
    if not name.isprintable():  # line ends, and what is no text at all
        return f"{name!r} holds characters that can't be in a list of files"
    return None


def check_crops_dir(name: str, parts: Sequence[Path]) -> str:
    """`name`, if crops may be kept in that folder of DATA_ROOT.

    Raises:
        SettingError: it is not a plain name, or a folder that holds something else.
    """
    taken = {*ARTIFACT_FOLDERS, "weights", "logs", *(part.name for part in parts)}
    if _name_fault(name) or name in taken:
        raise SettingError("crops_dir", name, "give the plain name of a folder of its own in DATA_ROOT, such as crops")
    return name


def is_picture(path: Path) -> bool:
    """Whether `path` is a picture and not a video, by its name; `dfdc.pictures.is_still` also looks into a GIF."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def list_files(
    folder: Path, *, recursive: bool = False, onerror: Callable[[OSError], None] | None = None
) -> list[Path]:
    """Files in `folder`, and links to files that are not there, in natural order; hidden ones aside.

    Args:
        recursive: also of the folders in it, and of those that links lead to; each folder once. Hidden ones aside.
        onerror: called where a folder can't be looked into, which is left out then.

    Raises:
        OSError: a folder can't be looked into, and there is no `onerror`.
    """

    def stop(error: OSError) -> None:
        raise error

    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=onerror or stop):
        real = os.path.realpath(place)
        if real in seen:  # a link that goes round, or a second one
            folders.clear()
            continue
        seen.add(real)
        found += (Path(place, name) for name in files if not name.startswith("."))
        # Where a folder is there twice, not by the name of the link.
        folders.sort(key=lambda name, place=place: (Path(place, name).is_symlink(), name))
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
    return sorted(found, key=lambda path: (natural_key(str(path)), str(path)))


def list_videos(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Video files in `folder` by suffix, in upper or lower case, in the order and with the errors of `list_files`."""
    files = list_files(folder, recursive=recursive)
    return [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
