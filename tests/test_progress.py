"""What is kept of a run, what a later one takes over, and who may write (prediction/progress.py)."""

import contextlib
import functools
import json
import operator
import os
import subprocess
import sys

import pytest
from helpers import ROOT, numbered_frames
from scoring_runs import details, make_checkpoint, run

from dfdc import identity
from dfdc.command_line import UserError
from dfdc.video import write_video
from networks.ensemble import Ensemble
from networks.files import ModelFile, describe_models
from prediction import progress as progress_module
from prediction.conclusion import conclude
from prediction.decoding import Decoder
from prediction.pages import pictures
from prediction.progress import Progress, only_run, program_version
from prediction.verdict import Face, Verdict


def _interrupt(*_):
    raise KeyboardInterrupt


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


@pytest.mark.slow
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
    assert "1 of 2 are already done" in capsys.readouterr().out
    first, second = details(output)["videos"]
    assert (first["status"], second["status"]) == ("unreadable", "no face")
    assert "link" in first["reason"] or "No such file" in first["reason"]
    (tmp_path / "kept.mp4").replace(tmp_path / "v/v.mp4")
    run(tmp_path, tmp_path / "v", output, models=["a"])
    assert "2 of 2 are already done" in capsys.readouterr().out


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
    '{"run": "RUN", "verdict": {}}',
    '{"run": "RUN", "file": {}, "verdict": []}',
    '{"run": "RUN", "file": {}, "verdict": {"status": "ok"}}',
    '{"run": "RUN", "file": {}, "verdict": {"filename": "v.mp4", "status": "ok", "score": 0.7}}',
    '{"run": "RUN", "file": {}, "verdict": {"filename": "v.mp4", "status": "fine"}}',
]


@pytest.mark.parametrize("line", NO_VERDICTS)
def test_lines_that_are_no_verdicts_cost_none(tmp_path, line):
    videos = kept_verdict(tmp_path)
    with (tmp_path / "p").open("a") as handle:
        handle.write(f"{line.replace('RUN', Progress(tmp_path / 'p', {}, videos)._digest)}\n")
    assert Progress(tmp_path / "p", {}, videos).done["v.mp4"].score == 0.5
    assert Progress(tmp_path / "p", {}, {"w.mp4": tmp_path / "v.mp4"}).done == {}


@pytest.mark.slow
def test_checkpoints_are_told_apart_by_their_whole_content(tmp_path, capsys):
    """The settings of an earlier version had the checksum of some blocks; a run with such a file begins anew."""
    make_checkpoint(tmp_path, "a")
    (said,) = describe_models([tmp_path / "a"])
    assert said == ModelFile("a", (tmp_path / "a").stat().st_size, identity.file_checksum(tmp_path / "a"))
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v/v.mp4", numbered_frames(3))
    run(tmp_path, tmp_path / "v", tmp_path / "o.csv", models=["a"])
    progress = tmp_path / "o.csv.progress"
    lines = progress.read_text().splitlines()
    first = {"models": [{"name": "a", "size": 3, "crc": 7}]}  # as an earlier version wrote it
    progress.write_text("\n".join([json.dumps(first), *lines[1:]]))
    capsys.readouterr()
    run(tmp_path, tmp_path / "v", tmp_path / "o.csv", models=["a"])
    aside = f"o.csv.progress.{identity.digest_of(json.dumps(first))[:12]}"
    assert f"written by a run with other settings; renamed to {aside}" in capsys.readouterr().out


@pytest.mark.slow
def test_pages_of_a_moved_video_have_pictures(tmp_path):
    (tmp_path / "here").mkdir()
    path = tmp_path / "here/v.mp4"
    write_video(path, numbered_frames(3))
    videos = {"v.mp4": path}
    progress = Progress(tmp_path / "p", {}, videos)
    progress.begin("v.mp4")
    verdict = Verdict("v.mp4", "too short", path=str(path), score=0.5)
    verdict.faces = [Face(1, 0, [20, 10, 60, 50], 0.9, scores=[0.5])]
    conclude(verdict, ["m"], "mean")
    progress.add(verdict)
    moved = path.rename(tmp_path / "v.mp4")
    again = Progress(tmp_path / "p", {}, {"v.mp4": moved})
    make_checkpoint(tmp_path, "m")
    ensemble = Ensemble([tmp_path / "m"], "cpu")
    with contextlib.closing(Decoder()) as decoder:
        assert pictures.find_fault(again.done["v.mp4"], again.files["v.mp4"]) == ""
        read = pictures.read_pictures(again.done["v.mp4"], lambda: ensemble, decoder)
    assert (read.fault, len(read.faces), len(read.thumbnails)) == ("", 1, 1)


