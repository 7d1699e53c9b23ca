"""folds.csv (preprocessing/generate_folds.py): what is listed, hold-outs, and wrong use."""

import json

import pytest
from folds_roots import (
    all_videos,
    folds_of,
    ledger_of,
    main,
    make_part,
    make_root,
    picture_of,
    put_crops,
    refuse_stamp_of,
    refused,
    rows_of,
)
from helpers import run_script

from dfdc import artifacts, layout
from dfdc.artifacts import Stamp
from preprocessing import folds_listing, generate_folds

SCRIPT = "preprocessing/generate_folds.py"


# ------------------------------------------------------------------------------------------------ what is listed
def test_t20_what_was_cropped_is_what_is_listed(tmp_path, capsys):
    root = make_root(tmp_path, (0, 1, 7))
    put_crops(
        root, "r0", {f"{frame}_5.png": picture_of(10**6 + frame) for frame in (1000, 0, 70)}
    )  # any frames and persons
    (root / "crops" / "left over").mkdir()
    assert main(root) == 0
    rows = rows_of(root / "folds.csv")
    assert list(rows[0]) == ["video", "file", "label", "original", "frame", "fold"]
    listed = {(row["video"], row["file"]) for row in rows}
    on_disk = {(p.parent.name, p.name) for p in (root / "crops").glob("*/*.png")}
    assert listed == on_disk
    assert len(rows) == len(listed)
    row = next(row for row in rows if row["video"] == "f1a" and row["file"] == "10_1.png")
    assert row == {"video": "f1a", "file": "10_1.png", "label": "1", "original": "r1", "frame": "10", "fold": "1"}
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "fold    real   fake videos       real      fake crops  parts",
        "   0       1      2                 3         8        dfdc_train_part_0",
        "   1       1      2                 4         8        dfdc_train_part_1",
        "   2       1      2                 4         8        dfdc_train_part_7",
        f"generate_folds: 35 crops of 9 videos -> {root / 'folds.csv'}",
    ]


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


def test_t24_seed_decides_the_order(tmp_path):
    root = make_root(tmp_path, (0, 1))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main(root, "--seed", seed, "--out", f"{name}.csv") == 0
    a, b, c = ((root / f"{name}.csv").read_bytes() for name in "abc")
    assert a == b != c
    assert sorted(a.splitlines()) == sorted(c.splitlines())


def test_only_fresh_crops_are_listed_and_the_ledger_says_why(tmp_path, capsys, monkeypatch):
    root = make_root(tmp_path, (0, 1, 2, 3))
    put_crops(root, "f3a", {"0_0.png": picture_of(1)}, failed="nothing to see")
    put_crops(root, "f3b", {})
    (root / "dfdc_train_part_0" / "f0b.mp4").unlink()
    options = {"stale": ["r1"], "rejected": ["f1a", "f1b"], "unpaired": ["f2a"], "unknown_pairs": ["f2b"]}
    refuse_stamp_of(monkeypatch, "r2")
    assert main(root, **options, unreadable=["r0", "f0a"]) == 0
    monkeypatch.undo()
    assert folds_of(root) == {"r0": 0, "f0a": 0, "f2b": 1, "r3": 2}
    missing = root / "dfdc_train_part_0"
    no_crops = layout.crops_path(root, "f3b")
    assert ledger_of(root) == {
        "r0": ("incomplete", f"{missing / 'r0.mp4'} can't be read (Input/output error)"),
        "f0a": ("incomplete", f"{missing / 'f0a.mp4'} can't be read (Input/output error)"),
        "f0b": ("skipped", f"{missing / 'f0b.mp4'} is not on disk"),
        "r1": ("skipped", folds_listing.NOT_FRESH),
        "f1a": ("skipped", "rejected: f1a"),
        "f1b": ("skipped", "rejected: f1b"),
        "f2a": ("skipped", "its border differs"),
        "f2b": ("incomplete", f"{folds_listing.NOT_COMPARED}: its masks can't be read"),
        "r2": ("skipped", f"its crops can't be read: {layout.crops_path(root, 'r2')}/.stamp.json: Permission denied"),
        "f3a": ("skipped", "nothing to see"),
        "f3b": ("skipped", f"{no_crops} holds no crops; step 2 (extract_crops.py) could cut none"),
    }
    run = json.loads(layout.ledger_path(root, "generate_folds").with_suffix(".json").read_text())
    assert run == {"videos": 11, "looked_at": 11, "finished": True}
    assert "not listed: 8 videos, listed with a note: 3; reasons: " in capsys.readouterr().out
    main(root)
    assert set(ledger_of(root)) == {"f0b", "f3a", "f3b"}


