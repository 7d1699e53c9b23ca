"""folds.csv (preprocessing/generate_folds.py)."""

import csv
import hashlib
import os
import shutil
from collections import defaultdict

import numpy as np
import pytest
from conftest import run_script, write_crop, write_part

from dfdc import layout
from preprocessing import generate_folds

SCRIPT = "preprocessing/generate_folds.py"


def make_root(root, parts, frames=3):
    """One real and two fakes in each part, with crops of two persons."""
    for part in parts:
        metadata = {f"r{part}.mp4": {"label": "REAL"}}
        metadata |= {f"f{part}{k}.mp4": {"label": "FAKE", "original": f"r{part}.mp4"} for k in "ab"}
        folder = write_part(root / f"dfdc_train_part_{part}", metadata)
        for seed, name in enumerate(metadata):
            (folder / name).write_bytes(b"video")
            for frame in range(frames):
                for face in (0, 1):
                    crop = layout.crops_path(root, name[:-4]) / layout.crop_name(frame * 10, face)
                    write_crop(crop, seed=part * 1000 + seed * 100 + frame * 2 + face, size=(8, 8))
    return root


def rows_of(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def main(root, *arguments):
    return generate_folds.main(["--root-dir", str(root), *map(str, arguments)])


def test_t20_what_was_cropped_is_what_is_listed(tmp_path, capsys):
    root = make_root(tmp_path, (0, 1, 7))
    (layout.crops_path(root, "r0") / "1000_5.png").write_bytes(b"")  # beyond 320 frames and two persons
    (layout.crops_path(root, "r0") / "notes.txt").write_bytes(b"")
    (root / "crops" / "left over").mkdir()
    assert main(root) == 0
    rows = rows_of(root / "folds.csv")
    assert list(rows[0]) == ["video", "file", "label", "original", "frame", "fold"]
    listed = {(row["video"], row["file"]) for row in rows}
    on_disk = {(p.parent.name, p.name) for p in (root / "crops").glob("*/*.png")}
    assert listed == on_disk
    assert len(rows) == len(listed)
    row = next(row for row in rows if row["video"] == "f1a" and row["file"] == "20_1.png")
    assert row == {"video": "f1a", "file": "20_1.png", "label": "1", "original": "r1", "frame": "20", "fold": "1"}
    out = capsys.readouterr().out
    assert "dfdc_train_part_7" in out


@pytest.mark.parametrize(
    ("count", "splits", "expected"),
    [(50, 16, {0: 0, 2: 0, 3: 1, 44: 14, 45: 15, 49: 15}), (3, 16, {0: 0, 1: 1, 2: 2}),
     (4, 2, {0: 0, 1: 0, 2: 1, 3: 1}), (20, 16, {0: 0, 15: 15, 19: 15})],
)  # fmt: skip
def test_parts_go_to_folds_in_blocks(count, splits, expected):
    folds = generate_folds.part_folds([f"p{i}" for i in range(count)], splits)
    assert {index: folds[f"p{index}"] for index in expected} == expected
    assert list(folds.values()) == sorted(folds.values())
    assert set(folds.values()) == set(range(min(count, splits)))


def test_t24_seed_decides_the_order(tmp_path):
    root = make_root(tmp_path, (0, 1))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main(root, "--seed", seed, "--out", f"{name}.csv") == 0
    a, b, c = ((root / f"{name}.csv").read_bytes() for name in "abc")
    assert a == b != c
    assert sorted(a.splitlines()) == sorted(c.splitlines())


def test_finished_folds_are_not_redone_and_stale_ones_are(tmp_path, capsys):
    root = make_root(tmp_path, (0, 1))
    main(root)
    os.utime(root / "folds.csv", (1, 1))
    main(root)
    assert (root / "folds.csv").stat().st_mtime == 1
    assert "was complete" in capsys.readouterr().out
    shutil.rmtree(layout.crops_path(root, "f0a"))
    main(root)
    assert not any(row["video"] == "f0a" for row in rows_of(root / "folds.csv"))
    assert "f0a,skipped,it has no crops" in layout.ledger_path(root, "generate_folds").read_text()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [("r0,0_0.png,0,r0,0,0", "r0,0_0.png,0,r0,0,1", "video r0 is in folds [0, 1]"),
     ("f0a,0_0.png,1,r0,0,0", "f0a,0_0.png,1,r0,0,1", "r0 and its fakes are in folds [0, 1]"),
     ("f0b,10_1.png,1,r0,10,0", "f0b,10_1.png,1,r0,10,1", "person 1 of r0 is in folds [0, 1]")],
)  # fmt: skip
def test_t23_leaks_are_seen_in_the_written_file(tmp_path, old, new, said):
    root = make_root(tmp_path, (0, 1))
    main(root)
    path = root / "folds.csv"
    dataset = layout.load_dataset(root)
    assert generate_folds.find_leaks(path, dataset, "crops") == []
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert said in generate_folds.find_leaks(path, dataset, "crops")


