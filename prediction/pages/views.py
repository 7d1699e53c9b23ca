"""What the pages of verdicts show: verdicts and pictures -> view models, which the templates here turn into HTML.

No date: the same verdicts, videos and checkpoints give the same pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dfdc.pages import render
from dfdc.scoring import FAKE_ABOVE, REAL_BELOW, STRATEGIES
from dfdc.text import number, plural, sentence
from prediction.conclusion import DOUBTS
from prediction.pages.chart import LineChart, chart, colour
from prediction.verdict import Face, Person, Verdict

SHOWN_PERSONS, SHOWN_COURSES = 12, 6


@dataclass(frozen=True)
class Band:
    """What scores from `low` on mean: the class of their colour, the verdict, and why."""

    low: float
    kind: str
    words: str
    meaning: str


_ALIKE = "the faces that count look like"
BANDS = (
    Band(0.9, "fake", "Strong signs of a fake", f"{_ALIKE} the fakes that the checkpoints learned from"),
    Band(0.7, "fake", "Signs of a fake", "most of the evidence is for a fake, but not all of it"),
    Band(0.3, "open", "No clear answer", "the checkpoints can’t tell; treat it as not known"),
    Band(0.1, "real", "Few signs of a fake", "most of the evidence is for a real video, but not all of it"),
    Band(0.0, "real", "Hardly any signs of a fake", f"{_ALIKE} those of real videos"),
)


@dataclass(frozen=True)
class Made:
    """What all verdicts were made with: the run's settings, SHA-256 by checkpoint, versions by package."""

    settings: Mapping[str, Any]
    hashes: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def strategy(self) -> str:
        return str(self.settings.get("strategy", ""))

    @property
    def shown(self) -> list[tuple[str, str]]:
        """The settings in words."""
        rows = (item for item in self.settings.items() if item[0] != "models")
        return [(key.replace("_", " ").capitalize(), _in_words(value)) for key, value in rows]


@dataclass(frozen=True)
class Row:
    """A video in the index; `page` is relative to it, `thumbnail` a JPEG."""

    verdict: Verdict
    band: Band | None
    page: str
    thumbnail: bytes | None
    status: str


@dataclass(frozen=True)
class Index:
    """The videos of a run, the most suspicious first, and how many of them are of each kind of band."""

    rows: list[Row]
    kinds: Counter[str]
    made: Made


@dataclass(frozen=True)
class FaceCard:
    """A suspicious face: its mean score, that of the checkpoint which is surest of it, and JPEG bytes.

    `heat` is None where the network has no heat map, `blank` says that it shows nothing.
    """

    where: str
    mean: float
    surest: str
    highest: float
    picture: bytes
    heat: bytes | None
    blank: bool


@dataclass
class Pictures:
    """What could be read again of a video; `fault` says why nothing could."""

    fault: str = ""
    thumbnails: dict[int, bytes] = field(default_factory=dict)  # person -> JPEG
    faces: list[FaceCard] = field(default_factory=list)


@dataclass(frozen=True)
class Courses:
    """Scores over time; `legend` has a colour and what it stands for, `more` says that not all persons are shown."""

    unit: str
    charts: list[LineChart]
    legend: list[tuple[str, str]]
    more: bool


@dataclass(frozen=True)
class VideoPage:
    """One video; what is None or empty has no place on its page. `rules` are those of the verdict's models."""

    verdict: Verdict
    band: Band | None
    doubts: list[str]
    thrown_away: list[str]
    persons: list[tuple[Person, Band, bytes | None]]  # the last a JPEG
    others: list[str]
    courses: Courses | None
    pictures: Pictures
    rules: list[str]
    made: Made
    bands: Sequence[Band] = BANDS


