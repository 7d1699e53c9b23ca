"""What to score, with what, and what is known of it: videos, checkpoints, labels."""

from __future__ import annotations

import csv
import difflib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dfdc import layout
from dfdc.parallel import UsageError
from prediction.onnx_model import check_model

_TEXT = "utf-8-sig"  # UTF-8, with or without the mark that some editors and spreadsheets put first


def list_inputs(places: Sequence[Path], lists: Sequence[Path] = (), *, recursive: bool = False) -> dict[str, Path]:
    """Name in the submission -> video or picture. A name that occurs twice comes with its folder.

    Args:
        places: folders, whose videos and pictures are taken, and single files of any name.
        lists: text files with a path a line; a relative one is taken from the list's own folder.
        recursive: also the folders' own folders.

    Raises:
        UsageError: no such place, or nothing to score in it.
    """
    paths: list[Path] = []
    for listing in lists:
        paths += _read_list(listing)
    for place in places:
        if place.is_file():
            paths.append(place)
            continue
        if not place.is_dir():
            raise UsageError(f"--test-dir {place}: there is no such folder or file")
        found = layout.list_videos(place, recursive=recursive, pictures=True, broken_links=True)
        if not found:
            deeper = "" if recursive else "; --recursive looks into its folders as well"
            kinds = ", ".join(sorted(layout.VIDEO_SUFFIXES | layout.PICTURE_SUFFIXES))
            raise UsageError(f"--test-dir {place}: no video or picture lies in it (looked for {kinds}){deeper}")
        folders = () if recursive else (path for path in place.iterdir() if path.is_dir())
        left_out = next((folder for folder in folders if layout.list_videos(folder)), None)
        if left_out:  # one is enough to say so: there may be thousands
            print(f"{place}: videos in its folders are left out ({left_out.name}, ...); --recursive takes them")
        paths += found
    if not paths:
        raise UsageError("nothing to score: give --test-dir or --list")
    once: dict[str, Path] = {}
    for path in sorted(paths, key=Path.is_symlink):  # of a file and a link to it, the file
        once.setdefault(os.path.realpath(path), path)  # Path.resolve raises at links that go round
    if len(once) < len(paths):
        print(f"{len(paths) - len(once)} of {len(paths)} paths lead to a file that another one leads to: scored once")
    kept = set(once.values())
    paths = [path for path in dict.fromkeys(paths) if path in kept]
    repeated = Counter(path.name for path in paths)
    return {path.name if repeated[path.name] == 1 else str(path): path for path in paths}


