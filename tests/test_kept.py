"""Pages that still show what they should are kept (prediction/pages/kept.py), without reading a video."""

import os
import shutil

import numpy as np
import pytest
from helpers import numbered_frames
from test_verdict_report import a_verdict

from dfdc import identity
from dfdc.imaging import encode_jpeg
from dfdc.video import write_video
from networks.ensemble import Ensemble
from prediction.decoding import Decoder
from prediction.pages import kept, report, views
from prediction.pages.kept import digest_of_page
from prediction.pages.views import Made, Pictures
from prediction.verdict import Status, Verdict

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what grad-cam imports
NAMES = ("a.mp4", "b.mp4")


class Runs:
    """Runs of a report over two videos; `opened` and `loaded` say what the last one read."""

    def __init__(self, folder, weights, monkeypatch):
        self.folder, self.weights = folder, weights
        self.settings = {"strategy": "confident"}
        self.warnings = []
        self.opened, self.loaded = [], []
        self.verdicts = []
        for name in NAMES:
            write_video(folder / name, numbered_frames(40))
            self.verdicts.append(a_verdict(folder / name, [[0.9]] * 4, names=["a"]))
        self.files = {name: identity.fingerprint(folder / name) for name in NAMES}
        read = Decoder.read

        def counted(decoder, path, wanted):
            self.opened.append(path.name)
            return read(decoder, path, wanted)

        monkeypatch.setattr(Decoder, "read", counted)

    def load(self):
        self.loaded.append("a")
        return Ensemble([self.weights / "a"], "cpu")

    def make(self):
        """The names of the videos that were read, and the files of the report."""
        self.opened, self.loaded = [], []
        checkpoints = {"a": self.weights / "a"}
        made = self.settings, self.warnings, checkpoints
        report.make_report(self.folder / "r", self.verdicts, *made, self.load, self.files)
        return self.opened, self.state()

    def state(self):
        return {
            path.name: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in sorted((self.folder / "r").rglob("*.html"))
        }

    def page(self, name):
        return self.folder / "r/videos" / report.page_name(name)


@pytest.fixture
def runs(tmp_path, weights, monkeypatch):
    return Runs(tmp_path, weights, monkeypatch)


def written(before, after):
    """Names of the pages of videos that the second run wrote."""
    return [name for name in after if name != "index.html" and after[name] != before.get(name)]


def test_pages_are_written_again_when_a_checkpoint_of_few_videos_is_known(runs):
    _, first = runs.make()
    runs.warnings = ["a was trained on 2 videos only"]
    _, second = runs.make()
    assert written(first, second) == sorted(map(report.page_name, NAMES))
    assert all(b"a was trained on 2 videos only." in data for data, _ in second.values())


def test_a_second_run_reads_nothing_and_a_change_writes_one_page(runs):
    opened, first = runs.make()
    assert (sorted(opened), runs.loaded) == (list(NAMES), ["a"])
    opened, second = runs.make()
    assert (opened, runs.loaded, written(first, second)) == ([], [], [])
    assert second["index.html"][0] == first["index.html"][0]
    assert second["index.html"][0].count(b"data:image/jpeg") == 2  # the thumbnails come from the pages

    runs.verdicts[0] = a_verdict(runs.folder / "a.mp4", [[0.8]] * 4, names=["a"])
    opened, third = runs.make()
    assert (opened, written(second, third)) == (["a.mp4"], [report.page_name("a.mp4")])

    (runs.folder / "b.mp4").unlink()
    opened, fourth = runs.make()
    assert (opened, runs.loaded, written(third, fourth)) == ([], [], [report.page_name("b.mp4")])
    assert b"the file is missing" in runs.page("b.mp4").read_bytes()

    del runs.verdicts[1]
    opened, fifth = runs.make()
    assert (opened, list(fifth)) == ([], ["index.html", report.page_name("a.mp4")])


def test_kept_pages_have_the_bytes_of_new_ones(runs):
    runs.make()
    kept_state = runs.make()[1]
    shutil.rmtree(runs.folder / "r")
    new_state = runs.make()[1]
    assert {name: data for name, (data, _) in kept_state.items()} == {n: data for n, (data, _) in new_state.items()}


def test_other_settings_or_a_corrupt_page_are_written_again(runs):
    runs.make()
    runs.settings["strategy"] = "mean"
    opened, _ = runs.make()
    assert sorted(opened) == list(NAMES)
    page = runs.page("a.mp4")
    page.write_bytes(page.read_bytes()[:-100])
    assert runs.make()[0] == ["a.mp4"]
    page.unlink()
    assert runs.make()[0] == ["a.mp4"]


