"""folds.csv is written and read in the plain way, and what leaks from one fold to another is seen."""

import csv
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from folds_roots import (
    HEADER,
    all_videos,
    ledger_of,
    main,
    make_root,
    new_crops,
    picture_of,
    put_crops,
    rows_of,
)
from helpers import write_part

from dfdc import artifacts, folds, layout
from preprocessing import folds_file, likeness
from preprocessing.fold_assignment import Assignment, Listing, assign_folds
from preprocessing.folds_stamp import stamp_path


# --------------------------------------------------------------------------------------------------------- leaks
def leaks_of(root, similar=likeness.NEAR_BITS, path=None):
    """What find_leaks says of a written file."""
    dataset = layout.load_dataset(root)
    listings = []
    for video in dataset.videos.values():
        stamp = artifacts.read_stamp(layout.crops_path(root, video.id))
        listings.append(Listing(video, np.zeros((1, 2)), looks=tuple(map(likeness.read_look, stamp.looks))))
    return folds_file.find_leaks(path or root / "folds.csv", dataset, listings, similar)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("r0,0_0.png,0,r0,0,0", "r0,0_0.png,0,r0,0,1", "video r0 is in folds [0, 1]"),
        ("f0a,0_0.png,1,r0,0,0", "f0a,0_0.png,1,r0,0,1", "r0 and its fakes are in folds [0, 1]"),
        ("f0b,10_1.png,1,r0,10,0", "f0b,10_1.png,1,r0,10,1", "person 1 of r0 is in folds [0, 1]"),
    ],
)
def test_t23_leaks_are_seen_in_the_written_file(tmp_path, old, new, said):
    root = make_root(tmp_path, (0, 1))
    main(root)
    path = root / "folds.csv"
    assert leaks_of(root) == []
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    leaks = leaks_of(root, similar=None)
    assert said in leaks
    assert len(leaks) == 3


@pytest.mark.slow
def test_t64_a_donor_in_another_fold_leaks(tmp_path):
    root = make_root(tmp_path, (0, 1, 2))
    main(root)
    make_root(root, (0, 1), f0b="r1")
    assert leaks_of(root) == ["donors link r0 and r1; they are in folds [0, 1]"]
    make_root(root, (2,), f2b="somebody")
    make_root(root, (1,), f1b="somebody")
    assert leaks_of(root) == ["donors link r0 and r1 and r2; they are in folds [0, 1, 2]"]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("r0", "r1"), ("f0a", "f1b"), ("f0a", "r1")])
def test_t64_the_same_pixels_under_two_names_leak(tmp_path, capsys, first, second):
    root = make_root(tmp_path, (0, 1, 2))
    new_crops(root, second, seed=[*all_videos(0), *all_videos(1)].index(first))  # as make_part has them
    for arguments in (["--similar", "off"], ["--similar", 64], []):
        assert main(root, *arguments) == 1
        err = capsys.readouterr().err
        assert err.count(" in different folds") == 1
        assert f"{first} and {second} are the same video in different folds\n" in err
        assert "look alike (" not in err
        assert not (root / "folds.csv").exists()
        assert not stamp_path(root / "folds.csv").exists()
    run = json.loads(layout.ledger_path(root, "generate_folds").with_suffix(".json").read_text())
    assert run["finished"] is True  # running it again helps nothing
    outcome, reason = ledger_of(root)["folds.csv"]
    assert outcome == "failed"
    assert f"{first} and {second} are the same video in different folds" in reason
    # One crop is enough, and it need not be at the same place.
    pictures = {name: picture_of(number + 900) for number, name in enumerate(("0_0.png", "10_0.png", "20_0.png"))}
    put_crops(root, first, pictures)
    put_crops(root, second, {"0_0.png": picture_of(990), "30_0.png": pictures["10_0.png"]})
    assert main(root, "--similar", "off") == 1
    assert main(root, "--similar", "off", rejected=[second]) == 0


def test_the_same_pixels_in_one_fold_are_no_leak(tmp_path):
    root = make_root(tmp_path, (0, 1))
    new_crops(root, "f0a", seed=2)
    assert main(root) == 0
    main(root, "--n_splits", 3, "--force")


def copy_crops(root, source, target):
    """Crops of `target` as if it were `source`, encoded again and a little smaller."""
    folder = layout.crops_path(root, source)
    pictures = {}
    for path in sorted(folder.glob("*.png")):
        picture = cv2.imread(str(path))[:, :, ::-1]
        smaller = cv2.resize(picture, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
        jpeg = cv2.imencode(".jpg", smaller, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
        pictures[path.name] = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    put_crops(root, target, pictures)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("r0", "r1"), ("f0a", "f1b"), ("r0", "f1a")])
