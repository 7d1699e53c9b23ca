"""The pages of verdicts : what they say and show, and a browser."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from helpers import numbered_frames
from test_pages import HOSTILE, as_written
from test_report import CHROMIUM, FRAME, VOID, Page, browse

import predict_folder
from dfdc import identity
from dfdc.command_line import UserError
from dfdc.video import write_video
from networks.ensemble import Ensemble
from prediction.calibration import apply_temperature
from prediction.conclusion import conclude
from prediction.pages import pictures, report, views
from prediction.pages.index import build_index
from prediction.pages.views import FaceCard, Made, Pictures
from prediction.verdict import Face, Status, Verdict

NASTY = "<b>&\"' onerror=alert(1).mp4"
VOID.add("circle")
VOID.add("polyline")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what grad-cam imports


def a_verdict(path, scores, people=None, names=("a", "b"), strategy="confident", **more):
    """A verdict with a face per row of `scores` [faces, models], on consecutive frames."""
    people = people or [0] * len(scores)
    verdict = Verdict(path.name, "ok", path=str(path), frame_count=40, frames_per_second=25.0, frames_read=32, **more)
    verdict.faces = [
        Face(i, p, [20.0, 10.0, 60.0, 50.0], 0.99, scores=list(map(float, row)))
        for i, (p, row) in enumerate(zip(people, scores, strict=True))
    ]
    conclude(verdict, names, strategy)
    return verdict


@pytest.fixture
def video(tmp_path):
    path = tmp_path / NASTY
    write_video(path, numbered_frames(40))
    return path


def make(folder, verdicts, weights, strategy="confident", recorded=None, **settings):
    files = recorded or {v.filename: identity.fingerprint(report.Path(v.path)) for v in verdicts}
    paths = {name: weights / name for name in ("a", "b")}
    load = partial(Ensemble, list(paths.values()), "cpu")
    report.make_report(folder / "r", verdicts, {"strategy": strategy, **settings}, [], paths, load, files)
    return {v.filename: Page((folder / "r/videos" / report.page_name(v.filename)).read_text()) for v in verdicts}


@pytest.mark.slow
def test_a_page_says_and_shows_what_is_known(tmp_path, video, weights):
    scores = np.column_stack([np.linspace(0.5, 0.99, 32), np.full(32, 0.3)])
    verdict = a_verdict(video, scores, [0, 1] * 16)
    page = make(tmp_path, [verdict], weights)[NASTY]
    assert NASTY in page.text  # as text and not as a tag: Page fails on attributes named on...
    assert f"{verdict.score:.2f}" in page.text
    assert views.band(verdict.score).words in page.text
    assert f"The checkpoints disagree: from 0.30 to {verdict.models[0].score:.2f}" in page.text
    assert "time (m:ss)" in page.text
    assert len(page.sources) == 2 + 2 * pictures.SHOWN_FACES  # persons, faces and heat maps
    assert len(set(page.sources)) == len(page.sources)  # no image is in the page twice
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(page.sources[1].split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    assert max(picture.shape) == pictures.FACE_SIDE
    for name in ("a", "b"):
        assert hashlib.sha256((weights / name).read_bytes()).hexdigest() in page.text
    assert f"torch {torch.__version__.split('+')[0]}" in page.text
    assert [row[0] for row in page.rows] == ["Checkpoint", "a", "b"]
    index = Page((tmp_path / "r/index.html").read_text())
    assert NASTY in index.text
    assert len(index.sources) == 1
    assert not list((tmp_path / "r").rglob(".*"))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text_on_both_pages(tmp_path, name):
    verdict = a_verdict(tmp_path / "v.mp4", [[0.9, 0.1]] * 4, names=(name, "b"))
    verdict.filename, verdict.status, verdict.reason, verdict.notes = name, Status.PARTIAL, f"lost {name}", [name]
    made = Made(
        {"strategy": name, name: [name], "precision": name, "more": {name: name}}, {name: name}, {name: name}, [name]
    )
    face = FaceCard(name, 0.5, name, 0.9, b"jpeg", b"jpeg", False)
    video = Page(views.build_video(verdict, Pictures(name, {0: b"jpeg"}, [face]), made).decode())
    pages = build_index([verdict], {name: f"videos/{report.page_name(name)}"}, {name: b"jpeg"}, made)
    index = Page(pages["index.html"].decode())
    shown = as_written(name)
    assert video.words.count(shown) >= 9
    assert [alt for alt in video.alts if shown in alt] == [f"face, {shown}", f"heat map, {shown}"]
    assert [row[1] for row in index.rows] == ["Video", shown]
    assert index.alts == [f"a face in {shown}"]
    assert len(video.sources) == 3


@pytest.mark.slow
def test_the_same_verdicts_give_the_same_bytes(tmp_path, video, weights):
    verdict = a_verdict(video, [[0.9, 0.1]] * 4)
    pages = []
    for _ in range(2):
        make(tmp_path, [verdict], weights)
        pages.append([path.read_bytes() for path in sorted((tmp_path / "r").rglob("*.html"))])
        shutil.rmtree(tmp_path / "r")
    assert pages[0] == pages[1]
    assert len(pages[0]) == 2


@pytest.mark.slow
def test_an_earlier_reports_pages_go_and_nothing_else_does(tmp_path, video, weights):
    verdict = a_verdict(video, [[0.9, 0.1]] * 4)
    make(tmp_path, [verdict, Verdict("gone.mp4", "unreadable", "zero bytes", path=str(video))], weights)
    for name in ("notes.html", "my-notes-2026.html"):
        (tmp_path / "r/videos" / name).write_text("mine")
    make(tmp_path, [verdict], weights)
    found = {path.name for path in (tmp_path / "r/videos").iterdir()}
    assert found == {report.page_name(NASTY), "notes.html", "my-notes-2026.html"}


@pytest.mark.slow
def test_no_verdict_says_why_and_a_video_that_changed_or_went_has_no_pictures(tmp_path, video, weights):
    nobody = Verdict("nobody.mp4", "no face", "no face detected in the 32 frames read", path=str(video))
    gone = a_verdict(tmp_path / "gone.mp4", [[0.9, 0.9]] * 20)
    changed = a_verdict(video, [[0.1, 0.1]] * 20)
    recorded = {video.name: {"size": 1, "mtime_ns": 1, "crc": 1}, "gone.mp4": {}, "nobody.mp4": {}}
    pages = make(tmp_path, [nobody, gone, changed], weights, recorded=recorded)
    assert "No verdict: no face" in pages["nobody.mp4"].text
    assert "no face detected in the 32 frames" in pages["nobody.mp4"].text
    assert "No images: the file is missing" in pages["gone.mp4"].text
    assert "Strong signs of a fake" in pages["gone.mp4"].text
    assert "No images: the file has changed since" in pages[NASTY].text
    assert not any(page.sources for page in pages.values())
    index = Page((tmp_path / "r/index.html").read_text())
    assert [row[1] for row in index.rows if len(row) > 1] == ["Video", "gone.mp4", NASTY, "nobody.mp4"]


@pytest.mark.slow
def test_a_video_that_cant_be_read_any_more_is_said_to_be_so(tmp_path, video, weights, monkeypatch):
    def refuses(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(identity, "regular", refuses)
    page = make(tmp_path, [a_verdict(video, [[0.9, 0.9]] * 4)], weights, recorded={NASTY: {}})[NASTY]
    assert "No images: the file can’t be read again (Permission denied)" in page.text


@pytest.mark.slow
def test_a_damaged_video_is_said_to_be_damaged(tmp_path, weights):
    path = tmp_path / "x.mp4"
    path.write_bytes(b"no video")
    assert (
        "can’t be read again (not a readable video"
        in make(tmp_path, [a_verdict(path, [[0.5, 0.5]])], weights)["x.mp4"].text
    )


def test_passers_by_are_not_shown_and_suspects_are_of_several_persons(tmp_path):
    verdict = a_verdict(
        tmp_path / "v.mp4", [[0.9, 0.9]] * 15 + [[0.6, 0.6]] * 14 + [[0.99, 0.99]], [0] * 15 + [1] * 14 + [2]
    )
    assert [person.person for person in views.main_persons(verdict)] == [0, 1]
    assert [face.person for face in pictures.most_suspicious(verdict)] == [0, 0, 1, 1]
    alone = a_verdict(tmp_path / "v.mp4", [[0.9, 0.9]] * 15)
    assert len(pictures.most_suspicious(alone)) == 4


def test_names_of_pages_are_safe_and_differ():
    names = ["a/b.mp4", "a b.mp4", "A b.mp4", "..", "", "ü" * 300, "\udcff.mp4", "x" * 300]
    pages = [report.page_name(name) for name in names]
    assert len({page.lower() for page in pages}) == len(names)
    assert all(len(page) < 90 and not set(page) - set(report_names()) for page in pages)


def report_names():
    return "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-."


@pytest.mark.slow
def test_calibrated_verdicts_say_so(tmp_path, video, weights):
    scores = np.full((32, 2), 0.1)
    scores[:3, 0] = 0.95
    (verdict,) = apply_temperature([a_verdict(video, scores)], 0.5)
    text = make(tmp_path, [verdict], weights, temperature=0.5)[NASTY].text
    assert verdict.score < 0.02
    assert "their mean, 0.10, calibrated on labelled videos to 0.01." in text
    assert "The video’s score is 0.10; with the smooth strategy" in text
    assert "was calibrated with a temperature of 0.5" in text
    assert "is not calibrated" not in text


@pytest.mark.slow
def test_a_face_without_heat_map_says_so(tmp_path, video, weights, monkeypatch):
    monkeypatch.setattr("prediction.pages.heatmap.make_heatmap", lambda model, images: None)
    page = make(tmp_path, [a_verdict(video, [[0.9, 0.1]])], weights)[NASTY]
    assert "No heat map: this network has no spatial feature map." in page.text
    assert len(page.sources) == 2


# --------------------------------------------------------------------------------- the command, a browser
# Clicks a summary twice, as Enter and a tap do, and notes what has the focus and where its image lies.
ZOOM = """const images = [...document.querySelectorAll(".zoom summary")], steps = [];
  const step = () => {
    images[0].focus();
    const box = images[0].getBoundingClientRect();
    steps.push({focus: document.activeElement.tagName, open: document.querySelectorAll(".zoom[open]").length,
      first: [box.left, box.top, box.right, box.bottom].map(Math.round)}); };
  scrollTo(0, 0); step(); images[0].click(); step();
  images[0].click(); step();
  return steps;"""
PLACES = """return [".answer", ".doubts", ".lead-person", ".lead-person img"].map(name => {
    const box = document.querySelector(name).getBoundingClientRect(); return [box.top, box.bottom]; });"""


def run_script_in(folder, page, width, script):
    """What a script returns in a page, in a frame `width` pixels wide and 800 high."""
    tell = f'parent.postMessage(JSON.stringify((() => {{ {script} }})()), "*")'
    text = re.sub(r"<meta http-equiv=[^>]+>", "", page.read_text())
    (folder / "probed.html").write_text(
        text.replace("</body>", f'<script>addEventListener("load", () => {tell});</script></body>')
    )
    framed = folder / "framed.html"
    framed.write_text(FRAME.format(width=width).replace("900px", "800px"))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=1300,1000", "--virtual-time-budget=10000", "--dump-dom", framed.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    return json.loads(html.unescape(re.search(r"<pre>(.+)</pre>", shown)[1]))


@pytest.mark.slow
def test_the_command_writes_the_pages(tmp_path, weights):
    import skimage.data

    from dfdc.imaging import encode_png

    (tmp_path / "in").mkdir()
    (tmp_path / "in/portrait.png").write_bytes(encode_png(skimage.data.astronaut()))
    arguments = [
        "--weights-dir",
        weights,
        "--models",
        "a",
        "b",
        "--test-dir",
        tmp_path / "in",
        "--device",
        "cpu",
        "--output",
        tmp_path / "out.csv",
        "--report",
        tmp_path / "r",
    ]
    for _ in range(2):  # the second time nothing is left to score
        assert predict_folder.main([str(value) for value in arguments]) == 0
        (page,) = (tmp_path / "r/videos").iterdir()
        assert len(Page(page.read_text()).sources) == 3
        shutil.rmtree(tmp_path / "r")
    with pytest.raises(UserError, match=r"report \S*out.csv: exists and is not a folder"):
        predict_folder.main([str(value) for value in [*arguments[:-1], tmp_path / "out.csv"]])
    (tmp_path / "new_report").write_text("this is where the pages go without --report")
    arguments[-3:] = [tmp_path / "new.csv"]
    with pytest.raises(UserError, match=r"report \S*new_report: exists and is not a folder"):
        predict_folder.main([str(value) for value in arguments])
    assert not (tmp_path / "new.csv.progress").exists()  # before anything was scored


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium, chromium-browser or google-chrome is installed")
@pytest.mark.parametrize("width", [1200, 400])
def test_an_image_is_enlarged_and_closed_again(tmp_path, video, weights, width):
    make(tmp_path, [a_verdict(video, [[0.9, 0.9]] * 20)], weights)
    page = tmp_path / "r/videos" / report.page_name(NASTY)
    steps = run_script_in(tmp_path, page, width, ZOOM)
    assert [step["focus"] for step in steps] == ["SUMMARY"] * 3  # a keyboard reaches it
    small, large, again = (step["first"] for step in steps)
    assert small == again
    assert large[:2] == [0, 0]
    assert large[3] == 800
    assert width - 20 < large[2] <= width  # but for a scroll bar
    other = run_script_in(tmp_path, page, width, ZOOM.replace("step();\n  images[0]", "step();\n  images[1]"))
    assert [step["open"] for step in other] == [0, 1, 1]  # opening an image closes the other one


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium, chromium-browser or google-chrome is installed")
def test_the_top_of_a_page_has_the_answer_the_doubts_and_the_person(tmp_path, video, weights):
    make(tmp_path, [a_verdict(video, np.tile([0.97, 0.3], (4, 1)), [0, 0, 1, 1])], weights)
    places = run_script_in(tmp_path, tmp_path / "r/videos" / report.page_name(NASTY), 1200, PLACES)
    (answer, doubts, person, face) = (top for top, _ in places)
    assert answer < doubts <= person <= face
    assert max(bottom for _, bottom in places) < 800


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium, chromium-browser or google-chrome is installed")
@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_shows_the_pages_at_any_width(tmp_path, video, weights, width):
    scores = np.full((32, 2), 0.1)
    scores[:2] = 0.97
    long = video.rename(tmp_path / ("averylongname" * 14 + ".mp4"))
    verdicts = [a_verdict(long, scores, [0, 1] * 16), Verdict("n" * 200, "unreadable", "the file has zero bytes")]
    recorded = {long.name: identity.fingerprint(long)}
    make(tmp_path, verdicts, weights, recorded=recorded)
    for path, images in (
        (tmp_path / "r/index.html", 1),
        (tmp_path / "r/videos" / report.page_name(long.name), 10),
        (tmp_path / "r/videos" / report.page_name("n" * 200), 0),
    ):
        for options, bright in (((), True), (("--blink-settings=preferredColorScheme=0",), False)):
            seen = browse(tmp_path, path, width, *options)
            assert seen.inner == width
            assert seen.scroll <= width
            assert seen.over == []
            assert (seen.images, seen.decoded) == (images, images)
            assert seen.picture.std() > 5
            assert (seen.picture[-1, 0].min() > 200) if bright else (seen.picture[-1, 0].max() < 60)
