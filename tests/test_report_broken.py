"""The page where something is broken or missing."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, copy_dataset, make_crops, run_script, write_part
from test_pages import HOSTILE, as_written
from test_report import NASTY, make_nasty, read_page

from dfdc import artifacts, layout
from dfdc.text import printable
from preprocessing.pages import make_report


@pytest.fixture
def root(preprocessed, tmp_path):
    return copy_dataset(preprocessed, tmp_path / "data root")


@pytest.mark.slow
def test_names_are_text_and_never_markup(tmp_path):
    root = make_nasty(tmp_path / f"root {NASTY}")
    (root / layout.FOLDS_NAME).write_text(f'video,label,fold\n"{NASTY.replace(chr(34), chr(34) * 2)}0",0,0\n')
    make_report(root, "crops")
    page = read_page(root)  # the parser fails at any tag or attribute that a name has made
    assert "b" not in page.open
    for text in (f"root {NASTY}", f"part {NASTY}", f"{NASTY}0_fake from {NASTY}0", f"no {NASTY} here"):
        assert text in page.text
    assert '<b>&"' not in layout.report_path(root).read_text().replace("&quot;", "")
    assert any(f"fake, {NASTY}0_fake" in alt for alt in page.alts)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text_where_there_is_a_page_and_where_there_is_none(tmp_path, name):
    name = name.replace("/", "")
    root = tmp_path / name
    try:
        make_report(make_nasty(root, name), "crops")
        alts = read_page(root).alts
        assert any(f"fake, {name}0_fake, frame" in alt for alt in alts)
        assert any(f"real, {name}0, frame" in alt for alt in alts)
    except layout.DataError:  # names with controls are refused in a metadata.json
        assert f"entry '{printable(name)}0.mp4'" in read_page(root).text
    assert re.sub(r"\s+", " ", as_written(name)) in read_page(root).text


@pytest.mark.slow
def test_artifacts_without_stamps_or_metadata_are_counted_and_said(tmp_path):
    root = make_crops(tmp_path / "root")
    part = write_part(
        root / "part_0",
        {
            **{f"real{i}.mp4": {"label": "REAL"} for i in range(6)},
            **{f"fake{i}.mp4": {"label": "FAKE", "original": f"real{i}.mp4"} for i in range(5)},
        },
    )
    for name in json.loads((part / "metadata.json").read_text()):
        (part / name).write_bytes(b"x")
    found, _ = make_report(root, "crops")
    page = read_page(root)
    assert found.tally.total()["crops"] == 6 * 11
    assert "11 videos whose crops have no stamp, so their files were counted" in page.text
    assert "not in metadata.json" in page.text  # fake5, in folds.csv
    assert "No boxes yet" in page.text
    assert "Not run yet: faces, crops, landmarks, masks, folds." in page.text
    assert "No ledger for 1 Faces, 2 Crops, 3 Landmarks, 4 Masks, 5 Folds" in page.text
    assert "Nothing failed" not in page.text


@pytest.mark.slow
def test_broken_artifacts_are_said_and_the_rest_is_shown(root):
    dataset = layout.load_dataset(root)
    first, second = dataset.reals()[:2]
    layout.bboxes_path(root, first.id).write_text("[" * 100_000)
    (layout.crops_path(root, first.id) / artifacts.STAMP_NAME).write_text('{"made": {"crops": "many"}}')
    (layout.landmarks_path(root, second.id) / artifacts.STAMP_NAME).write_bytes(b"\xff")
    for points in layout.landmarks_path(root, second.id).glob("*.npy"):
        points.write_bytes(b"PK\x03\x04")
    layout.ledger_path(root, "generate_diffs").write_bytes(b"\xff\xfe")
    layout.ledger_path(root, "generate_folds").write_text("video,outcome,reason\nonly one\n")
    fake = next(video for video in dataset.fakes() if video.source == first.id)
    for crop in layout.crops_path(root, fake.id).glob("*.png"):
        crop.write_bytes(b"cut")
    done = run_script("preprocessing/report.py", "--root-dir", root)
    assert done.returncode == 0, done.stderr
    page = read_page(root)
    for text in (
        "1 video whose boxes file is corrupt or of an earlier version",
        "crops have a corrupt stamp",
        "landmarks have a corrupt stamp",
        "failures/generate_diffs.csv can't be read",
        "line 2 has 1 values, not 3",
        "Pairs that can't be read:",
        "and 1 more",
    ):
        assert text in page.text
    assert "failures/generate_diffs.csv          can't be read" in done.stdout
    assert not any(f"fake, {fake.id}," in alt for alt in page.alts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "folds.csv is missing"),
        ("video,file\n", "lacks the column label and fold"),
        ("", "lacks the column"),
        ("video,label,fold\na,2,0\n", "line 2: label '2' is"),
        ("video,label,fold\na,0\n", "line 2 has 2 values"),
        ("video,label,fold\n", "folds.csv lists no crop"),
        (b"\xff\xfe", "can't decode"),
        ("video,label,fold\na,0,0\n", "Only one fold"),
        ('video,label,fold\n"' + "a" * 200_000, "field larger than field limit"),
    ],
)
def test_folds_that_are_not_there_or_broken(tmp_path, text, said):
    root = make_nasty(tmp_path)
    if text is not None:
        (root / layout.FOLDS_NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
    make_report(root, "crops")
    assert said in read_page(root).text


def test_no_fakes_and_no_artifacts(tmp_path):
    part = write_part(tmp_path / "part_0", {"a.mp4": {"label": "REAL"}, "b.mp4": {"label": "REAL"}})
    (part / "a.mp4").write_bytes(b"x")
    make_report(tmp_path, "crops")
    page = read_page(tmp_path)
    assert "No pairs: no fake shares a crop with its original" in page.text
    assert "1 video in 1 part resulted in 0 face crops" in page.text
    assert ["part_0", "1", "0", "1", "0", "0", "0", "0"] in page.rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["empty", "broken", "absent", "part"])
def test_unusable_data_gives_a_page_that_says_so(tmp_path, kind):
    root = tmp_path / "root"
    if kind != "absent":
        root.mkdir()
    if kind == "broken":
        write_part(root / "part_0", '{"a": ')
    if kind == "part":
        write_part(root, {"a.mp4": {"label": "REAL"}})
    done = run_script("preprocessing/report.py", "--root-dir", root)
    assert done.returncode == 2
    said = {
        "empty": "contains a metadata.json",
        "broken": "invalid JSON",
        "absent": "is not a folder",
        "part": "itself a part",
    }
    assert said[kind] in done.stderr
    assert str(root) in done.stderr
    assert "Traceback" not in done.stderr
    if kind in ("absent", "part"):  # nothing is made there
        assert not (root / "report").exists()
    else:
        assert said[kind] in read_page(root).text
        assert str(layout.report_path(root)) in done.stderr


@pytest.mark.slow
def test_crops_of_another_folder_and_a_place_that_is_taken(root):
    (root / "crops").rename(root / "wide")
    found, _ = make_report(root, "wide")
    assert found.tally.total()["crops"] == 4 * len(found.dataset.videos)
    assert run_script("preprocessing/report.py", "--root-dir", root, "--crops-dir", "../wide").returncode == 2
    shutil.rmtree(root / "report")
    (root / "report").write_text("a file")
    done = run_script("preprocessing/report.py", "--root-dir", root, "--crops-dir", "wide")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_step_that_stops_the_run_is_followed_by_the_page(tmp_path):
    part = write_part(tmp_path / "root" / "part_0", {"a.mp4": {"label": "REAL"}})
    (part / "a.mp4").write_bytes(b"")
    environment = {**os.environ, "VENV": str(Path(sys.executable).parents[1])}
    done = subprocess.run(
        [ROOT / "preprocess_data.sh", tmp_path / "root"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    page = read_page(tmp_path / "root")
    assert ["failed", "1", "the file has zero bytes", "a"] in page.rows
    assert str(layout.report_path(tmp_path / "root")) in done.stdout
