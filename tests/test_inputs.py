"""What to score and what is known of it (prediction/inputs.py); what a later run takes over (prediction/verdict.py)."""

import csv
import json
import os

import numpy as np
import pytest
import skimage.data
from conftest import numbered_frames
from test_predict import details, make_checkpoint, run

import predict_folder
from dfdc import identity
from dfdc.imaging import encode_png, read_picture
from dfdc.parallel import UsageError
from dfdc.video import write_video
from prediction import inputs, report, selftest
from prediction.ensemble import Ensemble
from prediction.verdict import Progress, Verdict


def test_a_file_and_a_link_to_it_are_one_video_under_the_files_name(tmp_path, capsys):
    (tmp_path / "real.mp4").write_bytes(b"x")
    (tmp_path / "another.mp4").symlink_to("real.mp4")
    (tmp_path / "round.mp4").symlink_to("round.mp4")
    (tmp_path / "nowhere.mp4").symlink_to("absent")
    found = inputs.list_inputs([tmp_path])
    assert list(found) == ["nowhere.mp4", "real.mp4", "round.mp4"]
    assert "1 of 4 paths lead to a file that another one leads to" in capsys.readouterr().out
    progress = Progress(tmp_path / "p", {}, found)
    for name in found:
        progress.begin(name)
    assert progress.files["round.mp4"] is progress.files["nowhere.mp4"] is None


def test_text_files_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.mp4\r\n")
    assert list(inputs.list_inputs([], [tmp_path / "list.txt"])) == ["a.mp4"]
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbffilename, label\r\na.mp4, FAKE \r\nb.mp4,0\r\n")
    assert inputs.read_labels(tmp_path / "labels.csv") == {"a.mp4": 1, "b.mp4": 0}
    (tmp_path / "labels.JSON").write_text('{"a.mp4": {"label": "REAL"}}', encoding="utf-8-sig")
    assert inputs.read_labels(tmp_path / "labels.JSON") == {"a.mp4": 0}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("l.csv", "filename,label\na,0\na,FAKE\n", "a is said to be real and fake"),
        ("l.csv", "filename,label\n" + "x" * 140_000 + ",0\n", "can't be read"),
        ("l.csv", "name,label\na,0\n", "columns filename,label are needed, and it has name,label"),
        ("l.csv", "filename,label\na,maybe\n", "'MAYBE' is missing, or is no label"),
        ("l.json", "[" * 100_000, "can't be read"),
        ("l.json", "[1]", "can't be read"),
    ],
)
def test_labels_that_say_nothing_are_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=said):
        inputs.read_labels(tmp_path / name)


def test_checkpoints_by_name_or_path_and_what_is_like_a_wrong_name(tmp_path, monkeypatch):
    for name in ("run_0", "run_10", "run_2", "run_best", "README.md"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    found = inputs.find_models(tmp_path / "absent", ["run_2"])
    assert [path.resolve() for path in found] == [tmp_path / "run_2"]
    with pytest.raises(UsageError) as error:
        inputs.find_models(tmp_path, ["run_bets"])
    assert "like it: run_best" in str(error.value)
    assert str(error.value).splitlines()[1:] == ["  run_best", "  run_0", "  run_2", "  run_10"]


def test_folders_that_are_left_out_are_named(tmp_path, capsys):
    (tmp_path / "part").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "part/b.mp4"):
        path.write_bytes(b"x")
    assert list(inputs.list_inputs([tmp_path])) == ["a.png"]
    assert "videos in its folders are left out (part, ...); --recursive takes them" in capsys.readouterr().out


def test_labels_of_other_videos_are_refused_before_anything_is_scored(tmp_path):
    make_checkpoint(tmp_path, "a")
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v/v.mp4", numbered_frames(3))
    (tmp_path / "l.csv").write_text("filename,label\nv,0\n")
    with pytest.raises(UsageError, match=r"names none of the videos; it has v, and they are v\.mp4"):
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
    assert "beginning anew" not in capsys.readouterr().out
    (video,) = details(output)["videos"]
    assert video["path"] == str(tmp_path / "there/v.mp4")


