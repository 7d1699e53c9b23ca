"""The index of a report: all videos, the most suspicious first, in pages of PAGE_ROWS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from dfdc.pages import render
from prediction.pages.views import Band, Made, band
from prediction.verdict import Verdict

PAGE_ROWS = 100
NEAR = 2  # links to this many pages on each side of the current one, besides the first and the last
# The kinds of bands in the order of the index, with the heading and score range of each group.
KINDS = {
    "fake": ("Signs of a fake", "score 0.7 or more"),
    "open": ("No clear answer", "score 0.3 to 0.7"),
    "real": ("Few or no signs", "score under 0.3"),
    "unscored": ("No verdict", "reason in each row"),
}


@dataclass(frozen=True)
class Row:
    """A video in the index; `page` is relative to the index, `thumbnail` a JPEG.

    `status` has the doubts too, and is empty if all frames were read and there are none.
    """

    verdict: Verdict
    band: Band | None
    page: str
    thumbnail: bytes | None
    status: str

    @property
    def kind(self) -> str:
        return self.band.kind if self.band else "unscored"


@dataclass(frozen=True)
class Group:
    """Rows of one kind on one index page; `begins` if no earlier page has rows of this kind."""

    kind: str
    name: str
    count: int  # on all pages
    rows: list[Row]
    begins: bool


@dataclass(frozen=True)
class Tile:
    """A kind, its number of videos, and a link to its first row (empty without one)."""

    name: str
    count: int
    under: str
    link: str


@dataclass(frozen=True)
class PageLink:
    """An index page and its range of scores; `gap` if pages between the previous link and this one are left out."""

    number: int
    link: str
    scores: str
    gap: bool


@dataclass(frozen=True)
class IndexPage:
    """One page of the index: its rows `first` to `last`. `previous` and `next` are links, empty at the ends."""

    number: int
    total: int
    first: int
    last: int
    groups: list[Group]
    tiles: list[Tile]
    links: list[PageLink]
    previous: str
    next: str
    made: Made


def index_name(number: int) -> str:
    """The file name of index page `number`, from 1 on."""
    return "index.html" if number == 1 else f"index-page-{number}.html"


def build_index(
    verdicts: Sequence[Verdict], pages: Mapping[str, str], thumbnails: Mapping[str, bytes], made: Made
) -> dict[str, bytes]:
    """The index pages, UTF-8, by file name.

    Args:
        pages: each video's page relative to the index, by name.
        thumbnails: JPEGs by name; videos without one may be missing.
    """
    rows = []
    for verdict in sorted(verdicts, key=lambda v: (v.score is None, -(v.score or 0.0), v.filename)):
        name, found = verdict.filename, None if verdict.score is None else band(verdict.score)
        # Beside a score, "ok" would read as a verdict.
        told = [] if verdict.status == "ok" else [": ".join(filter(None, (verdict.status, verdict.reason)))]
        rows.append(Row(verdict, found, pages[name], thumbnails.get(name), "; ".join([*told, *verdict.doubts])))
    counts = Counter(row.kind for row in rows)
    sheets = [rows[start : start + PAGE_ROWS] for start in range(0, len(rows), PAGE_ROWS)] or [[]]
    begins: dict[str, int] = {}  # the page on which a kind begins
    for number, sheet in enumerate(sheets, 1):
        for row in sheet:
            begins.setdefault(row.kind, number)
    tiles = [
        Tile(name, counts[kind], under, f"{index_name(begins[kind])}#{kind}" if kind in begins else "")
        for kind, (name, under) in KINDS.items()
    ]
    scores = [_scores(sheet) for sheet in sheets]
    built = {}
    for number, sheet in enumerate(sheets, 1):
        groups = [
            Group(kind, KINDS[kind][0], counts[kind], list(own), begins[kind] == number)
            for kind, own in groupby(sheet, lambda row: row.kind)
        ]
        first = (number - 1) * PAGE_ROWS
        page = IndexPage(
            number,
            len(rows),
            first + 1,
            first + len(sheet),
            groups,
            tiles,
            _links(number, scores),
            index_name(number - 1) if number > 1 else "",
            index_name(number + 1) if number < len(sheets) else "",
            made,
        )
        built[index_name(number)] = render(Path(__file__).with_name("index.html.j2"), page)
    return built


def _scores(sheet: Sequence[Row]) -> str:
    known = [row.verdict.score for row in sheet if row.verdict.score is not None]
    return f"{max(known):.2f} to {min(known):.2f}" if known else "no score"


def _links(number: int, scores: Sequence[str]) -> list[PageLink]:
    """Links to the first, the last and the nearest pages; none for a single page."""
    if len(scores) == 1:
        return []
    near = range(max(1, number - NEAR), min(len(scores), number + NEAR) + 1)
    shown = sorted({1, len(scores), *near})
    return [
        PageLink(page, index_name(page), scores[page - 1], gap=page - before > 1)
        for before, page in zip([shown[0], *shown], shown, strict=False)
    ]
