"""The page of report.py: what was counted and the pairs of crops -> one HTML file with everything in it.

No script, no network, and nothing in it that changes from one run to the next: the same inputs give the same
bytes. Whatever comes from file names or ledgers goes through `esc`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dfdc.layout import FAKE, FRAME_STRIDE, REAL, REJECTED_NAME
from dfdc.ledger import StepRun
from dfdc.page import bullets, document, esc, image, number, percent, plural
from preprocessing.report_pairs import Pair
from preprocessing.report_scan import COVERAGE, EXAMPLES, STEPS, Fold, Group, Reason, StepLedger, Survey

TITLES = {
    "detect_original_faces": "1 Faces",
    "extract_crops": "2 Crops",
    "generate_landmarks": "3 Landmarks",
    "generate_diffs": "4 Masks",
    "generate_folds": "5 Folds",
}
OPEN_ROWS = 16  # longer tables are folded up, with their totals in sight


def build(found: Survey, pairs: Sequence[Pair], pair_faults: Sequence[str]) -> bytes:
    """The whole page, UTF-8."""
    sections = [
        _head(found),
        _problems(found, pair_faults),
        _tiles(found),
        _contact_sheet(pairs),
        _parts(found),
        _distributions(found),
        _failures(found.ledgers),
        _folds(found),
        _settings(found),
    ]
    return _document(f"Preprocessing report: {_root_name(found.dataset.root)}", sections)


def build_fault(root: Path, fault: str) -> bytes:
    """The page of a data set that can't be read, for the reason `fault`."""
    text = fault.replace(str(root), "DATA_ROOT")
    first, _, rest = text.partition("\n")
    body = [
        f'<p class="over">Preprocessing report</p><h1>{esc(_root_name(root))}</h1>'
        '<p class="lead">There is nothing to show: the data set can’t be read.</p>',
        f'<div class="card warn"><h3>{esc(first)}</h3>{bullets(line.strip() for line in rest.splitlines())}</div>',
        f"<p>When that is mended, run <code>./preprocess_data.sh DATA_ROOT</code> again, where DATA_ROOT is "
        f"the folder {esc(_root_name(root))}.</p>",
    ]
    return _document(f"Preprocessing report: {_root_name(root)}", body)


def _document(title: str, sections: Iterable[str]) -> bytes:
    footer = (
        "Made by <code>python preprocessing/report.py --root-dir DATA_ROOT</code> from the stamps, ledgers and crops "
        "that lie there. The same data give the same page, byte for byte."
    )
    return document(title, sections, footer, Path(__file__).with_name("report.css"))


def _root_name(root: Path) -> str:
    return root.resolve().name or "DATA_ROOT"


# ------------------------------------------------------------------------------------------------ the top
def _head(found: Survey) -> str:
    total = found.tally.total()
    videos = total["real"] + total["fake"]
    failed = sum(ledger.outcomes["failed"] for ledger in found.ledgers.values())
    absent = [_word(step) for step, ledger in found.ledgers.items() if not ledger.present]
    ended = [step for step, ledger in found.ledgers.items() if ledger.present and ledger.run and ledger.run.finished]
    halted = [step for step, ledger in found.ledgers.items() if ledger.present and step not in ended]
    state = "All five steps ran to their end." if len(ended) == len(STEPS) else ""
    if absent:
        state += f"Not run yet, or without a ledger: {', '.join(absent)}."
    for step in halted:
        state += f" {_word(step).capitalize()}{stopped(found.ledgers[step].run)}; run it again."
    if failed:
        state += f" {plural(failed, 'failure')}; the reasons stand below."
    elif len(ended) == len(STEPS) and not any(ledger.fault for ledger in found.ledgers.values()):
        state += " Nothing failed."
    links = (("pairs", "Pairs"), ("parts", "Parts"), ("faces", "Faces"), ("failures", "Failures"),
             ("folds", "Folds"), ("settings", "Settings"))  # fmt: skip
    return (
        f'<header><p class="over">Preprocessing report</p><h1>{esc(_root_name(found.dataset.root))}</h1>'
        f'<p class="lead">{plural(videos, "video")} in {plural(len(found.dataset.parts), "part")} became '
        f"{plural(total['crops'], 'face crop')}. {state}</p><nav>"
        + "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in links)
        + "</nav></header>"
    )


def _word(step: str) -> str:
    return TITLES[step].split()[1].lower()


