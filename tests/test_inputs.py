"""Which files are scored, and what is known of them (prediction/inputs.py)."""

import json
import os

import numpy as np
import pytest
import skimage.data
from helpers import numbered_frames
from scoring_runs import details, make_checkpoint, run

from dfdc.command_line import UserError
from dfdc.imaging import encode_png, read_picture
from dfdc.video import write_video
from networks import files
from networks.ensemble import Ensemble
from networks.spec import CheckpointError
from prediction import inputs
from prediction.progress import Progress


def write(folder, *names, data=b"x"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def refused(call, *arguments, **options):
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    return str(error.value)


def test_a_file_and_a_link_to_it_are_one_video_under_the_files_name(tmp_path, capsys):
    (tmp_path / "real.mp4").write_bytes(b"x")
    (tmp_path / "another.mp4").symlink_to("real.mp4")
    (tmp_path / "round.mp4").symlink_to("round.mp4")
    (tmp_path / "nowhere.mp4").symlink_to("absent")
    found = inputs.list_inputs([tmp_path])
    assert list(found) == ["nowhere.mp4", "real.mp4", "round.mp4"]
    assert "1 of 4 paths lead to the file of another path" in capsys.readouterr().out
    progress = Progress(tmp_path / "p", {}, found)
    for name in found:
        progress.begin(name)
    assert progress.files["round.mp4"] is progress.files["nowhere.mp4"] is None


def test_text_files_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.mp4\r\n")
    assert list(inputs.list_inputs([], [tmp_path / "list.txt"])) == ["a.mp4"]
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbffilename, label\r\na.mp4, FAKE \r\nb.mp4,0\r\n")
    videos = {name: tmp_path / name for name in ("a.mp4", "b.mp4")}
    assert inputs.read_labels(tmp_path / "labels.csv", videos) == {"a.mp4": 1, "b.mp4": 0}
    (tmp_path / "labels.JSON").write_text('{"a.mp4": {"label": "REAL"}}', encoding="utf-8-sig")
    assert inputs.read_labels(tmp_path / "labels.JSON", videos) == {"a.mp4": 0}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("l.csv", "filename,label\na,0\na,FAKE\n", "a is labelled both real and fake"),
        ("l.csv", "filename,label\n" + "x" * 140_000 + ",0\n", "can't be read"),
        ("l.csv", "name,label\na,0\n", "the columns must be filename,label, not name,label"),
        ("l.csv", "filename,label\na,maybe\n", "the label 'maybe' of a is invalid; use REAL, FAKE, 0 or 1"),
        ("l.csv", "filename,label\nb,1\n", "no row matches a video; the rows name b, the videos are a"),
        ("l.csv", "filename,label\n", "no row matches a video; the rows name nothing, the videos are a"),
        ("l.json", '{"a": "FAKE"}', "can't be read"),
        ("l.json", "[" * 100_000, "can't be read"),
        ("l.json", "[1]", "can't be read"),
    ],
)
def test_labels_that_say_nothing_are_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        inputs.read_labels(tmp_path / name, {"a": tmp_path / "a"})


def test_folders_that_are_left_out_are_named(tmp_path, capsys):
    (tmp_path / "part").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "part/b.mp4"):
        path.write_bytes(b"x")
    assert list(inputs.list_inputs([tmp_path])) == ["a.png"]
    assert capsys.readouterr().out == f"{tmp_path}: its subfolder is skipped (part); add recursive to search it\n"
    (tmp_path / "second").mkdir()
    assert list(inputs.list_inputs([tmp_path])) == ["a.png"]
    assert "its subfolders are skipped (part, ...); add recursive to search them" in capsys.readouterr().out


