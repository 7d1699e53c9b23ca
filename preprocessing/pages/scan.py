"""What the page counts: one pass over the stamps, the boxes, folds.csv and the failure ledgers of a DATA_ROOT.

Counts come from the `made` field of the stamps, so that no picture is opened and no folder is listed, and only
sums are kept: memory grows with the number of parts, folds and kinds of reasons, not with what a video holds.
What is missing or broken becomes a sentence in `Survey.problems`.
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
from dfdc.identity import count_files
from dfdc.layout import FAKE, REAL, Dataset, Video
from dfdc.ledger import OUTCOMES, StepRun, read_rows, read_run
from dfdc.rejections import Rejection, load_rejections
from dfdc.text import plural
from preprocessing.orphans import absent_parts, find_orphans, rows_without_effect

STEPS = ("detect_original_faces", "extract_crops", "generate_landmarks", "generate_diffs", "generate_folds")
COVERAGE = ("none", "< 25%", "25–49%", "50–74%", "75–99%", "all")
BATCH = 500  # videos a thread counts at a time
EXAMPLES = 3  # names shown of those that share a reason
MAX_REASONS = 40  # kinds of reasons kept for a step; what is over is counted together
GAP = "…"  # stands where the reasons of one kind differ


@dataclass
class Tally:
    """Sums over some videos.

    Attributes:
        parts: part -> counts of real, fake, faces, crops, real_crops, landmarks, masks and unchanged masks.
        frame_faces: number of faces -> sampled frames of real videos that have so many.
        people: number of people -> real videos with so many.
        coverage: index in COVERAGE -> real videos with faces on that share of their sampled frames.
        settings: step -> its settings as JSON -> videos made with them.
        problems: sentence with a {} for the names -> the videos it is true of.
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
    """How many videos, and the names of the first few."""

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
    """Reasons of a ledger that are alike: the words they share, and GAP where they differ."""

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
    """What to add to a step's name if it did not come to its end."""
    if run is None:
        return ": it is not known whether it came to its end"
    if run.finished:
        return ""
    return f": stopped, or still running, after {run.looked_at} of {plural(run.videos, 'video')}"


@dataclass
class StepLedger:
    """One failures/<step>.csv. `outcomes` counts its rows; `fault` says why it can't be read.

    `run` says how far the step came; None where that is not known (a step of an earlier version, or none).
    """

    present: bool = False
    run: StepRun | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: list[Reason] = field(default_factory=list)
    fault: str = ""


@dataclass
class Fold:
    """What one fold of folds.csv holds; `videos` and `crops` are counted by label."""

    videos: Counter[str] = field(default_factory=Counter)
    crops: Counter[str] = field(default_factory=Counter)
    parts: set[str] = field(default_factory=set)


@dataclass
class Survey:
    """Everything the page shows but the pictures."""

    dataset: Dataset
    tally: Tally = field(default_factory=Tally)
    folds: dict[int, Fold] = field(default_factory=dict)
    folds_fault: str = ""
    ledgers: dict[str, StepLedger] = field(default_factory=dict)
    absent_parts: list[str] = field(default_factory=list)  # known to folds.csv, and not here now
    orphans: dict[str, list[str]] = field(default_factory=dict)  # step -> names of what belongs to no video any more
    rejected: list[Rejection] = field(default_factory=list)
    rejected_idle: list[str] = field(default_factory=list)  # its rows that have no effect


def survey(dataset: Dataset, crops_dir: str) -> Survey:
    """Count everything under the root of `dataset`, videos aside that are rejected as a whole."""
    found = Survey(dataset)
    rejections = load_rejections(dataset.root)
    videos = [video for video in dataset.videos.values() if rejections.whole(video) is None]
    batches = [videos[start : start + BATCH] for start in range(0, len(videos), BATCH)]

    def count(batch: Sequence[Video]) -> Tally:
        tally = Tally()
        for video in batch:
            _count_video(tally, dataset.root, crops_dir, video)
        return tally

    # Threads, since it is the disk that is waited for; a batch each, so that there are few results to keep.
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
        found.folds_fault = f"There is no {layout.FOLDS_NAME}; step 5 (generate_folds.py) makes it."
    except (OSError, ValueError, csv.Error) as error:
        reason = _without_root(str(error), dataset.root)
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
        tally.complain("{} whose boxes file is broken or of an earlier version; run step 1 again", video.id)
        return
    if boxes is None:
        return  # its reason stands in the ledger
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
    """How many `kind` a folder holds, by its stamp; counted by hand where that can't be read."""
    fault = ""
    try:
        stamp = json.loads((folder / artifacts.STAMP_NAME).read_text(encoding="utf-8"))
        made = _number(stamp["made"][kind])
        unchanged = _number(stamp["made"].get("unchanged", 0))
    except (FileNotFoundError, NotADirectoryError):
        if not folder.is_dir():
            return 0
        fault = "no stamp"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fault = "a broken stamp"
    if fault:
        sentence = f"{{}} whose {kind} have {fault}, so that the files were counted; {step}.py makes them anew"
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
    """What each fold of a folds.csv holds, in order.

    Raises:
        OSError, ValueError, csv.Error: it can't be read, or is not what step 5 writes.
    """
    folds: dict[int, Fold] = {}
    seen: set[tuple[str, int]] = set()
    labels = {"0": REAL, "1": FAKE}
    with path.open(encoding="utf-8", newline="") as handle:
        rows = csv.reader(handle)
        header = next(rows, [])
        absent = [name for name in ("video", "label", "fold") if name not in header]
        if absent:
            raise ValueError(f"it lacks the column {' and '.join(absent)}")
        columns = [header.index(name) for name in ("video", "label", "fold")]
        for row in progress.progress_bar(rows, desc=layout.FOLDS_NAME, unit="crop", leave=False):
            try:
                video, label, number = (row[column] for column in columns)
                fold = folds.setdefault(int(number), Fold())
                name = labels[label]
            except (IndexError, KeyError, ValueError):
                raise ValueError(f"line {rows.line_num} is not a crop with its label and fold") from None
            fold.crops[name] += 1
            if (video, int(number)) not in seen:
                seen.add((video, int(number)))
                fold.videos[name] += 1
                fold.parts.add(dataset.videos[video].part if video in dataset.videos else "not in metadata.json")
    return dict(sorted(folds.items()))


# -------------------------------------------------------------------------------------------------- ledgers
def read_ledger(path: Path, dataset: Dataset) -> StepLedger:
    """The rows of a ledger, those with similar reasons together, the most frequent first."""
    ledger = StepLedger(present=path.exists(), run=read_run(path))
    kinds: dict[tuple[str, int], list[Reason]] = defaultdict(list)
    try:
        for video, outcome, reason in read_rows(path) if ledger.present else ():
            ledger.outcomes[outcome] += 1
            # An incomplete video has a note for each thing it lacks. Other reasons are one sentence.
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
    """`text` without the place of the data set: the page is the same wherever that lies."""
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
    """The one of `reasons`, all as long as `words`, that shares more than half of the words; GAPs are put in it."""
    for reason in reasons:
        same = sum(a == b for a, b in zip(reason.words, words, strict=True))
        if 2 * same > len(words):
            reason.words = [a if a == b else GAP for a, b in zip(reason.words, words, strict=True)]
            return reason
    return None
