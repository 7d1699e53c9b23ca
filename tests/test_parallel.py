"""One map over videos (dfdc/workers.py, dfdc/steps.py): workers, failures, exit status."""

import argparse
import errno
import itertools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time

import cv2
import pytest
from conftest import run_script

from dfdc import devices, layout, progress, steps, workers
from dfdc.command_line import UsageError
from dfdc.layout import Video
from dfdc.ledger import StepRun, read_rows, read_run
from dfdc.steps import Step
from dfdc.video import VideoError
from dfdc.workers import FailVideo, SkipVideo


class Behaving(Step):
    """Does what a video's name says."""

    name = "a_step"

    def __init__(self, folder, fresh=(), trouble=""):
        self.folder, self.fresh, self.trouble = folder, fresh, trouble

    def check(self, video):
        kind = video.id.split("-")[0]
        if kind == "away":
            raise FileNotFoundError(2, "No such file or directory", str(video.path))
        if kind == "odd":
            return {}["a key that is not there"]
        return {"made": {"things": 5}, "failed": None, "notes": []} if video.id in self.fresh else None

    def start(self, device):
        self.device = device
        if self.trouble == "raises":
            raise ValueError("CUDA driver is too old")
        if self.trouble == "dies":
            os.kill(os.getpid(), signal.SIGKILL)

    def work(self, video):
        kind = video.id.split("-")[0]
        if kind == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "hangs":
            time.sleep(600)
        while kind == "waits" and not (self.folder / "go on").exists():
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
        marker = self.folder / f"{video.id}.done"
        time.sleep(0.02)
        marker.write_text(
            f"{cv2.getNumThreads()} {threading.active_count()} {self.device} {os.getpid()} {os.getppid()}"
        )
        failed = "nothing in it" if kind == "empty" else None
        return {"made": {"things": 2}, "failed": failed, "notes": ["half of it", "late"] if kind == "partly" else []}


def run(tmp_path, names, workers=2, max_failed=1.0, force=False, fresh=(), trouble="", **more):
    args = argparse.Namespace(root_dir=tmp_path, workers=workers, max_failed=max_failed, force=force, **more)
    videos = [Video(name, tmp_path / f"{name}.mp4", "part", "REAL", None) for name in names]
    step = Behaving(tmp_path, fresh, trouble)
    status = steps.run_step(step, args, videos, [("elsewhere", "its original is not on disk")])
    rows = read_rows(layout.ledger_path(tmp_path, "a_step"))
    return status, {(video, outcome): reason for video, outcome, reason in rows}


def test_one_bad_video_never_stops_the_others(tmp_path, capsys):
    bad = ["dies-1", "crashes-1", "fails-1", "unreadable-1", "full-27", "skipped-1", "partly-1", "empty-1"]
    good = [f"good-{index}" for index in range(12)]
    status, ledger = run(tmp_path, [*good[:6], *bad, *good[6:]])
    assert status == 0
    assert {path.stem for path in tmp_path.glob("*.done")} == {*good, "partly-1", "empty-1"}
    assert ledger[("dies-1", "failed")] == "its worker process died (exit code -9)"
    assert ledger[("full-27", "failed")] == "/somewhere: No space left on device"
    assert ledger[("empty-1", "failed")] == "nothing in it"
    assert "KeyError" in ledger[("crashes-1", "failed")]
    assert "test_parallel.py" in ledger[("crashes-1", "failed")]
    assert ledger[("fails-1", "failed")] == "for a reason"
    assert ledger[("unreadable-1", "failed")] == "zero bytes"
    assert ledger[("skipped-1", "skipped")] == "no partner"
    assert ledger[("partly-1", "incomplete")] == "half of it; late"
    assert ledger[("elsewhere", "skipped")] == "its original is not on disk"
    assert len(ledger) == 9
    said = capsys.readouterr()
    assert "a_step: 20 videos (0 were complete), 28 things; 6 failed, 2 skipped, 1 incomplete" in said.out
    assert "  failed: fails-1: for a reason" in said.err
    assert read_run(layout.ledger_path(tmp_path, "a_step")) == StepRun(20, 20, True)


def test_t61_what_cant_be_judged_now_is_left_and_counted(tmp_path):
    """A disk that is away, or something unforeseen in a stamp, costs no other video, and nothing is done anew."""
    status, ledger = run(tmp_path, ["away-1", "odd-1", "good-1"])
    assert status == 0
    assert ledger[("away-1", "failed")] == f"{tmp_path}/away-1.mp4: No such file or directory"
    assert ledger[("odd-1", "failed")].startswith("KeyError: 'a key that is not there' (test_parallel.py:")
    assert {path.stem for path in tmp_path.glob("*.done")} == {"good-1"}
    assert run(tmp_path, ["away-1", "good-1"], fresh=["good-1"], max_failed=0.4)[0] == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_stops_the_step_and_not_one_video_after_the_other(tmp_path, number):
    with pytest.raises(OSError, match="No space left on device") as error:
        run(tmp_path, [f"full-{number}", *[f"good-{index}" for index in range(30)]], workers=1)
    assert error.value.filename == "/somewhere"
    assert len(list(tmp_path.glob("*.done"))) < 30
    assert read_run(layout.ledger_path(tmp_path, "a_step")).finished is False


