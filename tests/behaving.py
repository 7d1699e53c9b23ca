"""A step that does what a video's name says, and a run of it."""

import os
import signal
import threading
import time

import cv2

from dfdc import layout, steps
from dfdc.artifacts import Stamp
from dfdc.layout import Video
from dfdc.ledger import read_rows
from dfdc.step_command import RunOptions
from dfdc.steps import VideoStep
from dfdc.video import VideoError
from dfdc.workers import FailVideo, SkipVideo


class Behaving(VideoStep):
    """Does what a video's name says."""

    name = "a_step"
    preload = ("behaving",)
    version = 1
    labels = ("REAL",)

    def __init__(self, root, fresh=(), trouble=""):
        super().__init__(root)
        self.fresh, self.trouble = fresh, trouble

    @property
    def folder(self):
        return self.root / "things"

    def obstacle(self, video):
        return "it lies in the way" if video.id.startswith("obstacle") else None

    def prune(self, dataset, gone):
        (self.root / "pruned").write_text(" ".join(gone))

    def check(self, video):
        kind = video.id.split("-")[0]
        if kind == "away":
            raise FileNotFoundError(2, "No such file or directory", str(video.path))
        if kind == "odd":
            return {}["a key that is not there"]
        return Stamp({}, {"things": 5}) if video.id in self.fresh else None

    def start(self, device):
        self.device = device
        if self.trouble == "records":
            (self.root / f"{os.getpid()}.started").touch()
        if self.trouble == "raises":
            raise ValueError("CUDA driver is too old")
        if self.trouble == "dies":
            os.kill(os.getpid(), signal.SIGKILL)

    def work(self, video):
        kind = video.id.split("-")[0]
        if kind == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "shaky":  # dies of its first two tries
            with (self.root / f"{video.id}.tries").open("a+") as tries:
                tries.write("x")
                tries.flush()
                if tries.tell() < 3:
                    os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hangs":
            time.sleep(600)
        while kind == "waits" and not (self.root / "go on").exists():
            time.sleep(0.01)
        if kind == "crashes":
            raise KeyError("unforeseen")
        if kind == "fails":
            raise FailVideo("for a reason")
        if kind == "unreadable":
            raise VideoError(video.path, "zero bytes")
        if kind == "full":
            raise OSError(int(video.id.split("-")[1]), "No space left on device", "/somewhere")
        if kind == "skipped":
            raise SkipVideo("no partner")
        marker = self.root / f"{video.id}.done"
        time.sleep(0.02)
        marker.write_text(
            f"{cv2.getNumThreads()} {threading.active_count()} {self.device} {os.getpid()} {os.getppid()}"
        )
        failed = "nothing in it" if kind == "empty" else None
        return Stamp({}, {"things": 2}, failed, ("half of it", "late") if kind == "partly" else ())


def run(tmp_path, names, fresh=(), trouble="", engine=None, **options):
    """(status, {(video, outcome): reason}) of a run over videos of these names."""
    given = RunOptions(**({"workers": 2, "max_failed": 1.0} | options))
    videos = [Video(name, tmp_path / f"{name}.mp4", "part", "REAL", None) for name in names]
    step = Behaving(tmp_path, fresh, trouble)
    status = steps.run_step(step, given, videos, [("elsewhere", "its original is not on disk")], engine)
    rows = read_rows(layout.ledger_path(tmp_path, "a_step"))
    return status, {(video, outcome): reason for video, outcome, reason in rows}
