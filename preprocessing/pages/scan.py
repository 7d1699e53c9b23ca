"""What the page counts: one pass over the stamps, the boxes, folds.csv and the failure ledgers of a DATA_ROOT.

Counts come from the `made` field of the stamps, so no image is opened and no folder is listed. Only sums are kept:
memory grows with the number of parts, folds and reasons, not with the number of crops. Missing or corrupt artifacts
become sentences in `Tally.problems`.
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dfdc import artifacts, layout, progress
from dfdc.boxes import BoxesError, read_boxes
from dfdc.folds import FoldsFileError, read_columns
from dfdc.identity import count_files, read_file
from dfdc.layout import FAKE, REAL, Dataset, Video
from dfdc.ledger import OUTCOMES, StepRun, read_rows, read_run
from dfdc.rejections import Rejection, load_rejections
from dfdc.text import plural
from preprocessing.orphans import absent_parts, find_orphans, rows_without_effect

STEPS = ("detect_original_faces", "extract_crops", "generate_landmarks", "generate_diffs", "generate_folds")
COVERAGE = ("none", "< 25%", "25–49%", "50–74%", "75–99%", "all")
BATCH = 500  # videos a thread counts at a time
EXAMPLES = 3  # names shown for each reason
MAX_REASONS = 40  # reasons kept for a step; all others are counted together
GAP = "…"  # replaces the words in which similar reasons differ


@dataclass
class Tally:
    """Sums over some videos.

    Attributes:
        parts: part -> counts of real, fake, faces, crops, real_crops, landmarks, masks and unchanged masks.
        frame_faces: number of faces -> sampled frames of real videos with that number.
        people: number of people -> real videos with that number.
        coverage: index in COVERAGE -> real videos with faces on that share of their sampled frames.
        settings: step -> its settings as JSON -> videos made with them.
        problems: sentence with a {} for the number of videos -> these videos.
    """

    parts: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    frame_faces: Counter[int] = field(default_factory=Counter)
    people: Counter[int] = field(default_factory=Counter)
    coverage: Counter[int] = field(default_factory=Counter)
    settings: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    problems: dict[str, Group] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        for part, counts in other.parts.items():
            self.parts[part].update(counts)
        for step, counts in other.settings.items():
            self.settings[step].update(counts)
        for sentence, group in other.problems.items():
            self.problems.setdefault(sentence, Group()).add(group)
        self.frame_faces.update(other.frame_faces)
        self.people.update(other.people)
        self.coverage.update(other.coverage)

    def total(self) -> Counter[str]:
        return sum(self.parts.values(), Counter())

    def complain(self, sentence: str, video: str) -> None:
        self.problems.setdefault(sentence, Group()).add(Group(1, [video]))


@dataclass
class Group:
    """The number of videos, and the names of the first few."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def names(self) -> str:
        return ", ".join(self.examples) + (", …" if self.count > len(self.examples) else "")

    def add(self, other: Group) -> None:
        self.count += other.count
        self.examples = (self.examples + other.examples)[:EXAMPLES]


@dataclass
class Reason:
    """Similar reasons of a ledger: their common words, and GAP for the words that differ."""

    outcome: str
    words: list[str]
    group: Group

    @property
    def text(self) -> str:
        shown: list[str] = []
        for word in self.words:
            if word != GAP or shown[-1:] != [GAP]:
                shown.append(word)
        return " ".join(shown)


def stopped(run: StepRun | None) -> str:
    """The text after a step's name if the step is not complete."""
    if run is None:
        return ": unknown whether it is complete"
    if run.finished:
        return ""
    return f": stopped or still running, after {run.looked_at} of {plural(run.videos, 'video')}"


@dataclass
class StepLedger:
    """One failures/<step>.csv. `outcomes` counts its rows; `fault` says why it can't be read.

    `run` is the progress of the step; None if unknown (not run, or run by an earlier version).
    """

    present: bool = False
    run: StepRun | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: list[Reason] = field(default_factory=list)
    fault: str = ""


@dataclass
class Fold:
    """One fold of folds.csv; `videos` and `crops` are counts by label."""

    videos: Counter[str] = field(default_factory=Counter)
    crops: Counter[str] = field(default_factory=Counter)
    parts: set[str] = field(default_factory=set)