def test_what_is_left_out_is_counted_by_suffix(tmp_path, capsys):
    write(tmp_path, "a.MP4", "b.heic", "c.txt", "d.TXT", "e.psd", "README", ".hidden", ".hidden.mp4")
    assert list(inputs.list_inputs([tmp_path])) == ["a.MP4", "b.heic"]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path}: skipped: 2 .txt, 1 ")
    assert sorted(line.partition("skipped: ")[2].split(", ")) == ["1 .psd", "1 without a suffix", "2 .txt"]
    write(tmp_path, *(f"{kind}.x{kind}" for kind in range(9)))
    inputs.list_inputs([tmp_path])
    line = capsys.readouterr().out.strip()
    assert line.startswith(f"{tmp_path}: skipped: 2 .txt, ")
    assert line.endswith(" and 4 more")
    assert line.count(",") == 7
    for path in tmp_path.iterdir():
        if path.suffix not in (".MP4", ".heic"):
            path.unlink()
    assert list(inputs.list_inputs([tmp_path, tmp_path / "b.heic"])) == ["a.MP4", "b.heic"]
    assert "skipped" not in capsys.readouterr().out


def test_single_files_of_any_name_lists_and_nothing(tmp_path):
    write(tmp_path, "v.xyz", "deep/w.mp4", "deep/v.xyz")
    (tmp_path / "list.txt").write_text("deep/w.mp4\n\n  v.xyz \n")
    found = inputs.list_inputs([tmp_path / "v.xyz"], [tmp_path / "list.txt"])
    assert found == {"w.mp4": tmp_path / "deep/w.mp4", "v.xyz": tmp_path / "v.xyz"}
    both = inputs.list_inputs([tmp_path / "v.xyz", tmp_path / "deep/v.xyz"])
    assert both == {str(path): path for path in (tmp_path / "v.xyz", tmp_path / "deep/v.xyz")}
    assert refused(inputs.list_inputs, []) == "nothing to score; give at least one place or list"
    assert refused(inputs.list_inputs, [tmp_path / "no"]).endswith("no: no such folder or file; check the path")
    (tmp_path / "bad.txt").write_text("v.xyz\nabsent.mp4\ngone.mp4\n")
    said = refused(inputs.list_inputs, [], [tmp_path / "bad.txt"])
    assert said.endswith(f"bad.txt: 2 of its files are missing, for example {tmp_path / 'absent.mp4'}")
    (tmp_path / "bad.txt").write_text("\n")
    assert refused(inputs.list_inputs, [], [tmp_path / "bad.txt"]).endswith(
        "bad.txt: it names no file; write one path per line"
    )
    assert "can't be read (No such file" in refused(inputs.list_inputs, [], [tmp_path / "absent.txt"])


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    write(tmp_path, "a.txt", "deep/b.mp4")
    said = refused(inputs.list_inputs, [tmp_path])
    assert "it contains no video or photo (.3gp, " in said
    assert ".heic, " in said
    assert said.endswith("; add recursive to search its subfolders")
    assert list(inputs.list_inputs([tmp_path], recursive=True)) == ["b.mp4"]
    (tmp_path / "deep/b.mp4").unlink()
    assert refused(inputs.list_inputs, [tmp_path], recursive=True).endswith(")")


def test_linked_folders_are_scored_with_recursive_and_named_without(tmp_path, capsys):
    write(tmp_path, "in/a.png", "away/b.mp4", "away/c.doc", "none/d.doc")
    (tmp_path / "in/0_hidden").mkdir()
    (tmp_path / "in/linked").symlink_to(tmp_path / "away")
    (tmp_path / "in/empty").symlink_to(tmp_path / "none")
    (tmp_path / "away/round").symlink_to(tmp_path / "in")
    assert list(inputs.list_inputs([tmp_path / "in"])) == ["a.png"]
    said = capsys.readouterr().out.strip()
    assert said == f"{tmp_path / 'in'}: its subfolders are skipped (linked, ...); add recursive to search them"
    found = inputs.list_inputs([tmp_path / "in"], recursive=True)
    assert found == {"a.png": tmp_path / "in/a.png", "b.mp4": tmp_path / "in/linked/b.mp4"}
    assert capsys.readouterr().out.strip() == f"{tmp_path / 'in'}: skipped: 2 .doc"


def test_a_folder_out_of_reach_is_left_out_by_name(tmp_path, capsys, monkeypatch):
    write(tmp_path, "a.mp4", "shut/b.mp4")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for recursive in (True, False):
        assert list(inputs.list_inputs([tmp_path], recursive=recursive)) == ["a.mp4"]
        said = f"{tmp_path}/shut can't be read (Permission denied); skipped\n"
        assert capsys.readouterr().out == said


