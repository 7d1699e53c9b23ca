"""JSON Schema of the files that the project writes (schemas.py, docs/schema)."""

import json

import pytest
import schemas
import training_runs
from helpers import numbered_frames, run_script
from pydantic import TypeAdapter
from scoring_runs import run

from dfdc.video import write_video
from networks import checkpoint
from prediction.results import Submission


@pytest.mark.parametrize("name", schemas.KINDS)
def test_the_files_are_what_the_classes_say(name):
    path = schemas.FOLDER / f"{name}.json"
    assert path.read_text() == schemas.schema_of(name), "python tests/schemas.py writes it anew"
    assert json.loads(path.read_text())["type"] == "object"


def test_nothing_else_lies_there_and_the_command_writes_all(tmp_path, monkeypatch):
    assert {path.stem for path in schemas.FOLDER.glob("*.json")} == schemas.KINDS.keys()
    monkeypatch.setattr(schemas, "FOLDER", tmp_path)
    schemas.main()
    assert {path.stem for path in tmp_path.iterdir()} == schemas.KINDS.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("boxes", "bboxes/*.json"),
        ("stamp", "crops/*/.stamp.json"),
        ("stamp", "landmarks/*/.stamp.json"),
        ("stamp", "diffs/*/.stamp.json"),
        ("step", "failures/*.json"),
        ("folds_stamp", ".folds.csv.stamp.json"),
        ("demo", "demo.json"),
    ],
)
def test_the_steps_write_what_the_schema_says(preprocessed, name, pattern):
    schema = json.loads((schemas.FOLDER / f"{name}.json").read_text())
    paths = sorted(preprocessed.glob(pattern))
    assert paths
    for path in paths:
        text = path.read_bytes()
        TypeAdapter(schemas.KINDS[name]).validate_json(text, strict=True)
        keys = json.loads(text).keys()
        assert keys >= {*schema["required"]}, path
        if name != "stamp":
            assert keys == schema["properties"].keys(), path


@pytest.mark.slow
def test_a_run_writes_what_the_schema_says(weights, demo_root, tmp_path):
    """Keys of the file are those of the classes, with nothing over, and read back they are the same values."""
    (video, *_) = sorted(demo_root.rglob("*.mp4"))
    (tmp_path / "v").mkdir()
    (tmp_path / "v/a.mp4").write_bytes(video.read_bytes())
    write_video(tmp_path / "v/b.mp4", numbered_frames(3))
    (tmp_path / "l.csv").write_text("filename,label\na.mp4,1\nb.mp4,0\n")
    run(weights, tmp_path / "v", tmp_path / "o.csv", "--labels", tmp_path / "l.csv")
    text = (tmp_path / "o.json").read_text()
    content = json.loads(text)
    known = TypeAdapter(Submission)
    found = known.validate_json(text)
    back = known.dump_python(found, mode="json")
    assert back["videos"] == content["videos"]
    for part in ("settings", "summary"):
        assert {key: value for key, value in back[part].items() if value is not None}.keys() == content[part].keys()
    assert [verdict.status for verdict in found.videos] == ["too short", "no face"]
    assert found.settings.models[0].name == "a"
    assert found.summary.metrics.count == 1
    assert content.keys() == known.json_schema()["properties"].keys()
    header, *rows = (tmp_path / "o.csv.progress").read_text().splitlines()
    check_lines("progress_header", [header])
    check_lines("progress_row", rows)


def check_lines(name, lines):
    """See that lines of JSON are what a schema says, with no key more."""
    schema = json.loads((schemas.FOLDER / f"{name}.json").read_text())
    assert lines
    for line in lines:
        TypeAdapter(schemas.KINDS[name]).validate_json(line)
        assert {*schema["required"]} <= json.loads(line).keys() <= schema["properties"].keys(), line


@pytest.mark.slow
def test_training_and_export_write_what_the_schemas_say(crops_root, tmp_path):
    config = training_runs.write_config(tmp_path, epochs=2)
    assert training_runs.train(crops_root, tmp_path, config) == 0
    start, *epochs = next((tmp_path / "logs").glob("*.jsonl")).read_text().splitlines()
    check_lines("training_start", [start, next((tmp_path / "weights").glob("*_config.json")).read_text()])
    check_lines("training_epoch", epochs)
    assert len(epochs) == 2
    texts = checkpoint.describe(training_runs.read(tmp_path))
    check_lines("exported", [json.dumps({name: json.loads(text) for name, text in texts.items()})])


def test_what_a_program_needs_is_light(tmp_path):
    """A process that decodes, and --help, must not wait for PyTorch."""
    code = (
        "import sys, prediction.decoding_child; heavy = 'pebble', 'PIL', 'pydantic', 'torch'; "
        "print([name for name in heavy if name in sys.modules]); "
        "import prediction.settings, networks.precision; print('torch' in sys.modules)"
    )
    assert run_script("-c", code).stdout == "[]\nFalse\n"
