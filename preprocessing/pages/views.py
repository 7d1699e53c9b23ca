"""View models of the preprocessing page, made from the survey and the pairs of crops.

The page holds no date: the same inputs give the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dfdc.layout import FAKE, FRAME_STRIDE, REAL, REJECTED_NAME
from dfdc.pages import render
from dfdc.text import plural, sentence
from preprocessing.pages.pairs import Pair
from preprocessing.pages.scan import COVERAGE, EXAMPLES, STEPS, Fold, Group, Reason, StepLedger, Survey, Tally, stopped

TITLES = dict(zip(STEPS, ("1 Faces", "2 Crops", "3 Landmarks", "4 Masks", "5 Folds"), strict=True))
OPEN_ROWS = 16  # longer tables are collapsed to their totals
SETTINGS_SHOWN = 5  # variants of a step's settings, the most frequent first


@dataclass(frozen=True)
class FaultPage:
    """A dataset that can't be read: the reason and its details."""

    root: str
    fault: str
    details: list[str]


@dataclass(frozen=True)
class Row:
    """A name, a note on it, and counts; `bar` has the class and width (percent) of its pieces."""

    name: str
    counts: list[int]
    under: str = ""
    bar: list[tuple[str, float]] | None = None


@dataclass(frozen=True)
class Table:
    columns: list[str]
    rows: list[Row]
    total: Row

    @property
    def folded(self) -> bool:
        return len(self.rows) > OPEN_ROWS


@dataclass(frozen=True)
class Column:
    """One column of a chart: its corner and size in units of the chart, and the centre of its texts."""

    label: str
    count: int
    middle: float
    x: float
    y: float
    wide: float
    tall: float


@dataclass(frozen=True)
class ColumnChart:
    """Columns of counts; `told` is the text for screen readers."""

    name: str
    caption: str
    told: str
    columns: list[Column]
    width: int = 330
    height: int = 150
    floor: int = 128  # where the columns stand


@dataclass(frozen=True)
class LedgerCard:
    title: str
    file: str
    fault: str
    reasons: list[Reason]


@dataclass(frozen=True)
class Failures:
    """`shared` reasons stand in every ledger; in `clean` steps nothing else failed, `absent` ones have no ledger."""

    shared: list[Reason]
    ledgers: list[LedgerCard]
    clean: list[str]
    absent: list[str]


@dataclass(frozen=True)
class StepSettings:
    """The settings of a step's results, with the number of videos that have them."""

    title: str
    shown: list[tuple[list[tuple[str, str]], int]]
    differ: bool
    otherwise: str  # the text if none are stored


@dataclass(frozen=True)
class Page:
    """The survey, its totals, and the view models made from them."""

    root: str
    found: Survey
    total: Counter[str]
    failed: int
    state: str
    problems: list[str]
    pairs: Sequence[Pair]
    parts: Table
    charts: list[ColumnChart]
    failures: Failures
    folds: Table
    settings: list[StepSettings]
    stride: int = FRAME_STRIDE


def build(found: Survey, pairs: Sequence[Pair], pair_faults: Sequence[str]) -> bytes:
    """The whole page, UTF-8."""
    failed = sum(ledger.outcomes["failed"] for ledger in found.ledgers.values())
    page = Page(
        _root_name(found.dataset.root),
        found,
        found.tally.total(),
        failed,
        _state(found, failed),
        _problems(found, pair_faults),
        pairs,
        _parts(found),
        _charts(found.tally),
        _failures(found.ledgers),
        _folds(found),
        [_step_settings(step, found.tally.settings.get(step, {})) for step in STEPS],
    )
    return render(Path(__file__).with_name("report.html.j2"), page)


def build_fault(root: Path, fault: str) -> bytes:
    """The page of a dataset that can't be read because of `fault`."""
    first, _, rest = fault.replace(str(root), "DATA_ROOT").partition("\n")
    details = [line.strip() for line in rest.splitlines() if line.strip()]
    return render(Path(__file__).with_name("fault.html.j2"), FaultPage(_root_name(root), first, details))


def _root_name(root: Path) -> str:
    return root.resolve().name or "DATA_ROOT"


# ------------------------------------------------------------------------------------------------ the top
def _state(found: Survey, failed: int) -> str:
    """The progress of the steps, in sentences."""
    absent = [_word(step) for step, ledger in found.ledgers.items() if not ledger.present]
    ended = [step for step, ledger in found.ledgers.items() if ledger.present and ledger.run and ledger.run.finished]
    halted = [step for step, ledger in found.ledgers.items() if ledger.present and step not in ended]
    state = "All five steps are complete." if len(ended) == len(STEPS) else ""
    if absent:
        state += f"Not run yet: {', '.join(absent)}."
    for step in halted:
        state += f" {sentence(_word(step))}{stopped(found.ledgers[step].run)}; run it again."
    if failed:
        state += f" {plural(failed, 'failure')}; the reasons are below."
    elif len(ended) == len(STEPS) and not any(ledger.fault for ledger in found.ledgers.values()):
        state += " Nothing failed."
    return state


def _word(step: str) -> str:
    return TITLES[step].split()[1].lower()


