"""The pages of report.py: verdicts and pictures -> HTML, one page per video and an index.

No script, no network, no date: the same verdicts, videos and checkpoints give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dfdc.page import bullets, document, esc, image, number, plural
from dfdc.scoring import FAKE_ABOVE, REAL_BELOW, STRATEGIES
from prediction.conclusion import DOUBTS
from prediction.report_chart import MOST_LINES, chart
from prediction.verdict import Face, Person, Verdict

SHOWN_PERSONS, SHOWN_COURSES = 12, 6
# From which score on, its class (a colour), the verdict, and what it means.
BANDS = (
    (
        0.9,
        "fake",
        "Strong signs of a fake",
        "the faces that count look like the fakes that the checkpoints learned from",
    ),
    (0.7, "fake", "Signs of a fake", "most of the evidence is for a fake, but not all of it"),
    (0.3, "open", "No clear answer", "the checkpoints can’t tell; treat it as not known"),
    (0.1, "real", "Few signs of a fake", "most of the evidence is for a real video, but not all of it"),
    (0.0, "real", "Hardly any signs of a fake", "the faces that count look like those of real videos"),
)
# What a person number means, for those who read the page.
PERSON_MEANS = (
    "A person is a face followed from frame to frame by its place and its look. After a cut, or a long time out of "
    "sight, the same face may come back under another number."
)
STATUSES = {
    "ok": "all frames that were wanted could be read",
    "partial": "some frames could not be decoded; the rest was scored",
    "too short": "the clip has fewer than 32 frames; all were read",
    "no face": "no face was found, and only faces are judged",
    "damaged": "too few frames could be decoded to judge by",
    "unreadable": "the file can’t be read as a video or a picture",
    "out of memory": "the memory ran out; the same command tries again",
    "error": "the work on it ended with an error; the same command tries again",
}


@dataclass
class FacePicture:
    """A suspicious face to show: its entry in the verdict, the checkpoint that is surest of it, JPEG bytes.

    `heat` is None where the network has no heat map, `blank` says that it shows nothing.
    """

    face: Face
    model: int
    picture: bytes
    heat: bytes | None
    blank: bool = False


@dataclass
class Pictures:
    """What could be read again of a video; `fault` says why nothing could."""

    fault: str = ""
    thumbnails: dict[int, bytes] = field(default_factory=dict)  # person -> JPEG
    faces: list[FacePicture] = field(default_factory=list)


@dataclass
class Made:
    """What all verdicts were made with: the run's settings, SHA-256 by checkpoint, versions by package."""

    settings: dict[str, Any]
    hashes: dict[str, str]
    versions: dict[str, str]


def band(score: float) -> tuple[str, str, str]:
    """(class, verdict, what it means) of a score in 0..1."""
    return next(row[1:] for row in BANDS if score >= row[0])


def _style() -> Path:
    return Path(__file__).with_name("report.css")


def _footer(made: Made) -> str:
    temperature = made.settings.get("temperature")
    sure = "is not calibrated" if temperature is None else f"was calibrated with a temperature of {temperature:.3g}"
    return f"Made by <code>python predict_folder.py --report DIR</code>. A score is no proof, and {sure}."


def build_video(verdict: Verdict, pictures: Pictures, made: Made) -> bytes:
    """The page of one video, UTF-8."""
    sections = [
        f'<header><p class="over"><a href="../index.html">All videos</a></p><h1>{esc(verdict.filename)}</h1></header>',
        _verdict(verdict, str(made.settings.get("strategy", ""))),
        _warn(pictures.fault and f"No pictures: {pictures.fault}. All numbers are those of the run."),
        _warn(*thrown_away(verdict, str(made.settings.get("strategy", "")))),
        _persons(verdict, pictures),
        _courses(verdict),
        _faces(verdict, pictures),
        _rules(verdict, str(made.settings.get("strategy", ""))),
        _made_with(verdict, made),
    ]
    return document(f"{verdict.filename}: verdict", sections, _footer(made), _style())