@dataclass
class Survey:
    """All data of the page except the images."""

    dataset: Dataset
    tally: Tally = field(default_factory=Tally)
    folds: dict[int, Fold] = field(default_factory=dict)
    folds_fault: str = ""
    ledgers: dict[str, StepLedger] = field(default_factory=dict)
    absent_parts: list[str] = field(default_factory=list)  # in folds.csv, but missing now
    orphans: dict[str, list[str]] = field(default_factory=dict)  # step -> names of its orphaned artifacts
    rejected: list[Rejection] = field(default_factory=list)
    rejected_idle: list[str] = field(default_factory=list)  # its rows that have no effect


def survey(dataset: Dataset, crops_dir: str) -> Survey:
    """Count everything under the root of `dataset`, except videos that are rejected as a whole."""
    found = Survey(dataset)
    rejections = load_rejections(dataset.root)
    videos = [video for video in dataset.videos.values() if rejections.whole(video) is None]
    batches = [videos[start : start + BATCH] for start in range(0, len(videos), BATCH)]

    def count(batch: Sequence[Video]) -> Tally:
        tally = Tally()
        for video in batch:
            _count_video(tally, dataset.root, crops_dir, video)
        return tally

    # Threads, because the work waits for the disk; in batches, so few results are in memory.
    with (
        ThreadPoolExecutor(4) as pool,
        progress.progress_bar(total=len(videos), desc="report", unit="video", leave=False) as bar,
    ):
        for batch, tally in zip(batches, pool.map(count, batches), strict=True):
            found.tally.add(tally)
            bar.update(len(batch))
    try:
        found.folds = read_folds(dataset.root / layout.FOLDS_NAME, dataset)
    except FileNotFoundError:
        found.folds_fault = f"{layout.FOLDS_NAME} is missing; step 5 (generate_folds.py) writes it."
    except (OSError, FoldsFileError) as error:
        reason = error.reason if isinstance(error, FoldsFileError) else _without_root(str(error), dataset.root)
        found.folds_fault = f"{layout.FOLDS_NAME} can't be read ({reason}); run step 5 (generate_folds.py) again."
    for step in STEPS:
        found.ledgers[step] = read_ledger(layout.ledger_path(dataset.root, step), dataset)
    for step in STEPS[:-1]:
        found.orphans[step] = [path.name for path in find_orphans(dataset, step, crops_dir)]
    found.absent_parts = absent_parts(dataset)
    found.rejected, found.rejected_idle = list(rejections.rows), rows_without_effect(dataset, rejections)
    return found


# ------------------------------------------------------------------------------------------------ artifacts
def _count_video(tally: Tally, root: Path, crops_dir: str, video: Video) -> None:
    counts = tally.parts[video.part]
    crops = _count_folder(tally, "extract_crops", "crops", layout.crops_path(root, video.id, crops_dir), video)
    counts["crops"] += crops
    if video.label == REAL:
        counts["real"] += 1
        counts["real_crops"] += crops
        _count_boxes(tally, layout.bboxes_path(root, video.id), video)
        folder = layout.landmarks_path(root, video.id)
        counts["landmarks"] += crops and _count_folder(tally, "generate_landmarks", "landmarks", folder, video)
    else:
        counts["fake"] += 1
        folder = layout.diffs_path(root, video.id)
        counts["masks"] += crops and _count_folder(tally, "generate_diffs", "masks", folder, video)


def _count_boxes(tally: Tally, path: Path, video: Video) -> None:
    try:
        boxes = read_boxes(path)
    except (OSError, BoxesError):
        tally.complain("{} whose boxes file is corrupt or of an earlier version; run step 1 again", video.id)
        return
    if boxes is None:
        return  # the ledger has the reason
    frames = [{face.face for face in faces} for faces in boxes.frames.values()]
    tally.parts[video.part]["faces"] += boxes.faces
    tally.frame_faces.update(map(len, frames))
    tally.people[len(set().union(*frames))] += 1
    tally.coverage[_coverage_bin(sum(map(bool, frames)), len(frames))] += 1
    tally.settings["detect_original_faces"][_settings(boxes.stamp.to_json())] += 1


def _coverage_bin(part: int, whole: int) -> int:
    if part == whole:
        return len(COVERAGE) - 1 if whole else 0
    return 1 + 4 * part // whole if part else 0


