"""The engine for many machines: the workers are actors of a Ray cluster (https://docs.ray.io/en/latest/ray-core.html).

Only paths, numbers and small records travel, never images, which Ray's object store would write to disk. All nodes see
the data and this project under the paths of this machine; `check_nodes` makes sure of it. This process, the driver,
decides what runs again after a death (`dfdc.ray_pool`); Ray restarts nothing by itself.

Imported only if this engine is chosen (`dfdc.workers.require_ray`), because Ray is optional.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeLabelSchedulingStrategy, NotIn
from tqdm import tqdm

from dfdc.command_line import SettingError
from dfdc.devices import keep_freed_memory, limit_cores, limit_threads
from dfdc.ray_connection import connected
from dfdc.ray_nodes import NodeInfo, Shared, check_nodes, list_nodes, refresh
from dfdc.ray_pool import Pool, Started, jobs_of
from dfdc.text import plural
from dfdc.workers import Failed, R, Skipped, T, Task, outcome_of

MOST_CORES = 8  # of a worker that uses several; an ensemble has no more threads than this
_NODE_LABEL = "ray.io/node-id"  # which Ray gives to each node


@dataclass(frozen=True)
class Places:
    """Where the workers of an engine run.

    Attributes:
        device: "cpu" or "cuda", which is one GPU for each worker.
        cores: cores of each worker, which works on as many items at a time.
        workers: number of workers.
    """

    device: str
    cores: int
    workers: int


def find_places(nodes: Sequence[NodeInfo], device: str | None, workers: int = 0, most_cores: int = 1) -> Places:
    """Choose the workers: one for each GPU, or for each `most_cores` cores, or all cores of the smallest node.

    Args:
        nodes: the cluster's nodes that can run workers.
        device: "auto", "cpu" or "cuda"; None is "cpu".
        workers: the user's choice; more than fit wait for nodes that join. 0: as many as fit.
        most_cores: most cores of a worker without a GPU.

    Raises:
        SettingError: there is no such device.
    """
    with_gpus = [node for node in nodes if node.gpus]
    if device not in (None, "auto", "cpu", "cuda"):
        raise SettingError("device", device, "Ray chooses the GPU; use auto, cpu or cuda")
    if device == "cuda" and not with_gpus:
        raise SettingError("device", device, "no node of the Ray cluster has a GPU; use cpu or auto")
    if device in ("auto", "cuda") and with_gpus:
        cores = max(1, min([MOST_CORES, *(node.cores // node.gpus for node in with_gpus)]))
        return Places("cuda", cores, workers or sum(node.gpus for node in with_gpus))
    cores = min([most_cores, *(node.cores for node in nodes)])
    return Places("cpu", cores, workers or max(1, sum(node.cores // cores for node in nodes)))


@dataclass(frozen=True)
class RayWorkers:
    """The engine for a Ray cluster.

    Attributes:
        address: see `connected`; not used inside its block.
        workers, device, most_cores: see `find_places`.
        shared: what all nodes must see.
    """

    address: str | None = None
    workers: int = 0
    device: str | None = None
    shared: Shared = field(default_factory=Shared)
    most_cores: int = 1

    def __call__(self, task: Task[T, R], items: Sequence[T]) -> Generator[tuple[T, R | Skipped | Failed]]:
        """See `dfdc.workers.Engine`.

        Raises:
            ClusterError: there is no cluster, or a node does not see what is shared.
        """
        with contextlib.nullcontext() if ray.is_initialized() else connected(self.address):
            nodes = list_nodes()
            places = find_places(nodes, self.device, self.workers, self.most_cores)
            check_nodes(self.shared, nodes)
            count = min(places.workers, len(items))
            tqdm.write(f"Ray: {plural(count, 'worker')} on {plural(len(nodes), 'node')}")
            pool = Pool(partial(_start_actor, task, places), jobs_of(task, items), places.cores, self.shared, nodes)
            try:
                yield from pool.run(count)
            finally:
                pool.stop()
            if self.shared.root is not None:
                refresh(self.shared.root)  # for the next step of the same run, which looks for what the workers wrote


# ------------------------------------------------------------------------------------------- in a worker
class _Worker:
    """The actor: holds the initialized task."""

    def __init__(self, task: Task, device: str, cores: int, folder: Path) -> None:
        self._task, self._device, self._cores, self._folder = task, device, cores, folder

    def start(self) -> Started:
        node, fault = ray.get_runtime_context().get_node_id(), ""
        with contextlib.suppress(OSError):  # needed for relative paths only, which `check_nodes` has compared
            os.chdir(self._folder)
        keep_freed_memory()
        limit_cores(self._cores)
        try:
            self._task.start(self._device)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        limit_threads(1)  # after `start`, which may have loaded PyTorch
        return Started(node, fault)

    def answer(self) -> Started:
        """Show that this worker lives."""
        return Started(ray.get_runtime_context().get_node_id(), "")

    def work(self, item: Any) -> Any:
        try:
            return outcome_of(self._task.work, item)
        except OSError as error:
            return error  # the disk is full: raised in the driver


# ------------------------------------------------------------------------------------------- in the driver
def _start_actor(task: Task, places: Places, refused: Sequence[str]) -> Any:
    """Start a worker on any node but those with the ids `refused`."""
    gpus, device = (1, "cuda:0") if places.device == "cuda" else (0, "cpu")  # Ray shows each worker only its own GPU
    where = NodeLabelSchedulingStrategy({_NODE_LABEL: NotIn(*refused)}) if refused else None
    actor = ray.remote(_Worker).options(
        num_cpus=places.cores,
        num_gpus=gpus,
        max_concurrency=places.cores,
        max_restarts=0,
        max_task_retries=0,
        enable_task_events=False,  # the cluster would keep a record of each video
        scheduling_strategy=where,
    )
    return actor.remote(task, device, places.cores, Path.cwd())
