"""The command that exports a checkpoint: what it refuses before PyTorch is loaded (export_model.py)."""

import pytest
from safetensors import safe_open

import export_model
from dfdc.command_line import UsageError


def parse(*arguments):
    return export_model.parse_arguments([str(value) for value in arguments])


@pytest.fixture
def files(tmp_path):
    """A checkpoint, as far as the arguments are concerned, and a file beside it."""
    for name in ("a", "a.safetensors", "there.onnx"):
        (tmp_path / name).write_text("something")
    (tmp_path / "folder.onnx").mkdir()
    return tmp_path


def test_the_name_of_the_output_is_that_of_the_checkpoint_and_the_form(files):
    for form, name in (("onnx", "a.onnx"), ("safetensors", "there.onnx.safetensors")):
        given = files / name.removesuffix(f".{form}")
        args = parse(given, "--format", form)
        assert (args.checkpoint, args.format, args.output, args.force) == (given, form, files / name, False)
    assert parse(files / "a", "--format", "onnx", "--output", files / "X.ONNX").output == files / "X.ONNX"
    assert parse(files / "a", "--format", "onnx", "--output", files / "there.onnx", "--force").force


@pytest.mark.parametrize(
    ("given", "form", "output", "said"),
    [
        ("absent", "onnx", None, "absent: no such checkpoint"),
        (".", "onnx", None, "no such checkpoint"),
        ("a", "onnx", "no/x.onnx", "the folder .*no does not exist; create it first"),
        ("a", "onnx", "there.onnx", r"there\.onnx already exists; use --force"),
        ("a", "safetensors", None, r"a\.safetensors already exists; use --force"),
        ("a", "onnx", "folder.onnx", "this is a folder; choose another name"),
        ("a", "onnx", "x.bin", r"x\.bin: expected a file name that ends in \.onnx"),
        ("a.safetensors", "safetensors", "a.safetensors", "this is the checkpoint itself"),
    ],
)
def test_what_cant_be_written_is_refused(files, given, form, output, said):
    more = [] if output is None else ["--output", files / output]
    with pytest.raises(UsageError, match=said):
        parse(files / given, "--format", form, *more)
    if "itself" in said or "folder;" in said:  # --force changes nothing about these
        with pytest.raises(UsageError, match=said):
            parse(files / given, "--format", form, *more, "--force")


def test_a_form_that_is_none_is_refused(files, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(files / "a", "--format", "tflite")
    assert stop.value.code == 2
    assert "'tflite'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_writes_and_says_what(weights, tmp_path, capsys):
    output = tmp_path / "a.safetensors"
    assert export_model.main([str(weights / "a"), "--format", "safetensors", "--output", str(output)]) == 0
    assert f"written: {output}" in capsys.readouterr().out
    with safe_open(output, "pt") as file:
        assert "fc.weight" in file.keys()  # noqa: SIM118 (it is no dict)
