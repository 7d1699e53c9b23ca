"""The table of all configuration keys in docs/training.md, made from the classes of training/config.py.

    python -m training.config_table

writes it anew between its two markers; a test compares.
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
_KINDS: dict[Any, str] = {bool: "true or false", str: "text"}  # of fields that have no range


def rows(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Key with its dots, values, default and meaning of each field of `kind` and of the classes in it."""
    for name, field in kind.model_fields.items():
        inner: Any = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from rows(inner, f"{prefix}{name}.")
        else:
            yield f"`{prefix}{name}`", _values(field), f"`{json.dumps(field.default)}`", field.title or ""


def _values(field: FieldInfo) -> str:
    """What a field may hold: its choices, or its type and range."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    if not field.description:
        return _KINDS[field.annotation]
    whole = "whole number, " if field.annotation is int else ""
    return f"{whole}{field.description}".replace("whole number, a number", "whole number").removeprefix("a ")


def table() -> str:
    """The table in Markdown, ending with a line break."""
    lines = [("key", "values", "default", "meaning"), ("---",) * 4, *rows(TrainConfig)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def with_table(page: str) -> str:
    """The text of a page with the table as it is now between the markers.

    Raises:
        ValueError: a marker is not there.
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