HOSTILE = ["a\rb.mp4", "\x1b[2Jred.mp4", "two\nlines.mp4", "caf\udce9.mp4", "a\u202e4pm.mp4"]


def test_names_that_a_terminal_would_obey_are_found_and_matched_and_never_printed_raw(tmp_path, capsys):
    folder = write(tmp_path / "\x1b[31m\udcff", *HOSTILE, "x.\x1b[1m")
    found = inputs.list_inputs([folder])
    assert sorted(found) == sorted(HOSTILE)
    write(folder, "in \x07/y.mp4", ".hidden/y.mp4", "zz/y.mp4")
    inputs.list_inputs([folder])
    out = capsys.readouterr().out
    assert r"\x1b[31m\udcff: skipped: 1 .\x1b[1m" in out
    assert r"are skipped (in \x07, ...)" in out
    assert out.replace("\n", "").isprintable()
    (tmp_path / "l.json").write_text(json.dumps({name: {"label": "FAKE"} for name in HOSTILE}))
    assert inputs.read_labels(tmp_path / "l.json", found).keys() == found.keys()
    rows = b"filename,label\r\n" + b"".join(b'"%s",1\r\n' % os.fsencode(name) for name in HOSTILE)
    (tmp_path / "l.csv").write_bytes(rows)
    assert inputs.read_labels(tmp_path / "l.csv", found).keys() == found.keys()
    (tmp_path / "list").write_bytes(
        b"".join(b"%s\n" % os.fsencode(folder / n) for n in HOSTILE if not {"\n", "\r"} & set(n))
    )
    assert len(inputs.list_inputs([], [tmp_path / "list"])) == 3


def test_no_message_holds_a_name_raw(tmp_path):
    bad = tmp_path / "\x1b[31m\udcff"
    write(bad, "l.csv", data=b"filename,label\n\x1b[1m,0\n\x1b[1m,1\n")
    write(bad, "c.csv", data=b"\x1b[1m,label\n")
    write(bad, "w.csv", data=b"filename,label\na,\x1b[1m\n")
    write(bad, "list", data=b"\x1b[1m\n")
    write(bad, "m/1\x07_best", "m/2", "empty/x.txt")
    calls = [
        (inputs.read_labels, bad / "l.csv", {"a": bad}),
        (inputs.read_labels, bad / "c.csv", {"a": bad}),
        (inputs.read_labels, bad / "w.csv", {"a": bad}),
        (inputs.read_labels, bad / "absent.csv", {"a": bad}),
        (inputs.list_inputs, [], [bad / "list"]),
        (inputs.list_inputs, [], [bad / "absent"]),
        (inputs.list_inputs, [bad / "absent"]),
        (inputs.list_inputs, [bad / "empty"]),
        (files.find_models, bad / "m", ["1\x07_bets"]),
        (files.find_models, bad / "m", [f"@{bad / 'absent'}"]),
        (files.find_models, bad / "m", [f"@{bad / 'm/empty'}"]),
        (files.find_models, bad / "m", ["1\x07_best", "2"]),
        (files.find_models, bad / "m", ["2", "2"]),
    ]
    (bad / "m/empty").write_bytes(b"\n")
    for call, *arguments in calls:
        said = refused(call, *arguments)
        assert said.replace("\n", "").isprintable(), said
        assert "\\x1b" in said or "\\x07" in said or call is files.find_models, said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("filename,label\na\n", "the label 'None' of a is invalid"),
        ("filename,label\na,2\n", "the label '2' of a is invalid"),
    ],
)
def test_labels_that_are_none_are_named(tmp_path, text, said):
    (tmp_path / "l.csv").write_text(text)
    assert said.upper() in refused(inputs.read_labels, tmp_path / "l.csv", {}).upper()


