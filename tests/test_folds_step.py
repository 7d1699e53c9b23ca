"""Step 5 from run to run: what stays, what is refused, what is said (preprocessing/folds_step.py)."""

import os
import shutil
import subprocess
import sys

import pytest
from folds_roots import (
    all_videos,
    folds_of,
    ledger_of,
    main,
    make_part,
    make_root,
    new_crops,
    refused,
)

from dfdc import identity, layout
from dfdc.command_line import UsageError
from dfdc.locks import only_one
from dfdc.processes import host_id, process_start
from preprocessing import folds_step
from preprocessing.folds_stamp import FoldsStamp, Options, read_folds_stamp, stamp_path


# --------------------------------------------------------------------------------------------------- what stays
def test_finished_folds_are_not_redone_and_stale_ones_are(tmp_path, capsys):
    root = make_root(tmp_path, (0, 1))
    main(root)
    text = (root / "folds.csv").read_bytes()
    os.utime(root / "folds.csv", (1, 1))
    main(root)
    assert (root / "folds.csv").stat().st_mtime == 1
    out = capsys.readouterr().out
    assert "folds.csv (was complete)" in out
    assert "unchanged options: --n-splits 16, --seed 777, --val-ids none, --crops-dir crops, --similar 10\n" in out
    main(root, "--force")
    assert (root / "folds.csv").stat().st_mtime > 1
    assert (root / "folds.csv").read_bytes() == text
    assert "was complete" not in capsys.readouterr().out
    shutil.rmtree(layout.crops_path(root, "f0a"))
    main(root)
    assert "f0a" not in folds_of(root)


def test_changed_crops_are_looked_through_again(tmp_path, monkeypatch, capsys):
    root = make_root(tmp_path, (0, 1))
    looked = []
    find = folds_step.find_leaks
    monkeypatch.setattr(folds_step, "find_leaks", lambda *args: looked.append(args[3]) or find(*args))
    main(root)
    main(root)
    assert looked == [10]
    new_crops(root, "f1b", seed=77)  # the same names
    before = (root / "folds.csv").read_bytes()
    main(root)
    assert looked == [10, 10]
    assert (root / "folds.csv").read_bytes() == before
    for given, used in (("3", 3), ("off", None)):  # neither is another hold-out, so that no --force is needed
        main(root, "--similar", given)
        main(root)
        assert looked.pop() == used
        assert f"--similar {given}\n" in capsys.readouterr().out
        assert len(looked) == 2
        assert read_folds_stamp(stamp_path(root / "folds.csv")).options.similar == used


def test_a_moved_data_set_is_the_same(tmp_path, monkeypatch, capsys):
    root = make_root(tmp_path / "a", (0, 1))
    main(root)
    root.rename(tmp_path / "b")
    for path in (tmp_path / "b").rglob("*"):
        os.utime(path)
    monkeypatch.chdir(tmp_path / "b")
    before = (tmp_path / "b" / "folds.csv").stat().st_mtime_ns
    for place in (tmp_path / "b", type(tmp_path)()):
        main(place)
        assert "was complete" in capsys.readouterr().out
    assert (tmp_path / "b" / "folds.csv").stat().st_mtime_ns == before


def test_t63_folds_stay_as_parts_come_and_go(tmp_path):
    root = make_root(tmp_path / "root", (2, 4))
    main(root)
    assert folds_of(root) == {"r2": 0, "f2a": 0, "f2b": 0, "r4": 1, "f4a": 1, "f4b": 1}
    (root / "dfdc_train_part_2").rename(tmp_path / "away")
    make_part(root, 3)
    assert main(root) == 0  # a part that was taken away is no fault
    assert set(folds_of(root).items()) >= {("r4", 1), ("r3", 0)}
    (tmp_path / "away").rename(root / "dfdc_train_part_2")
    make_part(root, 1)
    main(root)
    assert {name: fold for name, fold in folds_of(root).items() if name[0] == "r"} == {
        "r1": 2,
        "r2": 0,
        "r3": 0,
        "r4": 1,
    }