def _problems(found: Survey, pair_faults: Sequence[str]) -> list[str]:
    texts = [found.folds_fault] if found.folds_fault else []
    for told, group in sorted(found.tally.problems.items()):
        texts.append(told.format(plural(group.count, "video")) + f": {group.names}")
    texts += [f"failures/{step}.csv can't be read: {x.fault}" for step, x in found.ledgers.items() if x.fault]
    for step, names in found.orphans.items():
        if names:
            group = Group(len(names), names[:EXAMPLES])
            kept = f"{TITLES[step]}: {plural(len(names), 'artifact')} of videos that are not in metadata.json"
            texts.append(f"{kept} ({group.names}); --prune removes them")
    if found.absent_parts:
        texts.append(f"Parts of folds.csv that are missing now: {', '.join(found.absent_parts)}")
    if found.rejected_idle:
        rows = plural(len(found.rejected_idle), "row")
        idle = f"{REJECTED_NAME}: {rows} without effect, since the video or face doesn't exist"
        texts.append(f"{idle}: {'; '.join(found.rejected_idle[:EXAMPLES])}")
    if pair_faults:
        more = f", and {len(pair_faults) - 1} more" if len(pair_faults) > 1 else ""
        texts.append(f"Pairs that can't be read: {pair_faults[0]}{more}")
    return texts


# --------------------------------------------------------------------------------------------- the numbers
def _parts(found: Survey) -> Table:
    columns = ["Real", "Fake", "Skipped", "Faces", "Crops", "Landmarks", "Masks"]
    rows, total = [], Counter()
    for part in found.dataset.parts:
        counts = Counter(found.tally.parts.get(part.name, {}))
        counts["skipped"] = found.dataset.listed.get(part.name, 0) - counts["real"] - counts["fake"]
        total.update(counts)
        rows.append(Row(part.name, [counts[name.lower()] for name in columns]))
    return Table(columns, rows, Row("All parts", [total[name.lower()] for name in columns]))


def _charts(tally: Tally) -> list[ColumnChart]:
    coverage = [(label, tally.coverage[index]) for index, label in enumerate(COVERAGE)]
    return [
        _chart("Faces on a frame", "sampled frames by number of detected faces", _small_numbers(tally.frame_faces)),
        _chart("People in a video", "real videos by number of different people", _small_numbers(tally.people)),
        _chart("Frames with a face", "real videos by share of sampled frames with a face", coverage),
    ]


def _small_numbers(counts: Mapping[int, int], last: int = 5) -> list[tuple[str, int]]:
    rows = [(str(value), counts.get(value, 0)) for value in range(last)]
    return [*rows, (f"{last}+", sum(count for value, count in counts.items() if value >= last))]


def _chart(name: str, caption: str, rows: Sequence[tuple[str, int]], top: int = 20) -> ColumnChart:
    step = ColumnChart.width / len(rows)
    tallest = max((count for _, count in rows), default=0) or 1
    columns = []
    for index, (label, count) in enumerate(rows):
        middle = (index + 0.5) * step
        # Small counts stay visible.
        tall = max(2.0, count / tallest * (ColumnChart.floor - top)) if count else 0.0
        y = ColumnChart.floor - tall
        columns.append(Column(label, count, middle, middle - step * 0.31, y, step * 0.62, tall))
    return ColumnChart(name, caption, f"{name}. " + "; ".join(f"{label}: {count}" for label, count in rows), columns)


# -------------------------------------------------------------------------------------------- the failures
def _failures(ledgers: Mapping[str, StepLedger]) -> Failures:
    told = [ledger.reasons for ledger in ledgers.values() if ledger.present and not ledger.fault]
    # Every step skips missing videos.
    shared = [reason for reason in told[0] if all(reason in other for other in told[1:])] if len(told) > 1 else []
    cards, clean = [], []
    for step, ledger in ledgers.items():
        own = [reason for reason in ledger.reasons if reason not in shared]
        if ledger.fault or own:
            cards.append(LedgerCard(TITLES[step], f"failures/{step}.csv", ledger.fault, own))
        elif ledger.present:
            clean.append(TITLES[step])
    return Failures(shared, cards, clean, [TITLES[step] for step, ledger in ledgers.items() if not ledger.present])


# ------------------------------------------------------------------------------------------- folds, settings
def _folds(found: Survey) -> Table:
    largest = max((sum(fold.crops.values()) for fold in found.folds.values()), default=0)
    order = {part.name: index for index, part in enumerate(found.dataset.parts)}
    rows, total = [], Fold()
    for index, fold in found.folds.items():
        parts = sorted(fold.parts, key=lambda name: (order.get(name, len(order)), name))
        shown = ", ".join(parts) if len(parts) <= 4 else f"{parts[0]} … {parts[-1]} ({len(parts)} parts)"
        widths = ((kind, 100 * fold.crops[label] / largest) for kind, label in (("r", REAL), ("f", FAKE)))
        rows.append(Row(str(index), _counts(fold), shown, [(kind, width) for kind, width in widths if width]))
        total.videos.update(fold.videos)
        total.crops.update(fold.crops)
    columns = ["Real videos", "Fake videos", "Real crops", "Fake crops"]
    return Table(columns, rows, Row("All folds", _counts(total)))


def _counts(fold: Fold) -> list[int]:
    return [fold.videos[REAL], fold.videos[FAKE], fold.crops[REAL], fold.crops[FAKE]]


def _step_settings(step: str, made: Mapping[str, int]) -> StepSettings:
    """Args: made: number of videos by settings (JSON)."""
    order = sorted(made.items(), key=lambda item: (-item[1], item[0]))
    shown = [(_in_words(text), count) for text, count in order[:SETTINGS_SHOWN]]
    otherwise = "see the table of folds" if step == "generate_folds" else "nothing made yet"
    return StepSettings(TITLES[step], shown, len(order) > 1, otherwise)


def _in_words(settings: str) -> list[tuple[str, str]]:
    return [
        (key.replace("_", " "), " / ".join(map(str, value)) if isinstance(value, list) else str(value))
        for key, value in json.loads(settings).items()
    ]
