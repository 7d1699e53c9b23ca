"""The engine for many machines: the workers are actors of a Ray cluster (https://docs.ray.io/en/latest/ray-core.html).

Only paths, numbers and small records travel, never images, which Ray's object store would write to disk. All nodes see
the data and this project under the paths of this machine; `check_nodes` makes sure of it. This process, the driver,
decides what runs again after a death; Ray restarts nothing by itself.

Imported only if this engine is chosen (`dfdc.workers.require_ray`), because Ray is optional.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeLabelSchedulingStrategy, NotIn
from tqdm import tqdm

from dfdc import limits
from dfdc.command_line import SettingError
from dfdc.devices import keep_freed_memory, limit_cores, limit_threads
from dfdc.ray_connection import connected, line_of
from dfdc.ray_nodes import (
    JOINED_SECONDS,
    ClusterError,
    NodeInfo,
    Shared,
    check_nodes,
    list_nodes,
    living,
    refresh,
)
from dfdc.text import plural
from dfdc.workers import TRIES, Failed, R, Skipped, T, Task, WorkersError, outcome_of

MOST_CORES = 8  # of a worker that uses several; an ensemble has no more threads than this
_PATIENCE = 60.0  # seconds without any worker after which the user is told
_TICK = 1.0  # seconds between two looks at the time limits
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
            pool = _Pool(partial(_start_actor, task, places), _jobs_of(task, items), places.cores, self.shared, nodes)
            try:
                yield from pool.run(count)
            finally:
                pool.stop()
            if self.shared.root is not None:
                refresh(self.shared.root)  # for the next step of the same run, which looks for what the workers wrote


# ------------------------------------------------------------------------------------------- in a worker
@dataclass(frozen=True)
class _Started:
    """What a worker says of itself; `fault` is why it can't work, or ""."""

    node: str
    fault: str


class _Worker:
    """The actor: holds the initialized task."""

    def __init__(self, task: Task, device: str, cores: int, folder: Path) -> None:
        self._task, self._device, self._cores, self._folder = task, device, cores, folder

    def start(self) -> _Started:
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
        return _Started(node, fault)

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


@dataclass(eq=False)
class _Job(Generic[T]):
    """An item that has no outcome yet.

    Attributes:
        deaths: number of workers that died while they had no other job.
        alone: whether a worker may have no other job beside it, since one died that had this job.
        began: when a worker took it up, by time.monotonic; None while it waits.
    """

    item: T
    size: int
    deaths: int = 0
    alone: bool = False
    began: float | None = None
    future: Future | None = None  # of its outcome, while a worker has it


def _jobs_of(task: Task[T, R], items: Sequence[T]) -> deque[_Job[T]]:
    """The largest first, so that workers don't wait at the end for one with a long video."""
    return deque(sorted((_Job(item, task.size(item)) for item in items), key=lambda job: job.size, reverse=True))


@dataclass(eq=False)
class _Member(Generic[T]):
    """A worker, and what it was given, in this order; `node` is "" until it has started."""

    actor: Any
    failed_starts: int = 0
    node: str = ""
    jobs: list[_Job[T]] = field(default_factory=list)