def test_t23_the_same_video_under_two_names_leaks(tmp_path, capsys):
    root = make_root(tmp_path, (0, 1))
    shutil.copytree(layout.crops_path(root, "r0"), layout.crops_path(root, "r1"), dirs_exist_ok=True)
    assert main(root) == 1
    assert "r0 and r1 are the same video in different folds" in capsys.readouterr().err
    assert not (root / "folds.csv").exists()


def reference_write(path, listings, seed):
    """The plain way to write folds.csv: one row after the other."""
    rows = [
        (x.video.id, f"{frame}_{face}.png", int(x.video.label == "FAKE"), x.video.source, frame, x.fold)
        for x in listings
        for frame, face in x.crops.tolist()
    ]
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("video", "file", "label", "original", "frame", "fold"))
        writer.writerows(rows[index] for index in np.random.default_rng(seed).permutation(len(rows)))


def reference_leaks(path, dataset):
    """The plain way to look for leaks: one row after the other, and every first crop is read."""
    videos, families, people, first = defaultdict(set), defaultdict(set), defaultdict(set), {}
    for row in rows_of(path):
        video, fold, family = row["video"], int(row["fold"]), dataset.videos[row["video"]].source
        videos[video].add(fold)
        families[family].add(fold)
        people[(row["file"].rpartition("_")[2][:-4], family)].add(fold)
        if row["label"] == "0":
            first[video] = min(first.get(video, row["file"]), row["file"])
    pictures = defaultdict(list)
    for video, name in first.items():
        pictures[hashlib.sha256((layout.crops_path(dataset.root, video) / name).read_bytes()).digest()].append(video)
    leaks = [f"video {video} is in folds {sorted(folds)}" for video, folds in videos.items() if len(folds) > 1]
    leaks += [f"{name} and its fakes are in folds {sorted(x)}" for name, x in families.items() if len(x) > 1]
    leaks += [f"person {face} of {name} is in folds {sorted(x)}" for (face, name), x in people.items() if len(x) > 1]
    leaks += [
        f"{' and '.join(sorted(names))} are the same video in different folds; remove one of them"
        for names in pictures.values()
        if len(set().union(*(videos[name] for name in names))) > 1
    ]
    return leaks


ODD_NAMES = ("007", "0x1F", "1e5", "NA", "plain", "a, b", 'say "x"', " -lead", "é中", "#5")


def make_odd_root(root):
    """Ten families in five parts; most names would be changed by a careless reader or writer of CSV."""
    for part in range(5):
        metadata = {}
        for number in (2 * part, 2 * part + 1):
            real = ODD_NAMES[number]
            fakes = [f"{real}{kind}" for kind in ("0", "_b")]
            metadata[f"{real}.mp4"] = {"label": "REAL"}
            metadata |= {f"{fake}.mp4": {"label": "FAKE", "original": f"{real}.mp4"} for fake in fakes}
            for name in (real, *fakes):
                folder = layout.crops_path(root, name)
                folder.mkdir(parents=True)
                for frame, face in ((0, 0), (10, 0), (20, 1), (100, number)):
                    # Equal sizes; 7 and 8 show the same picture.
                    (folder / layout.crop_name(frame, face)).write_bytes(bytes([frame, face, min(number, 7)]))
        folder = write_part(root / f"part_{part}", metadata)
        for name in metadata:
            (folder / name).write_bytes(b"")
    return root


