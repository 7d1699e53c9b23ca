"""A Ray cluster on this machine, for tests: a head without cores and two nodes, each with its own raylet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import ray
from ray.cluster_utils import Cluster

HERE = Path(__file__).resolve().parent
_STORE = 80 * 2**20  # bytes of a node's object store, near Ray's minimum: nothing is stored there


class TwoNodes:
    """The cluster; `address` is that of its head.

    Args:
        environment: further variables of the nodes and of their workers.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment or {}
        head = {"num_cpus": 0, "object_store_memory": _STORE, "include_dashboard": False}
        with mock.patch.dict(os.environ, {"RAY_USAGE_STATS_ENABLED": "0"}):
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: list[Any] = []
        self.restore()

    @property
    def address(self) -> str:
        return self._cluster.address

    @property
    def raylets(self) -> list[int]:
        """The process ids of the two raylets."""
        return [found.process.pid for node in self._nodes for found in node.all_processes["raylet"]]

    def restore(self) -> None:
        """Have two nodes again."""
        while len(self._nodes) < 2:
            self.add(cores=1)

    def add(self, *, cores: int, gpus: int = 0) -> None:
        """Add a node that offers these, whatever the machine has."""
        paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        # A node hands its environment on to its workers, which import modules of the tests.
        with mock.patch.dict(os.environ, {**self._environment, "PYTHONPATH": paths}):
            self._nodes.append(self._cluster.add_node(num_cpus=cores, num_gpus=gpus, object_store_memory=_STORE))

    def kill_node(self, index: int = -1) -> None:
        """SIGKILL the raylet of a node, by default the one that came last; its workers die with it."""
        self._cluster.remove_node(self._nodes.pop(index), allow_graceful=False)

    def stop(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()


def wait_until(happened: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until `happened()` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