def build_video(verdict: Verdict, pictures: Pictures, made: Made) -> bytes:
    """The page of one video, UTF-8."""
    columns = zip(verdict.models, _scores(verdict).T, strict=True)
    shown = main_persons(verdict)[:SHOWN_PERSONS]
    page = VideoPage(
        verdict,
        None if verdict.score is None else band(verdict.score),
        reasons_for_doubt(verdict, made.strategy),
        thrown_away(verdict, made.strategy),
        [(person, band(person.score), pictures.thumbnails.get(person.person)) for person in shown],
        _others(verdict),
        _courses(verdict),
        pictures,
        [rule_in_words(model.rule, made.strategy, column) for model, column in columns],
        made,
    )
    return render(Path(__file__).with_name("video.html.j2"), page)


def build_index(
    verdicts: Sequence[Verdict], pages: Mapping[str, str], thumbnails: Mapping[str, bytes], made: Made
) -> bytes:
    """The index, UTF-8; `pages` has each video's page relative to it, `thumbnails` a JPEG where there is one."""
    rows = []
    for verdict in sorted(verdicts, key=lambda v: (v.score is None, -(v.score or 0.0), v.filename)):
        name, found = verdict.filename, None if verdict.score is None else band(verdict.score)
        told = verdict.status + (f": {verdict.reason}" if verdict.status != "ok" and verdict.reason else "")
        rows.append(Row(verdict, found, pages[name], thumbnails.get(name), "; ".join([told, *verdict.doubts])))
    kinds = Counter(row.band.kind if row.band else "none" for row in rows)
    return render(Path(__file__).with_name("index.html.j2"), Index(rows, kinds, made))


def _in_words(value: object) -> str:
    items = [f"{name} {item}" for name, item in value.items()] if isinstance(value, dict) else value
    return " / ".join(map(str, items)) if isinstance(items, list) and items else str(value)


def band(score: float) -> Band:
    return next(band for band in BANDS if score >= band.low)


def main_persons(verdict: Verdict) -> list[Person]:
    """Those to show: without passers-by, and what was taken for a person, who weigh nothing."""
    return [person for person in verdict.persons if person.weight > 0]


def reasons_for_doubt(verdict: Verdict, strategy: str) -> list[str]:
    """What makes a verdict less certain than its score says, as sentences."""
    doubts = [f"{sentence(DOUBTS[name])}{_count_behind(name, verdict)}." for name in verdict.doubts]
    if len(verdict.models) == 1:
        doubts.append("Only one checkpoint was asked.")
    if thrown_away(verdict, strategy):
        doubts.append("Faces that look surely fake were left out of the score, as said below.")
    if verdict.status != "ok":
        doubts.append(f"Status {verdict.status}: {verdict.reason}.")
    return doubts


def _count_behind(doubt: str, verdict: Verdict) -> str:
    """The figures behind a doubt, as the end of a sentence; nothing where it has none."""
    grounds = verdict.grounds
    if grounds is None:
        return ""
    of = f"of {plural(grounds.faces, 'face')}"
    return {
        "few faces": f": {grounds.frames} of the {plural(verdict.frames_read, 'frame')} that were read",
        "small faces": f": {grounds.small} {of}; half are under {grounds.side:.0f} pixels",
        "cut faces": f": {grounds.cut} {of}",
        "unsure faces": f": {grounds.unsure} {of}",
        "one face decides": f": by up to {grounds.one_face:.2f}",
        "persons differ": _from_to([person.score for person in main_persons(verdict)]),
        "checkpoints differ": _from_to([model.score for model in verdict.models]),
        "faces left out": f": {grounds.if_joined or 0:.2f}, of {grounds.left_out} of all {len(verdict.faces)} faces",
        "unusual pictures": f": {'; '.join(verdict.notes)}",
    }.get(doubt, "")


def _from_to(scores: Sequence[float]) -> str:
    return f": from {min(scores, default=0):.2f} to {max(scores, default=0):.2f}"


