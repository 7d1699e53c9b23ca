"""Which worker of a Ray cluster gets which job, and what runs again after a death. dfdc/ray_workers.py has the workers.

Imported only if this engine is chosen, because Ray is optional.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic

import ray
from ray.exceptions import RayTaskError
from tqdm import tqdm

from dfdc import limits
from dfdc.ray_connection import line_of
from dfdc.ray_nodes import ClusterError, NoAnswerError, NodeInfo, Shared, find_faults, list_nodes, living
from dfdc.workers import TRIES, Failed, T, Task, WorkersError

_PATIENCE = 60.0  # seconds without any worker after which the user is told, or without an idle worker's answer
_TICK = 1.0  # seconds between two looks at the time limits
_JOINED_SECONDS = 60.0  # that all nodes that join may take to answer; meanwhile the driver hands out nothing


@dataclass(frozen=True)
class Started:
    """What a worker says of itself: the id of its node, and why it can't work, or ""."""

    node: str
    fault: str


@dataclass(eq=False)
class _Job(Generic[T]):
    """An item that has no outcome yet.

    Attributes:
        deaths: number of workers that died while they had no other job.
        alone: whether it must be its worker's only job, since a worker died that had it.
        began: when its worker took it up, by time.monotonic; None before that.
    """

    item: T
    size: int
    deaths: int = 0
    alone: bool = False
    began: float | None = None
    future: Future | None = None  # of its outcome, while a worker has it


def jobs_of(task: Task[T, Any], items: Sequence[T]) -> deque[_Job[T]]:
    """The largest first, so that workers don't wait at the end for one with a long video."""
    return deque(sorted((_Job(item, task.size(item)) for item in items), key=lambda job: job.size, reverse=True))


@dataclass(eq=False)
class _Member(Generic[T]):
    """A worker.

    Attributes:
        node: the id of its node; "" until it has started.
        ready: whether it may be given jobs: it has started, and has answered if it was asked since.
        asked: when it was asked, by time.monotonic().
        jobs: what it was given, in this order.
    """

    actor: Any
    failed_starts: int = 0
    node: str = ""
    ready: bool = False
    asked: float = 0.0
    jobs: list[_Job[T]] = field(default_factory=list)


class Pool(Generic[T]):
    """Hands jobs out to workers, and collects the outcomes.

    A worker with one core has one job that runs and one that waits. One with N cores has N that run, and one that
    waits. Workers take up their jobs in the order in which they got them.

    A job whose worker died gets a worker for itself. It fails after three workers died that had only this job.

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
        self._silent: set[str] = set()  # ids of nodes that joined and did not answer in time
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

    def _replace(self, member: _Member[T]) -> None:
        """Start another worker for one without jobs."""
        self._members.remove(member)
        ray.kill(member.actor)
        self._add_member()

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
            if not member.ready or (member.jobs and member.jobs[0].alone):
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
        """A worker has started or answered, or failed to."""
        error = future.exception()
        if error is not None and member.node:  # it has died while it had no job
            self._last_death = time.monotonic()
            self._replace(member)
            return
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
        started: Started = future.result()
        if started.node not in self._checked and started.node not in self._refused:
            self._check([node for node in _nodes() if node.id == started.node], patient=False)  # none if it has gone
        if started.node in self._refused:
            self._replace(member)
            return
        if started.fault:
            where = self._name_of(started.node)
            raise WorkersError(f"a worker can't be initialized on {where}: {started.fault}")
        member.node, member.ready = started.node, True

    def _refuse_joined(self) -> bool:
        """Check all nodes that have joined; return whether one of them is refused."""
        before = len(self._refused)
        known = self._checked.keys() | self._refused.keys() | self._silent
        self._check([node for node in _nodes() if node.id not in known], patient=True)
        return len(self._refused) > before

    def _check(self, nodes: Sequence[NodeInfo], *, patient: bool) -> None:
        """Check nodes that have joined. `patient`: one that does not answer in time is not refused for that."""
        if not nodes:
            return
        with contextlib.closing(find_faults(self._shared, nodes, _JOINED_SECONDS)) as faults:
            for node, fault in faults:
                if fault is None:
                    self._checked[node.id] = node
                elif patient and isinstance(fault, NoAnswerError):
                    self._silent.add(node.id)
                else:
                    self._refused[node.id] = fault
                    _say(f"{fault}; it gets no work in this run")

    def _end_without_nodes(self) -> None:
        """Raise the error of a refused node if no other node is left; a run without any node waits for one."""
        if self._refused and not any(member.node for member in self._members):
            left = {node.id for node in _nodes()}
            if left and left <= self._refused.keys():
                raise list(self._refused.values())[-1]

    def _tell_of_lost_nodes(self, now: float) -> None:
        """Name the nodes that have gone. Ray notices that only some time after the death of their workers."""
        if now - self._last_death > _PATIENCE + _JOINED_SECONDS:  # a check may have come between
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
        """Replace a worker that died, or whose job `late` exceeded its time limit; its other jobs run elsewhere.

        Workers of the same node may have died with it. Those that have no job must answer before they get one.
        """
        if late is None:
            self._last_death = time.monotonic()
        self._members.remove(member)
        ray.kill(member.actor)  # if only the connection to it broke, it may still work
        for job, future in [(job, job.future) for job in member.jobs]:
            if future is not None and future.done() and future.exception() is None:
                yield self._conclude(member, job, future.result())
        # Any of several jobs may have killed the worker, even the one in advance. A worker may end a job, begin the
        # next and die before the first outcome has left it. So each runs alone next, and a death counts only then.
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
        for idle in self._members if late is None else ():
            if idle.ready and not idle.jobs:
                idle.ready, idle.asked = False, time.monotonic()
                self._watch(idle, None, idle.actor.answer.remote())
        self._add_member()

    def _end_late(self, now: float) -> Generator[tuple[T, Any]]:
        for member in self._members.copy():
            begun = [(job, job.began) for job in member.jobs if job.began is not None]
            late = [job for job, began in begun if now - began > limits.time_limit(job.size)]
            if late:
                yield from self._bury(member, late[0])
            elif member.node and not member.ready and now - member.asked > _PATIENCE:
                self._replace(member)  # it is not dead, and does not answer


def _nodes() -> list[NodeInfo]:
    """The live nodes that have cores, if any."""
    try:
        return list_nodes()
    except ClusterError:
        return []


def _say(what: str) -> None:
    """Tell the user, above a progress bar."""
    tqdm.write(f"Ray: {what}", file=sys.stderr)