def stopped(run: StepRun | None) -> str:
    """What to add to a step's name if it did not come to its end."""
    if run is None:
        return ": it is not known whether it came to its end"
    if run.finished:
        return ""
    return f": stopped, or still running, after {run.looked_at} of {plural(run.videos, 'video')}"


def _problems(found: Survey, pair_faults: Sequence[str]) -> str:
    texts = [found.folds_fault]
    for sentence, group in sorted(found.tally.problems.items()):
        texts.append(sentence.format(plural(group.count, "video")) + f": {_examples(group)}")
    texts += [f"failures/{step}.csv can't be read: {x.fault}" for step, x in found.ledgers.items() if x.fault]
    for step, names in found.orphans.items():
        if names:
            group = Group(len(names), names[:EXAMPLES])
            kept = f"{TITLES[step]}: {plural(len(names), 'artifact')} of no video in metadata.json any more"
            texts.append(f"{kept} ({_examples(group)}); --prune removes them")
    if found.absent_parts:
        texts.append(f"Parts that folds.csv knows, and that are not here now: {', '.join(found.absent_parts)}")
    if found.rejected_idle:
        group = Group(len(found.rejected_idle), found.rejected_idle[:EXAMPLES])
        idle = f"{REJECTED_NAME}: nothing is rejected by {plural(group.count, 'row')}, with no such video or face"
        texts.append(f"{idle}: {'; '.join(group.examples)}")
    if pair_faults:
        more = f", and {len(pair_faults) - 1} more" if len(pair_faults) > 1 else ""
        texts.append(f"Pairs that can't be shown: {pair_faults[0]}{more}")
    rows = bullets(texts)
    return f'<div class="card warn"><h3>Missing or broken</h3>{rows}</div>' if rows else ""


def _examples(group: Group) -> str:
    return ", ".join(group.examples) + (", …" if group.count > len(group.examples) else "")


def _tiles(found: Survey) -> str:
    total = found.tally.total()
    outcomes = sum((ledger.outcomes for ledger in found.ledgers.values()), Counter())
    split = f'<span class="real">{number(total["real"])} real</span>, '
    split += f'<span class="fake">{number(total["fake"])} fake</span>'
    real_crops, skipped = (
        total["real_crops"],
        plural(len(found.dataset.skipped), "video") if found.dataset.skipped else "no video",
    )
    frames = sum(found.tally.frame_faces.values())
    unchanged = f"{plural(total['unchanged'], 'mask')} show no change" if total["unchanged"] else "each shows a change"
    rejecting = len(found.rejected) - len(found.rejected_idle)
    tiles = (
        ("Videos", number(total["real"] + total["fake"]), split),
        ("Faces", number(total["faces"]), f"on {number(frames)} frames of real videos"),
        ("Crops", number(total["crops"]), f"{number(real_crops)} real, {number(total['crops'] - real_crops)} fake"),
        ("Landmarks", number(total["landmarks"]), f"on {percent(total['landmarks'], real_crops)} of the real crops"),
        ("Masks", number(total["masks"]), unchanged if total["masks"] else "real and fake compared"),
        ("Failures", number(outcomes["failed"]), f"{skipped} skipped"),
        ("Rejected", number(rejecting), f"rows of {REJECTED_NAME}, not cut" if found.rejected else
         f"no {REJECTED_NAME}, or an empty one"),
    )  # fmt: skip
    return '<dl class="tiles">' + "".join(
        f'<div class="tile"><dt>{name}</dt><dd class="big">{big}</dd><dd class="small">{small}</dd></div>'
        for name, big, small in tiles
    ) + "</dl>"  # fmt: skip


# ---------------------------------------------------------------------------------------------- the pairs
def _contact_sheet(pairs: Sequence[Pair]) -> str:
    title = '<h2 id="pairs">Pairs of crops</h2>'
    if not pairs:
        return title + (
            '<p class="card">No pair can be shown: no fake has crops that its original has too. Steps 1 and 2 make '
            "them, for fakes whose original is there.</p>"
        )
    cards = "\n".join(map(_card, pairs))
    return (
        f"{title}<p>The same face, cut from the same frame and place of the real video and of a fake made from it. "
        "Dots are the five landmarks (eyes, nose, corners of the mouth), found on the real crop. The third picture "
        "is the mask over the fake in grey: where they differ by 1 − SSIM, from nothing"
        '<span class="scale"></span>to much.</p>'
        f'<p class="note">{plural(len(pairs), "pair")}, spread evenly over parts, fakes and frames. Look for dots '
        "that miss the eyes, for crops without a face, and for masks that are empty or lit all over.</p>"
        f'<div class="sheet">\n{cards}\n</div>'
    )