def test_labels_by_name_or_by_path_and_rows_of_no_video_are_counted(tmp_path, monkeypatch, capsys):
    """Two files of one name are told apart by their folders, as in the submission."""
    write(tmp_path, "k/a/d3.mp4", "k/b/d3.mp4", "k/one.mp4")
    found = inputs.list_inputs([tmp_path / "k"], recursive=True)
    first, second = (str(tmp_path / "k" / folder / "d3.mp4") for folder in "ab")
    assert set(found) == {first, second, "one.mp4"}
    (tmp_path / "k/b/metadata.json").write_text('{"d3.mp4": {"label": "FAKE"}, "gone.mp4": {"label": "REAL"}}')
    capsys.readouterr()
    assert inputs.read_labels(tmp_path / "k/b/metadata.json", found) == {second: 1}
    assert "1 of 2 rows match no video, for example gone.mp4" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "k/a")
    (tmp_path / "l.csv").write_text(f"filename,label\nk/one.mp4,0\nd3.mp4,1\n{second},0\n")
    assert inputs.read_labels(tmp_path / "l.csv", found) == {"one.mp4": 0, first: 1, second: 0}
    assert capsys.readouterr().out == ""
    (tmp_path / "l.csv").write_text("filename,label\none.mp4,0\nk/one.mp4,1\n")
    assert "k/one.mp4 is labelled both real and fake" in refused(inputs.read_labels, tmp_path / "l.csv", found)


def test_labels_in_every_spelling(tmp_path):
    (tmp_path / "l.csv").write_text("label,filename,more\nfake,a,1\n1.0,b,\nReal ,c,\n0,d,\n0.0,e,\n1,f,\nFAKE,a,\n")
    videos = {name: tmp_path / name for name in "abcdefg"}
    assert inputs.read_labels(tmp_path / "l.csv", videos) == {"a": 1, "b": 1, "c": 0, "d": 0, "e": 0, "f": 1}
    (tmp_path / "l.json").write_text('{"a": {"split": "x"}}')
    assert "an entry has no 'label'" in refused(inputs.read_labels, tmp_path / "l.json", videos)


# Checkpoints


def test_the_videos_of_a_fold(tmp_path):
    entries = {f"{name}.mp4": {"label": "REAL"} for name in ("r10", "r9", "other")}
    entries["f.mov"] = {"label": "FAKE", "original": "r9.mp4"}
    part = write(tmp_path / "part", *entries)
    (part / "metadata.json").write_text(json.dumps(entries))
    said = refused(inputs.held_out_inputs, [tmp_path], 3)
    assert said == f"fold 3: {tmp_path / 'folds.csv'} is missing; run ./preprocess_data.sh first"
    lines = ["video,file,label,original,frame,fold", *(f"{v},0_0.png,0,{v},0,3" for v in ("r10", "r9", "f", "r9"))]
    table = tmp_path / "folds.csv"
    table.write_text("\n".join([*lines, "other,0_0.png,0,other,0,12", "gone,0_0.png,0,gone,0,5"]) + "\n")
    found, labels = inputs.held_out_inputs([tmp_path], 3)
    assert list(found.items()) == [(name, part / name) for name in ("f.mov", "r9.mp4", "r10.mp4")]
    assert labels == {"f.mov": 1, "r9.mp4": 0, "r10.mp4": 0}
    assert refused(inputs.held_out_inputs, [tmp_path], 4) == f"fold 4: {table} only has folds [3, 5, 12]"
    assert refused(inputs.held_out_inputs, [tmp_path], 5) == (
        f"fold 5: 1 of its videos in {table} are missing, for example gone; run step 5 again"
    )
    for folders in ([], [tmp_path, tmp_path]):
        assert f"the DATA_ROOT, instead of {len(folders)}" in refused(inputs.held_out_inputs, folders, 3)


@pytest.mark.slow
def test_labels_of_other_videos_are_refused_before_anything_is_scored(tmp_path):
    make_checkpoint(tmp_path, "a")
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v/v.mp4", numbered_frames(3))
    (tmp_path / "l.csv").write_text("filename,label\nv,0\n")
    with pytest.raises(UserError, match=r"no row matches a video; the rows name v, the videos are v\.mp4"):
        run(tmp_path, tmp_path / "v", tmp_path / "o.csv", "--labels", tmp_path / "l.csv", models=["a"])
    assert not (tmp_path / "o.csv.progress").exists()