def test_a_fake_that_was_not_compared_with_its_original_is_said_so(tmp_path):
    root = make_root(tmp_path, (0, 1))
    assert main(root, uncompared=["f0a"]) == 0
    assert folds_of(root)["f0a"] == 0
    assert ledger_of(root) == {"f0a": ("incomplete", folds_listing.NOT_COMPARED)}


def test_t61_crops_that_cannot_be_read_now_do_not_shrink_the_file(tmp_path, monkeypatch):
    root = make_root(tmp_path, (0, 1))
    main(root)
    refuse_stamp_of(monkeypatch, "f0a")
    refused(root, said=["lists 1 video that can't be looked at now", "f0a: its crops can't be read", "--force-folds"])
    assert main(root, "--force") == 0
    assert "f0a" not in folds_of(root)


def test_t61_a_video_that_cannot_be_read_needs_crops_that_are_whole(tmp_path):
    root = make_root(tmp_path, (0, 1))
    (layout.crops_path(root, "r0") / "0_0.png").write_bytes(b"broken")
    assert main(root, unreadable=["r0", "f0a"]) == 0
    assert "r0" not in folds_of(root)
    assert folds_of(root)["f0a"] == 0
    outcome, reason = ledger_of(root)["r0"]
    assert outcome == "skipped"
    assert "not complete and fresh" in reason
    assert "Input/output error" in reason


def test_the_other_steps_are_asked(tmp_path, monkeypatch):
    root = make_root(tmp_path, (0, 1))
    (root / "rejected.csv").write_text("video,frame,face\nf0b,,\n")
    made = []

    class Step:
        def __init__(self, *arguments):
            made.append(arguments)

        def check(self, video):
            return artifacts.read_stamp(layout.crops_path(root, video.id))

    class DiffStep(Step):
        def check(self, video):
            return Stamp({}, {}, "no pair" if video.id == "f1a" else None)

    monkeypatch.setattr(folds_listing, "CropStep", Step)
    monkeypatch.setattr(folds_listing, "DiffStep", DiffStep)
    assert generate_folds.main(["--root-dir", str(root)]) == 0
    assert folds_of(root).keys() == {"r0", "f0a", "r1", "f1b"}
    (where, crops_dir, rejections), second = made
    assert (where, crops_dir) == second == (root, "crops")
    assert len(rejections.rows) == 1
    assert "rejected" in ledger_of(root)["f0b"][1]
    assert ledger_of(root)["f1a"] == ("skipped", "no pair")


def test_without_crops_it_says_which_steps_make_them(tmp_path):
    root = make_root(tmp_path, (0,))
    refused(root, stale=["r0", "f0a", "f0b"], said=["holds no crops", "steps 1 and 2", str(root / "failures")])
    rows = ledger_of(root)
    assert len(rows) == 4
    assert rows["folds.csv"][1].startswith("refused: ")
    run = json.loads(layout.ledger_path(root, "generate_folds").with_suffix(".json").read_text())
    assert run["finished"] is True


# ------------------------------------------------------------------------------------------------------- hold-outs
def test_a_rejected_video_leaves_the_hold_out_with_a_line(tmp_path, capsys):
    root = make_root(tmp_path / "root", (0, 1, 2))
    ids = tmp_path / "ids"
    ids.write_text("r0\nr1\n")
    main(root, "--val-ids", ids)
    capsys.readouterr()
    assert main(root, rejected=["r1"]) == 0
    assert [video for video, fold in folds_of(root).items() if fold == 0] == ["r0"]
    out = capsys.readouterr().out
    assert "rejected, and so not held out: r1\n" in out
    assert "has no FAKE video" in out
    assert main(root) == 0  # and it comes back
    assert {video for video, fold in folds_of(root).items() if fold == 0} == {"r0", "r1"}


