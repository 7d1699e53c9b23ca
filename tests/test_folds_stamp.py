"""The stamp of a folds.csv, and what step 5 takes from a file without one (preprocessing/folds_stamp.py)."""

import json

import pytest
from folds_roots import (
    HEADER,
    all_videos,
    folds_of,
    main,
    make_part,
    make_root,
    new_crops,
    refused,
)
from helpers import write_part

from preprocessing.fold_assignment import Assignment
from preprocessing.folds_stamp import FoldsStamp, Options, read_folds_stamp, stamp_path


def old_file(root, folds, stamp='["0123", 77]', **labels):
    """A folds.csv of an earlier version."""
    lines = [HEADER]
    for name, fold in folds.items():
        fake = name[0] == "f"
        lines.append(f"{name},0_0.png,{int(fake)},{'r' + name[1] if fake else name},0,{fold}\n")
    (root / "folds.csv").write_text("".join(lines))
    if stamp is not None:
        stamp_path(root / "folds.csv").write_text(stamp)


@pytest.mark.parametrize("stamp", [None, '["0123", 77]', "broken", '{"version": 0}', '{"version": 1}', "[" * 100000])
def test_folds_of_an_earlier_version_are_kept(tmp_path, capsys, stamp):
    root = make_root(tmp_path, (0, 1, 2))
    old = {name: {"0": 2, "1": 0, "2": 5}[name[1]] for name in all_videos(0, 1, 2) if name != "f2a"}
    old_file(root, old, stamp)
    assert main(root, "--seed", 3, "--similar", 4) == 0
    assert folds_of(root) == old | {"f2a": 5}
    assert "has no stamp of this version; its folds are read from the file\n" in capsys.readouterr().out
    kept = read_folds_stamp(stamp_path(root / "folds.csv"))
    assert kept.options == Options(seed=3, similar=4)
    assert kept.assignment == Assignment(
        {f"dfdc_train_part_{k}": v for k, v in ((0, 2), (1, 0), (2, 5))}, {"r0": 2, "r1": 0, "r2": 5}
    )
    make_part(root, 3)
    assert main(root) == 0
    assert folds_of(root)["r3"] == 1


@pytest.mark.parametrize(
    ("old", "given", "held", "dropped"),
    [
        (
            {"r0": 0, "f0a": 1, "f0b": 1} | dict.fromkeys(all_videos(1, 2), 2),
            None,
            ["r0"],
            ["f0a", "f0b"],
        ),  # a split family
        ({"r0": 0} | dict.fromkeys(all_videos(1, 2), 2), ["r0"], ["r0"], ["f0a", "f0b"]),  # relatives are left out
        (dict.fromkeys(all_videos(0), 0) | dict.fromkeys(all_videos(1, 2), 2), None, None, []),  # a whole part
        (dict.fromkeys(all_videos(0), 0) | dict.fromkeys(all_videos(1, 2), 2), all_videos(0), all_videos(0), []),
        (dict.fromkeys(all_videos(0), 1) | dict.fromkeys(all_videos(1, 2), 2), None, None, []),  # no fold 0
    ],
)
def test_a_hold_out_of_an_earlier_version_stays_one(tmp_path, capsys, old, given, held, dropped):
    root = make_root(tmp_path, (0, 1, 2))
    old_file(root, old)
    arguments = []
    if given is not None:
        (tmp_path / "ids").write_text("\n".join(given))
        arguments = ["--val-ids", tmp_path / "ids"]
    assert main(root, *arguments) == 0
    folds = folds_of(root)
    assert folds == {name: old.get(name, 2) for name in all_videos(0, 1, 2) if name not in dropped}
    out = capsys.readouterr().out
    videos = "1 video" if len(held or []) == 1 else f"{len(held or [])} videos"
    assert (f"fold 0 stays a hold-out of {videos}" in out) == bool(held)
    options = read_folds_stamp(stamp_path(root / "folds.csv")).options
    assert options.val_ids == (tuple(sorted(held)) if held else None)
    assert main(root) == 0
    assert folds_of(root) == folds
    assert "was complete" in capsys.readouterr().out


