"""The page at the end of preprocessing: its counts and words, and a browser."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from helpers import copy_dataset, run_script, write_part

from dfdc import artifacts, layout
from dfdc.imaging import encode_png
from dfdc.ledger import Ledger
from preprocessing import report
from preprocessing.pages import make_report, pairs, scan

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
            with artifacts.atomic_folder(layout.crops_path(root, video)) as folder:
                folder.stamp = artifacts.Stamp({"settings": {name: name}}, {"crops": 1})
                folder.write(layout.crop_name(0, 0), crop_bytes(seed=family))
    part = write_part(root / f"part {name}", metadata)
    for file in metadata:
        (part / file).write_bytes(b"x")
    write_ledger(root, "extract_crops", {(name, "failed"): f"no {name} here"})
    return root


def crop_bytes(seed):
    """A smooth random picture as PNG."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return encode_png(cv2.resize(noise, (50, 60), interpolation=cv2.INTER_CUBIC))


def write_ledger(root, step, rows, *, finished=True):
    """(video, outcome) -> reason, as a step leaves them."""
    ledger = Ledger(layout.ledger_path(root, step), 3)
    for (video, outcome), reason in rows.items():
        ledger.looked_at(video)
        ledger.add(video, outcome, reason)
    if finished:
        ledger.finish()
    ledger.write()
    return ledger.path


# ------------------------------------------------------------------------------------------------- content
@pytest.mark.slow
def test_the_page_shows_what_is_there(preprocessed, page):
    dataset = layout.load_dataset(preprocessed)
    rows = {row[0]: row[1:] for row in page.rows}
    for part in dataset.parts:
        reals = sum(video.part == part.name for video in dataset.reals())
        fakes = sum(video.part == part.name for video in dataset.fakes())
        points = sum(
            len(list(layout.landmarks_path(preprocessed, video.id).glob("*.npy")))
            for video in dataset.reals()
            if video.part == part.name
        )
        values = [reals, fakes, 0, 4 * reals, 4 * (reals + fakes), points, 4 * fakes]
        assert rows[part.name] == [str(value) for value in values]
    assert int(rows["All parts"][4]) == 4 * len(dataset.videos)
    assert int(rows["All folds"][2]) == 4 * len(dataset.reals())
    assert "All five steps are complete. Nothing failed." in page.text
    assert f"of {4 * len(dataset.reals())} frames show a face" in page.text
    assert "thresholds 0.85 / 0.95 / 0.95" in page.text
    assert "margin part 3" in page.text


@pytest.mark.slow
def test_the_pairs_are_pictures_of_all_fakes(preprocessed, page):
    fakes = layout.load_dataset(preprocessed).fakes()
    assert len(page.sources) == 3 * min(pairs.MAX_PAIRS, pairs.MAX_FRAMES * len(fakes))
    for source in page.sources:
        kind, data = source.split(",")
        assert kind == "data:image/jpeg;base64"
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert max(picture.shape) == pairs.SIDE
    for fake in fakes:
        assert any(f"fake, {fake.id}, " in alt for alt in page.alts)
        assert any(f"where {fake.id} differs from {fake.source}" in alt for alt in page.alts)


@pytest.mark.slow
def test_the_page_is_one_file_and_asks_for_nothing(preprocessed):
    text = layout.report_path(preprocessed).read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import|<script|<link", text)
    assert "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text
    assert str(preprocessed) not in text
    assert len(text) < 3_000_000
    assert [path.name for path in layout.report_path(preprocessed).parent.iterdir()] == ["index.html"]


@pytest.mark.slow
def test_the_same_data_give_the_same_bytes_wherever_they_lie(preprocessed, root):
    first = layout.report_path(preprocessed).read_bytes()
    make_report(root, "crops")
    assert layout.report_path(root).read_bytes() == first
    make_report(root, "crops")
    assert layout.report_path(root).read_bytes() == first


@pytest.mark.slow
def test_a_large_data_set_gives_a_small_page(tmp_path):
    make_nasty(tmp_path, "video", families=60)
    for index in range(40):
        write_part(tmp_path / f"part_{index}", {f"absent{index}.mp4": {"label": "REAL"}})
    found, path = make_report(tmp_path, "crops")
    page = read_page(tmp_path)
    assert len(page.sources) == 2 * pairs.MAX_PAIRS
    assert page.text.count("no mask") == pairs.MAX_PAIRS
    assert "Each of the 41 parts" in page.text
    assert found.tally.total()["crops"] == 120
    assert path.stat().st_size < 1_500_000


# ------------------------------------------------------------------------------------------------- reasons
@pytest.mark.slow
def test_failures_are_on_the_page_and_in_the_table(root, capsys):
    rows = {("gone", "skipped"): "it is not on disk"}
    for step in scan.STEPS:
        write_ledger(root, step, rows)
    write_ledger(root, "extract_crops", rows | {("cut", "failed"): "it is cut short"})
    assert report.main(["--root-dir", str(root)]) == 0
    page = read_page(root)
    assert page.text.count("it is not on disk") == 1  # once for all steps
    assert ["failed", "1", "it is cut short", "cut"] in page.rows
    assert "1 failure; the reasons are below" in page.text
    out = capsys.readouterr().out
    assert re.search(r"failures/extract_crops.csv +1 failed, 1 skipped, 0 incomplete", out)
    assert re.search(rf"page +{re.escape(str(layout.report_path(root)))}", out)


