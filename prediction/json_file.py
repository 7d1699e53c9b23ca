"""JSON files that are read back: what a dataclass says of them is checked, and every fault is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from dfdc.text import list_wrong

T = TypeVar("T")


def read_json_file(path: Path, kind: type[T]) -> T:
    """What a JSON file holds, as `kind`, a dataclass. Keys that it has not are passed over.

    Raises:
        OSError: it can't be read.
        ValueError: it is no such file; the message names every wrong value.
    """
    try:
        # By Python's reader: pydantic's own refuses names of files that are no UTF-8.
        return TypeAdapter(kind).validate_python(json.loads(path.read_bytes()))
    except RecursionError:
        raise ValueError("its brackets are nested too deep") from None
    except ValidationError as error:
        raise ValueError(list_wrong(error)) from None