def test_a_video_that_takes_for_ever_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_LEAST_SECONDS", 2.0)
    (tmp_path / "hangs-1.mp4").write_bytes(b"12345")
    status, ledger = run(tmp_path, ["hangs-1", *[f"good-{index}" for index in range(6)]])
    assert status == 0
    assert ledger[("hangs-1", "failed")] == "it took longer than 2 s, and was given up"
    assert len(list(tmp_path.glob("*.done"))) == 6


def test_a_videos_time_is_generous_and_grows_with_its_length(tmp_path):
    video = Video("a", tmp_path / "a.mp4", "part", "REAL", None)
    assert workers.time_limit(video.path) == 600
    with video.path.open("wb") as handle:
        handle.truncate(50_000_000)  # ten minutes of video
    assert workers.time_limit(video.path) == 600 + 5000


@pytest.mark.parametrize(
    ("trouble", "said"), [("raises", "ValueError: CUDA driver is too old"), ("dies", "no worker can")]
)
def test_a_worker_that_cant_start_ends_with_a_message(tmp_path, trouble, said):
    with pytest.raises(workers.WorkersError, match=said) as error:
        run(tmp_path, ["good-1", "good-2"], trouble=trouble)
    assert "fewer --workers" in str(error.value)
    assert not list(tmp_path.glob("*.done"))


def test_each_place_has_its_device_and_a_replaced_worker_gets_the_same(tmp_path, monkeypatch):
    """Three workers, three GPUs; one worker dies, and its GPU must not stand idle while another one serves two."""
    monkeypatch.setattr(steps, "list_devices", lambda name: ["cuda:0", "cuda:1", "cuda:2"])
    monkeypatch.setattr(steps, "available_cores", lambda: 3)
    monkeypatch.setattr(workers, "available_cores", lambda: 3)
    names = [*[f"good-{index}" for index in range(60)], "dies-1", "dies-2"]
    status, ledger = run(tmp_path, names, workers=0, device="cuda")
    assert status == 0
    assert len([key for key in ledger if key[1] == "failed"]) == 2
    of_process = {}
    for path in tmp_path.glob("*.done"):
        _, _, device, process, _ = path.read_text().split()
        of_process.setdefault(process, set()).add(device)
    assert all(len(devices) == 1 for devices in of_process.values())
    assert set().union(*of_process.values()) == {"cuda:0", "cuda:1", "cuda:2"}


@pytest.mark.parametrize(
    ("videos", "workers_", "cores", "expected"),
    [(100, 2, 8, (4, 16)), (100, 2, 9, (4, 16)), (20, 2, 8, (4, 10)), (3, 2, 8, (4, 1)), (100, 2, 3, (1, 1)),
     (100, 8, 4, (1, 1)), (100, 3, 1, (1, 1)), (1, 1, 16, (16, 1)), (100, 1, 2, (2, 8))],
)  # fmt: skip
def test_cores_and_videos_are_shared_out(videos, workers_, cores, expected):
    assert workers.share_out(videos, workers_, cores) == expected


def test_an_outcome_comes_as_soon_as_it_is_known(tmp_path, monkeypatch):
    """A long video holds up nobody: what is done beside it is counted, and in the ledger, at once."""
    monkeypatch.setattr(workers, "_LEAST_SECONDS", 60.0)
    videos = [Video(name, tmp_path / f"{name}.mp4", "part", "REAL", None) for name in ("waits-1", "good-1", "good-2")]
    (tmp_path / "waits-1.mp4").write_bytes(b"the largest: it is begun first")
    outcomes = workers.do_all(Behaving(tmp_path), videos, 2, ["cpu"])
    names = [next(outcomes)[0].id, next(outcomes)[0].id]
    (tmp_path / "go on").touch()
    names += [video.id for video, _ in outcomes]
    assert names == ["good-1", "good-2", "waits-1"]


def test_a_free_place_is_one_whose_process_has_ended():
    context = multiprocessing.get_context("spawn")
    places = context.Array("q", 3)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = os.getpid()
    assert [workers.take_place(places, own) for _ in range(3)] == [0, 1, 2]
    places[1] = ended.pid
    assert workers.take_place(places, own) == 1
    assert list(places) == [own, own, own]
    assert workers.take_place(places, ended.pid) == 0  # more workers than places: that is not foreseen, and no fault


