"""What the command does around scoring: options, what is kept, what is written and said.

A stand-in does the scoring.
"""

import json
import math
import types
from typing import ClassVar

import pytest
from helpers import run_script, write_part
from scoring_runs import details

import predict_folder
from dfdc import identity
from dfdc.command_line import SettingError, UserError
from dfdc.layout import FOLDS_NAME
from networks.engines import Choice
from networks.files import model_names
from prediction import FolderSettings, Status, folder, reports, score_folder
from prediction.conclusion import conclude
from prediction.progress import program_version
from prediction.results import check_places
from prediction.settings import Floors
from prediction.verdict import Face, Verdict

SCORES = {"a.mp4": 0.0625, "b.mp4": 0.9375, "c.mp4": None}  # exact in binary


class StandIn:
    """Gives a video of SCORES ten faces of that score, and one of None none; notes how it was made and used."""

    made: ClassVar[list] = []
    engine = "torch"

    def __init__(self, paths, **options):
        self.paths, self.options, self.compiled = paths, options, []
        self.pays = False
        self.scored: list = []
        self.open = False
        self.ensemble = types.SimpleNamespace(
            detector_thresholds=(0.7, 0.8, 0.8),
            compile=self.compile,
            names=["a"],
            engine=self.engine,
            said="PyTorch, they say",
        )
        StandIn.made.append(self)

    def __enter__(self):
        self.open = True
        return self

    def __exit__(self, *_):
        self.open = False

    def should_compile(self, when, paths):
        self.asked = when, [path.name for path in paths]
        return self.pays or when == "on"

    def compile(self, only_if_faster):
        self.compiled.append(only_if_faster)
        return "compiled, they say"

    def run(self, progress, tell):
        assert self.open
        for name in progress.videos:
            if name in progress.done:
                continue
            progress.begin(name)
            score = SCORES[name]
            status, reason = ("ok", "") if score else ("no face", "nobody there")
            verdict = Verdict(name, status, reason, path=str(progress.videos[name]), frames_read=32)
            if score:
                faces = [
                    Face(number, 0, [9.0, 9.0, 99.0, 99.0], 1.0, 1.0, [score] * len(self.paths)) for number in range(10)
                ]
                verdict.faces = faces
                conclude(verdict, model_names(self.paths), self.options["strategy"], self.options["floors"])
            self.scored.append(name)
            progress.add(verdict)
            tell(verdict)
        return [progress.done[name] for name in progress.videos]


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    StandIn.made = []
    monkeypatch.setattr(folder, "Scorer", StandIn)


@pytest.fixture
def go(weights, tmp_path):
    """Run the command over a folder of three files; `go(...)` gives its exit status."""
    (tmp_path / "v").mkdir()
    for name in SCORES:
        (tmp_path / "v" / name).write_bytes(name.encode())

    def run(*more, models=("a",), videos=tmp_path / "v", output=tmp_path / "o.csv"):
        given = ["--weights-dir", weights, "--models", *models, "--output", output, "--device", "cpu", *more]
        if videos is not None:
            given += ["--test-dir", videos]
        if "--report" not in more:
            given += ["--no-report"]
        return predict_folder.main([str(value) for value in given])

    run.output = tmp_path / "o.csv"
    return run


def test_what_is_written(go, weights):
    assert go("--precision", "fp32") == 1
    assert go.output.read_text() == (
        "filename,label,status,doubts,faces,frames\n"
        "a.mp4,0.0625,ok,,10,32\n"
        "b.mp4,0.9375,ok,,10,32\n"
        "c.mp4,,no face,,0,32\n"
    )
    found = details(go.output)
    checkpoint = identity.fingerprint(weights / "a")
    assert list(found) == ["version", "program", "settings", "summary", "videos"]
    assert (found["version"], found["program"]) == (2, program_version())
    assert found["settings"] == {
        "models": [{"name": "a", "size": checkpoint["size"], "xxh3": checkpoint["xxh3"]}],
        "frames": 32,
        "detector_scale": "auto",
        "margin_part": 3,
        "strategy": "confident",
        "floors": {"faces": 8, "side": 50.0},
        "precision": "fp32",
        "engine": "torch",
        "detector_thresholds": [0.7, 0.8, 0.8],
    }
    assert found["summary"] == {"statuses": {"ok": 2, "no face": 1}, "doubts": {}}
    assert [video["filename"] for video in found["videos"]] == list(SCORES)


