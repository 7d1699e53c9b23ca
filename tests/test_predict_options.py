"""Options of predict_folder.py that go together, and that do not."""

import pytest

import predict_folder
from dfdc.command_line import UserError
from prediction.settings import Floors


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--store"], "--store requires --self-test"),
        (["--self-test", "--list", "l"], "--self-test scores its own clip"),
        (["--self-test", "--labels", "l"], "--self-test scores its own clip"),
        (["--self-test", "--fold", "0"], "--self-test scores its own clip"),
        (["--self-test", "--calibrate", "l"], "--self-test scores its own clip"),
        (["--self-test", "--calibration", "l"], "--self-test scores its own clip"),
        (["--self-test", "--test-dir", "."], "--self-test scores its own clip"),
        (["--calibrate", "t", "--calibration", "t"], "leave out --calibration"),
        (["--calibrate", "t"], "--calibrate requires labels"),
        (["--fold", "0", "--labels", "l"], "leave out --labels"),
        (["--output", "o.txt"], "ends in .csv"),
        (["--output", "metadata.CSV"], "choose another name"),
        (["--self-test", "--engine", "ray"], "--self-test tests this machine"),
        (["--list", "l", "--ray-address", "a:1"], "ray_address a:1: it is for engine ray"),
        (["--list", "l", "--few-faces", "-1"], "the floor of faces is -1"),
        (["--list", "l", "--small-faces", "nan"], "the floor of side is nan"),
        (["--report", "r", "--no-report"], "--report and --no-report are mutually exclusive"),
        ([], "nothing to score; give --test-dir or --list"),
    ],
)
def test_options_that_do_not_go_together_are_refused(more, said):
    with pytest.raises(UserError, match=said):
        predict_folder.parse_arguments(["--models", "a", *more])


def test_an_output_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "o.csv").mkdir()
    with pytest.raises(UserError, match="choose a file name"):
        predict_folder.parse_arguments(["--models", "a", "--output", str(tmp_path / "o.csv")])


@pytest.mark.parametrize(
    ("given", "place", "library"),
    [
        ([], "local", "auto"),
        (["ray"], "ray", "auto"),
        (["openvino"], "local", "openvino"),
        (["ray", "openvino"], "ray", "openvino"),
        (["torch", "ray"], "ray", "torch"),
        (["local"], "local", "auto"),
        (["auto", "local"], "local", "auto"),
    ],
)
def test_an_engine_is_a_place_a_library_or_both(given, place, library):
    engine = ["--engine", *given] if given else []
    got = predict_folder.parse_arguments(["--models", "a", "--list", "l", *engine])
    assert (got.place, got.engine) == (place, library)


@pytest.mark.parametrize("given", [["ray", "local"], ["torch", "onnx"], ["ray", "torch", "openvino"], ["ray", "ray"]])
def test_two_engines_of_one_kind_are_refused(given):
    said = f"--engine {' '.join(given)}: give at most one of local, ray .* and one of auto, torch, openvino, onnx"
    with pytest.raises(UserError, match=said):
        predict_folder.parse_arguments(["--models", "a", "--list", "l", "--engine", *given])


def test_options_that_go_together():
    def parse(*arguments):
        return predict_folder.parse_arguments(["--models", "a", "b", *arguments])

    assert parse("--self-test", "--store").store
    assert parse("--calibrate", "t", "--fold", "0").fold == 0
    assert str(parse("--list", "l", "--calibrate", "t", "--labels", "l").calibrate) == "t"
    assert str(parse("--list", "l", "--report", "tests").report) == "tests"
    assert str(parse("--test-dir", "v", "--output", "out/o.csv").report) == "out/o_report"
    assert parse("--test-dir", "v", "--no-report").report is None
    got = parse("--test-dir", "v")
    assert (str(got.output), str(got.weights_dir), got.recursive, got.force) == (
        "submission.csv",
        "weights",
        False,
        False,
    )
    assert (got.device, got.precision, got.compile, got.strategy) == ("auto", "auto", "auto", "confident")
    assert got.floors == Floors()
    assert parse("--test-dir", "v", "--few-faces", "0", "--small-faces", "0").floors == Floors(0, 0.0)