def test_t63_options_stay_until_somebody_says_otherwise(tmp_path, capsys):
    root = make_root(tmp_path, (0, 1, 2, 3))
    ids = tmp_path / "ids.txt"
    ids.write_text("f1a\nr1\n")
    main(root, "--n_splits", 2, "--seed", 5, "--val-ids", ids)
    first = (root / "folds.csv").read_bytes()
    held = {"r0": 1, "f0a": 1, "f0b": 1, "r1": 0, "f1a": 0, "r2": 2, "f2a": 2, "f2b": 2, "r3": 2, "f3a": 2, "f3b": 2}
    assert folds_of(root) == held
    capsys.readouterr()
    ids.unlink()
    for arguments in ([], ["--force"], ["--seed", 5], ["--n-splits", 2]):
        assert main(root, *arguments) == 0
        assert (root / "folds.csv").read_bytes() == first
        assert "unchanged options: --n-splits 2, --seed 5, --val-ids 2 videos (f1a, r1)" in capsys.readouterr().out
    ids.write_text("r1\nf1a.mp4\n")
    assert main(root, "--val-ids", ids) == 0
    assert (root / "folds.csv").read_bytes() == first
    ids.write_text("r0\nr2\nr3\nf3a\n")
    shutil.copytree(root / "crops", root / "crops2")
    for arguments, said in (
        (["--n_splits", 3], ["--n-splits from 2 to 3.", "--force"]),
        (["--seed", 6], "--seed from 5 to 6."),
        (["--val-ids", ids], "--val-ids from 2 videos (f1a, r1) to 4 videos (f3a, r0, r2, ...)."),
        (["--val-ids", "none", "--seed", 777], "--seed from 5 to 777; --val-ids from 2 videos (f1a, r1) to none."),
        (["--crops-dir", "crops2"], "--crops-dir from crops to crops2."),
    ):
        refused(root, *arguments, said=said)
    main(root, "--seed", 6, "--force")
    assert folds_of(root) == held
    assert (root / "folds.csv").read_bytes() != first
    main(root, "--crops-dir", "crops2", "--force")
    assert folds_of(root) == held
    assert "new options: --n-splits 2, --seed 6" in capsys.readouterr().out
    assert main(root, "--crops-dir", "crops2") == 0
    assert "--crops-dir crops2" in capsys.readouterr().out
    refused(root, said="--crops-dir from crops2 to crops.")  # the other steps would work on these
    main(root, "--val-ids", "none", "--force")
    assert folds_of(root) == {f"{kind}": int(kind[1] in "23") for kind in folds_of(root)}
    assert len(folds_of(root)) == 12
    main(root, "--n_splits", 4, "--force")
    assert folds_of(root) == {kind: int(kind[1]) for kind in folds_of(root)}
    assert "4 folds instead of 2: reassigning all folds" in capsys.readouterr().out


def test_every_file_has_a_stamp_of_its_own(tmp_path):
    root = make_root(tmp_path, (0, 1))
    main(root, "--seed", 5)
    main(root, "--out", "b.csv")
    assert read_folds_stamp(root / ".folds.csv.stamp.json").options == Options(seed=5)
    assert read_folds_stamp(root / ".b.csv.stamp.json").options == Options()


def test_a_stamp_without_its_file_still_counts(tmp_path, capsys):
    root = make_root(tmp_path, (0, 1))
    main(root, "--seed", 5)
    before = (root / "folds.csv").read_bytes()
    (root / "folds.csv").unlink()
    capsys.readouterr()
    main(root)
    assert (root / "folds.csv").read_bytes() == before
    assert "was edited" not in capsys.readouterr().out


def test_an_edited_file_is_written_anew(tmp_path, capsys):
    root = make_root(tmp_path, (0, 1))
    main(root)
    path = root / "folds.csv"
    before = path.read_bytes()
    for text in (before.replace(b",0\n", b",1\n"), b"", b"\xff\x00", b"something else\n"):
        path.write_bytes(text)
        capsys.readouterr()
        assert main(root) == 0
        assert path.read_bytes() == before
        assert f"{path} was edited after this step wrote it" in capsys.readouterr().out
    main(root)
    assert "was edited" not in capsys.readouterr().out