def build_index(
    verdicts: Sequence[Verdict], pages: Mapping[str, str], thumbnails: Mapping[str, bytes], made: Made
) -> bytes:
    """The index, UTF-8; `pages` has each video's page relative to it, `thumbnails` a JPEG where there is one."""
    judged = [verdict for verdict in verdicts if verdict.score is not None]
    kinds = [band(verdict.score)[0] for verdict in judged]
    tiles = (
        ("Videos", len(verdicts), "and pictures, in this run"),
        ("Signs of a fake", kinds.count("fake"), "score 0.7 or more"),
        ("No clear answer", kinds.count("open"), "from 0.3 to 0.7"),
        ("Few or no signs", kinds.count("real"), "under 0.3"),
        ("No verdict", len(verdicts) - len(judged), "the reason stands with each"),
    )
    top = "".join(
        f'<div class="tile"><dt>{name}</dt><dd class="big">{number(count)}</dd><dd class="small">{small}</dd></div>'
        for name, count, small in tiles
    )
    order = sorted(verdicts, key=lambda v: (v.score is None, -(v.score or 0.0), v.filename))
    rows = "\n".join(_index_row(verdict, pages, thumbnails) for verdict in order)
    models = plural(len(made.hashes), "checkpoint")
    return document(
        "Verdicts",
        [
            '<header><p class="over">Deepfake verdicts</p>'
            f'<h1>{plural(len(verdicts), "video")}</h1><p class="lead">Scored by {models}, strategy '
            f"{esc(made.settings.get('strategy', 'not known'))}. The most suspicious come first.</p></header>",
            f'<dl class="tiles five">{top}</dl>',
            '<div class="card"><table class="index"><thead><tr><th class="left" scope="col"></th>'
            '<th class="left" scope="col">Video</th><th class="left" scope="col">Verdict</th>'
            '<th class="left" scope="col">Real to fake</th><th scope="col">Score</th></tr></thead><tbody>\n'
            f"{rows}\n</tbody></table></div>",
            '<h2 id="settings">Made with</h2>' + _settings_list(made),
        ],
        _footer(made),
        _style(),
    )


def _index_row(verdict: Verdict, pages: Mapping[str, str], thumbnails: Mapping[str, bytes]) -> str:
    jpeg = thumbnails.get(verdict.filename)
    thumb = image(jpeg, f"a face in {verdict.filename}") if jpeg else '<span class="none">–</span>'
    words = "No verdict" if verdict.score is None else band(verdict.score)[1]
    status = verdict.status if verdict.status == "ok" or not verdict.reason else f"{verdict.status}: {verdict.reason}"
    status = "; ".join([status, *verdict.doubts])
    shown = "–" if verdict.score is None else f"{verdict.score:.2f}"
    return (
        f'<tr><td class="thumb left">{thumb}</td><th scope="row" class="left"><a '
        f'href="{esc(pages[verdict.filename])}">{esc(verdict.filename)}</a></th><td class="left status">{words}<br>'
        f'<span class="note">{esc(status)}</span></td><td class="wide">{gauge(verdict.score)}</td>'
        f'<td class="num">{shown}</td></tr>'
    )


def gauge(score: float | None) -> str:
    """A bar as long as the score; an empty string without one."""
    if score is None:
        return ""
    return f'<div class="gauge"><i class="{band(score)[0]}" style="width:{100 * score:.1f}%"></i></div>'


def main_persons(verdict: Verdict) -> list[Person]:
    """The persons to show: without those who weigh nothing in `person-max` and `smooth`.

    They are passers-by, and what the tracker or the detector took for a person.
    """
    return [person for person in verdict.persons if person.weight > 0]


def _warn(*texts: str) -> str:
    rows = "".join(f"<p>{esc(text)}</p>" for text in texts if text)
    return f'<div class="card warn">{rows}</div>' if rows else ""


# ------------------------------------------------------------------------------------------- the verdict
def _verdict(verdict: Verdict, strategy: str) -> str:
    if verdict.score is None:
        why = STATUSES.get(verdict.status, "it could not be judged")
        return (
            f'<div class="card verdict"><div class="big open">–</div><div><p class="words">No verdict: '
            f"{esc(verdict.status)}</p><p>{why[0].upper()}{why[1:]}.</p><p>What was said: {esc(verdict.reason)}.</p>"
            "<p>There is no score, because there are no grounds for one. This says nothing about real or fake.</p>"
            "</div></div>"
        )
    kind, words, meaning = band(verdict.score)
    doubts = reasons_for_doubt(verdict, strategy)
    lead = "What weakens it:" if doubts else "Nothing was found that weakens it; the checkpoints agree."
    scale = "".join(f"<dt>{low:.1f} and more</dt><dd>{text}: {long}</dd>" for low, _, text, long in BANDS)
    return (
        f'<div class="card verdict"><div class="big {kind}">{verdict.score:.2f}</div><div><p class="words">{words}</p>'
        f"<p>{meaning[0].upper()}{meaning[1:]}.</p></div>"
        f'<div class="under">{gauge(verdict.score)}<div class="ends"><span>0 real</span><span>fake 1</span></div>'
        f"<p>{lead}</p>{bullets(doubts)}<details><summary>What the words mean</summary>"
        f'<dl class="steps">{scale}</dl><p class="note">The score is how much the faces look like the fakes of the '
        "training set. It is no proof and not a measured chance: another generator, strong compression or make-up can "
        "move it either way.</p></details></div></div>"
    )