def test_t14_a_broken_checkpoint_does_not_cost_what_was_scored(tmp_path):
    make_checkpoint(tmp_path, "a")
    (tmp_path / "broken").write_bytes(b"PK")
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v/v.mp4", numbered_frames(3))
    output = tmp_path / "o.csv"
    run(tmp_path, tmp_path / "v", output, models=["a"])
    before = (tmp_path / "o.csv.progress").read_bytes()
    with pytest.raises(UsageError, match="broken is not a checkpoint"):
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
    assert "scored before" not in capsys.readouterr().out
    os.utime(path, (1, 1))  # the same content at another time is the same video
    run(tmp_path, tmp_path / "v", output, models=["a"])
    assert "1 of 1 were scored before" in capsys.readouterr().out


def kept_verdict(tmp_path, name="v.mp4", status="ok"):
    """A file, its verdict in a progress file of the settings {}, and the videos that a run would be given."""
    videos = {name: tmp_path / name}
    videos[name].write_bytes(b"x" * 9)
    progress = Progress(tmp_path / "p", {}, videos)
    progress.begin(name)
    progress.add(Verdict(name, status, score=0.5))
    return videos


@pytest.mark.parametrize("inside", ["the file's own", "nothing there", "a folder"])
def test_a_file_that_cant_be_read_now_is_tried_again_and_its_verdict_waits(tmp_path, inside):
    videos = kept_verdict(tmp_path)
    path, aside = videos["v.mp4"], tmp_path / "aside"
    path.rename(aside)
    if inside == "a folder":
        path.mkdir()
    if inside != "the file's own":
        for _ in range(2):
            again = Progress(tmp_path / "p", {}, videos)
            assert again.done == {}
            again.begin("v.mp4")
            again.add(Verdict("v.mp4", "unreadable", "why"))
            assert again.done["v.mp4"].reason == "why"
    if inside == "a folder":
        path.rmdir()
    aside.rename(path)
    assert Progress(tmp_path / "p", {}, videos).done["v.mp4"].score == 0.5
    path.write_bytes(b"y" * 9)
    assert Progress(tmp_path / "p", {}, videos).done == {}


def test_a_video_out_of_reach_says_why_and_costs_no_other(tmp_path, capsys):
    make_checkpoint(tmp_path, "a")
    (tmp_path / "v").mkdir()
    for name in ("v.mp4", "w.mp4"):
        write_video(tmp_path / "v" / name, numbered_frames(3))
    output = tmp_path / "o.csv"
    run(tmp_path, tmp_path / "v", output, models=["a"])
    (tmp_path / "v/v.mp4").rename(tmp_path / "kept.mp4")
    (tmp_path / "v/v.mp4").symlink_to(tmp_path / "nowhere.mp4")
    capsys.readouterr()
    assert run(tmp_path, tmp_path / "v", output, models=["a"]) == 1
    assert "1 of 2 were scored before" in capsys.readouterr().out
    first, second = details(output)["videos"]
    assert (first["status"], second["status"]) == ("unreadable", "no face")
    assert "link" in first["reason"] or "No such file" in first["reason"]
    (tmp_path / "kept.mp4").replace(tmp_path / "v/v.mp4")
    run(tmp_path, tmp_path / "v", output, models=["a"])
    assert "2 of 2 were scored before" in capsys.readouterr().out


def test_of_several_verdicts_of_a_video_the_last_counts_and_is_looked_at_once(tmp_path, monkeypatch):
    videos = kept_verdict(tmp_path)
    again = Progress(tmp_path / "p", {}, videos)
    again.add(Verdict("v.mp4", "ok", score=0.75))
    looked_at = []
    monkeypatch.setattr(identity, "same_file", lambda recorded, path: looked_at.append(path) or True)
    assert Progress(tmp_path / "p", {}, videos).done["v.mp4"].score == 0.75
    assert len(looked_at) == 1
    again.add(Verdict("v.mp4", "error", "full"))
    assert Progress(tmp_path / "p", {}, videos).done == {}


def test_a_line_of_an_earlier_version_counts_by_size_and_time_only(tmp_path):
    videos = kept_verdict(tmp_path)
    progress = tmp_path / "p"
    settings, row = map(json.loads, progress.read_text().splitlines())
    row["file"] = {**row["file"], "crc": 7}
    del row["file"]["xxh3"]
    progress.write_text(f"{json.dumps(settings)}\n{json.dumps(row)}\n")
    assert Progress(progress, {}, videos).done["v.mp4"].score == 0.5
    os.utime(videos["v.mp4"], (1, 1))
    assert Progress(progress, {}, videos).done == {}