def _read_list(path: Path) -> list[Path]:
    try:
        lines = [line.strip() for line in path.read_text(encoding=_TEXT).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--list {path}: can't be read ({error})") from None
    found = [path.parent / line for line in lines if line]
    absent = [str(file) for file in found if not file.is_file()]
    if absent or not found:
        named = f"{len(absent)} of its files are not there, {absent[0]} for one" if absent else "it names no file"
        raise UsageError(f"--list {path}: {named}")
    return found


def held_out_inputs(folders: Sequence[Path], fold: int) -> tuple[dict[str, Path], dict[str, int]]:
    """The videos of one fold of DATA_ROOT/folds.csv, and their labels.

    Raises:
        UsageError: more than one folder, no folds.csv, or no such fold.
    """
    if len(folders) != 1:
        raise UsageError(f"--fold goes with one --test-dir, the DATA_ROOT; {len(folders)} are given")
    dataset = layout.load_dataset(folders[0])
    path = folders[0] / layout.FOLDS_NAME
    if not path.is_file():
        raise UsageError(f"--fold {fold}: there is no {path}; run ./preprocess_data.sh {folders[0]} first")
    with path.open(encoding="utf-8", newline="") as handle:
        folds = {row["video"]: int(row["fold"]) for row in csv.DictReader(handle)}
    wanted = sorted((video for video in folds if folds[video] == fold), key=layout.natural_key)
    if not wanted:
        raise UsageError(f"--fold {fold}: {path} has the folds {sorted(set(folds.values()))}")
    gone = [video for video in wanted if video not in dataset.videos]
    if gone:
        raise UsageError(
            f"--fold {fold}: {path} names videos that are not there: {', '.join(gone[:5])}; run step 5 again"
        )
    videos = [dataset.videos[video] for video in wanted]
    return {v.path.name: v.path for v in videos}, {v.path.name: int(v.label == layout.FAKE) for v in videos}


def check_held_out(names: Iterable[str], fold: int, models: Sequence[Path]) -> list[dict[str, Any]]:
    """See that no checkpoint was trained on the videos of a fold. One that does not say is named on stderr.

    Args:
        names: file names of the fold's videos.

    Returns:
        what each checkpoint says: its name, fold, folds_sha256 and trained_on_videos; fold "unknown" if it does not.

    Raises:
        UsageError: one may have been trained on some of them, or can't be read.
    """
    from training.checkpoint import CheckpointError

    videos = [layout.video_id(name) for name in names]
    said: list[dict[str, Any]] = []
    faults, folds = [], set()
    for path in models:
        try:
            _, holdout = check_model(path)
        except CheckpointError as error:
            raise UsageError(str(error)) from error
        if holdout is None:
            print(
                f"warning: {path.name} does not say what it was trained on; if on these videos, its scores flatter",
                file=sys.stderr,
            )
            said.append({"name": path.name, "fold": "unknown"})
            continue
        learned = holdout.learned(videos)
        if learned:
            first = ", ".join(learned[:3]) + (", ..." if len(learned) > 3 else "")
            faults.append(
                f"{path.name}, which held out fold {holdout.fold}: {len(learned)} of {len(videos)} videos ({first})"
            )
            folds.add(holdout.fold)
        facts = holdout.to_dict()
        said.append({"name": path.name} | {key: facts[key] for key in ("fold", "folds_sha256", "trained_on_videos")})
    if faults:
        if fold in folds:
            advice = (
                "Score with the folds.csv it was trained with, if its first weights had not learned from them either"
            )
        else:
            advice = " or ".join(f"Give --fold {own}" for own in sorted(folds))
            advice += " (each checkpoint by itself)" if len(folds) > 1 else ""
        raise UsageError(
            f"--fold {fold}: a checkpoint may have been trained on these videos\n  "
            + "\n  ".join(faults)
            + f"\n{advice}; "
            "or, if you mean to score what was learned, leave out --fold and give --labels"
        )
    return said


def read_labels(path: Path) -> dict[str, int]:
    """Labels by file name from a metadata.json or a CSV with filename,label (1 or FAKE: fake).

    Raises:
        UsageError: can't be read, a label is neither, or a file has both.
    """
    words = {"FAKE": 1, "1": 1, "1.0": 1, "REAL": 0, "0": 0, "0.0": 0}
    labels: dict[str, int] = {}
    try:
        for name, label in _label_rows(path):
            value = words[str(label).strip().upper()]
            if labels.setdefault(name, value) != value:
                raise UsageError(f"--labels {path}: {name} is said to be real and fake; keep one")
    except (OSError, ValueError, AttributeError, TypeError, csv.Error, RecursionError) as error:
        raise UsageError(f"--labels {path}: can't be read ({error})") from None
    except KeyError as error:
        raise UsageError(f"--labels {path}: {error} is missing, or is no label (REAL, FAKE, 0 or 1)") from None
    return labels


def _label_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(file name, label as it stands there)."""
    with path.open(encoding=_TEXT, newline="") as handle:
        if path.suffix.lower() == ".json":
            yield from ((name, entry["label"]) for name, entry in json.load(handle).items())
            return
        rows = csv.DictReader(handle)
        rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
        if not {"filename", "label"} <= set(rows.fieldnames):
            raise ValueError(f"columns filename,label are needed, and it has {','.join(rows.fieldnames) or 'none'}")
        yield from ((row["filename"], row["label"]) for row in rows)


def find_models(folder: Path, names: Sequence[str]) -> list[Path]:
    """Paths of the checkpoints.

    Raises:
        UsageError: one is not there; the message lists what is.
    """
    names = [name for given in names for name in (_read_names(Path(given[1:])) if given.startswith("@") else [given])]
    paths = [folder / name if (folder / name).is_file() else Path(name) for name in names]  # a path will do as well
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        present = [p.name for p in folder.glob("*") if p.suffix not in (".json", ".md", ".txt") and p.is_file()]
        present.sort(key=lambda name: (not name.endswith("_best"), layout.natural_key(name)))
        close = difflib.get_close_matches(missing[0], present, 3, 0.4)
        shown = (
            "\n  ".join(present[:20]) or "no checkpoint; README.md, 'Score your videos', says where some are to be had"
        )
        like = f" (like it: {', '.join(close)})" if close else ""
        raise UsageError(f"--models {' '.join(missing)}: not in {folder}{like}, which holds\n  {shown}")
    return paths


def _read_names(path: Path) -> list[str]:
    """Checkpoint names from a file, one a line."""
    try:
        names = [line.strip() for line in path.read_text(encoding=_TEXT).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--models @{path}: can't be read ({error})") from None
    if not names:
        raise UsageError(f"--models @{path}: it names no checkpoint; plot_loss.py --select writes such a file")
    return names