def test_a_picture_too_large_to_be_true_is_an_unreadable_one(tmp_path):
    data = bytearray(encode_png(np.zeros((2, 2, 3), np.uint8)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(data)
    with pytest.raises(OSError, match=r"huge\.png"):
        read_picture(tmp_path / "huge.png")


@pytest.mark.slow
def test_t14_a_moved_folder_and_a_touched_checkpoint_cost_no_verdict(tmp_path, capsys):
    make_checkpoint(tmp_path, "a")
    (tmp_path / "here").mkdir()
    write_video(tmp_path / "here/v.mp4", numbered_frames(3))
    output = tmp_path / "o.csv"
    run(tmp_path, tmp_path / "here", output, models=["a"])
    (tmp_path / "here").rename(tmp_path / "there")
    os.utime(tmp_path / "a", (1, 1))
    capsys.readouterr()
    run(tmp_path, tmp_path / "there", output, models=["a"])
    assert "other settings" not in capsys.readouterr().out
    (video,) = details(output)["videos"]
    assert video["path"] == str(tmp_path / "there/v.mp4")


@pytest.mark.slow
def test_t14_a_broken_checkpoint_does_not_cost_what_was_scored(tmp_path):
    make_checkpoint(tmp_path, "a")
    (tmp_path / "broken").write_bytes(b"PK")
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v/v.mp4", numbered_frames(3))
    output = tmp_path / "o.csv"
    run(tmp_path, tmp_path / "v", output, models=["a"])
    before = (tmp_path / "o.csv.progress").read_bytes()
    with pytest.raises(CheckpointError, match="broken can't be read safely as a checkpoint"):
        run(tmp_path, tmp_path / "v", output, "--force", models=["broken"])
    assert (tmp_path / "o.csv.progress").read_bytes() == before


def noisy_portrait(path):
    """A clip of half a megabyte with a face."""
    rng = np.random.default_rng(0)
    portrait = skimage.data.astronaut()[:300, 60:400]
    write_video(
        path, (np.clip(portrait + rng.normal(0, 25, portrait.shape), 0, 255).astype(np.uint8) for _ in range(40))
    )
    return path


@pytest.mark.slow
def test_t62_a_video_that_was_mended_in_place_is_scored_again(tmp_path, capsys):
    make_checkpoint(tmp_path, "a")
    (tmp_path / "v").mkdir()
    path = noisy_portrait(tmp_path / "v/v.mp4")
    whole = path.read_bytes()
    middle = len(whole) * 4 // 5
    path.write_bytes(whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 64]) + whole[middle + 64 :])
    output = tmp_path / "o.csv"
    assert run(tmp_path, tmp_path / "v", output, models=["a"]) == 0
    (damaged,) = details(output)["videos"]
    assert damaged["status"] == "partial"
    path.write_bytes(whole)
    assert run(tmp_path, tmp_path / "v", output, models=["a"]) == 0
    (mended,) = details(output)["videos"]
    assert (mended["status"], mended["frames_lost"]) == ("ok", [])
    assert "are already done" not in capsys.readouterr().out
    os.utime(path, (1, 1))  # the same content at another time is the same video
    run(tmp_path, tmp_path / "v", output, models=["a"])
    assert "1 of 1 are already done" in capsys.readouterr().out


def test_compiling_that_fails_without_a_word_costs_no_run(tmp_path, monkeypatch):
    make_checkpoint(tmp_path, "m")
    ensemble = Ensemble([tmp_path / "m"], "cpu")

    def fails(crops):
        raise AssertionError

    monkeypatch.setattr(ensemble, "score", fails)
    assert "no reason given" in ensemble.compile(only_if_faster=True)


@pytest.mark.parametrize("name", ["\0", "\ud800"])
def test_labels_of_names_that_no_file_can_have_match_nothing(tmp_path, name):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({name: {"label": "REAL"}, "a.mp4": {"label": "FAKE"}}))
    assert inputs.read_labels(path, {"a.mp4": tmp_path / "a.mp4"}) == {"a.mp4": 1}