def thrown_away(verdict: Verdict, strategy: str) -> list[str]:
    """A sentence for each checkpoint whose confident rule left out confident fake faces, and what smooth would give."""
    if strategy != "confident" or verdict.picture or not verdict.models:
        return []
    scores, people = _scores(verdict), np.array([face.person for face in verdict.faces])
    smooth = [STRATEGIES["smooth"](column, people).score for column in scores.T]
    texts = []
    for model, column, other in zip(verdict.models, scores.T, smooth, strict=True):
        high = int((column > FAKE_ABOVE).sum())
        if model.rule == "real" and high:
            texts.append(
                f"{model.name} scored {high} of {plural(len(column), 'face')} above {FAKE_ABOVE}, and the winners’ "
                f"confident rule threw {'it' if high == 1 else 'them'} away: more than nine tenths are below 0.2, and "
                f"it averages only those, to {model.score:.2f}. With the smooth strategy it would be {other:.2f}."
            )
    if texts:
        got = verdict.score if verdict.score_uncalibrated is None else verdict.score_uncalibrated
        texts.append(f"The video would get {np.mean(smooth):.2f} with the smooth strategy, and got {got:.2f}.")
    return texts


def _scores(verdict: Verdict) -> np.ndarray:
    """float64 [faces, models]."""
    scores = [face.scores for face in verdict.faces]
    return np.array(scores, np.float64).reshape(len(scores), len(verdict.models))


def _others(verdict: Verdict) -> list[str]:
    """Of persons who are not shown, and of scores that are not the video's."""
    main, notes = main_persons(verdict), []
    if len(main) > SHOWN_PERSONS:
        notes.append(f"And {plural(len(main) - SHOWN_PERSONS, 'person')} with lower scores.")
    brief = [person.score for person in verdict.persons if person not in main]
    if brief:
        span = f"{min(brief):.2f}" + (f" to {max(brief):.2f}" if len(brief) > 1 else "")
        kinds = "passers-by, turned heads, what is no face"
        notes.append(f"Not shown: {number(len(brief))} seen in a few frames only: {kinds}; score {span}.")
    if verdict.score_uncalibrated is not None:
        notes.append("These scores are not calibrated, other than the video’s.")
    return notes


def _courses(verdict: Verdict) -> Courses | None:
    if not verdict.models or len({face.frame for face in verdict.faces}) < 2:
        return None  # a picture has no course
    charts, main = [], main_persons(verdict)
    for person in main[:SHOWN_COURSES]:
        own = sorted((f for f in verdict.faces if f.person == person.person), key=lambda face: face.frame)
        charts.append(chart(own, verdict.frame_count, verdict.frames_per_second, f"Person {person.person}"))
    legend = [(colour(index), model.name) for index, model in enumerate(verdict.models)]
    if len(legend) > 1:
        legend.append(("var(--ink)", "mean of the checkpoints"))
    unit = "seconds" if verdict.frames_per_second > 0 else "the number of the frame"
    return Courses(unit, charts, legend, len(main) > len(charts))


def where(verdict: Verdict, face: Face) -> str:
    when = f"frame {face.frame}"
    if verdict.frames_per_second > 0:
        when = f"{face.frame / verdict.frames_per_second:.2f} s ({when})"
    return f"person {face.person}, {when}"


def rule_in_words(rule: str, strategy: str, scores: np.ndarray) -> str:
    """What a rule did with one checkpoint's scores [n] of the faces."""
    if rule == "photo":
        return "photo: the most suspicious of the faces that the detector is sure of"
    count, high, low = len(scores), int((scores > FAKE_ABOVE).sum()), int((scores < REAL_BELOW).sum())
    if strategy == "confident":
        counted = f"{high} above {FAKE_ABOVE}, {low} below {REAL_BELOW}, of {count}"
        words = {
            "fake": f"fake: {high} of {count} are above {FAKE_ABOVE}; the mean of those",
            "real": f"real: {low} of {count} are below {REAL_BELOW}; the mean of those",
            "mean": f"mean: neither fake nor real clearly ({counted}); the mean of all",
        }
    elif rule.startswith("person "):
        return f"{rule}: the mean of that person’s faces, the highest of all who were seen often enough"
    else:
        words = {"mean": "mean: of all faces", "smooth": "smooth: high scores weigh more, without a threshold"}
    return words.get(rule, rule)
