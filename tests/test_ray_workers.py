"""The engine for a Ray cluster (dfdc/ray_workers.py): steps on two nodes, workers and nodes that die."""

import contextlib
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from behaving import Behaving, run
from helpers import ROOT

from dfdc import limits
from dfdc.command_line import SettingError
from dfdc.layout import Video
from dfdc.workers import Failed, WorkersError

pytest.importorskip("ray", reason="Ray is not installed: requirements-cluster.txt has it")

from clusters import wait_until

from dfdc import ray_nodes, ray_workers
from dfdc.ray_nodes import ClusterError, NodeInfo
from dfdc.ray_workers import RayWorkers, find_places


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
def test_a_node_that_dies_costs_only_its_running_videos(cluster, tmp_path, capfd):
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

    def check(shared, nodes, seconds=None):
        if seconds == ray_nodes.JOINED_SECONDS:
            raise ClusterError("node c does not see /data")

    monkeypatch.setattr(ray_workers, "check_nodes", check)
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