def test_t63_a_disk_that_is_away_does_not_shrink_the_hold_out(tmp_path):
    root = make_root(tmp_path / "root", range(4))
    main(root)
    part = root / "dfdc_train_part_0"
    before = (root / "folds.csv").read_bytes()
    (part / "f0b.mp4").rename(tmp_path / "f0b.mp4")
    refused(root, said=["lists 1 video ", "f0b", f"{part / 'f0b.mp4'} is not on disk", "--force"])
    (tmp_path / "f0b.mp4").rename(part / "f0b.mp4")
    assert main(root) == 0
    for name in ("r0", "r2", "f2a"):
        next(root.glob(f"*/{name}.mp4")).unlink()
    (root / "dfdc_train_part_1" / "r1.mp4").unlink()
    (root / "dfdc_train_part_1" / "r1.mp4").symlink_to(tmp_path / "nothing")
    with pytest.raises(UsageError) as refusal:
        main(root)
    assert "lists 9 videos that can't be read now" in str(refusal.value)
    assert str(refusal.value).count("\n") == 5
    assert (root / "folds.csv").read_bytes() == before
    (root / "folds.csv").write_text("broken")
    refused(root, said=["is invalid (", "--force"])
    (root / "folds.csv").unlink()
    (root / "dfdc_train_part_1" / "f1b.mp4").unlink()
    assert main(root) == 0  # nothing is listed that could be lost
    assert folds_of(root) == {"r3": 3, "f3a": 3, "f3b": 3}
    (root / "folds.csv").write_bytes(before)
    refused(root, said="lists 9 videos")
    assert main(root, "--force") == 0
    assert folds_of(root) == {"r3": 3, "f3a": 3, "f3b": 3}
    assert main(root) == 0


def test_a_kill_between_stamp_and_file_loses_no_hold_out(tmp_path, monkeypatch):
    root = make_root(tmp_path, (0, 1, 2))
    ids = tmp_path / "ids.txt"
    ids.write_text("r1\n")

    class Killed(BaseException):
        pass

    write = FoldsStamp.write

    def killed(self, path):
        write(self, path)
        raise Killed

    monkeypatch.setattr(FoldsStamp, "write", killed)
    with pytest.raises(Killed):
        main(root, "--val-ids", ids)
    assert not (root / "folds.csv").exists()
    monkeypatch.undo()
    assert main(root) == 0
    assert {name for name, fold in folds_of(root).items() if fold == 0} == {"r1"}
    # The stamp was made before the file had its name, and fits it.
    assert read_folds_stamp(stamp_path(root / "folds.csv")).file == identity.fingerprint(root / "folds.csv")


def test_what_a_killed_step_left_goes_and_nothing_else(tmp_path):
    root = make_root(tmp_path, (0, 1))
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    running = os.getppid()
    host = host_id()
    dead, alive = f"{host}-{int(gone.stdout)}-1-0123abcd", f"{host}-{running}-{process_start(running)}-0123abcd"
    goes = [f".folds.csv.part-{dead}", f"..folds.csv.stamp.json.part-{dead}"]
    stays = [f".folds.csv.part-{alive}", f".other.csv.part-{dead}", f"folds.csv.part-{dead}"]
    for name in goes + stays:
        (root / name).write_text("")
    main(root)
    left = {path.name for path in root.iterdir()}
    assert left.isdisjoint(goes)
    assert left >= set(stays)


def test_t63_a_stamp_that_cant_be_understood_is_not_passed_over(tmp_path):
    """Without the file, it is all that knew of a hold-out."""
    root = make_root(tmp_path, (0, 1))
    (tmp_path / "ids").write_text("r0\n")
    main(root, "--val-ids", tmp_path / "ids")
    (root / "folds.csv").unlink()
    path = stamp_path(root / "folds.csv")
    path.write_bytes(path.read_bytes()[:100])
    refused(root, said=["is invalid and", "a hold-out may be lost", "--force-folds"])
    assert main(root, "--force") == 0
    assert set(folds_of(root).values()) == {0, 1}