def _card(pair: Pair) -> str:
    where = f"frame {pair.frame}, person {pair.face}"
    name, source = esc(pair.fake.id), esc(pair.fake.source)
    mask = (
        image(pair.mask_jpeg, f"where {pair.fake.id} differs from {pair.fake.source}, {where}")
        if pair.mask_jpeg
        else '<span class="none">no mask</span>'
    )
    points = "" if pair.landmarks else ", no landmarks"
    return (
        '<figure class="card"><div class="trio">'
        f'<div class="real">{image(pair.real_jpeg, f"real, {pair.fake.source}, {where}")}real</div>'
        f'<div class="fake">{image(pair.fake_jpeg, f"fake, {pair.fake.id}, {where}")}fake</div>'
        f"<div>{mask}difference</div></div>"
        f'<figcaption>{name} <span class="soft">from {source}<br>{esc(pair.fake.part)}<br>{where}, '
        f"{pair.size[0]} × {pair.size[1]} px{points}</span></figcaption></figure>"
    )


# --------------------------------------------------------------------------------------------- the numbers
def _cells(values: Iterable[tuple[str, int]]) -> str:
    return "".join(
        f'<td data-label="{label}"{"" if value else " class=zero"}>{number(value)}</td>' for label, value in values
    )


def _parts(found: Survey) -> str:
    columns = (("Real", "real"), ("Fake", "fake"), ("Skipped", "skipped"), ("Faces", "faces"), ("Crops", "crops"),
               ("Landmarks", "landmarks"), ("Masks", "masks"))  # fmt: skip
    rows, total = [], Counter()
    for part in found.dataset.parts:
        counts = Counter(found.tally.parts.get(part.name, Counter()))
        counts["skipped"] = found.dataset.listed.get(part.name, 0) - counts["real"] - counts["fake"]
        total.update(counts)
        cells = _cells((title, counts[key]) for title, key in columns)
        rows.append(f'<tr><th scope="row" class="left whole">{esc(part.name)}</th>{cells}</tr>')
    head = '<th scope="col" class="left">Part</th>' + "".join(f'<th scope="col">{title}</th>' for title, _ in columns)
    foot = f'<tr><th scope="row" class="left whole">All parts</th>{_cells((t, total[key]) for t, key in columns)}</tr>'
    return (
        '<h2 id="parts">Parts</h2><p>Videos, and what was made of them. Skipped videos are named in metadata.json, but '
        "are not on disk, or their original is not. Faces and landmarks are of real videos, masks of fake ones; crops "
        "are of both.</p>" + _table(head, rows, foot, plural(len(rows), "part"))
    )


def _table(head: str, rows: Sequence[str], foot: str, what: str) -> str:
    """A table; a long one shows its totals and has its rows folded up."""
    start = f'<table><thead><tr>{head}</tr></thead>'  # fmt: skip
    if len(rows) <= OPEN_ROWS:
        body = "\n".join(rows)
        return f'<div class="card">{start}<tbody>\n{body}\n</tbody><tfoot>{foot}</tfoot></table></div>'
    body = "\n".join(rows)
    return (
        f'<div class="card">{start}<tfoot>{foot}</tfoot></table>'
        f"<details><summary>Each of the {what}</summary>{start}<tbody>\n{body}\n</tbody></table></details></div>"
    )


def _distributions(found: Survey) -> str:
    tally, videos = found.tally, sum(found.tally.people.values())
    title = '<h2 id="faces">Faces in real videos</h2>'
    if not videos:
        return title + '<p class="card">No boxes yet; step 1 (detect_original_faces.py) finds the faces.</p>'
    with_face = sum(count for faces, count in tally.frame_faces.items() if faces)
    frames = sum(tally.frame_faces.values())
    charts = (
        ("Faces on a frame", "sampled frames, by the number of faces found", _small_numbers(tally.frame_faces)),
        ("People in a video", "real videos, by the number of different people", _small_numbers(tally.people)),
        ("Frames with a face", "real videos, by the share of their sampled frames that show one",
         [(label, tally.coverage[index]) for index, label in enumerate(COVERAGE)]),
    )  # fmt: skip
    cards = "".join(
        f'<div class="card"><h3>{name}</h3><span class="note">{caption}</span>{_columns(name, rows)}</div>'
        for name, caption, rows in charts
    )
    return (
        f"{title}<p>Every {FRAME_STRIDE}th frame of {plural(videos, 'real video')} was searched: "
        f"{percent(with_face, frames)} of {plural(frames, 'frame')} show a face. A fake has its original’s faces.</p>"
        f'<p class="note">More people than a video can have point to faces in the background, or to a person who was '
        f'lost and found again.</p><div class="charts">{cards}</div>'
    )