def test_a_file_that_was_copied_or_moved_keeps_its_page(runs):
    runs.make()
    (runs.folder / "other").mkdir()
    for verdict in runs.verdicts:
        moved = runs.folder / "other" / verdict.filename
        shutil.move(verdict.path, moved)
        os.utime(moved, ns=(1, 1))
        verdict.path = str(moved)
        runs.files[verdict.filename] = identity.fingerprint(moved)
    assert runs.make()[0] == []


def test_a_failed_read_is_retried(runs, monkeypatch):
    def fails(decoder, path, wanted):
        runs.opened.append(path.name)
        raise TimeoutError("too slow")

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "read", fails)
        assert sorted(runs.make()[0]) == list(NAMES)
    assert b"can\xe2\x80\x99t be read again (too slow)" in runs.page("a.mp4").read_bytes()
    assert sorted(runs.make()[0]) == list(NAMES)
    assert runs.make()[0] == []


def test_old_index_pages_go_and_other_files_stay(runs):
    runs.make()
    for name in ("index-page-7.html", "index-page-mine.html", "notes.html"):
        (runs.folder / "r" / name).write_text("x")
    state = runs.make()[1]
    assert set(state) == {"index.html", "index-page-mine.html", "notes.html", *map(report.page_name, NAMES)}


def test_the_digest_is_of_all_that_a_page_shows(tmp_path, monkeypatch):
    def digest(verdict=None, made=None, recorded=None, fault=""):
        verdict = verdict or a_verdict(tmp_path / "v", [[0.9]] * 4, names=["a"])
        made = made or Made({"x": 1, "y": 2}, {"a": "h"}, {"p": "1"})
        return digest_of_page(verdict, made, recorded or {"size": 1, "mtime_ns": 1, "xxh3": "f"}, fault)

    base = digest()
    assert digest() == base
    assert digest(recorded={"size": 1, "mtime_ns": 2, "xxh3": "f"}) == base
    partial = a_verdict(tmp_path / "v", [[0.9]] * 4, names=["a"])
    partial.status = Status.PARTIAL
    others = [
        digest(verdict=a_verdict(tmp_path / "v", [[0.91]] * 4, names=["a"])),
        digest(verdict=partial),
        digest(made=Made({"y": 2, "x": 1}, {"a": "h"}, {"p": "1"})),
        digest(made=Made({"x": 1, "y": 2}, {"a": "i"}, {"p": "1"})),
        digest(made=Made({"x": 1, "y": 2}, {"a": "h"}, {"p": "2"})),
        digest(made=Made({"x": 1, "y": 2}, {"a": "h"}, {"p": "1"}, ["a was trained on 2 videos only"])),
        digest(recorded={"size": 1, "mtime_ns": 1, "xxh3": "g"}),
        digest(recorded={"size": 1, "mtime_ns": 2}),
        digest(fault="missing"),
    ]
    monkeypatch.setattr(kept, "_code", lambda: "other templates")
    others.append(digest())
    assert len({base, *others}) == 1 + len(others)


def test_a_name_of_a_file_cannot_imitate_a_digest_or_an_image(tmp_path):
    name = '<meta name="digest" content="' + "0" * 32 + '"><img class="lead" src="data:image/jpeg;base64,AAAA">'
    verdict = Verdict(name, "no face", name, path=str(tmp_path / "v"))
    page = tmp_path / "page.html"
    made = Made({name: name}, {name: name}, {name: name})
    page.write_bytes(views.build_video(verdict, Pictures(name), made, "f" * 32))
    assert kept.read_kept(page, "0" * 32) is None
    found = kept.read_kept(page, "f" * 32)
    assert found is not None
    assert found.thumbnail is None


def test_the_thumbnail_comes_back_from_the_page(tmp_path):
    jpeg = encode_jpeg(np.zeros((200, 160, 3), np.uint8))
    verdict = a_verdict(tmp_path / '"<v>', [[0.9]] * 4, names=["a"])
    page = tmp_path / "page.html"
    page.write_bytes(views.build_video(verdict, Pictures(thumbnails={0: jpeg}), Made({}, {}, {}), "f" * 32))
    assert kept.read_kept(page, "f" * 32).thumbnail == jpeg