@pytest.mark.parametrize("rows_at_a_time", [5, 7, 100_000])
def test_folds_and_leaks_are_those_of_the_plain_way(tmp_path, monkeypatch, rows_at_a_time):
    for name in ("WRITE_ROWS", "READ_ROWS"):
        monkeypatch.setattr(generate_folds, name, rows_at_a_time)
    dataset = layout.load_dataset(make_odd_root(tmp_path / "root"))
    listings = generate_folds.list_crops(dataset, "crops")
    kept, _ = generate_folds.assign_folds(listings, dataset, 3, None)
    ours, plain = tmp_path / "ours.csv", tmp_path / "plain.csv"
    for seed in range(3):
        assert generate_folds.write_folds(ours, kept, seed) == 120
        reference_write(plain, kept, seed)
        assert ours.read_bytes() == plain.read_bytes()
        assert generate_folds.find_leaks(ours, dataset, "crops") == reference_leaks(plain, dataset)
        header, *lines = ours.read_text(encoding="utf-8").splitlines(keepends=True)
        rng = np.random.default_rng(seed)
        for row in rng.choice(len(lines), 4 + 20 * seed, replace=False):  # a few leaks, then many
            lines[row] = lines[row].rpartition(",")[0] + f",{rng.integers(12)}\n"
        ours.write_text(header + "".join(lines), encoding="utf-8")
        leaks = generate_folds.find_leaks(ours, dataset, "crops")
        assert leaks == reference_leaks(ours, dataset)
        assert {leak.split()[0] for leak in leaks} >= {"video", "person"}


def test_a_written_file_that_is_no_table_is_refused(tmp_path):
    dataset = layout.load_dataset(make_root(tmp_path, (0, 1)))
    main(tmp_path)
    path = tmp_path / "folds.csv"
    text = path.read_text()
    for broken in (text[:-4], text.replace("fold", "split"), text.replace("r0,0_0.png,0,r0,0,0", "r0,0_0.png,0,r0,0,")):
        assert broken != text
        path.write_text(broken)
        with pytest.raises(ValueError, match=r"zip|fold|int"):
            generate_folds.find_leaks(path, dataset, "crops")


def test_pictures_have_equal_keys_if_they_are_equal(tmp_path):
    contents = [b"a", b"b", b"a", b"long", b"", b"longer", b"lonely content"]
    paths = [tmp_path / f"{number}.png" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    keys = generate_folds.picture_keys(paths)
    assert [keys.index(key) for key in keys] == [contents.index(content) for content in contents]


@pytest.mark.parametrize("as_folder", [False, True])
def test_val_ids_hold_out_just_those_and_drop_their_relatives(tmp_path, as_folder):
    root = make_root(tmp_path / "root", (0, 1, 2))
    ids = tmp_path / "ids"
    if as_folder:
        ids.mkdir()
        for name in ("r0.mp4", "f1a.mp4"):
            (ids / name).write_bytes(b"")
    else:
        ids.write_text("r0\nf1a.mp4\n\n")
    assert main(root, "--val-ids", ids) == 0
    folds = {row["video"]: int(row["fold"]) for row in rows_of(root / "folds.csv")}
    assert {video for video, fold in folds.items() if fold == 0} == {"r0", "f1a"}
    assert folds.keys() == {"r0", "f1a", "r2", "f2a", "f2b"}


def test_wrong_use_exits_2_and_names_it(tmp_path):
    root = make_root(tmp_path / "root", (0, 1))
    ids = tmp_path / "ids.txt"
    ids.write_text("r0\nstranger\n")
    for arguments, said in (
        (["--n_splits", 1], "--n_splits 1"),
        (["--seed", -1], "--seed -1"),
        (["--val-ids", ids], "stranger"),
        (["--val-ids", tmp_path / "absent"], "absent"),
        (["--crops-dir", "nothing"], "holds no crops"),
        (["--workers", -3], "--workers -3"),
    ):
        done = run_script(SCRIPT, "--root-dir", root, *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert not (root / "folds.csv").exists()
