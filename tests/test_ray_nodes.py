"""What the nodes of a Ray cluster must see (dfdc/ray_nodes.py)."""

import os
import shutil
from unittest import mock

import pytest
from helpers import run_script

from dfdc.command_line import UserError

pytest.importorskip("ray", reason="Ray is not installed: requirements-cluster.txt has it")

from ray.exceptions import GetTimeoutError, RayError

from dfdc import layout, ray_nodes, steps
from dfdc.artifacts import temporary_file
from dfdc.ray_connection import connected
from dfdc.ray_nodes import ClusterError, NoAnswerError, NodeInfo, Shared
from dfdc.step_command import RunOptions
from preprocessing.crop_step import CropStep

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
        other = dead.with_name(dead.name.replace("ray-token", "folds.csv"))  # a step removes its own
        for path in (dead, other):
            path.touch()
        ray_nodes.check_nodes(Shared((tmp_path,)), NODES)
        assert {*tmp_path.iterdir()} == {new, other}


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


def of_ray(name, address, cores, *, alive=True, gpus=0):
    resources = {"CPU": float(cores), "GPU": float(gpus), "memory": 1.0} if cores else {"memory": 1.0}
    return {"NodeID": name * 8, "NodeManagerAddress": address, "Alive": alive, "Resources": resources}


def test_nodes_are_those_that_are_alive_and_have_cores(monkeypatch):
    nodes = [of_ray("ab", "10.0.0.2", 8, gpus=2), of_ray("cd", "10.0.0.1", 4)]
    others = [of_ray("ef", "10.0.0.3", 4, alive=False), of_ray("gh", "10.0.0.4", 0)]
    monkeypatch.setattr(ray_nodes.ray, "nodes", lambda: nodes + others)
    expected = [
        NodeInfo("cd" * 8, "node 10.0.0.1 (cdcdcdcd)", 4, 0),
        NodeInfo("ab" * 8, "node 10.0.0.2 (abababab)", 8, 2),
    ]
    assert ray_nodes.list_nodes() == expected
    nodes.clear()
    with pytest.raises(ClusterError, match="no node of the Ray cluster has cores for workers; start one"):
        ray_nodes.list_nodes()


@pytest.fixture
def alive(answers, monkeypatch):
    """Have node b answer with the error of `view` that `answers["b"]` raises; returns the nodes as Ray lists them."""
    nodes = [of_ray("a", "10.0.0.1", 1), {**of_ray("b", "10.0.0.2", 1), "NodeID": "b"}]
    there = ray_nodes._on_node

    class Later:
        def __init__(self, node):
            self.remote = lambda *question: lambda: there(node).remote(*question)

    monkeypatch.setattr(ray_nodes, "_on_node", Later)
    monkeypatch.setattr(ray_nodes.ray, "get", lambda answer, timeout: answer())
    monkeypatch.setattr(ray_nodes.ray, "nodes", lambda: nodes)
    return nodes


def raising(error):
    def answer(view):
        raise error

    return answer


LOST = RayError("\nTraceback\nNo module named 'dfdc'\n\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GetTimeoutError(), "does not answer within 300 s$"),
        (LOST, r"can't run this project's code \(No module named 'dfdc'\); install"),
    ],
)
def test_a_node_that_does_not_answer_is_named(answers, alive, error, said):
    answers["b"] = raising(error)
    with pytest.raises(ClusterError, match=rf"^node 10\.0\.0\.2 \(b\) {said}"):
        ray_nodes.check_nodes(Shared(), NODES)