def _count_folder(tally: Tally, step: str, kind: str, folder: Path, video: Video) -> int:
    """The number of `kind` in a folder by its stamp; if that can't be read, by its files."""
    fault = ""
    try:
        stamp = json.loads(read_file(folder / artifacts.STAMP_NAME))
        made = _number(stamp["made"][kind])
        unchanged = _number(stamp["made"].get("unchanged", 0))
    except (FileNotFoundError, NotADirectoryError):
        if not folder.is_dir():
            return 0
        fault = "no stamp"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fault = "a corrupt stamp"
    if fault:
        sentence = f"{{}} whose {kind} have {fault}, so their files were counted; {step}.py redoes them"
        try:
            count = count_files(folder)
        except OSError:
            sentence, count = f"{{}} whose {kind} can't be read", 0
        tally.complain(sentence, video.id)
        return count
    tally.settings[step][_settings(stamp)] += 1
    if kind == "masks":
        tally.parts[video.part]["unchanged"] += unchanged
    return made


def _number(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _settings(stamp: dict) -> str:
    settings = stamp.get("settings")
    return json.dumps(settings if isinstance(settings, dict) else {}, sort_keys=True)


# ------------------------------------------------------------------------------------------------ folds.csv
def read_folds(path: Path, dataset: Dataset) -> dict[int, Fold]:
    """The folds of a folds.csv, in order.

    Raises:
        OSError, FoldsFileError: it can't be read, or step 5 did not write it.
    """
    crops: Counter[tuple[str, str, str]] = Counter()
    with progress.progress_bar(desc=layout.FOLDS_NAME, unit="crop", leave=False) as bar:
        for columns in read_columns(path, ("video", "label", "fold")):
            crops.update(zip(*columns, strict=True))
            bar.update(len(columns[0]))
    folds: dict[int, Fold] = {}
    seen: set[tuple[str, int]] = set()
    for (video, label, number), count in crops.items():
        name, fold = FAKE if label == "1" else REAL, folds.setdefault(int(number), Fold())
        fold.crops[name] += count
        if (video, int(number)) not in seen:
            seen.add((video, int(number)))
            fold.videos[name] += 1
            fold.parts.add(dataset.videos[video].part if video in dataset.videos else "not in metadata.json")
    return dict(sorted(folds.items()))


# -------------------------------------------------------------------------------------------------- ledgers
def read_ledger(path: Path, dataset: Dataset) -> StepLedger:
    """The rows of a ledger, grouped by similar reasons, the most frequent first."""
    ledger = StepLedger(present=path.exists(), run=read_run(path))
    kinds: dict[tuple[str, int], list[Reason]] = defaultdict(list)
    try:
        for video, outcome, reason in read_rows(path) if ledger.present else ():
            ledger.outcomes[outcome] += 1
            # An incomplete video has a note for each missing part. Other reasons are one sentence.
            for note in reason.split("; ") if outcome == "incomplete" else [reason]:
                words = _general_words(note, video, dataset)
                bucket = kinds[(outcome, len(words))]
                found = _find_alike(bucket, words)
                if found is None and len(ledger.reasons) >= MAX_REASONS:
                    bucket, words = kinds[(outcome, 0)], ["other", "reasons"]
                    found = bucket[0] if bucket else None
                if found is None:
                    found = Reason(outcome, words, Group())
                    bucket.append(found)
                    ledger.reasons.append(found)
                found.group.add(Group(1, [video]))
    except (OSError, ValueError, csv.Error) as error:
        return StepLedger(present=True, fault=_without_root(str(error), dataset.root))
    order = {outcome: index for index, outcome in enumerate(OUTCOMES)}
    ledger.reasons.sort(key=lambda reason: (order.get(reason.outcome, len(order)), -reason.group.count, reason.text))
    return ledger


def _without_root(text: str, root: Path) -> str:
    """`text` without the path of the dataset: the page does not depend on its location."""
    return text.replace(str(root.resolve()), "DATA_ROOT").replace(str(root), "DATA_ROOT")


def _general_words(reason: str, video: str, dataset: Dataset) -> list[str]:
    """The words of `reason`; the names of the video and of its original, which may have spaces, are one GAP."""
    reason = _without_root(reason, dataset.root)
    names = {video, dataset.videos[video].source} if video in dataset.videos else {video}
    words = reason.split()
    for name in sorted(names, key=len, reverse=True):
        if any(character.isspace() for character in name):
            words = reason.replace(name, GAP).split()
            reason = " ".join(words)
    return words or ["no", "reason", "given"]


def _find_alike(reasons: list[Reason], words: list[str]) -> Reason | None:
    """The reason of the same length that shares more than half of `words`; its other words become GAP."""
    for reason in reasons:
        same = sum(a == b for a, b in zip(reason.words, words, strict=True))
        if 2 * same > len(words):
            reason.words = [a if a == b else GAP for a, b in zip(reason.words, words, strict=True)]
            return reason
    return None