def test_links_that_go_round_or_nowhere_have_no_fingerprint(tmp_path):
    (tmp_path / "round.mp4").symlink_to("round.mp4")
    (tmp_path / "nowhere.mp4").symlink_to("absent")
    videos = {name: tmp_path / name for name in ("round.mp4", "nowhere.mp4")}
    progress = Progress(tmp_path / "p", {}, videos)
    for name in videos:
        progress.begin(name)
    assert progress.files == {"round.mp4": None, "nowhere.mp4": None}


# ------------------------------------------------------------------- T67: nothing of two runs in one file
def test_t67_every_line_names_its_run_and_one_of_another_is_not_taken(tmp_path):
    videos = kept_verdict(tmp_path)
    first, row = map(json.loads, (tmp_path / "p").read_text().splitlines())
    assert first["run"] == row["run"]
    assert first["settings"] == {"program": program_version()}
    assert {"scoring", "torch", "av", "opencv-python-headless", "pillow"} <= first["settings"]["program"].keys()
    other = {**row, "run": "another", "verdict": {**row["verdict"], "score": 0.9}}
    with (tmp_path / "p").open("a") as handle:
        handle.write(json.dumps(other) + "\n")
    assert Progress(tmp_path / "p", {}, videos).done["v.mp4"].score == 0.5


def test_t67_other_settings_set_a_file_aside_and_the_same_ones_bring_it_back(tmp_path, capsys):
    videos = kept_verdict(tmp_path)
    whole = (tmp_path / "p").read_bytes()
    other = Progress(tmp_path / "p", {"precision": "bf16"}, videos)
    said = capsys.readouterr().out
    assert "written by a run with other settings (precision); renamed to p." in said
    assert other.done == {}
    assert (tmp_path / "p").read_bytes() == whole, "a run that does nothing costs nothing"
    other.begin("v.mp4")
    other.add(Verdict("v.mp4", "ok", score=0.9))
    (aside,) = tmp_path.glob("p.*")
    assert aside.name in said
    assert aside.read_bytes() == whole
    back = Progress(tmp_path / "p", {}, videos)
    assert back.done["v.mp4"].score == 0.5
    back.add(back.done["v.mp4"])
    (aside,) = tmp_path.glob("p.*")
    assert '"precision": "bf16"' in aside.read_text()
    assert Progress(tmp_path / "p", {}, videos).done["v.mp4"].score == 0.5


def test_t67_a_run_killed_between_renaming_the_others_file_and_writing_its_own_loses_no_verdict(tmp_path, monkeypatch):
    videos = kept_verdict(tmp_path)
    other = Progress(tmp_path / "p", {"precision": "bf16"}, videos)
    other.begin("v.mp4")
    other.add(Verdict("v.mp4", "ok", score=0.9))
    back = Progress(tmp_path / "p", {}, videos)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(progress_module.artifacts, "write_bytes", _interrupt)
        back.add(back.done["v.mp4"])
    assert not (tmp_path / "p").exists()
    again = Progress(tmp_path / "p", {}, videos)
    assert again.done["v.mp4"].score == 0.5
    again.add(again.done["v.mp4"])
    assert Progress(tmp_path / "p", {"precision": "bf16"}, videos).done["v.mp4"].score == 0.9


