"""Whole commands on files with anything in them: no traceback, and nothing written elsewhere (hostile_roots.py)."""

import contextlib
import faulthandler
import itertools
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hostile import CASES, hostile
from hostile_roots import (
    COMMANDS,
    Files,
    InThisProcess,
    Middle,
    call,
    contents_of,
    edited,
    file_edits,
    flags_of,
    is_output,
    make_root,
    metadata_edits,
    run,
)
from hypothesis import event, given, settings
from hypothesis import strategies as st
from loss_logs import FULL_LOG, LOG, write_log
from training_runs import write_config

import plot_loss
import predict_folder
from dfdc import faces, steps
from dfdc.plotting import plt
from prediction import folder, metrics_report
from prediction.conclusion import conclude
from prediction.settings import Floors
from prediction.verdict import Face, Status, Verdict
from training import resume, saving, train_classifier, trainer


@pytest.fixture(scope="module")
def stubs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "_open_engine", lambda *_: InThisProcess())
        patch.setattr(faces, "FaceDetector", Middle)
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def sound(stubs, tmp_path_factory):
    """A DATA_ROOT of which nothing is hostile, and the content of its files."""
    root = tmp_path_factory.mktemp("sound") / "root"
    root.mkdir()
    make_root(root)
    return root, contents_of(root)


