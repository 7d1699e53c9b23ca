"""Scoring on a Ray cluster (prediction/cluster.py): verdicts equal to the local ones, workers and nodes that die."""

import contextlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import ROOT, run_script
from scoring_runs import run

from dfdc import layout, limits
from dfdc.video import VideoReader, write_video

pytest.importorskip("ray", reason="Ray is not installed: requirements-cluster.txt has it")

from clusters import wait_until

from dfdc.ray_nodes import NodeInfo, Shared
from dfdc.workers import Failed
from networks.engine_cache import place_of
from networks.ensemble import Ensemble
from prediction import cluster as scoring
from prediction.batches import Options
from prediction.cluster import Cluster, ScoringTask, open_cluster
from prediction.progress import Progress, Results
from prediction.scorer import score
from prediction.verdict import Status, Verdict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def videos(demo_root, tmp_path_factory):
    """Ten short videos with a face, one without, and two that can't be read; not to be written to."""
    folder = tmp_path_factory.mktemp("videos")
    dataset = layout.load_dataset(demo_root)
    for video in (dataset.reals()[0], dataset.fakes()[0]):
        with VideoReader(video.path) as reader:
            frames = [frame for _, frame in reader.frames(range(10))]
        for number in range(5):
            write_video(folder / f"{number} {video.path.name}", frames[number:])
    write_video(folder / "nobody.mp4", [frame * 0 for frame in frames])
    (folder / "zero.mp4").touch()
    (folder / "text.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def expected(weights, videos, tmp_path_factory):
    """submission.csv and .json of the local engine."""
    output = tmp_path_factory.mktemp("local") / "o.csv"
    assert run(weights, videos, output) == 1
    return results(output)


def results(output):
    return output.read_bytes(), output.with_suffix(".json").read_bytes()


def test_verdicts_are_those_of_this_machine(cluster, weights, videos, tmp_path, expected, monkeypatch):
    monkeypatch.chdir(videos.parent)
    output = tmp_path / "o.csv"
    assert run(weights, videos, output, "--engine", "ray", "--ray-address", cluster.address) == 1
    assert results(output) == expected


def test_a_node_that_dies_changes_no_verdict(cluster, weights, videos, tmp_path, expected):
    output = tmp_path / "o.csv"
    progress = output.with_name("o.csv.progress")

    def kill():
        wait_until(lambda: progress.exists() and len(progress.read_text().splitlines()) > 3)
        cluster.kill_node()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert run(weights, videos, output, "--engine", "ray", "--ray-address", cluster.address) == 1
    finally:
        killer.join()
        cluster.restore()
    assert results(output) == expected


def test_a_driver_that_is_killed_goes_on(cluster, weights, videos, tmp_path, expected):
    output = tmp_path / "o.csv"
    progress = output.with_name("o.csv.progress")
    arguments = [
        "--weights-dir",
        weights,
        "--models",
        "a",
        "b",
        "--test-dir",
        videos,
        "--output",
        output,
        "--no-report",
    ]
    arguments += ["--device", "cpu", "--engine", "torch", "ray", "--ray-address", cluster.address]
    command = [sys.executable, ROOT / "predict_folder.py", *arguments]
    driver = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    wait_until(lambda: progress.exists() and len(progress.read_text().splitlines()) > 3)
    driver.kill()
    driver.wait()
    done = run_script("predict_folder.py", *arguments)
    assert done.returncode == 1, done.stderr
    assert "of 13 are already done" in done.stdout
    assert results(output) == expected


def test_a_worker_scores_several_videos_at_a_time(weights, videos, monkeypatch):
    warmed = []
    monkeypatch.setattr(Ensemble, "warm_up", lambda ensemble: warmed.append(ensemble))
    models = (weights / "a", weights / "b")
    task = ScoringTask(models, "fp32", "torch", Options())
    task.start("cpu")
    assert len(warmed) == 1
    paths = sorted(videos.iterdir())
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(task.work, [(str(path), path) for path in paths]))
    assert [verdict for _, verdict in found] == score(paths, models, device="cpu", engine="torch")
    assert [fingerprint["size"] for fingerprint, _ in found] == [path.stat().st_size for path in paths]


