"""Pipes, sockets and devices in place of files: each reader names them, and waits for none."""

import os
import signal
import socket
from pathlib import Path

import pytest
from scoring_runs import make_checkpoint
from scoring_runs import run as run_scoring

from dfdc import folds, layout
from dfdc.artifacts import read_stamp
from dfdc.boxes import read_boxes
from dfdc.command_line import UserError, run_main
from dfdc.identity import NotAFileError, regular
from dfdc.imaging import read_picture
from dfdc.landmarks import read_landmarks
from dfdc.ledger import read_rows, read_run
from dfdc.rejections import load_rejections
from networks.checkpoint import read_checkpoint
from networks.files import find_models
from prediction.inputs import list_inputs, read_labels
from prediction.json_file import read_json_file
from prediction.pages.kept import read_kept
from prediction.results import Submission, check_places
from prediction.settings import FolderSettings
from preprocessing.generate_folds import read_val_ids
from preprocessing.pages.scan import Tally, _count_folder
from training.config import load_config
from training.dataset import read_folds
from training.records import read_epochs


@pytest.fixture(autouse=True)
def no_waiting():
    """Reading a pipe that nobody writes to would take forever."""

    def fail(*_):
        raise AssertionError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("folder", Path.mkdir),
        ("named pipe", os.mkfifo),
        ("socket", lambda path: socket.socket(socket.AF_UNIX).bind(str(path))),
        ("device", lambda path: path.symlink_to("/dev/null")),
    ],
)
def test_each_kind_is_named(tmp_path, kind, make):
    path = tmp_path / "a"
    make(path)
    with pytest.raises(NotAFileError) as error:
        regular(path)
    assert str(error.value) == f"{path}: not a regular file but a {kind}"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("metadata.json", lambda path: layout.load_dataset(path.parent.parent)),
        (layout.REJECTED_NAME, lambda path: load_rejections(path.parent)),
        (layout.FOLDS_NAME, folds.read_distinct),
        (layout.FOLDS_NAME, read_folds),
        ("list", lambda path: list_inputs([], [path])),
        ("list", lambda path: find_models(path.parent, [f"@{path}"])),
        ("list", read_val_ids),
        ("labels.json", lambda path: read_labels(path, {})),
        ("labels.csv", lambda path: read_labels(path, {})),
        ("config.json", load_config),
        ("out.json", lambda path: read_json_file(path, Submission)),
        ("run.jsonl", read_epochs),
        ("checkpoint", read_checkpoint),
        ("a.json", read_boxes),
        (".stamp.json", lambda path: read_stamp(path.parent)),
        ("step.csv", read_rows),
        ("0_0.png", read_picture),
        ("0_0.npy", read_landmarks),
        ("a.safetensors", read_checkpoint),
    ],
)
def test_a_pipe_in_place_of_a_file_is_named_and_not_read(tmp_path, name, read):
    path = tmp_path / "part" / name
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises((UserError, NotAFileError), match=f"{name}.*a named pipe|NotAFileError"):
        read(path)


def test_a_pipe_in_place_of_a_record_or_a_page_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "step.json")
    os.mkfifo(tmp_path / "a.html")
    os.mkfifo(tmp_path / ".stamp.json")
    assert read_run(tmp_path / "step.csv") is None
    assert read_kept(tmp_path / "a.html", "digest") is None
    tally, video = Tally(), layout.Video("a", tmp_path / "a.mp4", "part_0", "REAL", None)
    _count_folder(tally, "extract_crops", "crops", tmp_path, video)
    assert [sentence for sentence in tally.problems if "a corrupt stamp" in sentence]


def test_an_output_takes_no_place_of_a_pipe(pipe):
    output = pipe.rename(pipe.with_name("out.csv"))
    with pytest.raises(UserError, match="was not written by this program"):
        check_places(FolderSettings(output=output), [])


def test_a_command_ends_with_one_line(pipe, capsys):
    with pytest.raises(SystemExit) as ended:
        run_main(lambda argv: regular(pipe))
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"{pipe}: not a regular file but a named pipe; give a file\n")


def test_special_files_among_the_inputs_get_a_verdict(tmp_path, pipe, capsys):
    make_checkpoint(tmp_path, "a")
    videos = tmp_path / "videos"
    videos.mkdir()
    os.mkfifo(videos / "pipe.mp4")
    socket.socket(socket.AF_UNIX).bind(str(videos / "socket.png"))
    (videos / "endless.mkv").symlink_to("/dev/zero")
    (tmp_path / "list.txt").write_text("pipe\n")
    assert run_scoring(tmp_path, videos, tmp_path / "out.csv", "--list", str(tmp_path / "list.txt"), models=("a",)) == 1
    said = capsys.readouterr().out
    for name, kind in (("pipe.mp4", "named pipe"), ("socket.png", "socket"), ("endless.mkv", "device")):
        assert f"unreadable: {name}: can't be opened: not a regular file but a {kind}\n" in said
    assert "unreadable: pipe: can't be opened: not a regular file but a named pipe\n" in said
