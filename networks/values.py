"""Plain values of files as dataclasses: types are checked, and every fault is named."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from dfdc.text import printable

T = TypeVar("T")


def read_values(kind: type[T], values: Any) -> T:
    """`values` as the dataclass `kind`. Lists may be tuples; further keys are passed over; none of its own may lack.

    Raises:
        ValueError: they are something else; the message names every fault with its place.
    """
    try:
        found = TypeAdapter(kind).validate_json(json.dumps(values), strict=True)  # of JSON, a list may be a tuple
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'all'}: {fault['msg']}" for fault in error.errors()]
        raise ValueError(printable("; ".join(faults))) from None
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no plain values: {error}") from None
    missing = [name for name in plain_values(found) if name not in values]
    if missing:
        raise ValueError(f"{', '.join(missing)}: missing")
    return found


def plain_values(instance: object) -> dict[str, Any]:
    """The other way round, of a dataclass: what JSON can hold, tuples as lists."""
    return TypeAdapter(type(instance)).dump_python(instance, mode="json")
