"""JSON Schema of the files that scoring writes, made from their dataclasses: docs/schema/*.json.

    python -m prediction.schema

writes them anew; a test compares them.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter

from dfdc.artifacts import write_bytes
from prediction.calibration import TemperatureFile
from prediction.results import Submission
from prediction.selftest import Golden

KINDS = {"submission": Submission, "temperature": TemperatureFile, "self_test": Golden}
FOLDER = Path(__file__).resolve().parents[1] / "docs" / "schema"


def schema_of(name: str) -> str:
    """The text of a schema file, by its name in KINDS."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(KINDS[name]).json_schema()}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    for name in KINDS:
        write_bytes(FOLDER / f"{name}.json", schema_of(name).encode())


if __name__ == "__main__":
    main()
