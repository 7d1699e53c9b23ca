"""The engine for a Ray cluster (dfdc/ray_workers.py): steps on two nodes, workers and nodes that die."""

import contextlib
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from behaving import Behaving, run
from helpers import ROOT

from dfdc import limits
from dfdc.command_line import SettingError
from dfdc.layout import Video
from dfdc.workers import Failed, WorkersError

pytest.importorskip("ray", reason="Ray is not installed: requirements-cluster.txt has it")

from clusters import wait_until
from ray.util.scheduling_strategies import NotIn

from dfdc import ray_pool, ray_workers
from dfdc.ray_nodes import ClusterError, NodeInfo
from dfdc.ray_pool import Started
from dfdc.ray_workers import Places, RayWorkers, find_places


def names_done(folder):
    return {path.stem for path in folder.glob("*.done")}


def workers_of(folder):
    """Number of tasks by the process that did them."""
    processes = [path.read_text().split()[3] for path in folder.glob("*.done")]
    return {process: processes.count(process) for process in processes}


@pytest.mark.slow
def test_one_bad_video_never_stops_the_others(cluster, tmp_path):
    bad = ["dies-1", "crashes-1", "fails-1", "skipped-1", "partly-1"]
    good = [f"good-{index}" for index in range(12)]
    status, ledger = run(tmp_path, [*good[:6], *bad, *good[6:]], engine=RayWorkers(cluster.address))
    assert status == 0
    assert names_done(tmp_path) == {*good, "partly-1"}
    assert ledger[("dies-1", "failed")].startswith("its worker process died 3 times (the last one on node ")
    assert ledger[("crashes-1", "failed")].startswith("KeyError: 'unforeseen' (behaving.py:")
    assert ledger[("fails-1", "failed")] == "for a reason"
    assert ledger[("skipped-1", "skipped")] == "no partner"
    assert ledger[("partly-1", "incomplete")] == "half of it; late"
    assert len(ledger) == 6
    assert len(workers_of(tmp_path)) >= 2  # both nodes worked


@pytest.mark.slow
def test_a_full_disk_stops_the_step(cluster, tmp_path):
    with pytest.raises(OSError, match="No space left on device") as error:
        run(tmp_path, ["full-28", *[f"good-{index}" for index in range(30)]], engine=RayWorkers(cluster.address))
    assert error.value.filename == "/somewhere"
    assert len(names_done(tmp_path)) < 30


@pytest.mark.slow
def test_a_video_that_takes_for_ever_is_given_up(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "_LEAST_SECONDS", 3.0)
    (tmp_path / "hangs-1.mp4").write_bytes(b"12345")
    good = [f"good-{index}" for index in range(8)]
    status, ledger = run(tmp_path, ["hangs-1", *good], engine=RayWorkers(cluster.address))
    assert status == 0
    assert ledger[("hangs-1", "failed")] == "it exceeded the time limit of 3 s"
    assert names_done(tmp_path) == {*good}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "said"), [("raises", "ValueError: CUDA driver is too old"), ("dies", "no worker can be started")]
)
def test_a_worker_that_cant_start_ends_with_a_message(cluster, tmp_path, trouble, said):
    with pytest.raises(WorkersError, match=said):
        run(tmp_path, ["good-1", "good-2"], trouble=trouble, engine=RayWorkers(cluster.address))
    assert not names_done(tmp_path)


@pytest.mark.slow
def test_a_worker_with_a_gpu_works_on_several_videos_at_a_time(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "_LEAST_SECONDS", 60.0)
    names = ["waits-1", "waits-2", *[f"good-{index}" for index in range(6)]]
    for index, name in enumerate(names):  # those that wait come first
        (tmp_path / f"{name}.mp4").write_bytes(bytes(100 - index))
    videos = [Video(name, tmp_path / f"{name}.mp4", "part", "REAL", None) for name in names]
    cluster.add(cores=3, gpus=1)
    try:
        found = []
        for video, outcome in RayWorkers(cluster.address, device="auto")(Behaving(tmp_path), videos):
            found.append(video.id)
            assert not isinstance(outcome, Failed)
            (tmp_path / "go on").touch()
    finally:
        cluster.kill_node()
    assert found[0].startswith("good-")  # beside the two that waited
    assert {*found} == names_done(tmp_path) == {*names}
    assert {path.read_text().split()[2] for path in tmp_path.glob("*.done")} == {"cuda:0"}


