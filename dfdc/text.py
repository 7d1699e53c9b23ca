"""Text files that others wrote, names of files in messages, and numbers in words."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pydantic import ValidationError

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


def list_wrong(error: ValidationError) -> str:
    """Where in a file wrong values stand, and why they are wrong: the first ten, and how many more there are."""
    faults = [f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}" for fault in error.errors()]
    more = [f"and {len(faults) - 10} more"] if len(faults) > 10 else []
    return printable("; ".join([*faults[:10], *more]))


def number(value: int) -> str:
    return f"{value:,}"


def plural(count: int, word: str) -> str:
    return f"{number(count)} {word}" + ("" if count == 1 else "s")


def percent(part: int, whole: int) -> str:
    """A share with one decimal; 100 % and 0 % are kept for all and none."""
    if not whole or part in (0, whole):
        return "100 %" if whole and part else "0 %"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"


def sentence(text: str) -> str:
    """`text` with a capital first; the rest stays as it is."""
    return text[:1].upper() + text[1:]