@pytest.fixture(autouse=True)
def hangs_end():
    faulthandler.dump_traceback_later(600, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def is_artifact(name):
    """A function for `edited`: whether step `name` makes a path. A linked folder is where its link leads."""

    def may_change(copy, path, before):
        tops = COMMANDS[name][1]
        away = [os.path.realpath(copy / top) for top in tops if (copy / top).is_symlink() and (copy / top).is_dir()]
        if any(path.startswith(f"{place}/") and not copy.is_relative_to(place) for place in away):
            return not path.startswith(f"{copy}/part_")
        inside = Path(os.path.relpath(path, copy)).parts
        is_stamp = (
            inside[-1] == ".stamp.json" and path in before
        )  # of an earlier step: its listing is brought up to date
        return inside[0] in tops or (is_stamp and inside[0] in ("crops", "landmarks", "diffs"))

    return may_change


@hostile
@given(data=st.data())
def test_steps_and_report_bear_hostile_files(sound, data):
    root, files = sound
    edits = data.draw(st.lists(metadata_edits(files) | file_edits(files) | file_edits(files), min_size=1, max_size=3))
    name = data.draw(st.sampled_from([*COMMANDS]))
    flags = data.draw(flags_of(name))
    with edited(root, edits, is_artifact(name)) as place:
        faulthandler.dump_traceback_later(60, exit=True)
        ran = run(name, place, *itertools.chain(*flags))
        event(f"{name}: {ran.status}")


# ----------------------------------------------------------------------------------------------------- predict_folder
class Scores:
    """A stand-in for a `Scorer` that neither decodes nor computes."""

    def __init__(self, paths):
        self.ensemble = SimpleNamespace(engine="torch", said="PyTorch", detector_thresholds=(0.6, 0.7, 0.7))
        self.ensemble.names = [path.name for path in paths]

    def should_compile(self, *_):
        return False

    def run(self, progress, *, tell):
        for name in progress.videos.keys() - progress.done.keys():
            progress.begin(name)
            verdict = Verdict(name, Status.OK, frame_count=40, frames_read=2, sizes=[[0, 96, 64]])
            box = [1.0, 2.0, 90.0, 60.0]
            verdict.faces = [Face(frame, 0, box, 0.99, 1.0, [0.75] * len(self.ensemble.names)) for frame in (0, 10)]
            conclude(verdict, self.ensemble.names, "confident", Floors())
            progress.add(verdict)
            tell(verdict)


@pytest.fixture(scope="module")
def scored(sound, weights, tmp_path_factory):
    """A folder of inputs of predict_folder.py and of its results, as on an earlier day."""
    home = tmp_path_factory.mktemp("scored") / "in"
    shutil.copytree(sound[0], home / "root", ignore=shutil.ignore_patterns("crops", "diffs", "landmarks", "bboxes"))
    shutil.copytree(weights, home / "weights")
    (home / "videos").mkdir()
    for number in range(8):
        shutil.copy(sound[0] / "part_0/a.mp4", home / f"videos/{number}.mp4")
    labels = {f"{number}.mp4": "REAL" if number < 4 else "FAKE" for number in range(8)}
    (home / "list.txt").write_text("".join(f"videos/{name}\n" for name in labels))
    rows = ["filename,label", *map(",".join, labels.items())]
    (home / "labels.csv").write_text("\n".join(rows) + "\n")
    (home / "labels.json").write_text(json.dumps({name: {"label": label} for name, label in labels.items()}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics_report, "plot_reliability", lambda *_: None)  # a third of a second
        patch.setattr(folder, "_open_scorer", lambda settings, device, paths, _: contextlib.nullcontext(Scores(paths)))
        arguments = ("--labels", home / "labels.csv", "--calibrate", home / "out/temperature.json")
        assert score(home, "--test-dir", home / "videos", *arguments).status == 0
        yield home, contents_of(home)


def score(home, *arguments):
    way = ("--weights-dir", home / "weights", "--device", "cpu", "--engine", "torch", "--no-report")
    return call(predict_folder.main, *way, "--output", home / "out/out.csv", *arguments)


INPUTS = st.sampled_from([("--test-dir", "videos"), ("--list", "list.txt"), ("--fold", 0, "--test-dir", "root")])
SCORING_FLAGS = st.sampled_from(
    [
        *((), ("--labels", "labels.csv"), ("--labels", "labels.json"), ("--calibration", "out/temperature.json")),
        *(("--labels", "labels.csv", "--calibrate", "out/temperature.json"), ("--force",), ("--shard", "1/2")),
    ]
)


@hostile
@given(data=st.data())
def test_scoring_bears_hostile_files(scored, data):
    home, files = scored
    edits = data.draw(st.lists(metadata_edits(files, "root/") | file_edits(files), min_size=1, max_size=3))
    arguments = (*data.draw(INPUTS), *data.draw(SCORING_FLAGS))
    with edited(home, edits, is_output) as place:
        arguments = [place / str(text) if (home / str(text)).exists() else text for text in arguments]
        event(f"{score(place, *arguments).status}")


# ---------------------------------------------------------------------------------------------------------- training
@pytest.fixture(scope="module")
def trained(sound, weights, tmp_path_factory):
    """A folder of inputs of training/train_classifier.py, and the log of a run."""
    home = tmp_path_factory.mktemp("trained") / "in"
    shutil.copytree(sound[0], home / "root", ignore=shutil.ignore_patterns("bboxes", "failures", "report"))
    shutil.copy(weights / "a", home / "start")
    write_config(home)
    write_log(home / "run.jsonl", *FULL_LOG)
    write_log(home / "x$_$.jsonl", *LOG)
    (home / "out").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "prepare", read_all)
        yield home, contents_of(home)


def read_all(data, settings, config, *_):
    """In place of a run: read what it would begin from, and each crop once."""
    resume.find_start(settings, config, saving.run_files(settings, config))
    for loader in (data.loader, data.held_out.loader):
        assert list(loader)


@hostile
@given(data=st.data())
def test_training_reads_hostile_files(trained, data):
    home, files = trained
    edits = data.draw(st.lists(metadata_edits(files, "root/") | file_edits(files), min_size=1, max_size=3))
    flag = data.draw(st.sampled_from(["--init-from={}/start", "--validate-on=o={}/root:1", "--fold=1"]))
    with edited(home, edits, is_output) as place:
        places = ("--data-dir", place / "root", "--output-dir", place / "out/weights", "--log-dir", place / "out/logs")
        way = ("--config", place / "config.json", "--device", "cpu", "--workers", 0, "--batch-size", 1)
        event(f"{call(train_classifier.main, *places, *way, flag.format(place)).status}")


@settings(hostile, max_examples=CASES // 4 or 3)  # a plot takes a third of a second
@given(data=st.data())
def test_plots_bear_hostile_logs(trained, data):
    home, files = trained
    logs = [path for path in files if path.endswith(".jsonl")]
    edits = data.draw(st.lists(file_edits(Files({path: files[path] for path in logs})), max_size=2))
    chosen = data.draw(st.lists(st.sampled_from(logs), min_size=1, max_size=2))
    flags = data.draw(st.sampled_from([(), ("--select", 1), ("--first-epoch", 2)]))
    with edited(home, edits, is_output) as place:
        out = ("--output", place / "out/plot.png", "--select-file", place / "out/selected")
        event(f"{call(plot_loss.main, '--log-file', *(place / log for log in chosen), *out, *flags).status}")
    plt.close("all")
