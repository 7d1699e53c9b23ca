"""What checkpoints say they held out, and who asks them (networks/holdout.py, prediction/inputs.py)."""

import hashlib
import json

import pandas as pd
import pytest
import torch
from helpers import make_crops, numbered_frames, run_script, write_part
from scoring_runs import details, make_checkpoint, run
from training_runs import SCRIPT, arguments, log_text, path_of, read, terminate_at, train, write_config

import export_model
from dfdc.command_line import SettingError, UserError
from dfdc.video import write_video
from networks import checkpoint
from networks.engines import check_model
from networks.holdout import Holdout, common_holdout, describe_start, read_holdout
from networks.spec import CheckpointError
from networks.values import read_values
from prediction.held_out import check_held_out
from training import average_checkpoints

HELD_OUT = ("fake0", "fake3", "real0", "real3")  # of fold 0, see helpers.make_crops


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A DATA_ROOT with crops, three folds and videos."""
    root = make_crops(tmp_path_factory.mktemp("holdout") / "root")
    entries = {}
    for family in range(6):
        entries[f"real{family}.mp4"] = {"label": "REAL"}
        entries[f"fake{family}.mp4"] = {"label": "FAKE", "original": f"real{family}.mp4"}
    part = write_part(root / "dfdc_train_part_0", entries)
    for name in entries:
        write_video(part / name, numbered_frames(1))
    return root


@pytest.fixture(scope="module")
def expected(root):
    return Holdout(0, hashlib.sha256((root / "folds.csv").read_bytes()).hexdigest(), HELD_OUT, 8)


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """A run that held out fold 0: stopped before its end, and resumed."""
    place = tmp_path_factory.mktemp("trained")
    config = write_config(place, epochs=2, ema_decay=0.5)
    with pytest.MonkeyPatch.context() as patch:
        terminate_at(patch, 4)
        assert train(root, place, config, "--fold", 0) == 143
    assert train(root, place, config, "--fold", 0, "--resume", "auto") == 0
    return place


def model_of(place, name):
    return {"weights": path_of(place, name).parent, "models": [path_of(place, name).name]}


def score(root, output, fold, weights, models, *more):
    return run(weights, root, output, "--fold", fold, *more, models=models)


@pytest.mark.slow
def test_every_file_of_a_run_says_what_was_held_out(trained, expected):
    for name in ("0", "0_ema", "1", "1_ema", "last", "before", "best"):
        assert read(trained, name).holdout == expected, name
    assert "may be too optimistic" not in log_text(trained)


def test_t63_scoring_the_held_out_fold_is_fine_and_says_so(root, trained, expected, tmp_path, capsys):
    assert score(root, tmp_path / "o.csv", 0, **model_of(trained, "best")) == 1  # no face in them
    found = details(tmp_path / "o.csv")
    assert [video["filename"] for video in found["videos"]] == [f"{video}.mp4" for video in HELD_OUT]
    name = path_of(trained, "best").name
    said = {"name": name, "fold": 0, "folds_sha256": expected.folds_sha256, "trained_on_videos": 8}
    assert found["summary"]["held_out"] == {"fold": 0, "by": [said]}
    printed = capsys.readouterr()
    (warning,) = [line for line in printed.err.splitlines() if "warning" in line]
    assert warning == f"warning: {name} was trained on 8 videos only; its scores of other people mean nothing"
    assert found["summary"]["warnings"] == [warning.removeprefix("warning: ")]
    assert "unknown" not in printed.out


@pytest.mark.slow
def test_t63_scoring_a_fold_that_was_trained_on_is_refused(root, trained, tmp_path):
    weights, (name,) = model_of(trained, "best").values()
    done = run_script(
        "predict_folder.py",
        "--weights-dir",
        weights,
        "--models",
        name,
        "--test-dir",
        root,
        "--fold",
        1,
        "--output",
        tmp_path / "o.csv",
        "--device",
        "cpu",
    )
    assert done.returncode == 2
    assert f"{name}, which held out fold 0: 4 of 4 videos (fake1, fake4, real1, ...)" in done.stderr
    assert "use --fold 0; to score training videos on purpose, give --labels instead of --fold" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    labels = root / "dfdc_train_part_0/metadata.json"  # the advice is taken
    assert run(weights, labels.parent, tmp_path / "o.csv", "--labels", labels, models=[name]) == 1
    assert "held_out" not in details(tmp_path / "o.csv")["summary"]


@pytest.mark.slow
def test_a_checkpoint_that_does_not_say_is_warned_of(root, trained, tmp_path, capsys):
    weights, (name,) = model_of(trained, "1").values()
    make_checkpoint(weights, "older", size=32)
    assert score(root, tmp_path / "o.csv", 0, weights, [name, "older"]) == 1
    printed = capsys.readouterr()
    assert "warning: older does not record what it was trained on" in printed.err
    assert printed.err.count("does not record") == 1
    assert "(unknown whether these videos were in the training sets of older)" in printed.out
    by = details(tmp_path / "o.csv")["summary"]["held_out"]["by"]
    assert [said["fold"] for said in by] == [0, "unknown"]
    assert by[1] == {"name": "older", "fold": "unknown"}
    with pytest.raises(UserError, match=r"held out fold 0: 4 of 4 videos"):  # one is enough
        score(root, tmp_path / "p.csv", 2, weights, ["older", name])
    (weights / "broken").write_bytes(b"PK")
    with pytest.raises(UserError, match="broken can't be read safely as a checkpoint"):
        check_held_out([], 0, [weights / "broken"])


def save(path, holdout):
    network = checkpoint.build_network("DeepFakeClassifier", "test_efficientnet")
    spec = checkpoint.ModelSpec("DeepFakeClassifier", "test_efficientnet", 32)
    checkpoint.save_checkpoint(path, network, spec, epoch=0, bce_best=1, metrics={}, holdout=holdout)
    return path


def test_what_to_do_follows_from_the_folds_of_the_checkpoints(tmp_path):
    one = save(tmp_path / "one", Holdout(1, "x", ("a", "b"), 5))
    two = save(tmp_path / "two", Holdout(2, "x", ("c",), 5))
    same = save(tmp_path / "same", Holdout(0, "y", ("a",), 5))
    assert [said.fold for said in check_held_out(["a.mp4", "b.mp4"], 1, [one])] == [1]
    for models, advice in (
        ([one], "\nuse fold 1; to"),
        ([two, one], "\nuse fold 1 or use fold 2 (each checkpoint alone); to"),
        ([same, one], "\nuse the folds.csv that it was trained with"),
    ):
        with pytest.raises(UserError) as error:
            check_held_out(["a.mp4", "d.e.mp4"], 0, models)
        assert advice in str(error.value)
        assert str(error.value).count("which held out") == len(models)
    assert "same, which held out fold 0: 1 of 2 videos (d.e)\n" in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "onnx"])
def test_an_export_says_it_too(trained, expected, tmp_path, form):
    output = tmp_path / f"m.{form}"
    export_model.main([str(path_of(trained, "1")), "--format", form, "--output", str(output)])
    assert check_model(output)[1] == expected


@pytest.mark.slow
def test_a_mean_holds_out_what_all_its_parts_did(root, trained, expected, tmp_path):
    def average(out, *more):
        given = [path_of(trained, "0"), path_of(trained, "1"), "--data-dir", root, "--workers", 0, "--device", "cpu"]
        return average_checkpoints.main([str(value) for value in (*given, "--output", out, *more)])

    with pytest.raises(SettingError, match=r"^fold 1: these checkpoints were trained on it.* fold 0: give fold 0"):
        average(tmp_path / "x", "--fold", 1)
    assert average(tmp_path / "x") == 0
    assert checkpoint.read_checkpoint(tmp_path / "x").holdout == expected
    kept = path_of(trained, "1").read_bytes()
    try:
        for data, held_out in (({"held_out": ["fake0", "other"]}, ("fake0",)), (None, None)):
            content = torch.load(path_of(trained, "1"), weights_only=True)
            content["data"] = data and content["data"] | data
            torch.save(content, path_of(trained, "1"))
            assert average(tmp_path / f"x{held_out}") == 0
            found = checkpoint.read_checkpoint(tmp_path / f"x{held_out}").holdout
            assert (found and found.held_out) == held_out
    finally:
        path_of(trained, "1").write_bytes(kept)
    table = (root / "folds.csv").read_text()
    (root / "other.csv").write_text(table + "\n")  # another data set's: it may have other folds
    assert average(tmp_path / "y", "--fold", 1, "--folds-csv", "other.csv") == 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "held_out"), [("another fold", ()), ("the same", HELD_OUT), ("older", None)])
def test_a_run_that_began_with_other_weights_holds_out_no_more_than_they_did(
    root, trained, expected, tmp_path, monkeypatch, kind, held_out
):
    start = path_of(trained, "1")
    if kind == "older":
        content = torch.load(start, weights_only=True)
        del content["data"]
        start = tmp_path / "older"
        torch.save(content, start)
    fold = 1 if kind == "another fold" else 0
    config = write_config(tmp_path)
    terminate_at(monkeypatch, 4)
    assert train(root, tmp_path, config, "--fold", fold, "--init-from", start) == 143
    monkeypatch.undo()
    (last,) = (tmp_path / "weights").glob("*_last")
    (log,) = (tmp_path / "logs").glob("*.log")
    doubts = {
        "another fold": "may have been trained on 4 of the 4 held-out videos",
        "older": "the training set of the initial weights is unknown",
    }
    said = doubts.get(kind, "the initial weights")
    assert (said in log.read_text()) == (kind in doubts)
    for _ in range(2):  # as it was stopped, and resumed
        found = checkpoint.read_checkpoint(last).holdout
        assert (found and (found.fold, found.held_out)) == (held_out if held_out is None else (fold, held_out))
        assert train(root, tmp_path, config, "--fold", fold, "--resume", "auto") == 0
    if kind == "another fold":
        with pytest.raises(UserError, match="use the folds"):
            score(root, tmp_path / "o.csv", 1, last.parent, [last.name])


@pytest.mark.slow
def test_a_run_of_an_earlier_version_says_it_from_now_on(root, expected, tmp_path, monkeypatch):
    config = write_config(tmp_path)
    terminate_at(monkeypatch, 4)
    assert train(root, tmp_path, config) == 143
    monkeypatch.undo()
    content = torch.load(path_of(tmp_path, "last"), weights_only=True)
    assert read_values(Holdout, content.pop("data")) == expected
    torch.save(content, path_of(tmp_path, "last"))
    assert read(tmp_path).holdout is None
    assert train(root, tmp_path, config, "--resume", "auto") == 0
    assert read(tmp_path, "best").holdout == expected


@pytest.mark.slow
def test_a_changed_table_of_folds_is_still_refused(root, tmp_path):
    config = write_config(tmp_path, epochs=1)
    (root / "mine.csv").write_text((root / "folds.csv").read_text())
    assert train(root, tmp_path, config, "--folds-csv", "mine.csv") == 0
    (root / "mine.csv").write_text((root / "folds.csv").read_text().replace(",0\n", ",1\n", 1))
    done = run_script(SCRIPT, *arguments(root, tmp_path, config, "--folds-csv", "mine.csv", "--resume", "auto"))
    assert done.returncode == 2
    assert "folds.csv (checksum)" in done.stderr


def test_a_video_in_two_folds_is_not_held_out(tmp_path):
    (tmp_path / "f.csv").write_text("x")
    table = pd.DataFrame({"video": ["b", "a", "a", "c", "c", "d"], "fold": [1, 1, 1, 1, 0, 2]})
    table = table.astype({"video": "category"})
    found = read_holdout(table, 1, tmp_path / "f.csv")
    assert found == Holdout(1, hashlib.sha256(b"x").hexdigest(), ("a", "b"), 2)
    assert found.learned(["c", "a", "z"]) == ["c", "z"]


def test_what_several_held_out_and_what_a_start_may_spoil():
    first, second = Holdout(1, "x", ("a", "b", "c"), 5), Holdout(2, "y", ("b", "c", "d"), 6)
    both = Holdout(1, "x", ("b", "c"), 5)
    assert common_holdout([first, second]) == both
    assert common_holdout([first]) == first
    assert common_holdout([first, None]) is common_holdout([None, first]) is common_holdout([]) is None
    assert describe_start(first, first) == ""
    assert describe_start(first, both) == ("the initial weights may have been trained on 1 of the 3 held-out videos")
    assert "is unknown" in describe_start(first, None)


@pytest.mark.parametrize(
    "change", [{"fold": "x"}, {"held_out": "abc"}, {"held_out": [1]}, {"trained_on_videos": None}, {"fold": None}, None]
)
@pytest.mark.parametrize("form", ["checkpoint", "safetensors"])
def test_a_broken_section_is_named(tmp_path, change, form):
    path = save(tmp_path / "m", Holdout(1, "x", ("a",), 5))
    good = checkpoint.read_file(path)["data"]
    assert good == {"fold": 1, "folds_sha256": "x", "held_out": ["a"], "trained_on_videos": 5}
    bad = 3 if change is None else good | change
    if form == "checkpoint":
        torch.save(checkpoint.read_file(path) | {"data": bad}, path)
    else:
        from safetensors.torch import save_file

        found = checkpoint.read_checkpoint(path)
        path = tmp_path / "m.safetensors"
        save_file(found.state_dict, path, checkpoint.describe(found) | {"data": json.dumps(bad)})
    with pytest.raises(CheckpointError, match=r"its '(data|description)' is invalid"):
        checkpoint.read_checkpoint(path)
