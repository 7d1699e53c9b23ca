"""The page at the end of preprocessing (preprocessing/report*.py): its counts and words, and a browser."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from conftest import ROOT, copy_dataset, make_crops, run_script, write_crop, write_part

from dfdc import artifacts, layout
from preprocessing import report, report_page, report_pairs, report_scan

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NASTY = "<b>&\"'.onerror=alert(1)"
VOID = {"meta", "img", "br", "rect", "line"}
# What a reader meets: told to the page around, since the content of a frame is not in what the browser dumps.
PROBE = """<script>addEventListener("load", () => {
  const over = [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5);
  const images = [...document.images];
  parent.postMessage(JSON.stringify({
    inner: innerWidth, scroll: document.documentElement.scrollWidth, over: over.map(e => e.tagName + "." + e.className),
    images: images.length, decoded: images.filter(i => i.complete && i.naturalWidth > 40).length}), "*");
});</script>"""
# A frame, since a browser's window can't be made narrower than 500 pixels.
FRAME = """<!DOCTYPE html><body style="margin: 0"><pre></pre>
<script>onmessage = (event) => {{ document.querySelector("pre").textContent = event.data; }};</script>
<iframe src="probed.html" style="border: 0; width: {width}px; height: 900px"></iframe>"""


class Page(HTMLParser):
    """A page taken apart: its text, its pictures, its rows; fails where tags don't match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.sources, self.alts, self.rows = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag, attrs):
        assert not [name for name, _ in attrs if name.startswith("on")], attrs
        assert tag not in ("script", "link", "iframe", "b-bad"), tag
        if tag == "img":
            self.sources.append(dict(attrs)["src"])
            self.alts.append(dict(attrs)["alt"])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def read_page(root):
    return Page(layout.report_path(root).read_text(encoding="utf-8"))


@pytest.fixture
def root(preprocessed, tmp_path):
    return copy_dataset(preprocessed, tmp_path / "data root")


@pytest.fixture(scope="module")
def page(preprocessed):
    return read_page(preprocessed)


def make_nasty(root, name=NASTY, families=1):
    """A part, videos and crops named so as to break a page; stamps as the steps write them, but no boxes."""
    metadata = {}
    for family in range(families):
        real, fake = f"{name}{family}", f"{name}{family}_fake"
        metadata |= {f"{real}.mp4": {"label": "REAL"}, f"{fake}.mp4": {"label": "FAKE", "original": f"{real}.mp4"}}
        for video in (real, fake):
            stamp = {"settings": {name: name}, "made": {"crops": 1}, "notes": [], "failed": None}
            with artifacts.atomic_folder(layout.crops_path(root, video), stamp) as folder:
                write_crop(folder / layout.crop_name(0, 0), seed=family)
    part = write_part(root / f"part {name}", metadata)
    for file in metadata:
        (part / file).write_bytes(b"x")
    artifacts.Ledger(layout.ledger_path(root, "extract_crops"), {(name, "failed"): f"no {name} here"}).write()
    return root


# ------------------------------------------------------------------------------------------------- content
def test_the_page_shows_what_is_there(preprocessed, page):
    dataset = layout.load_dataset(preprocessed)
    rows = {row[0]: row[1:] for row in page.rows}
    for part in dataset.parts:
        reals = sum(video.part == part.name for video in dataset.reals())
        fakes = sum(video.part == part.name for video in dataset.fakes())
        points = sum(len(list(layout.landmarks_path(preprocessed, video.id).glob("*.npy")))
                     for video in dataset.reals() if video.part == part.name)  # fmt: skip
        values = [reals, fakes, 0, 4 * reals, 4 * (reals + fakes), points, 4 * fakes]
        assert rows[part.name] == [str(value) for value in values]
    assert int(rows["All parts"][4]) == 4 * len(dataset.videos)
    assert int(rows["All folds"][2]) == 4 * len(dataset.reals())
    assert "All five steps ran. Nothing failed." in page.text
    assert f"of {4 * len(dataset.reals())} frames show a face" in page.text
    assert "thresholds 0.85 / 0.95 / 0.95" in page.text
    assert "margin part 3" in page.text


def test_the_pairs_are_pictures_of_all_fakes(preprocessed, page):
    fakes = layout.load_dataset(preprocessed).fakes()
    assert len(page.sources) == 3 * min(report_pairs.MAX_PAIRS, report_pairs.MAX_FRAMES * len(fakes))
    for source in page.sources:
        kind, data = source.split(",")
        assert kind == "data:image/jpeg;base64"
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert max(picture.shape) == report_pairs.SIDE
    for fake in fakes:
        assert any(f"fake, {fake.id}, " in alt for alt in page.alts)
        assert any(f"where {fake.id} differs from {fake.source}" in alt for alt in page.alts)


