"""Which videos step 5 lists, and what its ledger says of the others (preprocessing/folds_listing.py)."""

import json

from folds_roots import (
    folds_of,
    ledger_of,
    main,
    make_root,
    picture_of,
    put_crops,
    refuse_stamp_of,
    refused,
    rows_of,
)

from dfdc import artifacts, layout
from dfdc.artifacts import Stamp
from preprocessing import folds_listing, generate_folds


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
        "f3b": ("skipped", f"{no_crops} holds no crops; step 2 (extract_crops.py) cut none"),
    }
    run = json.loads(layout.ledger_path(root, "generate_folds").with_suffix(".json").read_text())
    assert run == {"videos": 11, "looked_at": 11, "finished": True}
    assert "not listed: 8 videos, listed with a note: 3; see " in capsys.readouterr().out
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
    refused(root, said=["lists 1 video that can't be read now", "f0a: its crops can't be read", "--force-folds"])
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
    refused(
        root,
        stale=["r0", "f0a", "f0b"],
        said=["holds no complete and fresh crops", "steps 1 and 2", str(root / "failures")],
    )
    rows = ledger_of(root)
    assert len(rows) == 4
    assert rows["folds.csv"][1].startswith("refused: ")
    run = json.loads(layout.ledger_path(root, "generate_folds").with_suffix(".json").read_text())
    assert run["finished"] is True
