"""One map over videos (dfdc/parallel.py): workers, failures, exit status."""

import argparse
import csv
import os
import signal
import threading
import time
from pathlib import Path

import cv2
import pytest
from conftest import run_script

from dfdc import devices, layout, parallel
from dfdc.layout import Video
from dfdc.parallel import FailVideo, SkipVideo, Step, UsageError
from dfdc.video import VideoError


def behave(video, context):
    """A step's work: does what the video's name says."""
    kind = video.id.split("-")[0]
    if kind == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "crashes":
        raise KeyError("unforeseen")
    if kind == "fails":
        raise FailVideo("for a reason")
    if kind == "unreadable":
        raise VideoError(video.path, "zero bytes")
    if kind == "skipped":
        raise SkipVideo("no partner")
    marker = context / f"{video.id}.done"
    time.sleep(0.02)
    marker.write_text(f"{cv2.getNumThreads()} {threading.active_count()}")
    return {"made": {"things": 2}, "failed": None, "notes": ["half of it"] if kind == "partly" else []}


def run(tmp_path, names, workers=2, max_failed=1.0, force=False, fresh=(), **more):
    args = argparse.Namespace(root_dir=tmp_path, workers=workers, max_failed=max_failed, force=force, **more)
    videos = [Video(name, Path(f"{name}.mp4"), "part", "REAL", None) for name in names]
    stamps = {name: {"made": {"things": 5}, "failed": None, "notes": []} for name in fresh}
    step = Step("a_step", behave, lambda video: stamps.get(video.id), context=tmp_path)
    status = parallel.run_step(step, args, videos, {"elsewhere": "its original is not on disk"})
    with layout.ledger_path(tmp_path, "a_step").open(newline="") as handle:
        return status, {(row["video"], row["outcome"]): row["reason"] for row in csv.DictReader(handle)}


def test_one_bad_video_never_stops_the_others(tmp_path, capsys):
    bad = ["dies-1", "crashes-1", "fails-1", "unreadable-1", "skipped-1", "partly-1"]
    good = [f"good-{index}" for index in range(12)]
    status, ledger = run(tmp_path, [*good[:6], *bad, *good[6:]])
    assert status == 0
    assert {path.stem for path in tmp_path.glob("*.done")} == {*good, "partly-1"}
    assert "died" in ledger[("dies-1", "failed")]
    assert "KeyError" in ledger[("crashes-1", "failed")]
    assert "test_parallel.py" in ledger[("crashes-1", "failed")]
    assert ledger[("fails-1", "failed")] == "for a reason"
    assert ledger[("unreadable-1", "failed")] == "zero bytes"
    assert ledger[("skipped-1", "skipped")] == "no partner"
    assert ledger[("partly-1", "incomplete")] == "half of it"
    assert ledger[("elsewhere", "skipped")] == "its original is not on disk"
    assert len(ledger) == 7
    assert "26 things; 4 failed, 2 skipped, 1 incomplete" in capsys.readouterr().out


def test_a_worker_with_a_gpu_reads_several_videos_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "list_devices", lambda name: ["cuda:0"])
    monkeypatch.setattr(parallel, "available_cores", lambda: 4)
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
        monkeypatch.setattr(parallel, "_LONG_WAIT", 60)  # a busy machine is no slow disk
    seen = set()

    def look(number):
        seen.add(threading.get_ident())
        time.sleep(wait)
        return -number

    assert list(parallel.disk_map(look, list(range(1000)))) == [-number for number in range(1000)]
    assert min(len(seen), 2) == threads
    assert list(parallel.disk_map(look, [])) == []


@pytest.mark.parametrize("wait", [0, 0.001])
def test_disk_map_raises_at_the_items_turn_and_leaves_the_rest(wait):
    begun, got = [], []

    def look(number):
        begun.append(number)
        time.sleep(wait)
        return 600 // (600 - number)

    with pytest.raises(ZeroDivisionError):
        for value in parallel.disk_map(look, list(range(20_000))):
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
    monkeypatch.setattr(parallel, "available_cores", lambda: 3)
    assert [parallel.worker_count(n, ["cpu"]) for n in (0, 1, 3, 99)] == [3, 1, 3, 3]
    assert "there are 3 cores" in capsys.readouterr().err
    assert parallel.worker_count(0, ["cuda:0", "cuda:1"]) == 2
    with pytest.raises(UsageError, match="--workers -1"):
        parallel.worker_count(-1, ["cpu"])
    monkeypatch.setattr(parallel, "available_cores", lambda: 1)
    assert parallel.worker_count(0, ["cpu"]) == 1


def test_t27_one_thread_each(tmp_path):
    run(tmp_path, ["good-1"], workers=1)
    opencv_threads = (tmp_path / "good-1.done").read_text().split()[0]
    assert opencv_threads == "1"


def test_bad_fraction_and_device_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="--max-failed 7"):
        run(tmp_path, [], max_failed=7)
    with pytest.raises(UsageError, match="--device tpu"):
        parallel.list_devices("tpu")


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