def test_the_dots_lie_on_the_landmarks_and_the_mask_is_lit_where_it_changed():
    grey = np.full((448, 336, 3), 90, np.uint8)
    points = np.array([(100, 150), (220, 150), (160, 220), (110, 300), (210, 300)], np.int16)
    drawn = report_pairs._with_points(grey, points)
    assert drawn.shape == (224, 168, 3)
    for x, y in points // 2:
        assert np.abs(drawn[y, x].astype(int) - report_pairs._GOLD).max() < 8
    assert (drawn[5, 5] == 90).all()
    mask = np.zeros((448, 336), np.uint8)
    mask[200:300, 100:200] = 255
    lit = report_pairs._with_mask(grey, mask)
    assert lit[125, 75].min() > 150
    assert lit[125, 75, 0] > 240  # pale yellow
    assert len(set(lit[20, 20].tolist())) == 1  # grey


def test_pairs_are_spread_evenly():
    for count in (1, 2, 5, 64, 100):
        order = report_pairs.spread(range(count))
        assert sorted(order) == list(range(count))
    for start in (4, 8, 16):
        halves = [index < 50 for index in report_pairs.spread(range(100))[:start]]
        assert abs(sum(halves) - start / 2) <= start / 4
    videos = {
        f"{part}_{index}": layout.Video(f"{part}_{index}", None, f"p{part}", layout.FAKE, "r")
        for part in range(3)
        for index in range(9)
    }
    first = list(report_pairs._spread_fakes(layout.Dataset(None, [], videos)))[:6]
    assert [video.part for video in first] == ["p0", "p2", "p1"] * 2
    assert [video.id[-1] for video in first] == ["0"] * 3 + ["8"] * 3


def test_the_page_is_one_file_and_asks_for_nothing(preprocessed):
    text = layout.report_path(preprocessed).read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import|<script|<link", text)
    assert "default-src &#x27;none&#x27;" in text
    assert str(preprocessed) not in text
    assert len(text) < 3_000_000
    assert [path.name for path in layout.report_path(preprocessed).parent.iterdir()] == ["index.html"]


def test_the_same_data_give_the_same_bytes_wherever_they_lie(preprocessed, root):
    first = layout.report_path(preprocessed).read_bytes()
    report.make_report(root, "crops")
    assert layout.report_path(root).read_bytes() == first
    report.make_report(root, "crops")
    assert layout.report_path(root).read_bytes() == first


def test_a_large_data_set_gives_a_small_page(tmp_path):
    make_nasty(tmp_path, "video", families=60)
    for index in range(40):
        write_part(tmp_path / f"part_{index}", {f"absent{index}.mp4": {"label": "REAL"}})
    found, path = report.make_report(tmp_path, "crops")
    page = read_page(tmp_path)
    assert len(page.sources) == 2 * report_pairs.MAX_PAIRS
    assert page.text.count("no mask") == report_pairs.MAX_PAIRS
    assert "Each of the 41 parts" in page.text
    assert found.tally.total()["crops"] == 120
    assert path.stat().st_size < 1_500_000


# ------------------------------------------------------------------------------------------------- reasons
def test_similar_reasons_are_one_line(tmp_path):
    rows = {(f"v{i}", "skipped"): f"its original o{i} is not on disk" for i in range(50)}
    rows |= {(f"w{i}", "failed"): f"{tmp_path}/part/w {i}.mp4 is not a video" for i in range(3)}
    rows |= {("z", "failed"): "the file has zero bytes"}
    rows |= {(f"m{i}", "incomplete"): f"{i} of 9 masks show no change; {i} boxes hold no picture" for i in range(2, 5)}
    path = layout.ledger_path(tmp_path, "extract_crops")
    artifacts.Ledger(path, rows).write()
    ledger = report_scan.read_ledger(path, layout.Dataset(tmp_path, []))
    lines = [(reason.outcome, reason.group.count, reason.text) for reason in ledger.reasons]
    assert lines == [
        ("failed", 3, "DATA_ROOT/part/w … is not a video"),
        ("failed", 1, "the file has zero bytes"),
        ("skipped", 50, "its original … is not on disk"),
        ("incomplete", 3, "… boxes hold no picture"),
        ("incomplete", 3, "… of 9 masks show no change"),
    ]
    assert ledger.reasons[2].group.examples == ["v0", "v1", "v10"]
    assert ledger.outcomes == {"skipped": 50, "failed": 4, "incomplete": 3}


