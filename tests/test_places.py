"""What predict_folder.py never writes over: files that are not its own results."""

import json
import sys

import pytest
from helpers import numbered_frames
from scoring_runs import run

import predict_folder
from dfdc.command_line import UserError, run_main
from dfdc.video import write_video
from prediction import folder as folder_module
from prediction.results import is_result


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v/a.mp4", numbered_frames(3))
    (tmp_path / "l.csv").write_text("filename,label\na.mp4,1\n")
    return tmp_path


@pytest.mark.slow
def test_its_own_results_are_replaced(weights, folder):
    for _ in range(2):
        assert run(weights, folder / "v", folder / "o.csv", models=["a"]) == 1  # no face


def test_a_result_of_an_earlier_version_is_replaced(weights, folder):
    (folder / "o.csv").write_text("filename,label\na.mp4,\n")
    (folder / "o.json").write_text(json.dumps({"settings": {}, "summary": {}, "videos": []}))
    assert run(weights, folder / "v", folder / "o.csv", models=["a"]) == 1
    assert (folder / "o.csv").read_text().startswith("filename,label,status")


@pytest.mark.parametrize(
    ("output", "more", "said"),
    [
        ("l.csv", ["--labels", "l.csv"], "output .*l.csv: is an input file"),
        ("l.csv", [], "output .*l.csv: was not written by this program"),
        (
            "notes.csv",
            [],
            "output .*notes.csv: its details would be written to notes.json, which was not written",
        ),
        ("o.csv", ["--labels", "l.csv", "--calibrate", "l.csv"], "calibrate .*l.csv: is an input file"),
        ("o.csv", ["--labels", "l.csv", "--calibrate", "o.json"], "calibrate .*o.json: the details of output are"),
        ("o.csv", ["--labels", "l.csv", "--calibrate", "notes.json"], "calibrate .*notes.json: was not written"),
        ("o.csv", ["--report", "site"], "report .*site: its index.html was not written by this program"),
    ],
)
def test_what_is_no_result_of_ours_is_not_written_over(weights, folder, monkeypatch, output, more, said):
    monkeypatch.setattr(folder_module, "check_enough", lambda labels: None)
    (folder / "notes.json").write_text('{"mine": 1}')
    (folder / "site").mkdir()
    (folder / "site/index.html").write_text("<p>mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    more = [option if option.startswith("-") else folder / option for option in more]
    with pytest.raises(UserError, match=said):
        run(weights, folder / "v", folder / output, *more, models=["a"])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_plot_of_an_earlier_run_does_not_stay_beside_other_scores(weights, folder):
    (folder / "o_reliability.png").write_bytes(b"old")
    run(weights, folder / "v", folder / "o.csv", models=["a"])
    assert not (folder / "o_reliability.png").exists()


@pytest.mark.parametrize(
    ("name", "content", "ours"),
    [
        ("o.csv", "filename,label,status,doubts,faces,frames\n", True),
        ("o.csv", "filename,label,status,doubts,faces,frames", True),
        ("o.CSV", "filename,label,status,doubts,faces,frames\n", True),
        ("o.csv", "filename,label\n", False),
        ("o.csv", "filename,label,status\n", False),
        ("o.json", '{"settings": {}, "videos": [], "more": 1}', True),
        ("o.json", '{"settings": {}}', False),
        ("o.json", '{"videos": []}', False),
        ("o.json", '{"temperature": 1}', True),
        ("o.json", '["temperature", "settings", "videos"]', False),
        ("o.json", "temperature", False),
    ],
)
def test_what_is_a_result_of_this_program(tmp_path, name, content, ours):
    (tmp_path / name).write_text(content)
    assert is_result(tmp_path / name) == ours


def test_a_command_names_settings_by_their_flags(folder, monkeypatch, capsys):
    (folder / "notes.csv").write_text("mine")
    arguments = ["--models", folder / "w", "--test-dir", folder / "v", "--output", folder / "notes.csv"]
    (folder / "w").write_bytes(b"PK")
    monkeypatch.setattr(sys, "argv", ["predict_folder.py", *map(str, arguments)])
    with pytest.raises(SystemExit, match="2"):
        run_main(predict_folder.main)
    assert capsys.readouterr().err.startswith(f"predict_folder.py: --output {folder / 'notes.csv'}: was not written")