def test_another_program_gets_the_verdicts_and_the_same_files(go, weights, tmp_path):
    given = {"weights_dir": weights, "places": [tmp_path / "v"], "device": "cpu"}
    verdicts = score_folder(FolderSettings(["a"], output=tmp_path / "p.csv", **given))
    assert {verdict.filename: verdict.score for verdict in verdicts} == SCORES
    assert verdicts[2].status is Status.NO_FACE
    go()
    for suffix in (".csv", ".json"):
        assert (tmp_path / "p.csv").with_suffix(suffix).read_bytes() == go.output.with_suffix(suffix).read_bytes()


def test_it_is_0_where_every_file_has_a_verdict(go, tmp_path):
    (tmp_path / "v/c.mp4").unlink()
    assert go() == 0


def test_the_second_run_scores_what_has_no_verdict_yet(go, capsys, tmp_path):
    go()
    first = go.output.with_suffix(".json").read_text()
    capsys.readouterr()
    assert go() == 1
    said = capsys.readouterr().out
    assert len(StandIn.made) == 1
    assert "3 of 3 are already done; force scores them again" in said
    assert "loading" not in said
    assert go.output.with_suffix(".json").read_text() == first
    (tmp_path / "v/b.mp4").write_bytes(b"another film")
    go()
    assert StandIn.made[-1].scored == ["b.mp4"]
    assert StandIn.made[-1].asked == ("auto", ["b.mp4"])
    assert "2 of 3 are already done" in capsys.readouterr().out
    go("--force")
    assert StandIn.made[-1].scored == list(SCORES)
    assert "before" not in capsys.readouterr().out


def test_another_strategy_and_other_floors_take_kept_scores_another_detector_or_device_does_not(go, monkeypatch):
    go()
    go("--strategy", "mean", "--few-faces", "11", "--small-faces", "91")
    assert len(StandIn.made) == 1
    found = details(go.output)
    assert found["settings"]["floors"] == {"faces": 11, "side": 91.0}
    assert found["videos"][0]["models"][0]["rule"] == "mean"
    assert found["videos"][0]["doubts"] == ["few faces", "small faces"]
    assert found["summary"]["doubts"] == {"few faces": 2, "small faces": 2}
    go("--detector-scale", "0.5")
    assert StandIn.made[-1].scored == list(SCORES)
    assert details(go.output)["settings"]["detector_scale"] == 0.5
    monkeypatch.setattr(folder, "resolve_device", lambda name: "cuda:1")
    go("--precision", "fp32")
    assert StandIn.made[-1].scored == list(SCORES)
    monkeypatch.setattr(folder, "resolve_device", lambda name: "cuda:0")
    count = len(StandIn.made)
    go("--precision", "fp32")
    assert len(StandIn.made) == count


def test_a_kept_score_that_is_none_is_made_again(go, tmp_path):
    go()
    kept = tmp_path / "o.csv.progress"
    lines = kept.read_text().splitlines()
    lines[1] = lines[1].replace('"scores": [0.0625]', '"scores": [1.5]', 1)
    kept.write_text("\n".join(lines) + "\n")
    go()
    assert StandIn.made[-1].scored == ["a.mp4"]