def test_the_asker_decides_how_long_all_nodes_together_may_take(answers, monkeypatch):
    clock, waits = [100.0], []

    def get(answer, timeout):
        waits.append(timeout)
        clock[0] += 7.5
        raise GetTimeoutError

    monkeypatch.setattr(ray_nodes.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(ray_nodes.ray, "get", get)
    faults = dict(ray_nodes.find_faults(Shared(), NODES, 7.0))
    assert [str(fault) for fault in faults.values()] == [f"{node.name} does not answer within 7 s" for node in NODES]
    assert {type(fault) for fault in faults.values()} == {NoAnswerError}
    assert waits == [7.0, 0.0]


def test_a_node_that_has_gone_meanwhile_is_no_fault(answers, alive):
    answers["b"] = raising(LOST)
    alive[1]["Alive"] = False
    ray_nodes.check_nodes(Shared(), NODES)


def test_folders_of_a_data_set_are_opened_so_that_nfs_asks_its_server(tmp_path, monkeypatch):
    (tmp_path / "crops").mkdir()
    (tmp_path / "folds.csv").touch()
    opened, closed, kept = [], [], os.open
    monkeypatch.setattr(os, "open", lambda path, flags: opened.append(path) or kept(path, flags))
    monkeypatch.setattr(os, "close", lambda handle, close=os.close: closed.append(handle) or close(handle))
    ray_nodes.refresh(tmp_path)
    assert opened == [str(tmp_path / "crops")]
    assert len(closed) == 1
    ray_nodes.refresh(tmp_path / "absent")


def test_the_nodes_of_a_step_must_see_each_part_and_each_folder_of_artifacts(family_copy):
    root = family_copy
    shutil.rmtree(root / "diffs", ignore_errors=True)
    for name in ("bboxes", "my crops", "landmarks"):
        (root / name).mkdir(exist_ok=True)
    step = CropStep(root, "my crops")
    videos = list(layout.load_dataset(root).videos.values())
    engine = steps._open_engine(step, videos, RunOptions(engine="ray", ray_address="head:6379"))
    assert engine.shared.folders == (root, root / "bboxes", root / "my crops", root / "landmarks")
    assert set(engine.shared.files) == {video.path.parent / "metadata.json" for video in videos}
    assert all(path.is_file() for path in engine.shared.files)
    assert engine.shared.root == root


def test_each_node_looks_up_the_folders_of_the_data_set_anew(answers, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(ray_nodes, "refresh", opened.append)
    ray_nodes.check_nodes(Shared((tmp_path,)), NODES)
    assert opened == []
    ray_nodes.check_nodes(Shared((tmp_path,), root=tmp_path), NODES)
    assert opened == [tmp_path] * (1 + len(NODES))


def test_a_node_without_the_commands_folder_misses_relative_paths_only(tmp_path):
    (tmp_path / "size").write_bytes(b"123")
    (tmp_path / "token").write_text("text")
    paths = [str(tmp_path / "token"), str(tmp_path / "size"), "relative"]
    assert ray_nodes.look(paths, 1, tmp_path / "absent", None).paths == dict(zip(paths, ["text", 3, None], strict=True))


def test_relative_paths_are_looked_up_in_the_commands_folder(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "size").write_bytes(b"123")
    assert ray_nodes.look(["size"], 0, tmp_path, None).paths == {"size": 3}


def test_a_node_is_asked_beside_its_workers_and_no_other_in_its_place(monkeypatch):
    asked = mock.Mock()
    monkeypatch.setattr(ray_nodes.ray, "remote", asked)
    node = NodeInfo("ab" * 28, "node 10.0.0.1 (abababab)", 1, 0)
    assert ray_nodes._on_node(node) is asked.return_value.options.return_value
    asked.assert_called_once_with(ray_nodes.look)
    (options,) = [call.kwargs for call in asked.return_value.options.mock_calls]
    there = options.pop("scheduling_strategy")
    assert (there.node_id, there.soft) == (node.id, False)
    assert options == {"num_cpus": 0, "max_retries": 0}  # all cores may have workers


def test_the_code_is_that_of_the_packages_that_workers_import(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_nodes, "_ROOT", tmp_path)
    (tmp_path / "dfdc/pages").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    seen = [ray_nodes._digest_of_code()]
    for name, text in (("dfdc/a.py", "1"), ("dfdc/a.py", "2"), ("dfdc/pages/b.py", ""), ("tests/c.py", "1")):
        (tmp_path / name).write_text(text)
        seen.append(ray_nodes._digest_of_code())
    (tmp_path / "dfdc/a.py").rename(tmp_path / "dfdc/d.py")
    seen.append(ray_nodes._digest_of_code())
    assert seen[3] == seen[4]
    assert len(set(seen)) == 5


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