@pytest.mark.slow
def test_a_step_that_did_not_end_is_said_not_to_have_ended(root, capsys):
    write_ledger(root, "extract_crops", {("a", "failed"): "zero bytes"}, finished=False)
    layout.ledger_path(root, "generate_diffs").with_suffix(".json").unlink()  # as an earlier version leaves it
    report.main(["--root-dir", str(root)])
    page = read_page(root)
    assert "Crops: stopped or still running, after 1 of 3 videos; run it again." in page.text
    assert "Masks: unknown whether it is complete; run it again." in page.text
    assert "1 failure; the reasons are below" in page.text
    for promise in ("All five", "Nothing failed"):
        assert promise not in page.text
    out = capsys.readouterr().out
    assert "1 failed, 0 skipped, 0 incomplete: stopped or still running, after 1 of 3 videos" in out


@pytest.mark.slow
def test_videos_that_are_rejected_as_a_whole_are_not_shown_or_counted(root, capsys):
    dataset = layout.load_dataset(root)
    real = dataset.reals()[0].id
    family = [video.id for video in dataset.videos.values() if video.source == real]
    before, _ = make_report(root, "crops")
    (root / layout.REJECTED_NAME).write_text(f"video,frame,face\n{real},,\n")
    found, _ = make_report(root, "crops")
    assert found.tally.total()["crops"] == before.tally.total()["crops"] - 4 * len(family)
    page = read_page(root)
    assert not any(name in alt for alt in page.alts for name in family)
    (root / layout.REJECTED_NAME).write_text("film\n")
    assert run_script("preprocessing/report.py", "--root-dir", root).returncode == 2
    assert "rejected.csv" in read_page(root).text  # the page says what is wrong


@pytest.mark.slow
def test_a_part_that_is_away_is_on_the_page(root, tmp_path):
    part = layout.load_dataset(root).parts[0]
    part.rename(tmp_path / "away")
    make_report(root, "crops")
    assert f"Parts of folds.csv that are missing now: {part.name}" in read_page(root).text


@pytest.mark.slow
def test_crops_that_cant_be_read_are_on_the_page(root, monkeypatch):
    refused = layout.load_dataset(root).reals()[0].id

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    (layout.crops_path(root, refused) / artifacts.STAMP_NAME).unlink()
    monkeypatch.setattr(scan, "count_files", refuse)
    make_report(root, "crops")
    assert f"1 video whose crops can't be read: {refused}" in read_page(root).text


@pytest.mark.slow
def test_what_is_rejected_and_what_is_of_no_video_any_more_is_counted(root, capsys):
    real = layout.load_dataset(root).reals()[0].id
    (root / layout.REJECTED_NAME).write_text(
        f"video,frame,face,reason\n{real},10,0,a poster\nnobody,,,\n{real},11,,\n{real},,7,\n"
    )
    for name in ("gone", "gone too"):
        with artifacts.atomic_folder(layout.crops_path(root, name)) as folder:
            folder.stamp = artifacts.Stamp({}, {})
    (layout.bboxes_path(root, "gone")).write_text("{}")
    report.main(["--root-dir", str(root)])
    page = read_page(root)
    assert (
        "2 Crops: 2 artifacts of videos that are not in metadata.json (gone, gone too); --prune removes them"
        in page.text
    )
    assert "1 Faces: 1 artifact of videos that are not in metadata.json (gone.json); --prune" in page.text
    idle = "rejected.csv: 3 rows without effect, since the video or face doesn't exist: nobody,,; "
    assert f"{idle}{real},11,; {real},,7" in page.text
    assert "1 rows of rejected.csv" in page.text.replace("1rows", "1 rows")
    out = capsys.readouterr().out
    assert re.search(r"orphaned +3 artifacts \(--prune removes them\)", out)
    assert re.search(r"rejected.csv +4 rows", out)


# ------------------------------------------------------------------------------------------- in a browser
def browse(folder, path, width, *options):
    """How a browser of that width shows the page at `path`."""
    probed = folder / "probed.html"
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<meta http-equiv=[^>]+>", "", text).replace("</body>", PROBE + "</body>")
    probed.write_text(text, encoding="utf-8")
    framed = folder / "framed.html"
    framed.write_text(FRAME.format(width=width), encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        "--hide-scrollbars",
        *options,
    ]
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


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium, chromium-browser or google-chrome is installed")
@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("kind", ["demo", "long names", "fault"])
def test_a_browser_shows_the_page_at_any_width(preprocessed, tmp_path, kind, width):
    root, pictures = preprocessed, len(read_page(preprocessed).sources)
    if kind == "long names":
        root, pictures = make_nasty(tmp_path / "root", "averylongname" * 14, families=20), 2 * 20
        make_report(root, "crops")
    if kind == "fault":
        root, pictures = tmp_path / ("empty" * 30), 0
        root.mkdir()
        with pytest.raises(layout.DataError):
            make_report(root, "crops")
    seen = browse(tmp_path, layout.report_path(root), width)
    assert seen.inner == width
    assert seen.scroll <= width
    assert seen.over == []  # nothing reaches over the right edge
    assert (seen.images, seen.decoded) == (pictures, pictures)
    assert seen.picture.shape == (900, width, 3)
    assert seen.picture.std() > 5  # and it is not blank
    assert seen.picture[-1, 0].min() > 200  # light


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium, chromium-browser or google-chrome is installed")
def test_a_browser_that_is_set_to_dark_gets_a_dark_page(preprocessed, tmp_path):
    seen = browse(tmp_path, layout.report_path(preprocessed), 800, "--blink-settings=preferredColorScheme=0")
    assert seen.picture[-1, 0].max() < 60