@pytest.mark.slow
def test_a_node_that_dies_costs_no_video(cluster, tmp_path, capfd):
    good = [f"good-{index}" for index in range(150)]

    def kill():
        wait_until(lambda: len(names_done(tmp_path)) > 10)
        cluster.kill_node()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        status, ledger = run(tmp_path, good, engine=RayWorkers(cluster.address))
    finally:
        killer.join()
        cluster.restore()
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "\n[" not in said  # lines of Ray's log
    assert status == 0
    assert set(ledger) == {("elsewhere", "skipped")}
    assert names_done(tmp_path) == {*good}


@pytest.mark.slow
def test_a_video_does_not_pass_through_all_dead_workers_of_a_node(cluster, tmp_path):
    """Three of four workers are idle at the end of a run when their node dies. Ray tells only of the fourth."""
    names = ["waits-1", "good-1", "good-2", "good-3"]
    engine = RayWorkers(cluster.address, workers=4)
    for _ in range(2):
        cluster.kill_node()
    cluster.add(cores=4)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, tmp_path, names, trouble="records", engine=engine)
        try:
            wait_until(lambda: len(names_done(tmp_path)) == 3)
            time.sleep(1)  # their outcomes arrive
            cluster.kill_node()
            workers = [path.stem for path in tmp_path.glob("*.started")]
            wait_until(lambda: not any(Path(f"/proc/{worker}/exe").exists() for worker in workers))
        finally:
            (tmp_path / "go on").touch()
            cluster.restore()
            status, ledger = running.result(120)
    assert len(workers) == 4
    assert (status, set(ledger), names_done(tmp_path)) == (0, {("elsewhere", "skipped")}, {*names})


@pytest.mark.slow
def test_the_largest_comes_first_and_an_outcome_as_soon_as_it_is_known(cluster, tmp_path):
    names = ("waits-1", "good-1", "good-2", "good-3")
    for index, name in enumerate(names):
        (tmp_path / f"{name}.mp4").write_bytes(bytes(100 - index))
    videos = [Video(name, tmp_path / f"{name}.mp4", "part", "REAL", None) for name in reversed(names)]
    outcomes = RayWorkers(cluster.address)(Behaving(tmp_path), videos)
    found = [next(outcomes)[0].id for _ in range(3)]
    (tmp_path / "go on").touch()
    found += [video.id for video, _ in outcomes]
    assert found == ["good-1", "good-2", "good-3", "waits-1"]


@pytest.mark.slow
def test_no_worker_is_started_again_on_a_node_that_is_refused(cluster, tmp_path, monkeypatch):
    names = ["waits-1", "waits-2", *[f"good-{index}" for index in range(4)]]
    for index, name in enumerate(names):
        (tmp_path / f"{name}.mp4").write_bytes(bytes(100 - index))
    heard = io.StringIO()

    def find_faults(shared, nodes, seconds):
        return ((node, ClusterError("node c does not see /data")) for node in nodes)

    monkeypatch.setattr(ray_pool, "find_faults", find_faults)  # of nodes that join
    engine = RayWorkers(cluster.address, workers=3)
    with contextlib.redirect_stderr(heard), ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, tmp_path, names, trouble="records", engine=engine)
        try:
            wait_until(lambda: len(list(tmp_path.glob("*.started"))) == 2)
            cluster.add(cores=2)
            while "node c does not see /data; it gets no work in this run\n" not in heard.getvalue():
                assert not running.done()
                time.sleep(0.1)
            time.sleep(2)  # time for another start
        finally:
            (tmp_path / "go on").touch()
            status, ledger = running.result(60)
            cluster.kill_node()
    assert (status, set(ledger), names_done(tmp_path)) == (0, {("elsewhere", "skipped")}, {*names})
    assert len(list(tmp_path.glob("*.started"))) == 3


# ---------------------------------------------------------------------------------- without a cluster
def node(cores, gpus=0):
    return NodeInfo("n", "node n", cores, gpus)


@pytest.mark.parametrize(
    ("nodes", "given", "expected"),
    [
        ([node(4), node(2)], {}, ("cpu", 1, 6)),
        ([node(4), node(2)], {"workers": 3}, ("cpu", 1, 3)),
        ([node(4), node(2)], {"workers": 9}, ("cpu", 1, 9)),
        ([node(32), node(8)], {"most_cores": 8}, ("cpu", 8, 5)),
        ([node(4), node(2)], {"most_cores": 8}, ("cpu", 2, 3)),
        ([node(4)], {"device": "auto"}, ("cpu", 1, 4)),
        ([node(16, 4), node(8)], {"device": "auto"}, ("cuda", 4, 4)),
        ([node(64, 2), node(8, 4)], {"device": "cuda"}, ("cuda", 2, 6)),
        ([node(16, 4)], {"device": "cpu"}, ("cpu", 1, 16)),
        ([node(1, 2)], {"device": "cuda"}, ("cuda", 1, 2)),
    ],
)
def test_workers_are_placed_where_the_resources_are(nodes, given, expected):
    places = find_places(nodes, **{"device": None} | given)
    assert (places.device, places.cores, places.workers) == expected


