"""HTML pages: a view model and a template that lies beside the code which makes it -> bytes.

A page is one file that needs no network and no script; base.html.j2 is its frame, macros.html.j2 has what pages share,
style.css is their look. Everything that a template shows is escaped, in text and in attributes.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dfdc import text


def render(template: Path, page: object) -> bytes:
    """The page, UTF-8, of a view model (`page` in the template, which may extend base.html.j2 and those beside it).

    Raises:
        jinja2.UndefinedError: the template names what the view model does not have.
    """
    pieces = _environment(template.parent).get_template(template.name).generate(page=page)
    # A file name may hold bytes that are no text: \udcff is written as such. Piece by piece, since one long text of
    # a page with many pictures would lie in memory beside its bytes.
    return b"".join(piece.encode(errors="backslashreplace") for piece in pieces)


@lru_cache
def _environment(folder: Path) -> Environment:
    loader = FileSystemLoader([folder, Path(__file__).parent])
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for shape in (text.number, text.plural, text.percent, text.sentence, fixed, data_uri):
        made.filters[shape.__name__] = shape
    return made


def fixed(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}"


def data_uri(jpeg: bytes) -> Markup:
    """A picture as an address that holds it; base64 has nothing that would need escaping."""
    return Markup("data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii"))