def test_a_video_that_kills_its_workers_has_a_verdict_and_is_tried_again(weights, videos, tmp_path, monkeypatch):
    """And a file that has gone since it was listed has the verdict of one that can't be read."""
    names = ["zero.mp4", "text.mp4", "gone.mp4"]
    said = "its worker process died 3 times (the last one on node n)"

    def engine(**settings):
        assert settings["shared"].files == (weights / "a", videos / "text.mp4")

        def work(task, items):
            task.start("cpu")
            for item in items:
                yield item, Failed(said) if item[0] == "zero.mp4" else task.work(item)

        return work

    monkeypatch.setattr(scoring, "RayWorkers", engine)
    paths = {name: videos / name for name in names}
    progress = Progress(tmp_path / "o.progress", {}, paths)
    Cluster("cpu").score(progress, [weights / "a"], "fp32", "torch", Options())
    verdicts = [progress.done[name] for name in names]
    assert [verdict.status for verdict in verdicts] == ["error", "unreadable", "unreadable"]
    assert (verdicts[0].reason, verdicts[0].score) == (said, None)
    again = Progress(tmp_path / "o.progress", {}, paths)
    assert set(again.done) == {"text.mp4"}  # "error" passes, and a file that is away may come back


def test_a_decoder_that_hangs_ends_before_its_worker_and_a_crowd_has_time(tmp_path):
    """A hundred faces in each frame, and seven B7 on one core: a machine alone sets no limit."""
    path = tmp_path / "a.mp4"
    path.write_bytes(bytes(50_000))
    task = ScoringTask((), "fp32", "torch", Options())
    assert (
        limits.time_limit(task.size((path.name, path)))
        >= limits.time_limit(limits.known_size(path)) + 32 * 100 * 7 * 0.7
    )


def test_nodes_must_see_checkpoints_converted_networks_and_a_video_of_each_folder(weights, tmp_path, monkeypatch):
    given = []

    def engine(**settings):
        def work(task, items):
            given.append((settings, task, items))
            yield from ()

        return work

    monkeypatch.setattr(scoring, "RayWorkers", engine)
    paths = {name: tmp_path / name for name in ("one/a.mp4", "one/b.mp4", "two/c.mp4", "two/done.mp4", "gone/d.mp4")}
    for path in list(paths.values())[:4]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    results = Results(paths)
    results.done["two/done.mp4"] = Verdict("two/done.mp4", Status.OK)
    checkpoints = [weights / "a", weights / "exported.onnx"]
    Cluster("cuda").score(results, checkpoints, "bf16", "openvino", Options())
    ((settings, task, items),) = given
    network = place_of(weights / "a", "openvino") / "model.xml"
    videos = paths["one/b.mp4"], paths["two/c.mp4"]
    assert settings == {"device": "cuda", "shared": Shared(files=(*checkpoints, network, *videos)), "most_cores": 8}
    assert (task.paths, task.precision, task.engine) == (tuple(checkpoints), "bf16", "openvino")
    assert items == [(name, path) for name, path in paths.items() if name != "two/done.mp4"]


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (1, "cuda")])
def test_the_device_is_that_of_the_nodes(monkeypatch, gpus, device):
    addresses = []

    @contextlib.contextmanager
    def connect(address):
        addresses.append(address)
        yield
        addresses.append("closed")

    monkeypatch.setattr(scoring, "connected", connect)
    monkeypatch.setattr(scoring, "list_nodes", lambda: [NodeInfo("n", "node n", 4, gpus)])
    with open_cluster("head:6379", "auto") as opened:
        assert opened == Cluster(device)
    assert addresses == ["head:6379", "closed"]
