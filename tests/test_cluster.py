"""Scoring on a Ray cluster (prediction/cluster.py): verdicts equal to the local ones, workers and nodes that die."""

import threading

import pytest
from scoring_runs import run

from dfdc import layout
from dfdc.video import VideoReader, write_video

pytest.importorskip("ray", reason="Ray is not installed: requirements-cluster.txt has it")

from clusters import wait_until

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