def test_t67_results_of_another_version_of_the_program_do_not_count(tmp_path, monkeypatch, capsys):
    videos = kept_verdict(tmp_path)
    monkeypatch.setattr(progress_module, "SCORING_VERSION", progress_module.SCORING_VERSION + 1)
    assert Progress(tmp_path / "p", {}, videos).done == {}
    assert "other settings (program)" in capsys.readouterr().out
    monkeypatch.undo()
    assert Progress(tmp_path / "p", {}, videos).done["v.mp4"].score == 0.5
    monkeypatch.setattr(progress_module, "package_versions", lambda names, unknown: {"av": "99"})
    assert Progress(tmp_path / "p", {}, videos).done == {}


@pytest.mark.slow
@pytest.mark.parametrize("change", ["precision", "checkpoint", "scale"])
def test_t67_what_moves_a_score_begins_anew(weights, tmp_path, capsys, change):
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v/v.mp4", numbered_frames(3))
    (tmp_path / "w").mkdir()
    make_checkpoint(tmp_path / "w", "a", seed=1)
    arguments = tmp_path / "w", tmp_path / "v", tmp_path / "o.csv"
    run(*arguments, "--precision", "fp32", models=["a"])
    run(*arguments, "--precision", "fp32", models=["a"])
    assert "1 of 1 are already done" in capsys.readouterr().out
    if change == "checkpoint":
        make_checkpoint(tmp_path / "w", "a", seed=2)
    more = {"precision": ("bf16",), "scale": ("fp32", "--detector-scale", "0.5")}.get(change, ("fp32",))
    run(*arguments, "--precision", *more, models=["a"])
    said = capsys.readouterr().out
    assert "are already done" not in said
    assert {"precision": "(precision)", "checkpoint": "(models)", "scale": "(detector_scale)"}[change] in said


def test_t67_one_output_has_one_run_which_is_named(tmp_path):
    output = tmp_path / "o.csv"
    code = (
        "import sys, time; sys.argv = ['the', 'other run']\n"
        "from pathlib import Path\nfrom prediction.progress import only_run\n"
        f"with only_run(Path({str(output)!r})):\n    print('held', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert other.stdout.readline() == "held\n"
        said = rf"process {other.pid} on .* since .*: the other run\); wait until it ends"
        with pytest.raises(UserError, match=said), only_run(output):
            raise AssertionError("two runs at once")
        with only_run(tmp_path / "p.csv"):
            pass
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    with only_run(output):  # the lock ends with its process, however that ends
        assert list(tmp_path.iterdir()) == [tmp_path / ".o.lock"]
    assert list(tmp_path.iterdir()) == []


def test_t67_a_lock_in_a_new_folder_of_a_command_that_is_no_text_and_one_that_somebody_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["predict_folder.py", "caf\udce9.mp4"])
    output = tmp_path / "new" / "folder" / "o.csv"
    with only_run(output), pytest.raises(UserError, match=r"predict_folder\.py caf\\udce9\.mp4"), only_run(output):
        raise AssertionError("two runs at once")
    with only_run(output):
        (output.parent / ".o.lock").unlink()
    assert not output.parent.exists()


def test_t67_the_lock_is_of_the_file_and_of_the_details_beside_it(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "real/o.csv")
    with only_run(tmp_path / "real/o.csv"):
        for other in (tmp_path / "link.csv", tmp_path / "real/o.CSV"):
            with pytest.raises(UserError, match="another run writes to it"), only_run(other):
                raise AssertionError("two runs at once")


def test_verdicts_of_videos_that_a_run_has_not_wait_for_one_that_has(tmp_path):
    videos = kept_verdict(tmp_path)
    for _ in range(2):
        other = kept_verdict(tmp_path, "w.mp4")
        assert Progress(tmp_path / "p", {}, videos).done["v.mp4"].score == 0.5
        assert Progress(tmp_path / "p", {}, other).done["w.mp4"].score == 0.5
    assert Progress(tmp_path / "p", {}, {**videos, **other}).done.keys() == {"v.mp4", "w.mp4"}