def test_options_reach_the_scorer(go, weights):
    go("--precision", "bf16", "--strategy", "smooth", "--detector-scale", "2", "--few-faces", "3", models=("a", "b"))
    (made,) = StandIn.made
    assert made.paths == [weights / "a", weights / "b"]
    assert made.options == {
        "device": "cpu",
        "precision": "bf16",
        "strategy": "smooth",
        "detector_scale": 2.0,
        "floors": Floors(3, 50.0),
        "engine": "torch",
        "shown": True,
    }
    assert details(go.output)["settings"]["precision"] == "bf16"
    assert [model["name"] for model in details(go.output)["settings"]["models"]] == ["a", "b"]


@pytest.mark.parametrize(("when", "if_faster"), [("on", False), ("auto", True)])
def test_compiling_is_said_and_done(go, monkeypatch, capsys, when, if_faster):
    monkeypatch.setattr(StandIn, "should_compile", lambda self, *_: True)
    go("--compile", when)
    assert StandIn.made[0].compiled == [if_faster]
    said = capsys.readouterr().out
    assert "compiling the networks" in said
    assert "compiled, they say" in said


def test_compiling_that_fails_is_an_error_of_its_option(go, monkeypatch):
    def fail(self, only_if_faster):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(StandIn, "compile", fail)
    with pytest.raises(SettingError, match="compile on: no compiler"):
        go("--compile", "on")
    assert go("--compile", "off") == 1
    assert StandIn.made[-1].asked[0] == "off"


def test_checkpoints_are_counted_and_progress_is_shown(go, monkeypatch, capsys):
    monkeypatch.setattr("dfdc.progress._LOG_INTERVAL_S", 1e-9)
    go(models=("a", "b"))
    said = capsys.readouterr()
    assert "loading 2 checkpoints\n" in said.out
    assert "3/3" in said.err
    go("--force", models=("a",))
    assert "loading 1 checkpoint\n" in capsys.readouterr().out


def test_what_is_said(go, capsys):
    go("--few-faces", "11")
    said = capsys.readouterr().out
    assert "  0.0625 a.mp4  (few faces)\n  0.9375 b.mp4  (few faces)\n  no face: c.mp4: nobody there\n" in said
    assert "videos by status\n  ok             2  scored\n  no face        1  no verdict\n" in said
    assert "doubts: 2 few faces (docs/scoring.md" in said
    assert f"written: {go.output} and {go.output.with_suffix('.json')}" in said
    go()
    assert "doubts" not in capsys.readouterr().out


def label_file(tmp_path, rows=("a.mp4,0", "b.mp4,1", "c.mp4,1")):
    path = tmp_path / "l.csv"
    path.write_text("\n".join(["filename,label", *rows]) + "\n")
    return path


@pytest.mark.slow
def test_labels_give_metrics_and_a_picture(go, tmp_path, capsys):
    go("--labels", label_file(tmp_path))
    found = details(go.output)["summary"]
    assert found["labels"] == {"counted": 2, "without_verdict": 1, "without_label": 0}
    assert found["metrics"]["log_loss"] == pytest.approx(-math.log(0.9375))
    assert "held_out" not in found
    said = capsys.readouterr().out
    assert "on 2 labelled videos (1 fake): log loss 0.0645, auc 1.0000, average precision 1.0000, " in said
    assert "equal error rate 0.0000, accuracy 1.0000\n" in said
    assert (tmp_path / "o_reliability.png").stat().st_size > 1000
    go()
    assert "metrics" not in details(go.output)["summary"]
    assert not (tmp_path / "o_reliability.png").exists()


@pytest.mark.slow
def test_a_temperature_is_fitted_to_the_scores_and_applied_later(go, tmp_path, monkeypatch):
    monkeypatch.setattr("prediction.calibration.FEWEST_VIDEOS", 2)
    labels = label_file(tmp_path, ["a.mp4,0", "b.mp4,1"])
    go("--labels", labels, "--calibrate", tmp_path / "t.json")
    fitted = json.loads((tmp_path / "t.json").read_text())
    assert (fitted["videos"], fitted["fakes"]) == (2, 1)
    assert fitted["temperature"] == 0.2  # so well are they told apart
    go("--calibration", tmp_path / "t.json", "--labels", labels)
    found = details(go.output)
    assert found["settings"]["temperature"] == 0.2
    assert found["videos"][1]["score_uncalibrated"] == 0.9375
    assert found["videos"][1]["score"] == pytest.approx(1 / (1 + (1 / 15) ** 5))
    assert found["summary"]["metrics"]["log_loss"] < 1e-5
    assert [part["name"] for part in found["summary"]["metrics_of_parts"]] == ["a", "ensemble"]