def reasons_for_doubt(verdict: Verdict, strategy: str) -> list[str]:
    """What makes a verdict less certain than its score says, as sentences."""
    doubts = [f"{DOUBTS[name][0].upper()}{DOUBTS[name][1:]}{_count_behind(name, verdict)}." for name in verdict.doubts]
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
    return np.array([face.scores for face in verdict.faces], np.float64).reshape(-1, len(verdict.models))


# ----------------------------------------------------------------------------------- persons, time, faces
def _persons(verdict: Verdict, pictures: Pictures) -> str:
    if not verdict.persons:
        return ""
    cards, main = [], main_persons(verdict)
    for person in main[:SHOWN_PERSONS]:
        jpeg = pictures.thumbnails.get(person.person)
        thumb = image(jpeg, f"person {person.person}") if jpeg else '<span class="none">no picture</span>'
        kind, words, _ = band(person.score)
        cards.append(
            f'<div class="card person">{thumb}<div>Person {person.person}<br><b class="{kind}">'
            f'{person.score:.2f}</b>{gauge(person.score)}<span class="soft">{words}<br>seen in '
            f"{plural(person.frames, 'frame')}</span></div></div>"
        )
    notes = []
    if len(main) > len(cards):
        notes.append(f"And {plural(len(main) - len(cards), 'person')} with lower scores.")
    brief = [person.score for person in verdict.persons if person not in main]
    if brief:
        span = f"{min(brief):.2f}" + (f" to {max(brief):.2f}" if len(brief) > 1 else "")
        notes.append(
            f"Not shown: {number(len(brief))} seen in a few frames only: passers-by, turned heads, what is no face; "
            f"score {span}."
        )
    if verdict.score_uncalibrated is not None:
        notes.append("These scores are not calibrated, other than the video’s.")
    rest = f'<p class="note">{" ".join(notes)}</p>' if notes else ""
    return (
        f'<h2 id="persons">Persons</h2><p>Each with a score from that person’s faces alone, the highest first. '
        f"{PERSON_MEANS}</p>"
        f'<div class="people">{"".join(cards)}</div>{rest}'
    )


def _courses(verdict: Verdict) -> str:
    if not verdict.models or len({face.frame for face in verdict.faces}) < 2:
        return ""  # a picture has no course
    cards = []
    for person in main_persons(verdict)[:SHOWN_COURSES]:
        own = sorted((f for f in verdict.faces if f.person == person.person), key=lambda face: face.frame)
        cards.append(_course(verdict, person.person, own))
    keys = [(f"var(--m{i % MOST_LINES})", model.name) for i, model in enumerate(verdict.models)]
    if len(keys) > 1:
        keys.append(("var(--ink)", "mean of the checkpoints"))
    legend = "".join(f'<span><i style="border-color:{colour}"></i>{esc(name)}</span>' for colour, name in keys)
    unit = "seconds" if verdict.frames_per_second > 0 else "the number of the frame"
    more = len(main_persons(verdict)) > len(cards)
    rest = f" Shown are the {len(cards)} persons with the highest scores." if more else ""
    return (
        f'<h2 id="time">Score over time</h2><p>Each face’s probability of being fake; across, {unit}.{rest}</p>'
        f'<div class="legend">{legend}</div><div class="courses">{"".join(cards)}</div>'
    )


def _course(verdict: Verdict, person: int, faces: Sequence[Face]) -> str:
    name = f"Person {person}"
    drawing = chart(faces, verdict.frame_count, verdict.frames_per_second, name)
    return f'<div class="card"><h3>{name}</h3>{drawing}</div>'


def _faces(verdict: Verdict, pictures: Pictures) -> str:
    if not pictures.faces:
        return ""
    cards = []
    for item in pictures.faces:
        face, scores = item.face, item.face.scores
        when = f"frame {face.frame}"
        if verdict.frames_per_second > 0:
            when = f"{face.frame / verdict.frames_per_second:.2f} s ({when})"
        where = f"person {face.person}, {when}"
        surest = esc(verdict.models[item.model].name)
        note = f"Heat map: {surest}, which gives it {scores[item.model]:.2f}."
        if item.heat is None:
            heat = '<span class="none">This network shows no map of places, so there is no heat map.</span>'
            note = f"Highest: {surest}, {scores[item.model]:.2f}. No heat map can be made of it."
        else:
            heat = image(item.heat, f"where the network looked, {where}")
            if item.blank:
                note += " No place of it spoke for fake more than the others."
        cards.append(
            f'<figure class="card"><div class="pair">{image(item.picture, f"face, {where}")}{heat}</div>'
            f'<figcaption><b>{np.mean(scores):.2f}</b> person {face.person}, {when}<br><span class="soft">{note}'
            "</span></figcaption></figure>"
        )
    return (
        '<h2 id="faces">The most suspicious faces</h2><p>The faces with the highest mean score, at most two of a '
        "person where there are others. Beside each, what in it spoke for fake to the "
        'checkpoint that is surest of it, from nothing<span class="scale"></span>to most. The scale is '
        "each picture’s own, so a face with a low score has bright places as well. A heat map (Grad-CAM) is "
        f'coarse: it shows the region, not the flaw.</p><div class="faces">{"".join(cards)}</div>'
    )