def test_t64_videos_that_look_alike_leak(tmp_path, capsys, first, second):
    root = make_root(tmp_path, (0, 1))
    big = {layout.crop_name(frame, 0): picture_of(500 + frame, (96, 80)) for frame in (0, 10, 20)}
    put_crops(root, first, big)
    assert main(root) == 0
    before = (root / "folds.csv").read_bytes()
    put_crops(root, second, {name: cv2.GaussianBlur(picture[4:, :-3], (3, 3), 0) for name, picture in big.items()})
    capsys.readouterr()
    assert main(root) == 1
    err = capsys.readouterr().err
    assert f"\n  {' and '.join(sorted((first, second)))} look alike (crops differ in " in err
    assert " of 64 bits) and are in folds [0, 1]\n" in err
    for advice in ("Remove one", f"add it to {root / 'rejected.csv'}", "--similar to a smaller number or to off"):
        assert advice in err
    assert (root / "folds.csv").read_bytes() == before
    assert main(root, "--similar", "off") == 0
    rows = {row["video"] for row in rows_of(root / "folds.csv")}
    assert rows == set(all_videos(0, 1))


def test_names_of_alike_videos_are_in_order_and_their_distances_too(tmp_path, monkeypatch):
    root = make_root(tmp_path, (0, 1))
    main(root)
    seen = []

    def find_alike(looks, folds, bits):
        seen.append((len(looks), folds, bits))
        return [likeness.Alike(5, 1, (0, 10)), likeness.Alike(0, 4, (2, 4, 6))]

    monkeypatch.setattr(likeness, "find_alike", find_alike)
    assert leaks_of(root, similar=7) == [
        "f0a and f1b look alike (crops differ in 0 and 10 of 64 bits) and are in folds [0, 1]",
        "f1a and r0 look alike (crops differ in 2 and 4 and 6 of 64 bits) and are in folds [0, 1]",
    ]
    assert leaks_of(root, similar=None) == []
    assert seen == [(6, [0, 0, 0, 1, 1, 1], 7)]


def test_looks_that_a_stamp_lacks_are_made(tmp_path, capsys):
    root = make_root(tmp_path, (0, 1))
    pictures = {f"{frame}_0.png": picture_of(frame) for frame in (0, 10, 20)}
    for looks in ([], None, [{"crop": "0_0.png"}], 5):
        put_crops(root, "r0", pictures)
        path = layout.crops_path(root, "r0") / artifacts.STAMP_NAME
        artifacts.write_json(path, artifacts.read_json(path) | {"looks": looks})
        put_crops(root, "r1", pictures)
        assert main(root, "--similar", "off") == 1
        assert "r0 and r1 are the same video" in capsys.readouterr().err


@pytest.mark.slow
def test_many_leaks_are_counted(tmp_path, capsys):
    root = make_root(tmp_path, range(12))
    for part in range(1, 12):
        new_crops(root, f"f{part}a", seed=1)
        for kind in ("r", "f"):
            name = f"{kind}{part}{'b' if kind == 'f' else ''}"
            put_crops(
                root, name, {f"{frame}_0.png": picture_of(frame, (48, 40)) + np.uint8(part) for frame in (0, 10, 20)}
            )
    assert main(root) == 1
    err = capsys.readouterr().err
    assert "f0a and f10a and f11a and f1a and f2a and 7 more are the same video in different folds" in err
    lines = err.splitlines()
    assert sum(line.startswith("  ") for line in lines) == 21
    assert next(line for line in lines if line.startswith("  ... and ")).endswith(" more")


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
    """The plain way to look for leaks: one row after the other, and all chosen crops are read."""
    videos, originals, people, families = defaultdict(set), defaultdict(set), defaultdict(set), []
    for row in rows_of(path):
        video, fold = dataset.videos[row["video"]], int(row["fold"])
        videos[video.id].add(fold)
        originals[video.source].add(fold)
        people[(row["file"].rpartition("_")[2][:-4], video.source)].add(fold)
        joined = {video.source, *([video.donor] if video.donor else [])}
        for group in [group for group in families if group & joined]:
            families.remove(group)
            joined |= group
        families.append(joined)
    leaks = [f"video {video} is in folds {sorted(folds)}" for video, folds in videos.items() if len(folds) > 1]
    leaks += [f"{name} and its fakes are in folds {sorted(x)}" for name, x in originals.items() if len(x) > 1]
    leaks += [f"person {face} of {name} is in folds {sorted(x)}" for (face, name), x in people.items() if len(x) > 1]
    for group in families:
        inside = sorted(group & originals.keys())
        folds = sorted(set().union(*(originals[name] for name in inside)))
        if len(inside) > 1 and len(folds) > 1:
            leaks.append(f"donors link {' and '.join(inside)}; they are in folds {folds}")
    holders = defaultdict(set)
    for name in videos:
        folder = layout.crops_path(dataset.root, name)
        for crop in likeness.pick([path.name for path in folder.glob("*.png")]):
            picture = cv2.imread(str(folder / crop))
            holders[(picture.shape, picture.tobytes())].add(name)
    for names in holders.values():
        if len(names) > 1 and len(set().union(*(videos[name] for name in names))) > 1:
            leaks.append(f"{' and '.join(sorted(names))} are the same video in different folds")
    return set(leaks)


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
            if number == 4:
                metadata[f"{fakes[1]}.mp4"]["donor"] = f"{ODD_NAMES[5]}.mp4"
            for kind, name in enumerate((real, *fakes)):
                # 7 and 8 show the same picture.
                names = [layout.crop_name(frame, face) for frame, face in ((0, 0), (10, 0), (20, 1), (100, number))]
                seed = 100 * min(number, 7) + 10 * kind
                put_crops(root, name, {crop: picture_of(seed + place) for place, crop in enumerate(names)})
        folder = write_part(root / f"part_{part}", metadata)
        for name in metadata:
            (folder / name).write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def odd_root(tmp_path_factory):
    return make_odd_root(tmp_path_factory.mktemp("odd"))


