"""View models of a video's page, made from its verdict and images; the templates here turn them into HTML.

Pages hold no date: the same verdicts, videos and checkpoints give the same pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dfdc.pages import render
from dfdc.scoring import FAKE_ABOVE, REAL_BELOW, STRATEGIES, deciding_person
from dfdc.text import number, plural, sentence
from prediction.conclusion import DOUBTS
from prediction.pages.chart import LineChart, chart, colour
from prediction.pages.times import clock, frame_times
from prediction.verdict import Face, Person, Verdict

SHOWN_PERSONS, SHOWN_COURSES = 12, 6


@dataclass(frozen=True)
class Band:
    """The meaning of scores from `low` on: their CSS class, the verdict in words, and the reason."""

    low: float
    kind: str
    words: str
    meaning: str


BANDS = (
    Band(0.9, "fake", "Strong signs of a fake", "the faces look like fakes of the training set"),
    Band(0.7, "fake", "Signs of a fake", "most of the evidence points to a fake, but not all of it"),
    Band(0.3, "open", "No clear answer", "such a score does not tell real from fake; treat it as unknown"),
    Band(0.1, "real", "Few signs of a fake", "most of the evidence points to a real video, but not all of it"),
    Band(0.0, "real", "Hardly any signs of a fake", "the faces look like real faces of the training set"),
)
# What the strategies do, in a few words.
STRATEGY_MEANINGS = {
    "confident": "the mean of the clearly fake faces, or of the clearly real faces, if most faces agree",
    "mean": "the mean of all faces",
    "person-max": "the mean of the most suspicious person’s faces",
    "smooth": "a mean in which high scores weigh more",
}

SETTING_NAMES = {
    "frames": "Frames searched for faces",
    "precision": "Precision of the networks",
    "detector_thresholds": "Thresholds of the face detector’s three stages",
    "temperature": "Temperature of the calibration",
}


@dataclass(frozen=True)
class Made:
    """The origin of all verdicts: the run's settings, SHA-256 by checkpoint, versions by package.

    `warnings` are what weakens every verdict (see `prediction.results.Summary`).
    """

    settings: Mapping[str, Any]
    hashes: Mapping[str, str]
    versions: Mapping[str, str]
    warnings: Sequence[str] = ()

    @property
    def strategy(self) -> str:
        return str(self.settings.get("strategy", ""))

    @property
    def strategy_meaning(self) -> str:
        return STRATEGY_MEANINGS.get(self.strategy, "")

    @property
    def shown(self) -> list[tuple[str, str]]:
        """The settings in words."""
        return [row for key, value in self.settings.items() if key != "models" for row in _setting_rows(key, value)]


@dataclass(frozen=True)
class FaceCard:
    """A suspicious face: its mean score, the name and score of the highest checkpoint, and JPEG bytes.

    `heat` is None if the network has no heat map; `blank` says that the map is empty.
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
    """The images of a video; `fault` says why there are none."""

    fault: str = ""
    thumbnails: dict[int, bytes] = field(default_factory=dict)  # person -> JPEG
    faces: list[FaceCard] = field(default_factory=list)


@dataclass(frozen=True)
class Courses:
    """Scores over time. `legend` has colours and their names; `more` says that some persons have no chart."""

    timed: bool  # the axis shows times, not frame numbers
    charts: list[LineChart]
    legend: list[tuple[str, str]]
    more: bool


@dataclass(frozen=True)
class PersonCard:
    """A person, the meaning of the score, a JPEG, and when the person is in sight."""

    person: Person
    band: Band
    thumbnail: bytes | None
    seen: str


@dataclass(frozen=True)
class Lead:
    """The person with the highest score, and this person's part in the video's score."""

    card: PersonCard
    title: str
    part: str


@dataclass(frozen=True)
class VideoPage:
    """The page of one video; its parts that are None or empty are left out. `rules` are those of the models.

    `digest` tells a later run what the page shows (see `prediction.pages.kept`); empty: write it again.
    """

    verdict: Verdict
    band: Band | None
    doubts: list[str]
    thrown_away: list[str]
    lead: Lead | None
    persons: list[PersonCard]  # without the lead
    others: list[str]
    length: str
    courses: Courses | None
    pictures: Pictures
    rules: list[str]
    made: Made
    digest: str
    bands: Sequence[Band] = BANDS


def build_video(verdict: Verdict, pictures: Pictures, made: Made, digest: str = "") -> bytes:
    """The page of one video, UTF-8."""
    columns = zip(verdict.models, _scores(verdict).T, strict=True)
    persons = _person_cards(verdict, pictures)
    rate = verdict.frames_per_second
    page = VideoPage(
        verdict,
        None if verdict.score is None else band(verdict.score),
        reasons_for_doubt(verdict, made),
        thrown_away(verdict, made.strategy),
        _lead(verdict, made.strategy, persons[0]) if persons else None,
        persons[1:],
        _others(verdict),
        clock(verdict.frame_count / rate) if rate > 0 and not verdict.picture else "",
        _courses(verdict),
        pictures,
        [rule_in_words(model.rule, made.strategy, column) for model, column in columns],
        made,
        digest,
    )
    return render(Path(__file__).with_name("video.html.j2"), page)


