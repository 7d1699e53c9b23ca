"""Text helpers: reading text files of users, printable file names, and formatting of numbers."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pydantic import ValidationError

# UTF-8, with or without a byte order mark. Bytes that are not UTF-8 are decoded as Python decodes file names, so that
# such names match.
TEXT: Final = {"encoding": "utf-8-sig", "errors": "surrogateescape"}

_LONGEST_LINE = 2000  # characters of a line of a message


def printable(text: object) -> str:
    """Escape `text` for a terminal or log, like Python's repr, but keep spaces.

    Then a file name can't move the cursor, change colours, start a new line or reverse the text direction. Names that
    are not UTF-8 become printable. Examples of escapes: \\x1b, \\u202e, and \\udcff for a lone surrogate.
    """
    return "".join(map(_visible, str(text)))


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")


def shown(text: object) -> str:
    """`printable`, without the middle of a long text: a value of a file may be long."""
    line, half = printable(text), _LONGEST_LINE // 2
    return line if len(line) <= _LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


def describe_faults(error: ValidationError, whole: str) -> list[str]:
    """Location and reason of each invalid value; `whole` is the location of a fault of all values together."""
    return [f"{'.'.join(map(str, fault['loc'])) or whole}: {fault['msg']}" for fault in error.errors()]


def list_wrong(error: ValidationError) -> str:
    """Locations and reasons of the first ten invalid values in a file, and the number of the others."""
    faults = describe_faults(error, "the file")
    more = [f"and {len(faults) - 10} more"] if len(faults) > 10 else []
    return printable("; ".join([*faults[:10], *more]))


def number(value: int) -> str:
    return f"{value:,}"


def plural(count: int, word: str) -> str:
    return f"{number(count)} {word}" + ("" if count == 1 else "s")


def percent(part: int, whole: int) -> str:
    """A percentage with one decimal; 100 % and 0 % are reserved for exactly all and none."""
    if not whole or part in (0, whole):
        return "100 %" if whole and part else "0 %"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"


def sentence(text: str) -> str:
    """`text` with a capital first letter; the rest is unchanged."""
    return text[:1].upper() + text[1:]
