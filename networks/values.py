"""Converts plain values from files to dataclasses and back, with type checks that report every fault."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from dfdc.text import describe_faults, printable

T = TypeVar("T")


def read_values(kind: type[T], values: Any) -> T:
    """Convert `values` to the dataclass `kind`. Lists may be tuples; extra keys are ignored; no key may be missing.

    Raises:
        ValueError: `values` is invalid; the message lists every fault with its location.
    """
    try:
        # In JSON mode, a list may become a tuple.
        found = TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise ValueError(printable("; ".join(describe_faults(error, "all")))) from None
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not plain values: {error}") from None
    missing = [name for name in plain_values(found) if name not in values]
    if missing:
        raise ValueError(f"{', '.join(missing)}: missing")
    return found


def plain_values(instance: object) -> dict[str, Any]:
    """The inverse of `read_values`: a dataclass as JSON-compatible values, with tuples as lists."""
    return TypeAdapter(type(instance)).dump_python(instance, mode="json")
