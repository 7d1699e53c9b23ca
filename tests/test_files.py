"""Which checkpoints are used (networks/files.py)."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from test_inputs import write

from dfdc.command_line import SettingError
from networks import files


def refused(call, *arguments):
    with pytest.raises(SettingError) as error:
        call(*arguments)
    return str(error.value)


def test_checkpoints_by_name_or_path_and_what_is_like_a_wrong_name(tmp_path, monkeypatch):
    for name in ("run_0", "run_10", "run_2", "run_best", "README.md"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    found = files.find_models(tmp_path / "absent", ["run_2"])
    assert [path.resolve() for path in found] == [tmp_path / "run_2"]
    with pytest.raises(SettingError) as error:
        files.find_models(tmp_path, ["run_bets"])
    assert "did you mean run_best" in str(error.value)
    assert str(error.value).splitlines()[1:] == ["  run_best", "  run_0", "  run_2", "  run_10"]


def test_a_checkpoint_given_twice_is_refused(tmp_path):
    write(tmp_path, "w/a", data=b"abc")
    write(tmp_path, "w/b", "w/c", data=b"abd")
    write(tmp_path, "w/d", data=b"longer")
    folder = tmp_path / "w"
    (folder / "link").symlink_to("a")
    assert files.find_models(folder, ["a", "b", "d"]) == [folder / "a", folder / "b", folder / "d"]
    said = refused(files.find_models, folder, ["a", "a"])
    assert said == f"models {folder / 'a'}: it is given twice and would count twice; list it once"
    for twin, first in (("c", "b"), ("link", "a")):
        said = refused(files.find_models, folder, ["d", first, twin])
        assert f"models {folder / twin}: it is the same checkpoint as {folder / first} and would count twice" in said
    shutil.copy(folder / "a", tmp_path / "a")
    assert "is the same checkpoint as" in refused(files.find_models, folder, ["a", str(tmp_path / "a")])


def test_checkpoints_of_one_size_only_are_read_to_be_told_apart(tmp_path, monkeypatch):
    write(tmp_path, "a", data=b"abc")
    write(tmp_path, "b", data=b"abcd")

    def never(path):
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(files.identity, "file_checksum", never)
    assert len(files.find_models(tmp_path, ["a", "b"])) == 2


def test_checkpoints_named_in_a_file_and_what_is_there_instead(tmp_path):
    write(
        tmp_path,
        "run_1",
        "run_2",
        "run_4",
        "run_5",
        "x.json",
        "y.md",
        "z.txt",
        *(f"more_{number}" for number in range(25)),
    )
    (tmp_path / "run_2").write_bytes(b"another")
    (tmp_path / "names").write_bytes(b"\xef\xbb\xbfrun_2 \r\n\r\nrun_1\r\n")
    found = files.find_models(tmp_path, [f"@{tmp_path / 'names'}"])
    assert [path.name for path in found] == ["run_2", "run_1"]
    said = refused(files.find_models, tmp_path, ["run_3", "run_1", "other"])
    assert said.startswith(f"models run_3 other: not in {tmp_path} (did you mean run_")
    assert len(said.splitlines()) == 21
    assert len(said.partition("did you mean ")[2].partition("?)")[0].split(", ")) == 3
    assert "x.json" not in said
    (tmp_path / "empty").mkdir()
    said = refused(files.find_models, tmp_path / "empty", ["absent"])
    assert said == (
        f"models absent: not in {tmp_path / 'empty'}, which contains\n  "
        "no checkpoint; README.md, 'Score your videos', says how to get some"
    )
    (tmp_path / "names").write_text("\n")
    said = refused(files.find_models, tmp_path, [f"@{tmp_path / 'names'}"])
    assert said.endswith("names: it lists no checkpoint; plot_loss.py with select writes such a file")
    assert "can't be read (No such file" in refused(files.find_models, tmp_path, ["@absent"])


def test_checkpoints_of_one_name_are_shown_with_their_folders(monkeypatch, tmp_path):
    assert files.model_names([Path("/w/a"), Path("/v/b")]) == ["a", "b"]
    assert files.model_names([Path("/w/a"), Path("/v/a"), Path("/v/b")]) == ["w/a", "v/a", "b"]
    deep = [Path("/x/w/a"), Path("/y/w/a"), Path("/z/a")]
    assert files.model_names(deep) == ["x/w/a", "y/w/a", "z/a"]
    assert files.model_names([Path("/a"), Path("/w/a")]) == ["/a", "w/a"]
    assert files.model_names([Path("/w/a"), Path("/w/a")]) == ["/w/a", "/w/a"]  # find_models refuses it
    assert files.model_names([]) == []
    monkeypatch.chdir(tmp_path)
    assert files.model_names([Path("a"), Path("/w/a")]) == [f"{tmp_path.name}/a", "w/a"]


def test_a_checkpoint_is_read_once_until_it_changes(tmp_path, monkeypatch):
    write(tmp_path, "a", data=b"abc")
    write(tmp_path, "b", data=b"abd")
    read = []
    checksum = files.identity.file_checksum
    monkeypatch.setattr(files.identity, "file_checksum", lambda path: read.append(path.name) or checksum(path))
    for _ in range(2):
        paths = files.find_models(tmp_path, ["a", "b"])
        files.refuse_twins(paths)
        known = files.describe_models(paths)
    assert read == ["a", "b"]
    assert [(model.name, model.size, model.xxh3) for model in known] == [
        (path.name, 3, checksum(path)) for path in paths
    ]
    os.utime(tmp_path / "b", (1, 1))
    files.describe_models(paths)
    assert read == ["a", "b", "b"]


def test_a_sha256_is_computed_once_until_the_file_changes(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    write(tmp_path, "a", data=b"abc")
    read, compute = [], files.artifacts.sha256_of
    monkeypatch.setattr(files.artifacts, "sha256_of", lambda path: read.append(path.name) or compute(path))
    for _ in range(2):
        for name in ("a", "link"):
            assert files.sha256(tmp_path / name) == hashlib.sha256(b"abc").hexdigest()
    assert read == ["a"]
    write(tmp_path, "a", data=b"abcd")
    assert files.sha256(tmp_path / "link") == hashlib.sha256(b"abcd").hexdigest()
    os.utime(tmp_path / "a", (1, 1))
    files.sha256(tmp_path / "a")
    assert read == ["a"] * 3


@pytest.mark.parametrize(("name", "onnx"), [("a.onnx", True), ("a.ONNX", True), ("a.onnx.gz", False), ("onnx", False)])
def test_onnx_files_are_known_by_their_suffix(name, onnx):
    assert files.is_onnx(Path("w") / name) is onnx


def default_names(folder):
    return [path.name for path in files.find_models(folder, [])]


def test_without_names_selected_txt_decides_else_everything_does(tmp_path):
    for name in (
        "final_555_b7",
        "final_111_b7",
        "final_111_b7.sha256",
        ".final_777_b7.part",
        "README.md",
        "loss.png",
        "a.golden.json",
    ):
        (tmp_path / name).write_text(name)
    assert default_names(tmp_path) == ["final_111_b7", "final_555_b7"]
    (tmp_path / "selected.txt").write_text("final_555_b7\n")
    assert default_names(tmp_path) == ["final_555_b7"]
    (tmp_path / "selected.txt").write_text("gone\n")
    said = r"models gone \(listed in .*selected\.txt\): not in [^\n]*\n  final_111_b7\n  final_555_b7$"
    with pytest.raises(SettingError, match=said):
        default_names(tmp_path)


def test_without_names_a_training_run_gives_its_best_and_an_export_nothing(tmp_path):
    for name in ("run_1", "run_2", "run_last", "run_best", "run_before", "run_config.json", "runner", "m.onnx"):
        (tmp_path / name).write_text(name)
    (tmp_path / "run_2").unlink()
    (tmp_path / "run_2").hardlink_to(tmp_path / "run_best")  # as training does
    assert default_names(tmp_path) == ["run_best", "runner"]


def test_without_names_exports_are_taken_where_there_is_nothing_else(tmp_path):
    (tmp_path / "a.safetensors").write_text("a")
    assert default_names(tmp_path) == ["a.safetensors"]
    (tmp_path / "a.onnx").write_text("the same network as ONNX")
    (tmp_path / "run_best.onnx").write_text("b")
    (tmp_path / "run_config.json").write_text("an export is no epoch of the run")
    assert default_names(tmp_path) == ["a.safetensors", "run_best.onnx"]


@pytest.mark.parametrize(
    ("name", "said"), [("", "contains no checkpoint;"), ("none", "there is no such folder; check the path, or")]
)
def test_without_any_checkpoint_the_error_says_the_two_ways_to_get_some(tmp_path, name, said):
    folder = tmp_path / name
    with pytest.raises(SettingError, match=rf"weights_dir .*: {said} .*download_weights\.py, or train .* train\.sh"):
        files.find_models(folder, [])


def test_a_name_in_a_folder_that_does_not_exist_says_so(tmp_path):
    (tmp_path / "a").write_text("a")
    assert files.find_models(tmp_path / "none", [str(tmp_path / "a")]) == [tmp_path / "a"]
    with pytest.raises(SettingError, match=rf"^models b: no such file, and there is no folder {tmp_path / 'none'}$"):
        files.find_models(tmp_path / "none", ["b"])