def test_workers_are_no_copies_of_this_process(tmp_path):
    """A copy would have its CUDA state, and its threads' locks: they come from a server that has neither."""
    run(tmp_path, ["good-1"])
    parent = int((tmp_path / "good-1.done").read_text().split()[4])
    assert parent != os.getpid()


def test_one_worker_is_not_told_to_be_fewer(tmp_path):
    with pytest.raises(workers.WorkersError, match="no worker can be started") as error:
        run(tmp_path, ["good-1", "good-2"], workers=1, trouble="dies")
    assert "fewer" not in str(error.value)


def test_the_largest_video_comes_first(tmp_path):
    for index, size in enumerate((10, 3000, 200)):
        (tmp_path / f"good-{index}.mp4").write_bytes(bytes(size))
    run(tmp_path, ["good-0", "good-1", "good-2", "good-3"], workers=1)
    times = sorted((path.stat().st_mtime_ns, path.stem) for path in tmp_path.glob("*.done"))
    assert [name for _, name in times] == ["good-1", "good-2", "good-0", "good-3"]


def test_a_worker_with_a_gpu_reads_several_videos_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "list_devices", lambda name: ["cuda:0"])
    monkeypatch.setattr(steps, "available_cores", lambda: 4)
    monkeypatch.setattr(workers, "available_cores", lambda: 4)
    names = ["fails-1", "dies-1", *[f"good-{index}" for index in range(20)]]
    status, ledger = run(tmp_path, names, workers=0, device="cuda")
    assert status == 0
    assert set(ledger) == {("fails-1", "failed"), ("dies-1", "failed"), ("elsewhere", "skipped")}
    done = list(tmp_path.glob("*.done"))
    assert len(done) == 20
    assert max(int(path.read_text().split()[1]) for path in done) >= 3


def test_too_many_failures_exit_1_with_a_message(tmp_path, capsys):
    assert run(tmp_path, ["fails-1", *[f"good-{i}" for i in range(9)]], max_failed=0.1)[0] == 0
    assert run(tmp_path, ["fails-1", *[f"good-{i}" for i in range(9)]], max_failed=0.09)[0] == 1
    assert "1 of 10 videos failed, more than --max-failed 0.09 allows" in capsys.readouterr().err


@pytest.mark.parametrize("skipped", [[], [("a", "not on disk")]])
def test_reasons_are_pointed_at_where_there_are_some(tmp_path, capsys, skipped):
    args = argparse.Namespace(root_dir=tmp_path, workers=1, max_failed=1.0, force=False)
    steps.run_step(Behaving(tmp_path), args, [], skipped)
    assert ("  reasons: " in capsys.readouterr().out) == bool(skipped)


def test_skipped_is_no_failure(tmp_path):
    assert run(tmp_path, ["skipped-1", "skipped-2"], max_failed=0.0)[0] == 0


def test_t17_finished_work_is_counted_but_not_redone(tmp_path, capsys):
    run(tmp_path, ["good-1", "good-2"], fresh=["good-1"])
    assert [path.stem for path in tmp_path.glob("*.done")] == ["good-2"]
    assert "2 videos (1 were complete), 7 things" in capsys.readouterr().out
    run(tmp_path, ["good-1", "good-2"], fresh=["good-1"], force=True)
    assert len(list(tmp_path.glob("*.done"))) == 2


@pytest.mark.parametrize(("wait", "threads"), [(0, 1), (0.002, 2)])
def test_disk_map_keeps_the_order_and_uses_threads_where_it_waits(monkeypatch, wait, threads):
    if not wait:
        monkeypatch.setattr(progress, "_LONG_WAIT", 60)  # a busy machine is no slow disk
    seen = set()

    def look(number):
        seen.add(threading.get_ident())
        time.sleep(wait)
        return -number

    assert list(progress.disk_map(look, list(range(1000)))) == [-number for number in range(1000)]
    assert min(len(seen), 2) == threads
    assert list(progress.disk_map(look, [])) == []