def lead_thumbnail(verdict: Verdict, pictures: Pictures) -> bytes | None:
    """The JPEG of the person at the top of a video's page; the index shows it too."""
    persons = main_persons(verdict)
    return pictures.thumbnails.get(persons[0].person) if persons else None


def _person_cards(verdict: Verdict, pictures: Pictures) -> list[PersonCard]:
    shown = main_persons(verdict)[:SHOWN_PERSONS]
    own = [[face.frame for face in verdict.faces if face.person == person.person] for person in shown]
    ends = [(min(frames), max(frames)) for frames in own]
    times = times_of(verdict, chain.from_iterable(ends))
    cards = []
    for person, (first, last) in zip(shown, ends, strict=True):
        seen = plural(person.frames, "frame")
        if times:
            seen += f", at {times[first]}" if first == last else f", {times[first]} to {times[last]}"
        cards.append(PersonCard(person, band(person.score), pictures.thumbnails.get(person.person), seen))
    return cards


def _lead(verdict: Verdict, strategy: str, card: PersonCard) -> Lead:
    main, person = main_persons(verdict), card.person
    rare = [other for other in verdict.persons if other.weight == 0]
    decides, highest = "The person who decides", "The person with the highest score"
    if verdict.picture:
        if len(main) > 1:
            return Lead(card, highest, "Each checkpoint takes the most suspicious face of the image.")
        return Lead(card, decides, _not_counted(rare, "which the detector is not sure of"))
    if any(other.score > person.score for other in rare):
        highest = "The highest score of a person seen often"
    people = np.array([face.person for face in verdict.faces])
    who = {deciding_person(strategy, column, people) for column in _scores(verdict).T}
    if None in who:  # the strategy ignores persons
        if len(main) > 1:
            few = f", {len(rare)} of them seen in few frames" if rare else ""
            return Lead(card, highest, f"All {len(verdict.persons)} persons count toward the video’s score{few}.")
        if rare:
            more = f"{plural(len(rare), 'more person')}, seen in few frames, also {_verb(rare, 'count')}."
            return Lead(card, "The person seen most often", more)
    if len(main) == 1:
        return Lead(card, decides, _not_counted(rare, "seen in few frames"))
    if who == {person.person}:
        if person.weight == 1:
            lower = "" if any(other.score > person.score for other in rare) else "have lower scores and "
            return Lead(card, decides, f"Other persons {lower}don’t change the video’s score.")
        part = f"Seen in fewer frames than another person, so the score counts by {person.weight:.0%} only."
        return Lead(card, "The person who counts most", part)
    if len(who) == 1:
        (number_of,) = who
        return Lead(card, highest, f"Person {number_of}, seen in more frames, counts most.")
    return Lead(card, highest, "The checkpoints differ in which person decides.")


def _not_counted(others: Sequence[Person], why: str) -> str:
    """A sentence on persons who don't count, or on their absence."""
    if not others:
        return "No other person was detected."
    return f"{plural(len(others), 'more person')}, {why}, {_verb(others, 'do')} not count."


def _verb(subjects: Sequence[object], verb: str) -> str:
    """The verb in the form for one subject or for several."""
    return {"do": "does"}.get(verb, f"{verb}s") if len(subjects) == 1 else verb


def _setting_rows(key: str, value: Any) -> list[tuple[str, str]]:
    """A setting of `prediction.settings.RunSettings` as rows of a plain name and a value with its unit."""
    if key == "floors":
        return [
            ("Doubt “few faces” below", plural(value["faces"], "frame")),
            ("Doubt “small faces” below", f"{value['side']:g} pixels"),
        ]
    if key == "margin_part":
        return [("Margin around a face", f"1/{value} of its box on each side")]
    if key == "detector_scale":
        shown = "chosen by the frame size" if value == "auto" else f"frames resized by {value:g}"
        return [("Scale for face detection", shown)]
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return [(SETTING_NAMES.get(key, sentence(key.replace("_", " "))), str(value))]


def band(score: float) -> Band:
    return next(band for band in BANDS if score >= band.low)


def main_persons(verdict: Verdict) -> list[Person]:
    """The persons to show: those of weight above 0, so no passers-by and no false detections."""
    return [person for person in verdict.persons if person.weight > 0]


def reasons_for_doubt(verdict: Verdict, made: Made) -> list[str]:
    """What weakens a verdict, as sentences."""
    doubts = [f"{warning}." for warning in made.warnings]
    doubts += [f"{sentence(DOUBTS[name])}{_count_behind(name, verdict)}." for name in verdict.doubts]
    if len(verdict.models) == 1:
        doubts.append("Only one checkpoint scored it, so no second opinion exists.")
    if thrown_away(verdict, made.strategy):
        doubts.append("The score leaves out faces that look clearly fake; see below.")
    if verdict.status != "ok":
        doubts.append(f"Status {verdict.status}: {verdict.reason}.")
    return doubts