def test_reasons_without_end_are_counted_together(tmp_path):
    path = layout.ledger_path(tmp_path, "extract_crops")
    artifacts.Ledger(path, {(f"v{i}", "failed"): f"w{i} " * 3 for i in range(300)}).write()
    ledger = report_scan.read_ledger(path, layout.Dataset(tmp_path, []))
    assert len(ledger.reasons) == report_scan.MAX_REASONS + 1
    assert sum(reason.group.count for reason in ledger.reasons) == 300
    assert max(ledger.reasons, key=lambda reason: reason.group.count).text == "other reasons"


def test_failures_are_on_the_page_and_in_the_table(root, capsys):
    rows = {("gone", "skipped"): "it is not on disk"}
    for step in report_scan.STEPS:
        artifacts.Ledger(layout.ledger_path(root, step), dict(rows)).write()
    artifacts.Ledger(layout.ledger_path(root, "extract_crops"), rows | {("cut", "failed"): "it is cut short"}).write()
    assert report.main(["--root-dir", str(root)]) == 0
    page = read_page(root)
    assert page.text.count("it is not on disk") == 1  # once for all steps
    assert ["failed", "1", "it is cut short", "cut"] in page.rows
    assert "1 failure; the reasons stand below" in page.text
    out = capsys.readouterr().out
    assert re.search(r"failures/extract_crops.csv +1 failed, 1 skipped, 0 incomplete", out)
    assert re.search(rf"page +{re.escape(str(layout.report_path(root)))}", out)


# --------------------------------------------------------------------------------------- broken and missing
def test_names_are_text_and_never_markup(tmp_path):
    root = make_nasty(tmp_path / f"root {NASTY}")
    (root / layout.FOLDS_NAME).write_text(f'video,label,fold\n"{NASTY.replace(chr(34), chr(34) * 2)}0",0,0\n')
    report.make_report(root, "crops")
    page = read_page(root)  # the parser fails at any tag or attribute that a name has made
    assert "b" not in page.open
    for text in (f"root {NASTY}", f"part {NASTY}", f"{NASTY}0_fake from {NASTY}0", f"no {NASTY} here"):
        assert text in page.text
    assert '<b>&"' not in layout.report_path(root).read_text().replace("&quot;", "")
    assert any(f"fake, {NASTY}0_fake" in alt for alt in page.alts)


def test_artifacts_without_stamps_or_metadata_are_counted_and_said(tmp_path):
    root = make_crops(tmp_path / "root")
    part = write_part(root / "part_0", {
        **{f"real{i}.mp4": {"label": "REAL"} for i in range(6)},
        **{f"fake{i}.mp4": {"label": "FAKE", "original": f"real{i}.mp4"} for i in range(5)},
    })  # fmt: skip
    for name in json.loads((part / "metadata.json").read_text()):
        (part / name).write_bytes(b"x")
    found, _ = report.make_report(root, "crops")
    page = read_page(root)
    assert found.tally.total()["crops"] == 6 * 11
    assert "11 videos whose crops have no stamp, so that the files were counted" in page.text
    assert "not in metadata.json" in page.text  # fake5, in folds.csv
    assert "No boxes yet" in page.text
    assert "Not run yet, or without a ledger: faces, crops, landmarks, masks, folds." in page.text
    assert "Nothing is known of 1 Faces, 2 Crops, 3 Landmarks, 4 Masks, 5 Folds" in page.text
    assert "Nothing failed" not in page.text


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
    for text in ("1 video with a broken boxes file", "crops have a broken stamp", "landmarks have a broken stamp",
                 "failures/generate_diffs.csv can't be read", "line 2 has 1 values, not 3",
                 "Pairs that can't be shown:", "and 1 more"):  # fmt: skip
        assert text in page.text
    assert "failures/generate_diffs.csv          can't be read" in done.stdout
    assert not any(f"fake, {fake.id}," in alt for alt in page.alts)