def test_labels_too_few_for_a_temperature_are_refused_before_anything_is_scored(go, tmp_path):
    with pytest.raises(UserError, match="calibrate: fitting needs"):
        go("--labels", label_file(tmp_path), "--calibrate", tmp_path / "t.json")
    assert StandIn.made == []


def test_a_folder_of_videos_is_all_that_has_to_be_given(go, weights, tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(reports, "make_report", lambda *given: seen.append(given) or given[0] / "index.html")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").symlink_to(weights)
    assert predict_folder.main(["--test-dir", "v"]) == 1  # one video has no face
    names = sorted(path.name for path in weights.iterdir())
    out = capsys.readouterr().out
    assert out.startswith(f"checkpoints in weights: {', '.join(names)}\n")
    assert [path.name for path in StandIn.made[0].paths] == names
    assert [str(given[0]) for given in seen] == ["submission_report"]
    assert (tmp_path / "submission.csv").is_file()


def test_the_report_gets_the_networks_that_scored_or_loads_them(go, tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(reports, "make_report", lambda *given: seen.append(given) or tmp_path / "r/index.html")
    monkeypatch.setattr(folder, "warn_of_few", lambda paths: [f"few in {path.name}" for path in paths])
    go("--report", tmp_path / "r")
    place, verdicts, settings, warnings, checkpoints, load, files = seen[0]
    assert place == tmp_path / "r"
    assert [verdict.filename for verdict in verdicts] == list(SCORES)
    assert settings == details(go.output)["settings"]
    assert warnings == details(go.output)["summary"]["warnings"] == ["few in a"]
    assert load() is StandIn.made[0].ensemble
    assert [str(path) for path in checkpoints.values()] == [str(path) for path in StandIn.made[0].paths]
    assert files == {name: identity.fingerprint(tmp_path / "v" / name) for name in SCORES}
    assert f"report: {tmp_path / 'r/index.html'}" in capsys.readouterr().out
    go("--report", tmp_path / "r", "--precision", "auto")
    assert len(StandIn.made) == 1
    assert seen[1][3] == details(go.output)["summary"]["warnings"] == ["few in a"]  # though nothing was scored
    loaded = seen[1][5]()
    assert len(loaded.models) == 1
    assert loaded.precision == details(go.output)["settings"]["precision"]
    go()
    assert len(seen) == 2


@pytest.mark.parametrize(("chosen", "asked", "said"), [("torch", "torch", "because"), ("openvino", "auto", "they say")])
def test_a_conversion_that_failed_is_not_tried_again_by_the_scorer(go, monkeypatch, capsys, chosen, asked, said):
    monkeypatch.setattr(folder, "choose_engine", lambda *_, **more: Choice(chosen, "PyTorch, because the disk is full"))
    monkeypatch.setattr(StandIn, "engine", chosen)
    go()
    assert StandIn.made[0].options["engine"] == asked
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("networks: ")]
    assert said in line


def test_heat_maps_are_made_by_pytorch_whatever_scored(go, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(reports, "make_report", lambda *given: seen.append(given) or tmp_path / "r/index.html")
    monkeypatch.setattr(folder, "choose_engine", lambda *_, **more: Choice("openvino", "as they say"))
    monkeypatch.setattr(StandIn, "engine", "openvino")
    go("--report", tmp_path / "r")
    assert details(go.output)["settings"]["engine"] == "openvino"
    loaded = seen[0][5]()
    assert loaded is not StandIn.made[0].ensemble
    assert (loaded.engine, len(loaded.compilable)) == ("torch", 1)


@pytest.mark.slow
def test_scoring_alone_loads_nothing_that_only_labels_or_pages_take():
    listed = "import sys, prediction.folder; print({'sklearn', 'matplotlib', 'pytorch_grad_cam'} & sys.modules.keys())"
    assert run_script("-c", listed).stdout == "set()\n"
    loaded = run_script("-c", listed.replace("prediction.folder", "prediction.reports")).stdout
    assert all(name in loaded for name in ("sklearn", "matplotlib", "pytorch_grad_cam"))


def test_a_fold_has_its_labels_and_says_who_may_have_learned_from_it(go, tmp_path, capsys):
    root = tmp_path / "root"
    entries = {"a.mp4": {"label": "REAL"}, "b.mp4": {"label": "FAKE", "original": "a.mp4"}}
    write_part(root / "dfdc_train_part_0", entries)
    for name in entries:
        (root / "dfdc_train_part_0" / name).write_bytes(name.encode())
    (root / FOLDS_NAME).write_text("video,fold\na,3\nb,3\n")
    assert go("--fold", "3", videos=root) == 0
    found = details(go.output)["summary"]
    assert found["held_out"] == {"fold": 3, "by": [{"name": "a", "fold": "unknown"}]}
    assert found["metrics"]["count"] == 2
    said = capsys.readouterr()
    assert "(unknown whether these videos were in the training sets of a)" in said.out
    assert "warning: a does not record" in said.err


def test_folders_lists_and_folders_in_folders(go, tmp_path):
    (tmp_path / "v/deep").mkdir()
    (tmp_path / "v/c.mp4").rename(tmp_path / "v/deep/c.mp4")
    assert go() == 0
    assert go("--recursive") == 1
    (tmp_path / "l.txt").write_text("v/a.mp4\n")
    go("--list", tmp_path / "l.txt", videos=None)
    assert [video["filename"] for video in details(go.output)["videos"]] == ["a.mp4"]


def test_the_self_test_gets_its_options(go, weights, monkeypatch):
    seen = {}

    def note(paths, **options):
        seen.update(options, paths=paths)
        return 5

    monkeypatch.setattr(folder, "self_test", note)
    assert go("--self-test", "--store", "--force", "--precision", "bf16", "--compile", "on", videos=None) == 5
    wanted = {"store": True, "force": True, "device": "cpu", "precision": "bf16", "compile_": True}
    assert seen == {"paths": [weights / "a"], **wanted, "engine": "torch"}  # others can't be compiled
    go("--self-test", videos=None)
    assert (seen["store"], seen["force"], seen["compile_"], seen["engine"]) == (False, False, False, "auto")
    go("--self-test", "--engine", "onnx", videos=None)
    assert seen["engine"] == "onnx"
    with pytest.raises(SettingError, match="device tpu"):
        go("--self-test", "--device", "tpu", videos=None)


def test_a_device_that_is_none_is_an_error_of_its_option(go):
    with pytest.raises(SettingError, match="device tpu"):
        go("--device", "tpu")


def test_an_empty_file_may_be_written_to_and_one_that_is_read_not(go, tmp_path):
    go.output.touch()
    assert go() == 1
    listing = tmp_path / "x.csv"
    listing.write_text("v/a.mp4\n")
    with pytest.raises(UserError, match=r"output .*x.csv: is an input file"):
        go("--list", listing, videos=None, output=listing)
    (tmp_path / "r").mkdir()
    (tmp_path / "r/index.html").write_text("<!-- predict_folder.py --report -->")
    check_places(FolderSettings(["a"], report=tmp_path / "r"), [])


def test_an_output_has_one_run_at_a_time(go, monkeypatch):
    def second(self, progress, tell):
        with pytest.raises(UserError, match="another run writes to it"):
            go()
        raise ArithmeticError("the first one goes no further")

    monkeypatch.setattr(StandIn, "run", second)
    with pytest.raises(ArithmeticError):
        go()