def _count_behind(doubt: str, verdict: Verdict) -> str:
    """The numbers behind a doubt, as the end of a sentence; empty if it has none."""
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
    """Sentences on each checkpoint whose confident rule left out faces with a high score."""
    if strategy != "confident" or verdict.picture or not verdict.models:
        return []
    scores, people = _scores(verdict), np.array([face.person for face in verdict.faces])
    smooth = [STRATEGIES["smooth"](column, people).score for column in scores.T]
    texts = []
    for model, column, other in zip(verdict.models, scores.T, smooth, strict=True):
        high = int((column > FAKE_ABOVE).sum())
        if model.rule == "real" and high:
            texts.append(
                f"{model.name} scored {high} of {plural(len(column), 'face')} above {FAKE_ABOVE}, but the confident "
                f"rule left {'it' if high == 1 else 'them'} out. More than nine tenths of the faces are below "
                f"{REAL_BELOW}, so the rule averages only those, to {model.score:.2f}. "
                f"The smooth strategy would result in {other:.2f}."
            )
    if texts:
        got = verdict.score if verdict.score_uncalibrated is None else verdict.score_uncalibrated
        texts.append(f"The video’s score is {got:.2f}; with the smooth strategy it would be {np.mean(smooth):.2f}.")
    return texts


def _scores(verdict: Verdict) -> np.ndarray:
    """float64 [faces, models]."""
    scores = [face.scores for face in verdict.faces]
    return np.array(scores, np.float64).reshape(len(scores), len(verdict.models))


def _others(verdict: Verdict) -> list[str]:
    """Notes on persons who are not shown, and on scores without calibration."""
    main, notes = main_persons(verdict), []
    if len(main) > SHOWN_PERSONS:
        notes.append(f"{plural(len(main) - SHOWN_PERSONS, 'person')} with lower scores not shown.")
    brief = [person.score for person in verdict.persons if person not in main]
    if brief:
        span = f"{min(brief):.2f}" + (f" to {max(brief):.2f}" if len(brief) > 1 else "")
        kinds = "passers-by, turned heads or false detections"
        few = "that the detector is not sure of" if verdict.picture else f"seen in few frames only ({kinds})"
        notes.append(f"Not shown: {number(len(brief))} {few}, score {span}.")
    if verdict.score_uncalibrated is not None:
        notes.append("Scores of persons are not calibrated; the video’s score is.")
    return notes


def _courses(verdict: Verdict) -> Courses | None:
    if not verdict.models or len({face.frame for face in verdict.faces}) < 2:
        return None  # an image has no course
    charts, main = [], main_persons(verdict)
    for person in main[:SHOWN_COURSES]:
        own = sorted((f for f in verdict.faces if f.person == person.person), key=lambda face: face.frame)
        charts.append(chart(own, verdict.frame_count, verdict.frames_per_second, f"Person {person.person}"))
    legend = [(colour(index), model.name) for index, model in enumerate(verdict.models)]
    if len(legend) > 1:
        legend.append(("var(--ink)", "mean of the checkpoints"))
    return Courses(verdict.frames_per_second > 0, charts, legend, len(main) > len(charts))


def times_of(verdict: Verdict, frames: Iterable[int]) -> dict[int, str]:
    """The time of each frame as m:ss; empty for an image, and if the frame rate is unknown."""
    if verdict.picture or verdict.frames_per_second <= 0:
        return {}
    return frame_times(frames, verdict.frames_per_second)


def where(face: Face, time: str) -> str:
    when = f"{time} (frame {face.frame})" if time else f"frame {face.frame}"
    return f"person {face.person}, {when}"


def rule_in_words(rule: str, strategy: str, scores: np.ndarray) -> str:
    """The effect of a rule on one checkpoint's scores [n] of the faces."""
    if rule == "photo":
        return "photo: the highest score of the faces that the detector is sure of"
    count, high, low = len(scores), int((scores > FAKE_ABOVE).sum()), int((scores < REAL_BELOW).sum())
    if strategy == "confident":
        counted = f"{high} above {FAKE_ABOVE}, {low} below {REAL_BELOW}, of {count}"
        words = {
            "fake": f"fake: {high} of {count} are above {FAKE_ABOVE}; the mean of those",
            "real": f"real: {low} of {count} are below {REAL_BELOW}; the mean of those",
            "mean": f"mean: neither clearly fake nor clearly real ({counted}); the mean of all",
        }
    elif rule.startswith("person "):
        return f"{rule}: the mean of that person’s faces, the highest of all persons seen often enough"
    else:
        words = {"mean": "mean: the mean of all faces", "smooth": "smooth: high scores weigh more, without a threshold"}
    return words.get(rule, rule)
