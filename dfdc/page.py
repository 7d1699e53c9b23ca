"""What all HTML pages share: escaping, numbers in words, pictures, and the frame around the content.

A page is one file that needs no network and no script. Whatever comes from file names or from other files goes
through `esc`.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from pathlib import Path

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def esc(value: object) -> str:
    """`value` as text that is safe in HTML, in attributes too."""
    return html.escape(str(value), quote=True)


def number(value: int) -> str:
    return f"{value:,}"


def plural(count: int, word: str) -> str:
    return f"{number(count)} {word}" + ("" if count == 1 else "s")


def percent(part: int, whole: int) -> str:
    """A share with one decimal; 100 % and 0 % are kept for all and none."""
    if not whole or part in (0, whole):
        return "100 %" if whole and part else "0 %"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"


def bullets(items: Iterable[str]) -> str:
    """Texts as a list; empty ones are left out, and nothing is left of none."""
    rows = "".join(f"<li>{esc(item)}</li>" for item in items if item)
    return f"<ul>{rows}</ul>" if rows else ""


def image(jpeg: bytes, alt: str) -> str:
    return f'<img alt="{esc(alt)}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'


def document(title: str, sections: Iterable[str], footer: str, own_style: Path) -> bytes:
    """The whole page, UTF-8.

    Args:
        title: plain text.
        sections: HTML; empty ones are left out.
        footer: HTML.
        own_style: a CSS file that follows the one of all pages.
    """
    style = "".join(path.read_text(encoding="utf-8") for path in (Path(__file__).with_name("page.css"), own_style))
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{esc(POLICY)}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{esc(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, sections))
        + f"\n<footer>{footer}</footer>\n</body>\n</html>\n"
    )
    return page.encode(errors="backslashreplace")  # a file name may hold bytes that are no text