def test_options_are_checked_before_any_work(tmp_path, capsys):
    root = make_root(tmp_path / "root", (0, 1, 2))
    assert main(root, "--check-options") == 0
    assert not (root / "folds.csv").exists()
    main(root, "--seed", 3)
    capsys.readouterr()
    assert main(root, "--check-options") == 0
    assert "as before: " in capsys.readouterr().out
    refused(root, "--check-options", "--seed", 4, said="--seed from 3 to 4")
    refused(root, "--check-options", "--val-ids", tmp_path / "absent", said="absent")
    before = (root / "folds.csv").read_bytes()
    assert main(root, "--check-options", "--seed", 4, "--force") == 0
    assert (root / "folds.csv").read_bytes() == before


@pytest.mark.parametrize("as_folder", [False, True])
def test_val_ids_hold_out_just_those_and_drop_their_families(tmp_path, capsys, as_folder):
    root = make_root(tmp_path / "root", (0, 1, 2, 3), f3a="r1")
    ids = tmp_path / "ids"
    if as_folder:
        ids.mkdir()
        for name in ("r0.mp4", "f1a.mp4", "notes.txt"):
            (ids / name).write_bytes(b"")
    else:
        ids.write_text("r0\n f1a.mp4 \n\n", encoding="utf-8-sig")
    assert main(root, "--val-ids", ids) == 0
    assert folds_of(root) == {"r0": 0, "f1a": 0, "r2": 3, "f2a": 3, "f2b": 3}
    said = "left out, being of the families of the hold-out: 7 videos (f0a, f0b, f1b, f3a, f3b, 2 more)\n"
    assert said in capsys.readouterr().out


def test_a_hold_out_that_cannot_be_listed_changes_nothing(tmp_path):
    root = make_root(tmp_path / "root", (0, 1, 2))
    ids = tmp_path / "ids"
    ids.write_text("r1\n")
    main(root, "--val-ids", ids)
    refused(root, stale=["r1"], said=["1 of 1 video can't be listed, r1 among them", "--force-folds"])
    refused(root, "--force", stale=["r1"], said="r1 among them")
    assert ledger_of(root)["folds.csv"][0] == "failed"
    ids.write_text("r1\nstranger")
    refused(root, "--val-ids", ids, "--force", said="1 of 2 videos can't be listed, stranger among them")
    ids.write_text("r1\n")
    (root / "dfdc_train_part_1" / "r1.mp4").rename(tmp_path / "r1.mp4")
    refused(root, said="lists 1 video that can't be looked at now. Bring them back")
    refused(root, "--force", said="1 of 1 video can't be listed, r1 among them")
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


# ------------------------------------------------------------------------------------------------------ wrong use
def test_wrong_use_exits_2_and_names_it(tmp_path):
    root = make_root(tmp_path / "root", (0, 1))
    (tmp_path / "empty").write_text("\n \n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for arguments, said in (
        (["--n_splits", 1], "--n-splits 1"),
        (["--seed", -1], "--seed -1"),
        (["--val-ids", tmp_path / "absent"], "absent"),
        (["--val-ids", tmp_path / "empty"], "no video is named there"),
        (["--val-ids", tmp_path / "bytes"], "can't be read"),
        (["--crops-dir", "bboxes"], "--crops-dir bboxes"),
        (["--out", "crops"], "--out crops"),
    ):
        refused(root, *arguments, said=said)
    assert main(root, "--n_splits", 2, "--seed", 0, "--crops-dir", "crops") == 0


@pytest.mark.parametrize("value", ["-1", "65", "x", "", "1.5"])
def test_bits_that_are_none_are_refused(tmp_path, capsys, value):
    with pytest.raises(SystemExit) as end:
        main(tmp_path, f"--similar={value}")
    assert end.value.code == 2
    assert f"{value!r} is neither off nor a number of bits from 0 to 64" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_exits_2_without_a_traceback(tmp_path):
    root = make_root(tmp_path / "root", (0, 1))
    for arguments, said in ((["--n_splits", 1], "--n-splits 1"), (["--crops-dir", "nothing"], "holds no crops")):
        done = run_script(SCRIPT, "--root-dir", root, *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert not (root / "folds.csv").exists()