NO_VERDICTS = [
    "{",
    "[]",
    "3",
    '{"verdict": {}}',
    '{"file": {}, "verdict": []}',
    '{"file": {}, "verdict": {"status": "ok"}}',
]


@pytest.mark.parametrize("line", NO_VERDICTS)
def test_lines_that_are_no_verdicts_cost_none(tmp_path, line):
    videos = kept_verdict(tmp_path)
    with (tmp_path / "p").open("a") as handle:
        handle.write(f"{line}\n")
    assert Progress(tmp_path / "p", {}, videos).done["v.mp4"].score == 0.5
    assert Progress(tmp_path / "p", {}, {"w.mp4": tmp_path / "v.mp4"}).done == {}


def test_checkpoints_are_told_apart_by_their_whole_content(tmp_path, capsys):
    """The settings of an earlier version had the checksum of some blocks; a run with such a file begins anew."""
    make_checkpoint(tmp_path, "a")
    said = predict_folder.describe_file(tmp_path / "a")
    assert said == {
        "name": "a",
        "size": (tmp_path / "a").stat().st_size,
        "xxh3": identity.file_checksum(tmp_path / "a"),
    }
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v/v.mp4", numbered_frames(3))
    run(tmp_path, tmp_path / "v", tmp_path / "o.csv", models=["a"])
    progress = tmp_path / "o.csv.progress"
    progress.write_text(progress.read_text().replace('"xxh3"', '"crc"'))
    capsys.readouterr()
    run(tmp_path, tmp_path / "v", tmp_path / "o.csv", models=["a"])
    assert "left by a run with other settings; beginning anew" in capsys.readouterr().out


def test_any_name_survives_the_way_through_csv(tmp_path):
    names = ["\r.mp4", 'a"b.mp4', "c,d.mp4", "e\nf.mp4", "plain.mp4"]
    verdicts = [Verdict(name, "ok", score=0.25) for name in names]
    predict_folder.write_results(tmp_path / "o.csv", verdicts, {}, {})
    with (tmp_path / "o.csv").open(newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows == [["filename", "label"], *([name, "0.25"] for name in names)]
    assert b"plain.mp4,0.25\n" in (tmp_path / "o.csv").read_bytes()


def test_a_golden_file_with_half_a_box_is_broken(tmp_path):
    stored = {"faces": [{"frame": 0, "score": 0.5, "box": [1, 2]}], "libraries": {}, "checkpoint_sha256": "",
              "clip": {"pixels_sha256": "", "file_sha256": ""}}  # fmt: skip
    selftest.golden_path(tmp_path / "m").write_text(json.dumps(stored))
    with pytest.raises(UsageError, match="is broken"):
        selftest.read_golden(tmp_path / "m")


def test_compiling_that_fails_without_a_word_costs_no_run(tmp_path, monkeypatch):
    make_checkpoint(tmp_path, "m")
    ensemble = Ensemble([tmp_path / "m"], "cpu")

    def fails(crops):
        raise AssertionError

    monkeypatch.setattr(ensemble, "score", fails)
    assert "no reason given" in ensemble.compile(only_if_faster=True)


def test_pages_of_a_moved_video_have_pictures(tmp_path):
    (tmp_path / "here").mkdir()
    path = tmp_path / "here/v.mp4"
    write_video(path, numbered_frames(3))
    videos = {"v.mp4": path}
    progress = Progress(tmp_path / "p", {}, videos)
    progress.begin("v.mp4")
    verdict = Verdict("v.mp4", "too short", path=str(path), score=0.5)
    verdict.faces = [{"frame": 1, "person": 0, "box": [20, 10, 60, 50], "detector": 0.9, "scores": [0.5]}]
    verdict.persons = [{"person": 0, "frames": 1, "score": 0.5, "thumbnail": {"frame": 1, "box": [20, 10, 60, 50]}}]
    progress.add(verdict)
    moved = path.rename(tmp_path / "v.mp4")
    again = Progress(tmp_path / "p", {}, {"v.mp4": moved})
    make_checkpoint(tmp_path, "m")
    pictures = report.read_pictures(again.done["v.mp4"], again.files["v.mp4"], Ensemble([tmp_path / "m"], "cpu"))
    assert (pictures.fault, len(pictures.faces), len(pictures.thumbnails)) == ("", 1, 1)
