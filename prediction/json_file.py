"""Read JSON files into dataclasses: the values are validated, and every invalid one is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from dfdc.identity import regular
from dfdc.text import list_wrong

T = TypeVar("T")


def read_json_file(path: Path, kind: type[T]) -> T:
    """Read a JSON file as `kind`, a dataclass. Unknown keys are ignored.

    Raises:
        OSError: the file can't be read.
        ValueError: the content is invalid; the message names every invalid value.
    """
    try:
        regular(path)
        # Python's parser: pydantic's refuses file names that are not UTF-8.
        return TypeAdapter(kind).validate_python(json.loads(path.read_bytes()))
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    except ValidationError as error:
        raise ValueError(list_wrong(error)) from None
