"""HTML pages, rendered from a view model and a template beside the code of the view model.

A page is one file that needs no network and no script. base.html.j2 is its frame, macros.html.j2 has the common macros,
style.css the style. Everything that a template shows is escaped, in text and in attributes.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dfdc import text


def render(template: Path, page: object) -> bytes:
    """The page of a view model, UTF-8.

    Args:
        template: it may extend base.html.j2 and templates in its own folder.
        page: the view model, `page` in the template.

    Raises:
        jinja2.UndefinedError: the template uses an attribute that the view model lacks.
    """
    pieces = _environment(template.parent).get_template(template.name).generate(page=page)
    # A file name can have bytes that are not UTF-8: \udcff is written as such. Encoding piece by piece saves memory:
    # the text of a page with many images is large.
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
    """The JPEG as a data URI; base64 needs no escaping."""
    return Markup("data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii"))
