"""The connection to a Ray cluster (dfdc/ray_connection.py)."""

import socket
from unittest import mock

import pytest
from behaving import Behaving

from dfdc.command_line import SettingError, UserError

pytest.importorskip("ray", reason="Ray is not installed: requirements-cluster.txt has it")

from ray._private import services
from ray.exceptions import AuthenticationError, RpcError

from dfdc import ray_connection
from dfdc.ray_connection import connected
from dfdc.ray_workers import RayWorkers


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:six", ":6379"])
def test_an_address_that_is_none_is_an_error(address):
    with pytest.raises(SettingError, match=r"ray_address .*: expected HOST:PORT of the cluster's head, auto or local"):
        next(RayWorkers(address)(None, []))


def test_a_cluster_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"can't connect to the Ray cluster 127\.0\.0\.1:9: .*start one with") as error:
        next(RayWorkers("127.0.0.1:9")(Behaving(tmp_path), []))
    assert error.value.status == 2


def test_what_listens_but_is_no_head_is_one_clear_line(tmp_path, monkeypatch):
    """The port of the dashboard, for example. Ray would try it for 14 minutes, in which signals wait."""
    asked = []

    def ask(address):
        asked.append(address)
        raise RpcError("Timed out while waiting for GCS to become available.")

    monkeypatch.setattr(ray_connection, "GcsClient", ask)  # it gives up after 40 seconds
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"cluster {address}: what listens there does not answer as the head"):
            next(RayWorkers(address)(Behaving(tmp_path), []))
    assert asked == [address]


def test_a_cluster_that_wants_a_token_says_how_to_give_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_connection, "GcsClient", mock.Mock(side_effect=AuthenticationError("InvalidAuthToken")))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"{address}: it wants its token; run 'export RAY_AUTH_MODE=token'"):
            next(RayWorkers(address)(Behaving(tmp_path), []))


def test_auto_without_a_cluster_is_one_clear_line(tmp_path, monkeypatch):
    """Also where a head was killed: its address is still in Ray's folder, and Ray would try it for minutes."""
    monkeypatch.setattr(services, "find_gcs_addresses", set)  # those of other tests
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match="can't connect to the Ray cluster auto: none runs on this machine; start one"):
        next(RayWorkers()(Behaving(tmp_path), []))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:9")
    with pytest.raises(UserError, match=r"can't connect to the Ray cluster \S+:9: .*refused; start one"):
        next(RayWorkers("auto")(Behaving(tmp_path), []))


def test_a_connection_is_closed_at_the_end(monkeypatch):
    calls = []
    monkeypatch.setattr(ray_connection.ray, "init", lambda address, **options: calls.append((address, options)))
    monkeypatch.setattr(ray_connection.ray, "nodes", list)
    monkeypatch.setattr(ray_connection.ray, "shutdown", lambda: calls.append("shutdown"))
    with pytest.raises(KeyError), connected("local"):
        assert [address for address, _ in calls] == ["local"]
        raise KeyError
    assert calls[1:] == ["shutdown"]
    options = {"num_cpus": ray_connection.available_cores(), "include_dashboard": False}
    assert calls[0][1] == {"log_to_driver": False, "logging_level": ray_connection.logging.ERROR} | options
