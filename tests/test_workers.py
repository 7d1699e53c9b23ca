"""The pool of workers (dfdc/workers.py): devices, places, time, and workers that die."""

import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import threading
import time

import pytest
from behaving import Behaving, run
from pebble.pool.process import TaskManager

from dfdc import limits, steps, workers
from dfdc.artifacts import Stamp
from dfdc.boxes import BoxesError
from dfdc.command_line import SettingError, UserError
from dfdc.layout import Video
from dfdc.processes import process_start
from dfdc.video import VideoError
from dfdc.workers import Failed, LocalWorkers


@pytest.mark.slow
def test_a_video_that_takes_for_ever_is_given_up(tmp_path, monkeypatch):
    """Even if the clock runs backwards."""
    clock, now = time.time, time.time()
    monkeypatch.setattr(time, "time", lambda: 2 * now - clock())
    monkeypatch.setattr(limits, "_LEAST_SECONDS", 2.0)
    (tmp_path / "hangs-1.mp4").write_bytes(b"12345")
    status, ledger = run(tmp_path, ["hangs-1", *[f"good-{index}" for index in range(6)]])
    assert status == 0
    assert ledger[("hangs-1", "failed")] == "it exceeded the time limit of 2 s"
    assert len(list(tmp_path.glob("*.done"))) == 6


def test_a_clock_that_is_set_ends_no_work(tmp_path, monkeypatch):
    videos = [Video(name, tmp_path / f"{name}.mp4", "part", "REAL", None) for name in ("waits-1", "good-1")]
    (tmp_path / "waits-1.mp4").write_bytes(b"the largest: it is begun first")
    outcomes = LocalWorkers(2)(Behaving(tmp_path), videos)
    next(outcomes)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 1e6)
    time.sleep(0.3)  # time for the pool to look
    (tmp_path / "go on").touch()
    ((video, outcome),) = outcomes
    assert (video.id, type(outcome)) == ("waits-1", Stamp)


@pytest.mark.slow
def test_the_time_in_which_the_command_was_stopped_does_not_count(tmp_path, monkeypatch):
    """By Ctrl-Z, for example, which stops its workers, too."""
    monkeypatch.setattr(limits, "_LEAST_SECONDS", 2.0)
    monkeypatch.setattr(workers, "_TICK", 0.05)
    videos = [Video(name, tmp_path / f"{name}.mp4", "part", "REAL", None) for name in ("waits-1", "good-1")]
    (tmp_path / "waits-1.mp4").write_bytes(b"the largest: it is begun first")
    outcomes = LocalWorkers(2)(Behaving(tmp_path), videos)
    next(outcomes)
    time.sleep(4)
    threading.Timer(0.3, (tmp_path / "go on").touch).start()
    ((video, outcome),) = outcomes
    assert (video.id, type(outcome)) == ("waits-1", Stamp)


@pytest.mark.slow
def test_a_disk_that_is_away_for_a_moment_shortens_no_time_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "_LEAST_SECONDS", 0.0)
    (tmp_path / "waits-1.mp4").write_bytes(bytes(600_000))  # a minute
    video = Video("waits-1", tmp_path / "waits-1.mp4", "part", "REAL", None)
    threading.Timer(1.0, video.path.unlink).start()
    threading.Timer(4.0, (tmp_path / "go on").touch).start()
    ((_, outcome),) = LocalWorkers(1)(Behaving(tmp_path), [video])
    assert type(outcome) is Stamp


def test_a_folder_of_temporary_files_without_room_for_sockets_is_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 80)))
    with pytest.raises(UserError, match=r"^TMPDIR: .*xxx has \d+ bytes, too many .* at most 70 bytes, such as /tmp$"):
        run(tmp_path, ["good-1"])


def test_a_videos_time_is_generous_and_grows_with_its_length(tmp_path):
    video = Video("a", tmp_path / "a.mp4", "part", "REAL", None)
    step = Behaving(tmp_path)
    assert limits.time_limit(step.size(video)) == 600
    with video.path.open("wb") as handle:
        handle.truncate(50_000_000)  # ten minutes of video
    assert limits.time_limit(step.size(video)) == 600 + 5000


@pytest.mark.parametrize("workers_", [1, 2])
def test_t71_a_video_is_tried_three_times(tmp_path, workers_):
    """The first deaths may have had another cause, such as memory that another process needed."""
    status, ledger = run(tmp_path, ["shaky-1", "dies-1", "good-1"], workers=workers_)
    assert status == 0
    assert ledger.keys() == {("dies-1", "failed"), ("elsewhere", "skipped")}
    assert {path.stem for path in tmp_path.glob("*.done")} == {"shaky-1", "good-1"}
    assert (tmp_path / "shaky-1.tries").read_text() == "xxx"


@pytest.mark.slow
@pytest.mark.parametrize("others", [0, 1])
def test_the_last_words_of_a_dead_worker_are_read(tmp_path, monkeypatch, others):
    """Without them, Pebble would wait for its outcome without end, or give up if it knows of no other at work."""
    begin = TaskManager.task_start

    def task_start(manager, task, worker):
        (video,) = manager.tasks[task].payload.args[0]
        if video.id == "dies-1":
            while process_start(worker) is not None:
                time.sleep(0.01)
            time.sleep(0.5)  # Pebble looks for dead workers ten times a second
        begin(manager, task, worker)

    monkeypatch.setattr(TaskManager, "task_start", task_start)
    (tmp_path / "waits-1.mp4").write_bytes(b"the largest: it is begun first")
    names = ["waits-1", "dies-1"][1 - others :]
    videos = [Video(name, tmp_path / f"{name}.mp4", "part", "REAL", None) for name in names]
    outcomes = LocalWorkers(len(videos))(Behaving(tmp_path), videos)
    video, outcome = next(outcomes)
    assert (video.id, outcome) == ("dies-1", Failed("its worker process died 3 times (exit code -9)"))
    (tmp_path / "go on").touch()
    assert [(video.id, type(outcome)) for video, outcome in outcomes] == [("waits-1", Stamp)] * others