def test_a_file_of_the_version_before_goes_on_and_one_of_a_later_version_is_set_aside(tmp_path):
    videos = kept_verdict(tmp_path)
    first, *rows = (tmp_path / "p").read_text().splitlines()
    header = json.loads(first)
    assert header.pop("version") == 1
    (tmp_path / "p").write_text("\n".join([json.dumps(header), *rows]))  # as the earlier one wrote it
    assert Progress(tmp_path / "p", {}, videos).done["v.mp4"].score == 0.5
    later = "\n".join([json.dumps({**header, "version": 2}), *rows])
    (tmp_path / "p").write_text(later)
    progress = Progress(tmp_path / "p", {}, videos)
    assert progress.done == {}
    progress.begin("v.mp4")
    progress.add(Verdict("v.mp4", "ok", score=0.7))
    (aside,) = tmp_path.glob("p.*")
    assert aside.read_text() == later


def test_a_verdict_comes_back_from_its_line_and_from_no_other(tmp_path):
    """A key more or less, at any depth, is another program's line."""
    videos = {"v.mp4": tmp_path / "v.mp4"}
    videos["v.mp4"].write_bytes(b"x" * 9)
    faces = [Face(frame, frame % 2, [1.5, 2, 9, 8], 0.99, scores=[0.3]) for frame in range(9)]
    verdict = Verdict("v.mp4", "ok", path=str(videos["v.mp4"]), sizes=[[0, 640, 360]], faces=faces)
    conclude(verdict, ["a"], "confident")
    progress = Progress(tmp_path / "p", {}, videos)
    progress.begin("v.mp4")
    progress.add(verdict)
    assert Progress(tmp_path / "p", {}, videos).done == {"v.mp4": verdict}
    header, line = (tmp_path / "p").read_text().splitlines()
    whole = json.loads(line)
    places = [(), ("verdict",), *(("verdict", name, 0) for name in ("models", "persons", "faces"))]
    places += [("verdict", "grounds"), ("verdict", "persons", 0, "thumbnail")]
    for place in places:
        for key in ("more", *functools.reduce(operator.getitem, place, whole)):
            other = json.loads(line)
            part = functools.reduce(operator.getitem, place, other)
            if key == "more":
                part[key] = 1
            else:
                del part[key]
            (tmp_path / "p").write_text(f"{header}\n{json.dumps(other)}\n")
            assert Progress(tmp_path / "p", {}, videos).done == {}, (place, key)


def test_a_digest_that_is_none_names_no_file(tmp_path, capsys):
    videos = kept_verdict(tmp_path)
    lines = (tmp_path / "p").read_text().splitlines()
    (tmp_path / "p").write_text("\n".join(['{"run": "../../x", "settings": {}}', *lines[1:]]))
    progress = Progress(tmp_path / "p", {}, videos)
    assert "renamed to p." in capsys.readouterr().out
    progress.begin("v.mp4")
    progress.add(Verdict("v.mp4", "ok", score=0.7))
    assert len(list(tmp_path.glob("p.*"))) == 1


@pytest.mark.slow
def test_a_row_that_lacks_a_score_costs_its_video_only(weights, demo_root, tmp_path):
    (video, *_) = sorted(demo_root.rglob("*.mp4"))
    run(weights, video, tmp_path / "o.csv", models=["a"])
    whole = (tmp_path / "o.csv").read_text()
    progress = tmp_path / "o.csv.progress"
    first, row = progress.read_text().splitlines()
    broken = json.loads(row)
    broken["verdict"]["faces"][3]["scores"] = []
    progress.write_text(f"{first}\n{json.dumps(broken)}\n")
    run(weights, video, tmp_path / "o.csv", models=["a"])
    assert (tmp_path / "o.csv").read_text() == whole


def test_bytes_that_are_no_text_cost_no_other_line(tmp_path):
    videos = kept_verdict(tmp_path)
    with (tmp_path / "p").open("ab") as handle:
        handle.write(b"\xff\xfe\n")
    assert Progress(tmp_path / "p", {}, videos).done["v.mp4"].score == 0.5


def test_t67_a_second_command_is_refused_while_the_first_scores(weights, tmp_path):
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v/v.mp4", numbered_frames(3))
    with only_run(tmp_path / "o.csv"), pytest.raises(UserError, match="another run writes to it"):
        run(weights, tmp_path / "v", tmp_path / "o.csv")
    assert not (tmp_path / "o.csv").exists()
