"""What the nodes of a Ray cluster must see (dfdc/ray_nodes.py)."""

import os

import pytest
from helpers import run_script

from dfdc.command_line import UserError

pytest.importorskip("ray", reason="Ray is not installed: requirements-cluster.txt has it")

from dfdc import ray_nodes
from dfdc.artifacts import temporary_file
from dfdc.ray_nodes import ClusterError, NodeInfo, Shared
from dfdc.ray_workers import connected

NODES = [NodeInfo("a", "node 10.0.0.1 (a)", 1, 0), NodeInfo("b", "node 10.0.0.2 (b)", 1, 0)]


@pytest.fixture
def answers(monkeypatch):
    """Have each node answer what `change` makes of the true answer; returns `change`s by node."""
    changes = {}

    class Asked:
        def __init__(self, name):
            self.name = name

        def remote(self, *question):
            return changes.get(self.name, lambda view: view)(ray_nodes.look(*question))

    monkeypatch.setattr(ray_nodes, "_on_node", lambda node: Asked(node.id))
    monkeypatch.setattr(ray_nodes.ray, "get", lambda answer, timeout: answer)
    return changes


def missing(view):
    return ray_nodes._View(dict.fromkeys(view.paths), view.versions, view.code)


def test_nodes_that_see_the_same_are_fine(answers, tmp_path):
    (tmp_path / "weights").write_bytes(b"12345")
    ray_nodes.check_nodes(Shared((tmp_path,), (tmp_path / "weights",)), NODES)
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]  # the token is gone


def test_a_node_that_does_not_see_the_folder_is_named(answers, tmp_path):
    answers["b"] = missing
    said = rf"node 10\.0\.0\.2 \(b\) does not see {tmp_path}; all nodes need it under this path"
    with pytest.raises(ClusterError, match=said) as error:
        ray_nodes.check_nodes(Shared((tmp_path,)), NODES)
    assert error.value.status == 2
    assert not list(tmp_path.iterdir())


def test_a_node_that_sees_another_file_of_this_name_is_named(answers, tmp_path):
    weights = tmp_path / "weights"
    weights.write_bytes(b"12345")
    answers["a"] = lambda view: ray_nodes._View({str(weights): 4}, view.versions, view.code)
    with pytest.raises(ClusterError, match=rf"node 10\.0\.0\.1 \(a\) sees another {weights}"):
        ray_nodes.check_nodes(Shared(files=(weights,)), NODES)


def test_a_node_with_other_packages_or_code_is_named(answers, tmp_path):
    answers["b"] = lambda view: ray_nodes._View(view.paths, view.versions | {"numpy": "1.0"}, view.code)
    with pytest.raises(ClusterError, match=r"node 10\.0\.0\.2 \(b\) has numpy 1\.0, not \d"):
        ray_nodes.check_nodes(Shared(), NODES)
    answers["b"] = lambda view: ray_nodes._View(view.paths, view.versions, "other")
    with pytest.raises(ClusterError, match=r"node 10\.0\.0\.2 \(b\) has another version of this project"):
        ray_nodes.check_nodes(Shared(), NODES)


def test_tokens_of_ended_runs_are_removed(answers, tmp_path, ended):
    with temporary_file(tmp_path / "ray-token", "of a run at work") as new:
        dead = new.with_name(new.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
        dead.touch()
        ray_nodes.check_nodes(Shared((tmp_path,)), NODES)
        assert [path.name for path in tmp_path.iterdir()] == [new.name]


def test_a_node_that_dies_while_it_is_asked_takes_no_part(answers, tmp_path, monkeypatch):
    """Ray's list of nodes may still show it as alive."""

    def get(answer, timeout):
        raise ray_nodes.NodeDiedError("the node it was running on is dead or unavailable")

    monkeypatch.setattr(ray_nodes.ray, "get", get)
    monkeypatch.setattr(ray_nodes.ray, "nodes", lambda: [{"NodeID": node.id, "Alive": True} for node in NODES])
    ray_nodes.check_nodes(Shared((tmp_path,)), NODES)


def test_relative_paths_are_those_of_the_command(answers, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    answers["b"] = missing
    with pytest.raises(ClusterError, match=f"does not see {tmp_path}/data;"):
        ray_nodes.check_nodes(Shared((ray_nodes.Path("data"),)), NODES)


@pytest.mark.slow
def test_real_nodes_are_asked_and_a_head_without_cores_is_not(cluster, tmp_path, monkeypatch):
    with connected(cluster.address):
        nodes = ray_nodes.list_nodes()
        assert [(node.cores, node.gpus) for node in nodes] == [(1, 0)] * 2
        ray_nodes.check_nodes(Shared((tmp_path,)), nodes)
        ours = ray_nodes.look
        monkeypatch.setattr(ray_nodes, "_digest_of_code", lambda: "other")  # here only: the nodes import the module
        with pytest.raises(ClusterError, match=r"node \S+ \(\w{8}\) has another version of this project"):
            ray_nodes.check_nodes(Shared((tmp_path,)), nodes)
        assert ours is ray_nodes.look
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_command_without_a_cluster_is_one_clear_line(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part/metadata.json").write_text('{"a.mp4": {"label": "REAL"}}')
    (tmp_path / "part/a.mp4").write_bytes(b"x")
    step = "preprocessing/extract_crops.py", "--root-dir", tmp_path
    (tmp_path / "bboxes").mkdir()
    (tmp_path / "bboxes/a.json").write_text("{}")
    done = run_script(*step, "--engine", "ray", "--ray-address", "127.0.0.1:9")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("extract_crops.py: can't connect to the Ray cluster 127.0.0.1:9: ")
    assert line.endswith("start one with 'ray start', or give --ray-address HOST:PORT")
    assert issubclass(ClusterError, UserError)
