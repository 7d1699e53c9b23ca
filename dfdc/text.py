"""Text files that others wrote, and names of files in messages."""

from __future__ import annotations

import unicodedata
from typing import Final

# UTF-8, with or without the mark that some editors and spreadsheets put first. Bytes that are no UTF-8 are read as
# Python reads them in file names, so that such names are found.
TEXT: Final = {"encoding": "utf-8-sig", "errors": "surrogateescape"}


def printable(text: object) -> str:
    """`text` for a terminal or a log: what Python's repr escapes is escaped in the same way, but for spaces.

    So a file name can't move the cursor, colour the screen, begin a line or turn the rest of it round, and one that is
    no UTF-8 can be printed: control characters, marks of direction and lone surrogates become \\x1b, \\u202e, \\udcff.
    """
    return "".join(map(_visible, str(text)))


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")