def test_without_ray_its_engine_is_a_message_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(workers, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"engine ray: Ray is not installed; .*-r requirements-cluster.txt"):
        workers.require_ray()


def test_ray_is_told_to_be_quiet_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(workers, "find_spec", lambda name: name == "ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.setenv("RAY_DEDUP_LOGS_SKIP_REGEX", "")  # so that it is restored
    monkeypatch.delenv("RAY_DEDUP_LOGS_SKIP_REGEX")
    workers.require_ray()
    for said in ("A worker died or was killed while ...", "Raylet is terminated. ..."):
        assert re.search(os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"], said)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"


def test_processes_that_are_no_workers_are_left_alone(tmp_path):
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    other.start()
    try:
        run(tmp_path, ["good-1"], workers=1)
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


@pytest.mark.parametrize(
    ("trouble", "said"), [("raises", "ValueError: CUDA driver is too old"), ("dies", "no worker can")]
)
def test_a_worker_that_cant_start_ends_with_a_message(tmp_path, trouble, said):
    with pytest.raises(workers.WorkersError, match=said) as error:
        run(tmp_path, ["good-1", "good-2"], trouble=trouble)
    assert "fewer workers" in str(error.value)
    assert not list(tmp_path.glob("*.done"))


def test_each_place_has_its_device_and_a_replaced_worker_gets_the_same(tmp_path, monkeypatch):
    """Three workers, three GPUs; one worker dies, and its GPU must not stand idle while another one serves two."""
    monkeypatch.setattr(steps, "list_devices", lambda name: ["cuda:0", "cuda:1", "cuda:2"])
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
    [
        (100, 2, 8, (4, 16)),
        (100, 2, 9, (4, 16)),
        (20, 2, 8, (4, 10)),
        (3, 2, 8, (4, 1)),
        (100, 2, 3, (1, 1)),
        (100, 8, 4, (1, 1)),
        (100, 3, 1, (1, 1)),
        (1, 1, 16, (16, 1)),
        (100, 1, 2, (2, 8)),
    ],
)
def test_cores_and_videos_are_shared_out(videos, workers_, cores, expected):
    assert workers.share_out(videos, workers_, cores) == expected


def test_an_outcome_comes_as_soon_as_it_is_known(tmp_path, monkeypatch):
    """A long video holds up nobody: what is done beside it is counted, and in the ledger, at once."""
    monkeypatch.setattr(limits, "_LEAST_SECONDS", 60.0)
    videos = [Video(name, tmp_path / f"{name}.mp4", "part", "REAL", None) for name in ("waits-1", "good-1", "good-2")]
    (tmp_path / "waits-1.mp4").write_bytes(b"the largest: it is begun first")
    outcomes = LocalWorkers(2)(Behaving(tmp_path), videos)
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
    monkeypatch.setattr(workers, "available_cores", lambda: 4)
    names = ["fails-1", "dies-1", *[f"good-{index}" for index in range(20)]]
    status, ledger = run(tmp_path, names, workers=0, device="cuda")
    assert status == 0
    assert set(ledger) == {("fails-1", "failed"), ("dies-1", "failed"), ("elsewhere", "skipped")}
    done = list(tmp_path.glob("*.done"))
    assert len(done) == 20
    assert max(int(path.read_text().split()[1]) for path in done) >= 3


def test_t27_workers_at_least_one_at_most_the_cores(monkeypatch, capsys):
    monkeypatch.setattr(workers, "available_cores", lambda: 3)
    assert [workers.worker_count(n, ["cpu"]) for n in (0, 1, 3, 99)] == [3, 1, 3, 3]
    assert capsys.readouterr().err == "workers 99: only 3 cores are available, using 3\n"
    assert workers.worker_count(0, ["cuda:0", "cuda:1"]) == 2
    monkeypatch.setattr(workers, "available_cores", lambda: 1)
    assert workers.worker_count(0, ["cpu"]) == 1


def test_t27_one_thread_each(tmp_path):
    run(tmp_path, ["good-1"], workers=1)
    opencv_threads = (tmp_path / "good-1.done").read_text().split()[0]
    assert opencv_threads == "1"


def test_what_comes_of_an_item():
    def raising(error):
        def work(item):
            raise error

        return workers.outcome_of(work, 1)

    assert workers.outcome_of(lambda item: item + 1, 1) == 2
    assert raising(workers.SkipVideo("not here")) == workers.Skipped("not here")
    for error in (workers.FailVideo("why"), BoxesError("why"), VideoError("a.mp4", "why")):
        assert raising(error) == workers.Failed("why")
    assert raising(OSError(5, "Input/output error", "/a")) == workers.Failed("/a: Input/output error")
    assert raising(ZeroDivisionError("nought")).reason.startswith("ZeroDivisionError: nought (test_workers.py:")
    with pytest.raises(OSError, match="No space"):
        raising(OSError(28, "No space left on device"))


def test_devices_are_handed_out_without_a_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert workers.list_devices("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
    assert workers.list_devices("auto") == ["cuda:0", "cuda:1", "cuda:2"]
    assert workers.list_devices("cuda:1") == ["cuda:1"]
    assert workers.list_devices("cpu") == ["cpu"]
    with pytest.raises(SettingError, match="device cuda:3"):
        workers.list_devices("cuda:3")
