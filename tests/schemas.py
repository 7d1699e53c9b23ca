"""JSON Schema of the files that the project writes, made from their classes: docs/schema/*.json.

    python tests/schemas.py

writes them anew; test_schema.py compares them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from demo_data.demo_dataset import DemoFile
from dfdc.artifacts import write_bytes
from dfdc.boxes import Boxes
from dfdc.ledger import StepRun
from networks.engine_cache import Entry
from networks.spec import Description
from prediction.calibration import TemperatureFile
from prediction.progress import ProgressHeader, ProgressRow
from prediction.results import Submission
from prediction.selftest import Golden
from preprocessing.folds_stamp import FoldsStamp
from training.records import EpochRecord, StartRecord

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "schema"


@dataclass(frozen=True)
class StampFile:
    """.stamp.json of a folder. All other keys say what the folder was made from.

    Attributes:
        made: counts by kind.
        failed: why the folder is of no use, though it is there; null if it is.
        notes: what it lacks.
        files: their number, without the stamp.
        content: checksum of the names and contents of the files.
        listing: digest of their names, sizes and times.
        looks: what step 2 keeps of some crops; not there in other steps.
    """

    made: dict[str, Annotated[int, Field(ge=0)]]
    failed: str | None
    notes: list[str]
    files: int
    content: str
    listing: str
    looks: list[dict[str, str | None]] | None = None


KINDS = {
    "boxes": Boxes,  # bboxes/<original>.json
    "stamp": StampFile,  # .stamp.json
    "step": StepRun,  # failures/<step>.json
    "folds_stamp": FoldsStamp,  # .folds.csv.stamp.json
    "demo": DemoFile,  # demo.json
    "submission": Submission,
    "temperature": TemperatureFile,
    "self_test": Golden,  # <checkpoint>.golden.json
    "progress_header": ProgressHeader,  # first line of submission.csv.progress
    "progress_row": ProgressRow,  # each other line
    "training_start": StartRecord,  # lines of logs/<run>.jsonl, and weights/<run>_config.json
    "training_epoch": EpochRecord,  # lines of logs/<run>.jsonl
    "exported": Description,  # metadata of exported networks
    "engine": Entry,  # .engines/<entry>/entry.json beside checkpoints
}


def schema_of(name: str) -> str:
    """The text of a schema file, by its name in KINDS."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **TypeAdapter(KINDS[name]).json_schema()}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    for name in KINDS:
        write_bytes(FOLDER / f"{name}.json", schema_of(name).encode())


if __name__ == "__main__":
    main()