@pytest.mark.parametrize("rows_at_a_time", [5, 7, 100_000])
def test_folds_and_leaks_are_those_of_the_plain_way(odd_root, tmp_path, monkeypatch, rows_at_a_time):
    monkeypatch.setattr(folds_file, "WRITE_ROWS", rows_at_a_time)
    monkeypatch.setattr(folds, "READ_ROWS", rows_at_a_time)
    dataset = layout.load_dataset(odd_root)
    listings = []
    for video in dataset.videos.values():
        folder = layout.crops_path(odd_root, video.id)
        looks = tuple(map(likeness.read_look, artifacts.read_stamp(folder).looks))
        listings.append(Listing(video, np.array(layout.list_crops(folder)), looks=looks))
    assign_folds(listings, dataset, 3, Assignment())
    ours, plain = tmp_path / "ours.csv", tmp_path / "plain.csv"
    for seed in range(3):
        assert folds_file.write_folds(ours, listings, seed) == 120
        reference_write(plain, listings, seed)
        assert ours.read_bytes() == plain.read_bytes()
        leaks = folds_file.find_leaks(ours, dataset, listings, None)
        assert len(leaks) == len(set(leaks))
        assert set(leaks) == reference_leaks(plain, dataset)
        header, *lines = ours.read_text(encoding="utf-8").splitlines(keepends=True)
        rng = np.random.default_rng(seed)
        for row in rng.choice(len(lines), 4 + 20 * seed, replace=False):  # a few leaks, then many
            lines[row] = lines[row].rpartition(",")[0] + f",{rng.integers(12)}\n"
        ours.write_text(header + "".join(lines), encoding="utf-8")
        leaks = folds_file.find_leaks(ours, dataset, listings, None)
        assert set(leaks) == reference_leaks(ours, dataset)
        assert {leak.split()[0] for leak in leaks} >= {"video", "person"}
        rows = {
            (row["video"], row["file"].rpartition("_")[2], row["label"], row["original"], row["fold"])
            for row in rows_of(ours)
        }
        found = [
            (row.video, row.face, str(row.label), row.original, str(row.fold)) for row in folds.read_distinct(ours)
        ]
        assert set(found) == rows
        assert len(found) == len(rows)


def test_names_are_utf_8_whatever_the_locale(tmp_path):
    code = (
        "import sys; from pathlib import Path; import numpy as np; from dfdc.layout import Video\n"
        "from dfdc.folds import read_distinct; from preprocessing.folds_file import write_folds\n"
        "from preprocessing.fold_assignment import Listing\n"
        "video = Video('\\u00e9\\u4e2d', Path('a.mp4'), 'p0', 'REAL', None)\n"
        "write_folds(Path(sys.argv[1]), [Listing(video, np.zeros((1, 2), np.int64))], 0)\n"
        "assert [row.video for row in read_distinct(Path(sys.argv[1]))] == [video.id]\n"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(tmp_path / "folds.csv")]
    done = subprocess.run(
        command, env=os.environ | plain, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "folds.csv").read_bytes() == HEADER.encode() + "é中,0_0.png,0,é中,0,0\n".encode()


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, ""), (1, "0"), (5, "0, 1, 2, 3, 4"), (6, "0, 1, 2, 3, 4, 1 more"), (9, "0, 1, 2, 3, 4, 4 more")],
)
def test_five_names_are_shown(count, said):
    assert folds_file.name_some([str(number) for number in range(count)]) == said
    assert folds_file.name_some([str(number) for number in range(count)], " and ") == said.replace(", ", " and ")