@pytest.mark.parametrize("wait", [0, 0.001])
def test_disk_map_raises_at_the_items_turn_and_leaves_the_rest(wait):
    begun, got = [], []

    def look(number):
        begun.append(number)
        time.sleep(wait)
        return 600 // (600 - number)

    with pytest.raises(ZeroDivisionError):
        for value in progress.disk_map(look, list(range(20_000))):
            got.append(value)
    assert got == [600 // (600 - number) for number in range(len(got))]
    assert 500 < len(got) <= 600
    if wait:  # else all may be begun before the error is met
        assert len(begun) < 20_000


def test_naming_the_cpu_loads_no_pytorch():
    code = "import sys; from dfdc.devices import resolve_device; resolve_device('cpu'); print('torch' in sys.modules)"
    assert run_script("-c", code).stdout == "False\n"
    with pytest.raises(ValueError, match="--device cpu:0: unknown"):
        devices.resolve_device("cpu:0")


def test_t27_workers_at_least_one_at_most_the_cores(monkeypatch, capsys):
    monkeypatch.setattr(steps, "available_cores", lambda: 3)
    assert [steps.worker_count(n, ["cpu"]) for n in (0, 1, 3, 99)] == [3, 1, 3, 3]
    assert capsys.readouterr().err == "--workers 99: there are 3 cores, so 3 are used\n"
    assert steps.worker_count(0, ["cuda:0", "cuda:1"]) == 2
    with pytest.raises(UsageError, match="--workers -1"):
        steps.worker_count(-1, ["cpu"])
    monkeypatch.setattr(steps, "available_cores", lambda: 1)
    assert steps.worker_count(0, ["cpu"]) == 1


def test_t27_one_thread_each(tmp_path):
    run(tmp_path, ["good-1"], workers=1)
    opencv_threads = (tmp_path / "good-1.done").read_text().split()[0]
    assert opencv_threads == "1"


def test_bad_fraction_and_device_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="--max-failed 7"):
        run(tmp_path, [], max_failed=7)
    with pytest.raises(UsageError, match="--device tpu"):
        steps.list_devices("tpu")


def test_t12_batches_are_halved_when_memory_runs_out():
    import torch

    sizes = []

    def forward(batch):
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [value * 2 for value in batch]

    assert devices.run_halving(forward, list(range(10))) == [value * 2 for value in range(10)]
    assert sizes == [10, 5, 2, 3, 5, 2, 3]

    def never(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        devices.run_halving(never, [1, 2])

    def other(batch):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        devices.run_halving(other, [1, 2])


# ------------------------------------------------------------------------------------- progress, and what waits
class Bar(list):
    """What a progress bar was made with, and how far it came."""

    def __init__(self, iterable=None, **options):
        super().__init__(iterable or [])
        self.options, self.steps, self.shown = options, 0, {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self):
        self.steps += 1

    def set_postfix(self, **shown):
        self.shown = shown


def test_the_bars_say_what_is_done_and_of_how_many(tmp_path, monkeypatch):
    bars = []
    monkeypatch.setattr(steps, "progress_bar", lambda *a, **options: bars.append(Bar(*a, **options)) or bars[-1])
    run(tmp_path, ["good-1", "good-2", "fails-1"], fresh=["good-1"])
    check, work = bars
    assert check.options == {"total": 3, "desc": "a_step: checking", "unit": "video", "delay": 3}
    assert work.options == {"total": 2, "desc": "a_step", "unit": "video"}
    assert work.steps == 2
    assert work.shown == {"failed": 1, "refresh": False}


@pytest.mark.parametrize(
    ("terminal", "given", "expected"),
    [(True, {}, {"mininterval": 0.5}), (False, {}, {"mininterval": 15.0}),
     (False, {"mininterval": 2}, {"mininterval": 2}),
     (False, {"leave": False}, {"mininterval": 15.0, "leave": False, "disable": True}),
     (True, {"leave": False}, {"mininterval": 0.5, "leave": False}),
     (False, {"leave": True}, {"mininterval": 15.0, "leave": True})],
)  # fmt: skip
def test_a_log_file_gets_a_line_now_and_then(monkeypatch, terminal, given, expected):
    import tqdm

    monkeypatch.setattr(tqdm, "tqdm", lambda iterable=None, **options: (iterable, options))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert progress.progress_bar([1], **given) == ([1], {"dynamic_ncols": True, **expected})


def test_pytorch_is_loaded_only_where_there_is_something_to_do(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(steps, "list_devices", lambda name: asked.append(name) or ["cpu"])
    run(tmp_path, ["good-1"], fresh=["good-1"], device="auto")
    assert asked == []
    run(tmp_path, ["good-1"], fresh=["good-1"], device="cpu")  # named: a wrong name is told even so
    assert asked == ["cpu"]
    run(tmp_path, ["good-1", "good-2"], fresh=["good-1"], device="auto")
    assert asked == ["cpu", "auto"]
    seconds = [float(text) for text in re.findall(r"incomplete; (\d+\.\d) s", capsys.readouterr().out)]
    assert len(seconds) == 3
    assert max(seconds) < 300


def test_time_spent_computing_is_no_waiting(monkeypatch):
    """Clocks that tick at each look: what passes is what is computed."""
    clock = itertools.count()
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(progress.time, "thread_time", lambda: float(next(clock)))
    monkeypatch.setattr(progress, "_LONG_WAIT", 2.5)  # begun 0, computed 1; then 2, 3: 2 - 2 = 0 s of waiting
    threads = set()
    list(progress.disk_map(lambda number: threads.add(threading.get_ident()), list(range(1000))))
    assert len(threads) == 1
