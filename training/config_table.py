"""Generate the table of all configuration keys in docs/training.md from the classes of training/config.py.

    python -m training.config_table

The command replaces the text between the two markers. A test checks that the page is up to date.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dfdc.artifacts import write_bytes
from training.config import TrainConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "training.md"
BEGIN, END = "<!-- configuration: begin -->\n", "<!-- configuration: end -->\n"
_KINDS: dict[Any, str] = {bool: "true or false", str: "string"}  # for fields without a range


def rows(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield dotted key, values, default and meaning of each field of `kind` and of its nested classes."""
    for name, field in kind.model_fields.items():
        inner: Any = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from rows(inner, f"{prefix}{name}.")
        else:
            yield f"`{prefix}{name}`", _values(field), f"`{json.dumps(field.default)}`", field.title or ""


def _values(field: FieldInfo) -> str:
    """The valid values of a field: its choices, or its type and range."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    if not field.description:
        return _KINDS[field.annotation]
    whole = "whole number, " if field.annotation is int else ""
    return f"{whole}{field.description}".replace("whole number, a number", "whole number").removeprefix("a ")


def table() -> str:
    """The Markdown table, with a final newline."""
    lines = [("key", "values", "default", "meaning"), ("---",) * 4, *rows(TrainConfig)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def with_table(page: str) -> str:
    """Replace the text between the markers of `page` with the current table.

    Raises:
        ValueError: a marker is missing.
    """
    before, _, rest = page.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"the markers {BEGIN.strip()} and {END.strip()} are expected")
    return f"{before}{BEGIN}{table()}{END}{after}"


def main() -> None:
    write_bytes(PAGE, with_table(PAGE.read_text(encoding="utf-8")).encode())


if __name__ == "__main__":
    main()