@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "There is no folds.csv"), ("video,file\n", "lacks the column label and fold"), ("", "lacks the column"),
     ("video,label,fold\na,2,0\n", "line 2 is not a crop"), ("video,label,fold\na,0\n", "line 2 is not a crop"),
     ("video,label,fold\n", "folds.csv lists no crop"), (b"\xff\xfe", "can't decode"),
     ("video,label,fold\na,0,0\n", "Only one fold"),
     ('video,label,fold\n"' + "a" * 200_000, "field larger than field limit")],
)  # fmt: skip
def test_folds_that_are_not_there_or_broken(tmp_path, text, said):
    root = make_nasty(tmp_path)
    if text is not None:
        (root / layout.FOLDS_NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
    report.make_report(root, "crops")
    assert said in read_page(root).text


def test_no_fakes_and_no_artifacts(tmp_path):
    part = write_part(tmp_path / "part_0", {"a.mp4": {"label": "REAL"}, "b.mp4": {"label": "REAL"}})
    (part / "a.mp4").write_bytes(b"x")
    report.make_report(tmp_path, "crops")
    page = read_page(tmp_path)
    assert "No pair can be shown" in page.text
    assert "1 video in 1 part became 0 face crops" in page.text
    assert ["part_0", "1", "0", "1", "0", "0", "0", "0"] in page.rows


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
        "empty": "holds a metadata.json",
        "broken": "broken JSON",
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


def test_crops_of_another_folder_and_a_place_that_is_taken(root):
    (root / "crops").rename(root / "wide")
    found, _ = report.make_report(root, "wide")
    assert found.tally.total()["crops"] == 4 * len(found.dataset.videos)
    assert run_script("preprocessing/report.py", "--root-dir", root, "--crops-dir", "../wide").returncode == 2
    shutil.rmtree(root / "report")
    (root / "report").write_text("a file")
    done = run_script("preprocessing/report.py", "--root-dir", root, "--crops-dir", "wide")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


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


def test_numbers_read_well():
    assert [report_page.percent(*pair) for pair in ((0, 0), (0, 9), (9, 9), (1, 9999), (9998, 9999), (1, 3))] == [
        "0 %", "0 %", "100 %", "0.1 %", "99.9 %", "33.3 %"]  # fmt: skip
    assert report_page.number(119146) == "119,146"
    bins = [report_scan._coverage_bin(*pair) for pair in ((0, 0), (0, 8), (1, 8), (2, 8), (4, 8), (7, 8), (8, 8))]
    assert [report_scan.COVERAGE[index] for index in bins] == [
        "none", "none", "< 25%", "25–49%", "50–74%", "75–99%", "all"]  # fmt: skip


# ------------------------------------------------------------------------------------------- in a browser
def browse(folder, path, width, *options):
    """How a browser of that width shows the page at `path`."""
    probed = folder / "probed.html"
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<meta http-equiv=[^>]+>", "", text).replace("</body>", PROBE + "</body>")
    probed.write_text(text, encoding="utf-8")
    framed = folder / "framed.html"
    framed.write_text(FRAME.format(width=width), encoding="utf-8")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
               "--hide-scrollbars", *options]  # fmt: skip
    shot = folder / f"{width}.png"
    outputs = [
        subprocess.run([*command, *more], capture_output=True, text=True, check=True, timeout=120).stdout
        for more in (
            ("--window-size=1300,1000", "--virtual-time-budget=10000", "--dump-dom", framed.as_uri()),
            (f"--window-size={width},900", f"--screenshot={shot}", path.as_uri()),
        )
    ]
    found = re.search(r"<pre>(\{.*\})</pre>", outputs[0])
    assert found, outputs[0][-2000:]
    return SimpleNamespace(**json.loads(found[1]), picture=cv2.imread(str(shot)))


@pytest.mark.skipif(not CHROMIUM, reason="no chromium, chromium-browser or google-chrome is installed")
@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("kind", ["demo", "long names", "fault"])
def test_a_browser_shows_the_page_at_any_width(preprocessed, tmp_path, kind, width):
    root, pictures = preprocessed, len(read_page(preprocessed).sources)
    if kind == "long names":
        root, pictures = make_nasty(tmp_path / "root", "averylongname" * 14, families=20), 2 * 20
        report.make_report(root, "crops")
    if kind == "fault":
        root, pictures = tmp_path / ("empty" * 30), 0
        root.mkdir()
        with pytest.raises(layout.DataError):
            report.make_report(root, "crops")
    seen = browse(tmp_path, layout.report_path(root), width)
    assert seen.inner == width
    assert seen.scroll <= width
    assert seen.over == []  # nothing reaches over the right edge
    assert (seen.images, seen.decoded) == (pictures, pictures)
    assert seen.picture.shape == (900, width, 3)
    assert seen.picture.std() > 5  # and it is not blank
    assert seen.picture[-1, 0].min() > 200  # light


@pytest.mark.skipif(not CHROMIUM, reason="no chromium, chromium-browser or google-chrome is installed")
def test_a_browser_that_is_set_to_dark_gets_a_dark_page(preprocessed, tmp_path):
    seen = browse(tmp_path, layout.report_path(preprocessed), 800, "--blink-settings=preferredColorScheme=0")
    assert seen.picture[-1, 0].max() < 60