def _small_numbers(counts: Mapping[int, int], last: int = 5) -> list[tuple[str, int]]:
    rows = [(str(value), counts.get(value, 0)) for value in range(last)]
    return [*rows, (f"{last}+", sum(count for value, count in counts.items() if value >= last))]


def _columns(name: str, rows: Sequence[tuple[str, int]]) -> str:
    """A column chart as SVG; its numbers stand above the columns."""
    width, height, foot, top = 330, 150, 22, 20
    step = width / len(rows)
    tallest = max((count for _, count in rows), default=0) or 1
    shapes = []
    for index, (label, count) in enumerate(rows):
        middle = (index + 0.5) * step
        # What is there at all can be seen, however small it is beside the rest.
        tall = max(2.0, count / tallest * (height - foot - top)) if count else 0.0
        y = height - foot - tall
        shapes.append(
            f'<rect x="{middle - step * 0.31:.1f}" y="{y:.1f}" width="{step * 0.62:.1f}" height="{tall:.1f}" rx="2"/>'
            f'<text x="{middle:.1f}" y="{y - 6:.1f}"{"" if count else " class=axis"}>{number(count)}</text>'
            f'<text class="axis" x="{middle:.1f}" y="{height - 5}">{esc(label)}</text>'
        )
    told = "; ".join(f"{label}: {count}" for label, count in rows)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{esc(f"{name}. {told}")}">'
        f'<line x1="0" x2="{width}" y1="{height - foot + 0.5}" y2="{height - foot + 0.5}"/>{"".join(shapes)}</svg>'
    )


# -------------------------------------------------------------------------------------------- the failures
def _failures(ledgers: Mapping[str, StepLedger]) -> str:
    words = (
        '<h2 id="failures">What could not be done</h2><p><b class="failed">Failed</b>: the video is there, but can’t '
        'be used; too many of these stop the step. <b class="skipped">Skipped</b>: the data set doesn’t hold what it '
        "takes, such as the file or its original; a failed video is skipped by the steps that follow. "
        '<b class="incomplete">Incomplete</b>: it was made, but something is missing from it.</p>'
    )
    readable = [ledger for ledger in ledgers.values() if ledger.present and not ledger.fault]
    shared = _shared_reasons(readable)
    cards = [_reasons_card("<h3>All steps alike</h3>", shared)] if shared else []
    clean = []
    for step, ledger in ledgers.items():
        title = f'<h3>{TITLES[step]} <code class="soft">failures/{step}.csv</code></h3>'
        own = [reason for reason in ledger.reasons if reason not in shared]
        if ledger.fault:
            cards.append(f'<div class="card warn">{title}<p>It can’t be read: {esc(ledger.fault)}</p></div>')
        elif own:
            cards.append(_reasons_card(title, own))
        elif ledger.present:
            clean.append(TITLES[step])
    if clean:
        rest = "Beyond that, every" if shared else "Every"
        cards.append(f'<p class="card">{rest} video was done, and completely, in {", ".join(clean)}.</p>')
    absent = [TITLES[step] for step, ledger in ledgers.items() if not ledger.present]
    if absent:
        cards.append(f'<p class="card">Nothing is known of {", ".join(absent)}: not run yet, or without a ledger.</p>')
    return words + "".join(cards)


def _shared_reasons(ledgers: Sequence[StepLedger]) -> list[Reason]:
    """What stands in each of several ledgers: videos that the data set lacks are skipped by every step."""
    if len(ledgers) < 2:
        return []
    return [reason for reason in ledgers[0].reasons if all(reason in other.reasons for other in ledgers[1:])]