@pytest.mark.parametrize("lacking", [["f0a", "f1b"], ["f0a", "f0b", "f1b"]])
def test_a_hold_out_that_nobody_can_tell_is_asked_for(tmp_path, lacking):
    """Two whole parts in fold 0, less many fakes: left out for a hold-out, or not cropped in those days?"""
    root = make_root(tmp_path, (0, 1, 2))
    old = {name: 0 for name in all_videos(0, 1) if name not in lacking} | dict.fromkeys(all_videos(2), 2)
    old_file(root, old)
    refused(root, said=[f"{len(lacking)} relatives of the videos in its fold 0", "otherwise pass --val-ids none"])
    assert main(root, "--val-ids", "none") == 0
    assert folds_of(root) == old | dict.fromkeys(lacking, 0)
    stamp_path(root / "folds.csv").unlink()
    old_file(root, old)
    (tmp_path / "ids").write_text("\n".join(name for name in old if old[name] == 0))
    assert main(root, "--val-ids", tmp_path / "ids") == 0
    assert folds_of(root) == old


def test_a_video_that_got_its_crops_since_makes_no_hold_out(tmp_path):
    root = make_root(tmp_path, (0, 1, 2))
    old = {name: 0 for name in all_videos(0, 1) if name != "f1b"} | dict.fromkeys(all_videos(2), 2)
    old_file(root, old)
    assert main(root) == 0
    assert read_folds_stamp(stamp_path(root / "folds.csv")).options.val_ids is None
    assert folds_of(root) == old | {"f1b": 0}


@pytest.mark.parametrize(
    ("first", "odd", "second", "held"),
    [(0, 1, 2, ("f0a", "f0b", "r0")), (0, 2, 2, ("f0a", "f0b", "r0")), (1, 2, 0, None), (2, 1, 0, None)],
)
def test_a_part_that_is_split_shows_a_hold_out(tmp_path, first, odd, second, held):
    root = make_root(tmp_path, (0, 1))
    metadata = json.loads((root / "dfdc_train_part_0" / "metadata.json").read_text())
    write_part(root / "dfdc_train_part_0", metadata | {"r9.mp4": {"label": "REAL"}})
    (root / "dfdc_train_part_0" / "r9.mp4").write_bytes(b"")
    new_crops(root, "r9", 9)
    old = dict.fromkeys(all_videos(0), first) | {"r9": odd} | dict.fromkeys(all_videos(1), second)
    old_file(root, old)
    main(root)
    assert folds_of(root) == old
    kept = read_folds_stamp(stamp_path(root / "folds.csv"))
    assert kept.options.val_ids == held
    up = held is not None  # the numbers in the file are one higher
    home = odd - up if up else first  # of part 0, as far as it is not held out
    assert kept.assignment.originals == {"r0": home, "r9": odd - up, "r1": second - up}
    assert kept.assignment.parts == {"dfdc_train_part_0": home, "dfdc_train_part_1": second - up}


def test_options_that_an_earlier_file_contradicts_are_refused(tmp_path, capsys):
    root = make_root(tmp_path, (0, 1, 2))
    old = {name: int(name[1]) + 1 for name in all_videos(0, 1, 2)}
    old_file(root, old)
    refused(root, "--n_splits", 3, said="--n-splits from 16 to 3")
    (tmp_path / "ids").write_text("r0\n")
    refused(root, "--val-ids", tmp_path / "ids", said="--val-ids from none to 1 video (r0)")
    assert main(root, "--n_splits", 4, "--crops-dir", "crops") == 0
    assert folds_of(root) == old
    assert read_folds_stamp(stamp_path(root / "folds.csv")).options == Options(n_splits=4)
    old_file(root, old)
    assert main(root, "--n_splits", 2, "--force") == 0
    assert folds_of(root) == {name: int(name[1] != "0") for name in old}
    old_file(root, {name: {"0": 0, "1": 30, "2": 31}[name[1]] for name in old})
    assert main(root) == 0
    assert read_folds_stamp(stamp_path(root / "folds.csv")).options == Options(n_splits=32)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its first line is not video,file,label"),
        ("video,file,label,original,frame,fold,mine\nr0,0_0.png,0,r0,0,0,1\n", "its first line"),
        (HEADER + "r0,0_0.png,0,r0,0\n", "line 2 has 5 values, not 6"),
        (HEADER + "r0,0_0.png,0,r0,0,x\n", "line 2: fold 'x' is not a whole number"),
        (HEADER + "r0,0_0.png,0,r0,0,-1\n", "r0 is in several folds or in a negative fold"),
        (HEADER + "r0,0_0.png,0,r0,0,0\nr0,10_0.png,0,r0,10,1\n", "r0 is in several folds"),
        (HEADER + "r0,0_0.png,1,r0,0,0\n", "label or original of r0"),
        (HEADER + "f0a,0_0.png,1,r1,0,0\n", "label or original of f0a"),
        (HEADER + "f0a,0_0.png,0,r0,0,0\n", "label or original of f0a"),
        (HEADER + "stranger,0_0.png,0,stranger,0,0\n", "no metadata.json lists any of its videos"),
        (HEADER + "r0,0_0.png,0,r0,0,1\nf0a,0_0.png,1,r0,0,2\n", "r0 and its fakes are in several folds"),
        (HEADER + '"' + "x" * 200_000, "field larger than"),
        ("\xff", "first line"),
    ],
)
def test_what_this_step_did_not_make_is_replaced_only_with_force(tmp_path, capsys, text, said):
    root = make_root(tmp_path, (0, 1))
    (root / "folds.csv").write_text(text, encoding="latin-1" if text == "\xff" else "utf-8")
    said = "utf-8" if text == "\xff" else said
    refused(root, said=[str(root / "folds.csv"), "was not written by this step", said, "--force"])
    assert main(root, "--force", "--n_splits", 2) == 0
    assert folds_of(root) == {name: int(name[1]) for name in all_videos(0, 1)}
    assert "overwriting it" in capsys.readouterr().out