class _Pool(Generic[T]):
    """Hands jobs out to workers, and collects the outcomes.

    A worker with one core has one job that runs and one that waits. One with N cores has N that run, and one that
    waits. Workers take up their jobs in the order in which they got them.

    Nodes may join. One that can't take part gets no work, and the others go on.
    """

    def __init__(
        self,
        start: Callable[[Sequence[str]], Any],
        jobs: deque[_Job[T]],
        threads: int,
        shared: Shared,
        nodes: Sequence[NodeInfo],
    ) -> None:
        self._start, self._threads, self._shared = start, threads, shared
        self._waiting, self._alone = jobs, deque[_Job[T]]()
        self._open = len(jobs)  # number of jobs without an outcome
        self._checked = {node.id: node for node in nodes}
        self._refused: dict[str, ClusterError] = {}  # by the id of a node that joined
        self._gone: set[str] = set()  # ids of nodes
        self._last_death = float("-inf")  # of a worker
        self._members: list[_Member[T]] = []
        self._events: queue.SimpleQueue[tuple[_Member[T], _Job[T] | None, Future]] = queue.SimpleQueue()

    def run(self, workers: int) -> Generator[tuple[T, Any]]:
        """Yield each item with its outcome."""
        for _ in range(workers):
            self._add_member()
        looked = idle = time.monotonic()  # idle: since when no worker has a place
        told = False
        while self._open:
            self._hand_out()
            for member, job, future in self._next_events():
                if member not in self._members:
                    continue  # it was given up, and its jobs are elsewhere
                if job is None:
                    self._greet(member, future)
                else:
                    yield from self._take(member, job, future)
            now = time.monotonic()
            if now - looked >= _TICK:
                looked = now
                yield from self._end_late(now)
                self._end_without_nodes()
                self._tell_of_lost_nodes(now)
            if any(member.node for member in self._members):
                idle, told = now, False
            elif not told and now - idle > _PATIENCE:
                told = True
                _say("no worker has a place; waiting for a node with free cores or GPUs, Ctrl-C stops")

    def stop(self) -> None:
        """End all workers, even while they work."""
        for member in self._members:
            ray.kill(member.actor)
        self._members.clear()

    def _add_member(self, failed_starts: int = 0) -> None:
        member: _Member[T] = _Member(self._start(tuple(self._refused)), failed_starts)
        self._members.append(member)
        self._watch(member, None, member.actor.start.remote())

    def _watch(self, member: _Member[T], job: _Job[T] | None, reference: Any) -> Future:
        future = reference.future()
        future.add_done_callback(lambda done: self._events.put((member, job, done)))
        return future

    def _next_events(self) -> list[tuple[_Member[T], _Job[T] | None, Future]]:
        """What has happened; waits up to a second for it."""
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._events.get(timeout=_TICK))
            while True:
                found.append(self._events.get_nowait())
        return found

    def _hand_out(self) -> None:
        """Give jobs to the workers that have room for them."""
        now = time.monotonic()
        for member in self._members:
            if not member.node or (member.jobs and member.jobs[0].alone):
                continue
            if self._alone and not member.jobs:
                self._give(member, self._alone.popleft())
            else:
                while not self._alone and len(member.jobs) < self._room():
                    self._give(member, self._waiting.popleft())
            for job in member.jobs[: self._threads]:
                job.began = job.began or now

    def _room(self) -> int:
        """Most jobs of a worker: one in advance, except at the end, when another worker could take it up earlier."""
        waiting = len(self._waiting)
        return self._threads + (waiting > len(self._members)) if waiting else 0

    def _give(self, member: _Member[T], job: _Job[T]) -> None:
        member.jobs.append(job)
        job.began = None
        job.future = self._watch(member, job, member.actor.work.remote(job.item))

    def _greet(self, member: _Member[T], future: Future) -> None:
        """A worker has started, or failed to start."""
        error = future.exception()
        if error is not None:
            self._members.remove(member)
            if self._refuse_joined():  # this project's code can't run there
                self._add_member(member.failed_starts)
            elif member.failed_starts + 1 < TRIES:
                self._add_member(member.failed_starts + 1)
            elif not self._members:
                raise WorkersError(f"no worker can be started on the Ray cluster ({line_of(error)})")
            else:
                said = f"a worker could not be started {TRIES} times ({line_of(error)})"
                _say(f"{said}; {len(self._members)} left")
            return
        started: _Started = future.result()
        if started.node not in self._checked and started.node not in self._refused:
            self._check(started.node)
        if started.node in self._refused:
            self._members.remove(member)
            ray.kill(member.actor)
            self._add_member()
            return
        if started.fault:
            where = self._name_of(started.node)
            raise WorkersError(f"a worker can't be initialized on {where}: {started.fault}")
        member.node = started.node

    def _refuse_joined(self) -> bool:
        """Check all nodes that have joined; return whether one of them is refused."""
        before = len(self._refused)
        with contextlib.suppress(ClusterError):  # no node is left
            for node in list_nodes():
                if node.id not in self._checked and node.id not in self._refused:
                    self._check(node.id)
        return len(self._refused) > before

    def _check(self, joined: str) -> None:
        """Check a node that has joined."""
        nodes = [node for node in list_nodes() if node.id == joined]  # none if it has gone already
        try:
            check_nodes(self._shared, nodes, JOINED_SECONDS)
        except ClusterError as error:
            self._refused[joined] = error
            _say(f"{error}; it gets no work in this run")
        else:
            self._checked.update({node.id: node for node in nodes})

    def _end_without_nodes(self) -> None:
        """Raise the error of a refused node if no other node is left."""
        if self._refused and not any(member.node for member in self._members):
            left = [node for node in list_nodes() if node.id not in self._refused]
            if not left:
                raise list(self._refused.values())[-1]

    def _tell_of_lost_nodes(self, now: float) -> None:
        """Name the nodes that have gone. Ray notices that only some time after the death of their workers."""
        if now - self._last_death > _PATIENCE:
            return
        alive = living()
        for node in self._checked.keys() - alive - self._gone:
            self._gone.add(node)
            left = (
                "its videos run elsewhere" if self._checked.keys() & alive else "waiting for another one, Ctrl-C stops"
            )
            _say(f"{self._checked[node].name} has gone; {left}")

    def _name_of(self, node: str) -> str:
        return self._checked[node].name if node in self._checked else "a node that has gone"

    def _take(self, member: _Member[T], job: _Job[T], future: Future) -> Generator[tuple[T, Any]]:
        error = future.exception()
        if error is None:
            yield self._conclude(member, job, future.result())
        elif isinstance(error, RayTaskError):  # for example, an outcome that can't be sent
            yield self._conclude(member, job, Failed(line_of(error)))
        else:
            yield from self._bury(member)

    def _conclude(self, member: _Member[T], job: _Job[T], outcome: Any) -> tuple[T, Any]:
        member.jobs.remove(job)
        self._open -= 1
        if isinstance(outcome, OSError):
            raise outcome
        return job.item, outcome

    def _bury(self, member: _Member[T], late: _Job[T] | None = None) -> Generator[tuple[T, Any]]:
        """Replace a worker that died, or whose job `late` exceeded its time limit; its other jobs run elsewhere."""
        if late is None:
            self._last_death = time.monotonic()
        self._members.remove(member)
        ray.kill(member.actor)  # if only the connection to it broke, it may still work
        for job, future in [(job, job.future) for job in member.jobs]:
            if future is not None and future.done() and future.exception() is None:
                yield self._conclude(member, job, future.result())
        # Any of several jobs may have been it, even the one in advance: a worker that ends a job, begins the next and
        # dies at once takes the outcome of the first with it. So they run alone, and only then is a death counted.
        only = len(member.jobs) == 1
        for job in reversed(member.jobs.copy()):
            if job is late:
                yield self._conclude(member, job, Failed(limits.late(job.size)))
                continue
            if late is None:
                job.alone = True
                job.deaths += only
            if job.deaths >= TRIES:
                said = f"its worker process died {TRIES} times (the last one on {self._name_of(member.node)})"
                yield self._conclude(member, job, Failed(said))
            else:
                (self._alone if job.alone else self._waiting).appendleft(job)
        self._add_member()

    def _end_late(self, now: float) -> Generator[tuple[T, Any]]:
        for member in self._members.copy():
            begun = [(job, job.began) for job in member.jobs if job.began is not None]
            late = [job for job, began in begun if now - began > limits.time_limit(job.size)]
            if late:
                yield from self._bury(member, late[0])


def _say(what: str) -> None:
    """Tell the user, above a progress bar."""
    tqdm.write(f"Ray: {what}", file=sys.stderr)