def test_parts_that_are_not_here_now_are_named(tmp_path, capsys):
    root = make_root(tmp_path / "root", (0, 1, 2))
    main(root)
    (root / "dfdc_train_part_0").rename(tmp_path / "away")
    assert main(root) == 0
    assert "missing parts, whose folds are kept: dfdc_train_part_0\n" in capsys.readouterr().out


# ------------------------------------------------------------------------------- what a person is told
def test_many_parts_are_shown_by_the_first_and_the_last(tmp_path, capsys):
    root = make_root(tmp_path, range(5))
    main(root, "--n_splits", 2, "--out", "a.csv")
    assert "dfdc_train_part_0, dfdc_train_part_1" in capsys.readouterr().out
    main(root, "--val-ids", "none", "--out", "b.csv")
    for part in range(5, 9):
        make_part(root, part)
    main(root, "--n_splits", 2, "--out", "c.csv")
    table = capsys.readouterr().out
    assert "dfdc_train_part_0, dfdc_train_part_1, dfdc_train_part_2, dfdc_train_part_3\n" in table
    assert "dfdc_train_part_4 ... dfdc_train_part_8 (5 parts)" in table


def test_a_rejected_video_leaves_the_hold_out_with_a_line(tmp_path, capsys):
    root = make_root(tmp_path / "root", (0, 1, 2))
    ids = tmp_path / "ids"
    ids.write_text("r0\nr1\n")
    main(root, "--val-ids", ids)
    capsys.readouterr()
    assert main(root, rejected=["r1"]) == 0
    assert [video for video, fold in folds_of(root).items() if fold == 0] == ["r0"]
    out = capsys.readouterr().out
    assert "rejected and therefore not held out: r1\n" in out
    assert "has no FAKE video" in out
    assert main(root) == 0  # and it comes back
    assert {video for video, fold in folds_of(root).items() if fold == 0} == {"r0", "r1"}


def test_a_hold_out_that_cannot_be_listed_changes_nothing(tmp_path):
    root = make_root(tmp_path / "root", (0, 1, 2))
    ids = tmp_path / "ids"
    ids.write_text("r1\n")
    main(root, "--val-ids", ids)
    refused(root, stale=["r1"], said=["1 of 1 video can't be listed, including r1.", "--force-folds"])
    refused(root, "--force", stale=["r1"], said="including r1")
    assert ledger_of(root)["folds.csv"][0] == "failed"
    ids.write_text("r1\nstranger")
    refused(root, "--val-ids", ids, "--force", said="1 of 2 videos can't be listed, including stranger")
    ids.write_text("r1\n")
    (root / "dfdc_train_part_1" / "r1.mp4").rename(tmp_path / "r1.mp4")
    refused(root, said="lists 1 video that can't be read now. Restore them")
    refused(root, "--force", said="1 of 1 video can't be listed, including r1")
    (tmp_path / "r1.mp4").rename(root / "dfdc_train_part_1" / "r1.mp4")
    assert main(root, "--val-ids", "none", "--force", stale=["r1"]) == 0
    assert folds_of(root) == {name: int(name[1]) for name in all_videos(0, 1, 2) if name != "r1"}


def test_one_fold_is_named(tmp_path, capsys):
    root = make_root(tmp_path, (0,))
    assert main(root) == 0
    assert "only one fold has crops" in capsys.readouterr().out
    make_part(root, 1)
    assert main(root) == 0
    assert "only one fold has crops" not in capsys.readouterr().out


def test_donors_that_link_all_are_named(tmp_path, capsys):
    root = make_root(tmp_path, (0, 1), f0a="r1")
    assert main(root) == 0
    assert set(folds_of(root).values()) == {0}
    assert "donors link all 6 videos into one family" in capsys.readouterr().out


def test_two_runs_at_once_never_write_one_file(tmp_path):
    root = make_root(tmp_path, (0, 1))
    assert main(root) == 0
    before = (root / "folds.csv").read_bytes()
    lock = root / "failures" / ".generate_folds.lock"
    with only_one(lock, None), pytest.raises(UsageError, match=r"^another run of this step is working on"):
        main(root, "--force", "--seed", "9")
    assert (root / "folds.csv").read_bytes() == before