def _reasons_card(title: str, reasons: Iterable[Reason]) -> str:
    rows = "\n".join(
        f'<tr><td class="left outcome {esc(reason.outcome)}">{esc(reason.outcome)}</td><td data-label="Videos">'
        f'{number(reason.group.count)}</td><td class="left whole">{esc(reason.text)}</td>'
        f'<td class="left whole soft">{esc(_examples(reason.group))}</td></tr>'
        for reason in reasons
    )
    return (
        f'<div class="card">{title}<table class="reasons"><thead><tr><th scope="col" class="left">Outcome</th>'
        '<th scope="col">Videos</th><th scope="col" class="left">Reason</th>'
        f'<th scope="col" class="left">For example</th></tr></thead><tbody>\n{rows}\n</tbody></table></div>'
    )


# ------------------------------------------------------------------------------------------- folds, settings
def _folds(found: Survey) -> str:
    title = '<h2 id="folds">Folds</h2>'
    if not found.folds:
        return f'{title}<p class="card">{esc(found.folds_fault or "folds.csv lists no crop.")}</p>'
    largest = max(sum(fold.crops.values()) for fold in found.folds.values())
    order = {part.name: index for index, part in enumerate(found.dataset.parts)}
    columns = (("Real videos", "videos", REAL), ("Fake videos", "videos", FAKE), ("Real crops", "crops", REAL),
               ("Fake crops", "crops", FAKE))  # fmt: skip
    rows, total = [], Fold()
    for index, fold in found.folds.items():
        parts = sorted(fold.parts, key=lambda name: (order.get(name, len(order)), name))
        shown = ", ".join(parts) if len(parts) <= 4 else f"{parts[0]} … {parts[-1]} ({len(parts)} parts)"
        cells = _cells((name, getattr(fold, kind)[label]) for name, kind, label in columns)
        rows.append(
            f'<tr><th scope="row" class="left whole">{index} <span class="soft">{esc(shown)}</span></th>{cells}'
            f'<td class="wide">{_bar(fold, largest)}</td></tr>'
        )
        total.videos.update(fold.videos)
        total.crops.update(fold.crops)
    head = '<th scope="col" class="left">Fold and parts</th>'
    head += "".join(f'<th scope="col">{name}</th>' for name, _, _ in columns)
    head += '<th scope="col" class="left">Crops, <span class="real">real</span> and <span class="fake">fake</span></th>'
    foot = '<tr><th scope="row" class="left whole">All folds</th>' + _cells(
        (name, getattr(total, kind)[label]) for name, kind, label in columns
    ) + '<td class="wide"></td></tr>'  # fmt: skip
    warning = "" if len(found.folds) > 1 else (
        '<p class="card warn">Only one fold has crops: with it held out, nothing is left to train on.</p>'
    )  # fmt: skip
    return (
        f"{title}<p>Training holds out one fold, 0 unless told otherwise. Whole parts go to folds, so that both sides "
        "share as few people as possible. Bars are to one scale.</p>"
        + warning
        + _table(head, rows, foot, plural(len(rows), "fold"))
    )


def _bar(fold: Fold, largest: int) -> str:
    widths = ((key, 100 * fold.crops[label] / largest) for key, label in (("r", REAL), ("f", FAKE)))
    pieces = "".join(f'<i class="{key}" style="width:{width:.2f}%"></i>' for key, width in widths if width)
    return f'<div class="bar">{pieces}</div>'


def _settings(found: Survey) -> str:
    rows = []
    for step in STEPS[:-1]:
        made = found.tally.settings.get(step, {})
        texts = sorted(made.items(), key=lambda item: (-item[1], item[0]))
        shown = "<br>".join(f"{_setting(text)} <span>({plural(count, 'video')})</span>" for text, count in texts[:5])
        if len(texts) > 1:
            shown += "<br><b>Not all alike: run the step again, and the old ones are made anew.</b>"
        rows.append(f"<dt>{TITLES[step]}</dt><dd>{shown or 'nothing made yet'}</dd>")
    rows.append(f"<dt>{TITLES[STEPS[-1]]}</dt><dd>as in the table of folds</dd>")
    return (
        '<h2 id="settings">Made with</h2><p>The settings that the stamps of the artifacts name; a step whose settings '
        f'change makes its artifacts anew.</p><dl class="settings card">{"".join(rows)}</dl>'
    )


def _setting(text: str) -> str:
    values = json.loads(text)
    pieces = []
    for key, value in values.items():
        shown = " / ".join(map(str, value)) if isinstance(value, list) else str(value)
        pieces.append(f"{esc(key.replace('_', ' '))} <b>{esc(shown)}</b>")
    return ", ".join(pieces) or "no settings named"