# ------------------------------------------------------------------------------------------------- rules
def _rules(verdict: Verdict, strategy: str) -> str:
    if not verdict.models:
        return ""
    rows = "\n".join(
        f'<tr><th scope="row">{esc(model.name)}</th><td class="num">{model.score:.2f}</td>'
        f'<td class="whole">{esc(rule_in_words(model.rule, strategy, column))}</td></tr>'
        for model, column in zip(verdict.models, _scores(verdict).T, strict=True)
    )
    raw = verdict.score_uncalibrated
    calibrated = "" if raw is None else f" That is {raw:.2f}; calibrated on labelled videos, {verdict.score:.2f}."
    return (
        f'<h2 id="rules">How the score came about</h2><p>Each checkpoint scored {plural(len(verdict.faces), "face")}; '
        f"{_what_combines(verdict, strategy)} made one score of them, and the mean of the checkpoints’ scores is the "
        f'video’s.{calibrated}</p><div class="card"><table class="left-all"><thead><tr><th scope="col">Checkpoint</th>'
        f'<th scope="col" class="num">Score</th><th scope="col">Rule that fired</th></tr></thead><tbody>\n{rows}\n'
        "</tbody></table></div>"
    )


def _what_combines(verdict: Verdict, strategy: str) -> str:
    return "the rule for photos" if verdict.picture else f"the strategy “{esc(strategy)}”"


def rule_in_words(rule: str, strategy: str, scores: np.ndarray) -> str:
    """What a rule did with one checkpoint's scores [n] of the faces."""
    if rule == "photo":
        return "photo: the most suspicious of the faces that the detector is sure of"
    count, high, low = len(scores), int((scores > FAKE_ABOVE).sum()), int((scores < REAL_BELOW).sum())
    if strategy == "confident":
        return {
            "fake": f"fake: {high} of {count} are above {FAKE_ABOVE}; the mean of those",
            "real": f"real: {low} of {count} are below {REAL_BELOW}; the mean of those",
            "mean": f"mean: neither fake nor real clearly ({high} above {FAKE_ABOVE}, {low} below {REAL_BELOW}, of "
            f"{count}); the mean of all",
        }.get(rule, rule)
    if rule.startswith("person "):
        return f"{rule}: the mean of that person’s faces, the highest of all who were seen often enough"
    return {"mean": "mean: of all faces", "smooth": "smooth: high scores weigh more, without a threshold"}.get(
        rule, rule
    )


# -------------------------------------------------------------------------------------------- made with
def _made_with(verdict: Verdict, made: Made) -> str:
    status = f"<b>{esc(verdict.status)}</b>: {STATUSES.get(verdict.status, '')}"
    if verdict.reason:
        status += f"<br>{esc(verdict.reason)}"
    read = f"<b>{number(verdict.frames_read)}</b> of {number(verdict.frame_count)}"
    if verdict.frames_per_second > 0:
        read += f", {verdict.frames_per_second:g} per second"
    if verdict.frames_lost:
        lost = ", ".join(map(str, verdict.frames_lost))
        read += f"; lost: {lost}"
    own = [("Status", status), ("Frames read", read), ("Faces", f"<b>{number(len(verdict.faces))}</b>")]
    return '<h2 id="settings">Status and settings</h2>' + _settings_list(made, own)


def _settings_list(made: Made, first: Sequence[tuple[str, str]] = ()) -> str:
    rows = list(first)
    for key, value in made.settings.items():
        if key != "models":
            items = value.items() if isinstance(value, dict) else ()
            shown = " / ".join([*map(str, value)] if isinstance(value, list) else [f"{k} {v}" for k, v in items])
            shown = shown or value
            rows.append((esc(key.replace("_", " ").capitalize()), f"<b>{esc(shown)}</b>"))
    hashes = "<br>".join(
        f'<b>{esc(name)}</b><br><span class="hash">{esc(value)}</span>' for name, value in made.hashes.items()
    )
    rows.append(("Checkpoints, SHA-256", hashes))
    rows.append(("Software", ", ".join(f"{esc(name)} <b>{esc(v)}</b>" for name, v in made.versions.items())))
    return '<dl class="settings card">' + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"