def test_an_empty_table_and_rows_of_parts_that_were_taken_away_are_no_fault(tmp_path):
    root = make_root(tmp_path, (0, 1))
    (root / "folds.csv").write_text(HEADER)
    assert main(root) == 0
    old_file(root, dict.fromkeys(all_videos(1, 7), 5))
    assert main(root) == 0
    assert folds_of(root) == {name: 5 * int(name[1]) for name in all_videos(0, 1)}


def test_a_video_that_is_away_counts_in_an_earlier_file_too(tmp_path):
    root = make_root(tmp_path, (0, 1, 2))
    old = dict.fromkeys(all_videos(0), 1) | dict.fromkeys(all_videos(1), 2) | dict.fromkeys(all_videos(2), 0)
    old_file(root, old)
    (root / "dfdc_train_part_1" / "r1.mp4").unlink()
    refused(root, said="lists 3 videos")
    assert main(root, "--force") == 0
    assert folds_of(root) == {name: fold for name, fold in old.items() if name[1] != "1"}
    assert read_folds_stamp(stamp_path(root / "folds.csv")).assignment.originals["r1"] == 2


GOOD = {"n_splits": 16, "seed": 7, "val_ids": None, "crops_dir": "crops", "similar": 10}


@pytest.mark.parametrize(
    "change",
    [
        {"options": None},
        {"options": {"seed": 1}},
        {"assignment": {"parts": [], "originals": {}}},
        {"assignment": {"parts": {}}},
        {"assignment": {"parts": {"a": "x"}, "originals": {}}},
        {"digest": None},
        {"options": GOOD | {"n_splits": 1}},
        {"options": GOOD | {"n_splits": True}},
        {"options": GOOD | {"seed": -1}},
        {"options": GOOD | {"seed": None}},
        {"options": GOOD | {"val_ids": "a"}},
        {"options": GOOD | {"val_ids": []}},
        {"options": GOOD | {"val_ids": [7]}},
        {"options": GOOD | {"similar": 65}},
        {"options": GOOD | {"similar": "x"}},
        {"options": GOOD | {"crops_dir": 5}},
        {"assignment": {"parts": {"a": -1}, "originals": {}}},
        {"assignment": {"parts": {}, "originals": {"a": 1.5}}},
        {"version": 2},
    ],
)
def test_a_broken_stamp_is_none(tmp_path, change):
    path = tmp_path / "stamp.json"
    stamp = FoldsStamp(Options(val_ids=("a",), similar=None), Assignment({"p": 3}, {"r": 4}), "0", {"size": 1})
    stamp.write(path)
    assert read_folds_stamp(path) == stamp
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | change))
    assert read_folds_stamp(path) is None
    assert read_folds_stamp(tmp_path / "absent") is None
    path.write_text(json.dumps(value | {"options": GOOD}))
    assert read_folds_stamp(path).options == Options(seed=7)