def test_a_device_that_no_node_has_is_an_error():
    with pytest.raises(SettingError, match="device cuda: no node of the Ray cluster has a GPU"):
        find_places([node(4)], "cuda")
    with pytest.raises(SettingError, match="device cuda:1: Ray chooses the GPU"):
        find_places([node(4, 2)], "cuda:1")


def test_list_agrees_with_that_of_all_others():
    def pins(name):
        lines = (ROOT / name).read_text().splitlines()
        return {line.split("==")[0] + line.partition(" ;")[2]: line for line in lines if line and line[0] != "#"}

    own, others = pins("requirements-cluster.txt"), pins("requirements.txt")
    assert any(name.startswith("ray") for name in own)
    assert all(others[name] == line for name, line in own.items() if name in others)
    assert len(own.keys() & others.keys()) >= 8
    assert all("==" in line for line in own.values())


def test_new_files_of_other_nodes_are_looked_up_after_the_last_item(monkeypatch, tmp_path):
    happened = []
    monkeypatch.setattr(ray_workers, "refresh", happened.append)
    monkeypatch.setattr(ray_workers, "list_nodes", lambda: [NodeInfo("n", "node n", 1, 0)])
    monkeypatch.setattr(ray_workers.Pool, "run", lambda *_: iter([("a", 7)]))
    monkeypatch.setattr(ray_workers, "check_nodes", mock.Mock())
    monkeypatch.setattr(ray_workers.ray, "is_initialized", lambda: True)
    for root in (tmp_path, None):
        for outcome in RayWorkers(shared=ray_workers.Shared(root=root))(mock.Mock(), []):
            happened.append(outcome)
    assert happened == [("a", 7), tmp_path, ("a", 7)]


@pytest.mark.parametrize(
    ("places", "given", "device"),
    [
        (Places("cpu", 3, 1), {"num_cpus": 3, "num_gpus": 0, "max_concurrency": 3}, "cpu"),
        (Places("cuda", 4, 1), {"num_cpus": 4, "num_gpus": 1, "max_concurrency": 4}, "cuda:0"),
    ],
)
def test_what_ray_is_told_of_a_worker(monkeypatch, tmp_path, places, given, device):
    remote = mock.Mock()
    monkeypatch.setattr(ray_workers.ray, "remote", remote)
    monkeypatch.chdir(tmp_path)
    actor = remote.return_value.options.return_value.remote
    assert ray_workers._start_actor("task", places, ()) is actor.return_value
    actor.assert_called_once_with("task", device, places.cores, tmp_path)
    never = {"max_restarts": 0, "max_task_retries": 0, "enable_task_events": False}
    remote.return_value.options.assert_called_once_with(**given, **never, scheduling_strategy=None)
    ray_workers._start_actor("task", places, ("a", "b"))
    (expression,) = remote.return_value.options.call_args.kwargs["scheduling_strategy"].hard
    assert (expression.key, expression.operator.values) == ("ray.io/node-id", ["a", "b"])
    assert isinstance(expression.operator, NotIn)


def test_a_worker_says_where_it_is_and_why_it_cant_work(monkeypatch, tmp_path):
    context = mock.Mock(**{"get_node_id.return_value": "n"})
    monkeypatch.setattr(ray_workers.ray, "get_runtime_context", lambda: context)
    monkeypatch.chdir("/")
    limited = []
    for name in ("keep_freed_memory", "limit_cores", "limit_threads"):
        monkeypatch.setattr(ray_workers, name, lambda *given, name=name: limited.append((name, *given)))
    task = mock.Mock(**{"start.side_effect": [None, ValueError("why")], "work.side_effect": [7, OSError(28, "full")]})
    worker = ray_workers._Worker(task, "cpu", 2, tmp_path)
    assert worker.start() == Started("n", "")
    assert ray_workers.Path.cwd() == tmp_path
    assert limited == [("keep_freed_memory",), ("limit_cores", 2), ("limit_threads", 1)]
    assert worker.start() == Started("n", "ValueError: why")
    assert [call.args for call in task.start.mock_calls] == [("cpu",)] * 2
    assert worker.answer() == Started("n", "")
    assert task.start.call_count == 2  # not again
    assert worker.work("a") == 7
    assert worker.work("b").errno == 28
    away = ray_workers._Worker(mock.Mock(), "cpu", 1, tmp_path / "absent")
    assert away.start() == Started("n", "")
