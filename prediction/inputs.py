"""The inputs of a run: videos, photos and labels."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dfdc import layout
from dfdc.command_line import SettingError, UsageError, setting
from dfdc.folds import read_video_folds
from dfdc.identity import regular
from dfdc.text import TEXT, printable
from prediction.settings import FolderSettings

_SUFFIXES = layout.VIDEO_SUFFIXES | layout.PICTURE_SUFFIXES
_SHOWN = 8  # suffixes listed in the message about skipped files


class Inputs(NamedTuple):
    """Videos and photos by their names in the submission, and the labels of those that have one."""

    videos: dict[str, Path]
    labels: dict[str, int] | None


def find_inputs(settings: FolderSettings) -> Inputs:
    """Return the inputs that `settings` name; the functions below list the errors."""
    if settings.fold is not None:
        return Inputs(*held_out_inputs(settings.places, settings.fold))
    videos = list_inputs(settings.places, settings.lists, recursive=settings.recursive)
    return Inputs(videos, read_labels(settings.labels, videos) if settings.labels else None)


def list_inputs(places: Sequence[Path], lists: Sequence[Path] = (), *, recursive: bool = False) -> dict[str, Path]:
    """Return name in the submission -> video or photo. A name that occurs twice is replaced by the path.

    The number of skipped files in the folders is printed, by suffix.

    Args:
        places: folders, searched for videos and photos, and single files of any name.
        lists: text files with one path per line; relative paths start at the list's folder.
        recursive: also search subfolders, including linked ones.

    Raises:
        UsageError: a place does not exist, or has nothing to score.
    """
    paths = [path for listing in lists for path in _read_list(listing)]
    for place in places:
        if place.is_dir():
            paths += _look_into(place, recursive)
        elif place.exists():
            paths.append(place)  # a pipe or a device as well: its verdict reports it
        else:
            raise UsageError(f"{printable(place)}: no such folder or file; check the path")
    if not paths:
        raise UsageError("nothing to score; give at least one place or list")
    once: dict[str, Path] = {}
    for path in sorted(paths, key=Path.is_symlink):  # prefer a file to a link to it
        once.setdefault(os.path.realpath(path), path)  # Path.resolve raises at loops of links
    if len(once) < len(paths):
        print(f"{len(paths) - len(once)} of {len(paths)} paths lead to the file of another path; each is scored once")
    kept = set(once.values())
    paths = [path for path in dict.fromkeys(paths) if path in kept]
    repeated = Counter(path.name for path in paths)
    return {path.name if repeated[path.name] == 1 else str(path): path for path in paths}


def _look_into(place: Path, recursive: bool) -> list[Path]:
    """Return the videos and photos in a folder. Broken links and pipes are included: their verdicts report them."""

    def left_out(error: OSError) -> None:
        print(f"{printable(error.filename)} can't be read ({error.strerror}); skipped")

    files = layout.list_files(place, recursive=recursive, onerror=left_out)
    found = [path for path in files if _is_input(path)]
    if not found:
        deeper = "" if recursive else f"; add {setting('recursive')} to search its subfolders"
        kinds = ", ".join(sorted(_SUFFIXES))
        raise UsageError(f"{printable(place)}: it contains no video or photo ({kinds}){deeper}")
    others = Counter(path.suffix.lower() for path in set(files) - set(found))
    if others:
        shown = [f"{count} {printable(suffix or 'without a suffix')}" for suffix, count in others.most_common(_SHOWN)]
        more = sum(others.values()) - sum(count for _, count in others.most_common(_SHOWN))
        print(f"{printable(place)}: skipped: {', '.join(shown)}{f' and {more} more' if more else ''}")
    folders = [] if recursive else sorted(path for path in place.iterdir() if path.is_dir() and path.name[0] != ".")
    for folder in folders:
        if any(map(_is_input, layout.list_files(folder, onerror=left_out))):  # one is enough: there may be thousands
            which, more = ("subfolders are", ", ...") if len(folders) > 1 else ("subfolder is", "")
            left = f"its {which} skipped ({printable(folder.name)}{more})"
            print(f"{printable(place)}: {left}; add {setting('recursive')} to search {'them' if more else 'it'}")
            break
    return found


def _is_input(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES


def _read_list(path: Path) -> list[Path]:
    place = f"list {printable(path)}"
    try:
        regular(path)
        lines = [line.strip() for line in path.read_text(**TEXT).split("\n")]
    except OSError as error:
        raise UsageError(f"{place}: can't be read ({error.strerror})") from None
    found = [path.parent / line for line in lines if line]
    absent = [printable(file) for file in found if file.is_dir() or not file.exists()]
    if absent:
        raise UsageError(f"{place}: {len(absent)} of its files are missing, for example {absent[0]}")
    if not found:
        raise UsageError(f"{place}: it names no file; write one path per line")
    return found


def held_out_inputs(folders: Sequence[Path], fold: int) -> tuple[dict[str, Path], dict[str, int]]:
    """Return the videos of one fold of DATA_ROOT/folds.csv, and their labels.

    Raises:
        SettingError: not exactly one folder, no folds.csv, no such fold, or missing videos.
        FoldsFileError: folds.csv is invalid.
    """
    if len(folders) != 1:
        raise SettingError("fold", fold, f"give exactly one folder, the DATA_ROOT, instead of {len(folders)}")
    dataset = layout.load_dataset(folders[0])
    path = folders[0] / layout.FOLDS_NAME
    if not path.is_file():
        raise SettingError("fold", fold, f"{printable(path)} is missing; run ./preprocess_data.sh first")
    folds = read_video_folds(path)
    wanted = sorted((video for video in folds if folds[video] == fold), key=layout.natural_key)
    if not wanted:
        raise SettingError("fold", fold, f"{printable(path)} only has folds {sorted(set(folds.values()))}")
    gone = [video for video in wanted if video not in dataset.videos]
    if gone:
        fault = f"{len(gone)} of its videos in {printable(path)} are missing, for example {printable(gone[0])}"
        raise SettingError("fold", fold, f"{fault}; run step 5 again")
    videos = [dataset.videos[video] for video in wanted]
    return {v.path.name: v.path for v in videos}, {v.path.name: int(v.label == layout.FAKE) for v in videos}


def read_labels(path: Path, videos: Mapping[str, Path]) -> dict[str, int]:
    """Read the labels of `videos`, by name, from a metadata.json or a CSV with filename,label (1 or FAKE: fake).

    A row names a video by its name in the submission or by a path. Relative paths start at the folder of the labels, or
    at the current folder. The number of rows that match no video is printed.

    Raises:
        UsageError: the file can't be read, a label is invalid, two rows disagree, or no row matches a video.
    """
    words = {"FAKE": 1, "1": 1, "1.0": 1, "REAL": 0, "0": 0, "0.0": 0}
    place = f"{setting('labels')} {printable(path)}"
    try:
        rows = [(str(name), str(label)) for name, label in _label_rows(path)]
    except KeyError as error:  # shown as its repr, which is printable
        raise UsageError(f"{place}: an entry has no {error}; add it") from None
    except (OSError, ValueError, AttributeError, TypeError, csv.Error, RecursionError) as error:
        raise UsageError(f"{place}: can't be read ({printable(error)})") from None
    by_path = {os.path.realpath(file): name for name, file in videos.items()}
    labels: dict[str, int] = {}
    strangers = []
    for given, label in rows:
        value = words.get(label.strip().upper())
        if value is None:
            said = f"the label '{printable(label)}' of {printable(given)}"
            raise UsageError(f"{place}: {said} is invalid; use REAL, FAKE, 0 or 1")
        places = (_real_path(path.parent / given), _real_path(given))
        name = given if given in videos else next((by_path[real] for real in places if real in by_path), None)
        if name is None:
            strangers.append(given)
        elif labels.setdefault(name, value) != value:
            raise UsageError(f"{place}: {printable(given)} is labelled both real and fake; keep one row")
    if not labels:  # fail now, not after hours of scoring
        names, known = (", ".join(map(printable, some[:3])) for some in (strangers, list(videos)))
        raise UsageError(f"{place}: no row matches a video; the rows name {names or 'nothing'}, the videos are {known}")
    if strangers:
        first = printable(strangers[0])
        print(f"{place}: {len(strangers)} of {len(rows)} rows match no video, for example {first}")
    return labels


def _real_path(path: str | Path) -> str:
    """Return the path without links; empty for what can't be a path, such as a name with a zero byte."""
    try:
        return os.path.realpath(path)
    except ValueError:
        return ""


def _label_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (file name, label as written)."""
    regular(path)
    with path.open(newline="", encoding=TEXT["encoding"], errors=TEXT["errors"]) as handle:
        if path.suffix.lower() == ".json":
            yield from ((name, entry["label"]) for name, entry in json.load(handle).items())
            return
        rows = csv.DictReader(handle)
        rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
        if not {"filename", "label"} <= set(rows.fieldnames):
            raise ValueError(f"the columns must be filename,label, not {','.join(rows.fieldnames) or 'none'}")
        yield from ((row["filename"], row["label"]) for row in rows)
