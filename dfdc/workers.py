"""The process pool for work on many items: single-threaded processes, or one process per GPU.

If a worker dies (decoder crash, out-of-memory killer), it is replaced, and its item is tried again. An item that kills
TRIES workers fails, and so does one that exceeds its time limit. The other items go on.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pebble import ProcessExpired, ProcessPool
from pebble.pool.process import WORKERS_NAME

from dfdc.command_line import SettingError, UserError, reason_of, setting
from dfdc.devices import available_cores, keep_freed_memory, limit_threads, resolve_device
from dfdc.interrupts import held
from dfdc.limits import late, time_limit
from dfdc.processes import check_temp_folder, process_start

TRIES = 3  # workers that may die of one item; the system may have killed the first ones for another process's memory
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TICK = 1.0  # seconds between two looks at the time limits
_READING_SECONDS = 10.0  # that Pebble may take at most to read what a dead worker has said

T = TypeVar("T")  # an item, such as a video
T_in = TypeVar("T_in", contravariant=True)
R = TypeVar("R")  # its result
R_out = TypeVar("R_out", covariant=True)


class SkipVideo(UserError):
    """Raised by a step: the dataset lacks something this video needs. Recorded in the ledger, not as a failure."""


class FailVideo(UserError):
    """Raised by a step: this video can't be processed; the message says why."""


class WorkersError(UserError):
    """No worker can be started; the message says why and what to do."""

    status = 1


@dataclass(frozen=True)
class Skipped:
    """An item that can't be processed, without counting as a failure."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """An item whose processing failed."""

    reason: str


class Task(Protocol[T_in, R_out]):
    """The work to do on each item. It is pickled for the workers.

    Attributes:
        preload: modules that every worker needs; imported once, before the workers are forked.
    """

    @property
    def preload(self) -> tuple[str, ...]: ...

    def size(self, item: T_in, /) -> int:
        """Approximate size of the work in bytes. Larger items start first and have a longer time limit."""
        ...

    def start(self, device: str) -> None:
        """Initialize the task in a worker, on its device."""
        ...

    def work(self, item: T_in, /) -> R_out:
        """Process the item in a worker. An exception becomes the outcome of this item."""
        ...


class Engine(Protocol):
    """Runs a task on many items: `LocalWorkers` on one machine, `dfdc.ray_workers.RayWorkers` on many."""

    def __call__(self, task: Task[T, R], items: Sequence[T]) -> Generator[tuple[T, R | Skipped | Failed]]:
        """Yield each item with its outcome, in order of completion. Closing the generator cancels pending items.

        Raises:
            WorkersError: a worker could not be initialized.
            OSError: the disk is full.
        """
        ...


def outcome_of(function: Callable[[T], R], item: T) -> R | Skipped | Failed:
    """The result of `function(item)`, or its error as an outcome.

    Raises:
        OSError: the disk is full, so all other items would fail too.
    """
    try:
        return function(item)
    except SkipVideo as reason:
        return Skipped(str(reason))
    except UserError as reason:
        return Failed(str(reason))
    except OSError as error:
        if error.errno in _FULL:
            raise
        return Failed(reason_of(error))
    except Exception as error:
        # Unexpected, so add the location. Only this item fails, not the hours of work on the others.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Failed(f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})")


def worker_count(requested: int, devices: Sequence[str]) -> int:
    """Number of workers: at least 1, at most one per core.

    Args:
        requested: the user's choice; 0 for the default, one per GPU or else one per core.
        devices: the devices that the workers share.
    """
    cores = available_cores()
    if requested > cores:
        print(f"{setting('workers')} {requested}: only {cores} cores are available, using {cores}", file=sys.stderr)
    default = len(devices) if devices[0].startswith("cuda") else cores
    return max(1, min(requested or default, cores))


def list_devices(name: str) -> list[str]:
    """The devices that `name` selects: every visible GPU for `cuda` (or `auto` with a GPU), else the named device.

    Raises:
        SettingError: the name is invalid, or the device is not available.
    """
    device = resolve_device(name)
    if device != "cuda":
        return [device]
    import torch  # here, because it takes seconds and is needed only with a GPU

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def require_ray() -> None:
    """Make sure that `dfdc.ray_workers` can be imported; called before.

    Raises:
        SettingError: Ray is not installed.
    """
    if find_spec("ray") is None:
        advice = "Ray is not installed; install it with: pip install -r requirements-cluster.txt"
        raise SettingError("engine", "ray", advice)
    # Ray reads these when it is imported. The driver itself says what becomes of a worker's death. At the death of a
    # raylet, Ray would print the end of its log.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^A worker died or was killed|^Raylet is terminated")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@contextlib.contextmanager
def in_own_folder() -> Generator[None]:
    """Within this context, the current folder is that of the project."""
    here = Path.cwd()
    os.chdir(Path(__file__).resolve().parents[1])
    try:
        yield
    finally:
        os.chdir(here)


@dataclass(frozen=True)
class LocalWorkers:
    """The engine for one machine.

    Attributes:
        workers: number of processes, at least 1.
        devices: worker i and its replacements use device i modulo their number. A worker with a GPU processes several
            items at a time, on its share of the cores.
    """

    workers: int
    devices: Sequence[str] = ("cpu",)

    def __call__(self, task: Task[T, R], items: Sequence[T]) -> Generator[tuple[T, R | Skipped | Failed]]:
        """See `Engine`."""
        check_temp_folder()
        # forkserver: workers don't inherit threads or CUDA state, and start with few imports.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", "pebble", "dfdc.artifacts", *task.preload])
        resource_tracker.ensure_running()  # the server would start it, and that unblocks Ctrl-C
        with held(), in_own_folder():  # where the server finds the preloaded modules; each worker changes back to ours
            forkserver.ensure_running()
        # Largest first, so that workers don't wait at the end for one with a long video.
        items = sorted(items, key=task.size, reverse=True)
        workers = min(self.workers, len(items))
        threads, some = share_out(len(items), workers, available_cores() if self.devices[0].startswith("cuda") else 1)
        places = context.Array("q", workers)  # process id in each place; each place has a device
        # Number of the group that the worker in each place works on, or 0. No lock: a killed worker would keep it.
        numbers = context.RawArray("q", workers)
        start = task, list(self.devices), places, numbers
        pool = ProcessPool(max_workers=workers, context=context, initializer=_start_worker, initargs=start)
        _read_before_burying(pool)
        try:
            groups = [items[at : at + some] for at in range(0, len(items), some)]
            with held():
                _ = pool.active  # this starts the workers
            yield from _run_pool(pool, places.get_obj(), numbers, task, groups, threads)
            pool.close()
            pool.join()
        except RuntimeError as error:  # BrokenProcessPool: all workers died during start-up
            advice = "; use fewer workers to save memory" if workers > 1 else ""
            raise WorkersError(f"no worker can be started ({error}){advice}") from error
        finally:
            pool.stop()
            _kill_workers()
            pool.join()


def _read_before_burying(pool: ProcessPool) -> None:
    """Have Pebble read what a dead worker has said before it decides what the worker was doing.

    One thread of Pebble reads the messages of workers, and another one looks for dead workers. If the second is ahead,
    a finished item counts as the cause of the death. The one that the worker had begun is waited for without end. If no
    other item is running, Pebble even gives up.
    """
    manager: Any = pool._pool_manager
    read, inspect = manager.process_next_message, manager.worker_manager.inspect_workers
    passes = 0  # of the reading thread: each handles a message, or waits for a moment

    def count_passes(timeout: float) -> None:
        nonlocal passes
        read(timeout)
        passes += 1

    def inspect_workers() -> Sequence[tuple[int, int]]:
        dead = inspect()
        if dead:
            until = time.monotonic() + _READING_SECONDS
            wait_while(lambda: manager.worker_manager.pool_channel.poll(0), until)
            before = passes  # the last message may just be handled
            wait_while(lambda: passes == before, until)
        return dead

    def wait_while(unread: Callable[[], bool], until: float) -> None:
        while unread() and manager.context.alive and time.monotonic() < until:
            time.sleep(0.001)

    manager.process_next_message, manager.worker_manager.inspect_workers = count_passes, inspect_workers


def _kill_workers() -> None:
    """Kill the workers, also those that are being started: they would show that their pool is gone, by a traceback."""
    for process in multiprocessing.active_children():
        if process.name == WORKERS_NAME:
            process.kill()


def _run_pool(
    pool: ProcessPool, places: Any, numbers: Any, task: Task[T, R], groups: Sequence[Sequence[T]], threads: int
) -> Generator[tuple[T, R | Skipped | Failed]]:
    """Yield each item with its outcome; two groups for each worker are submitted at a time."""

    def group_of(items: Sequence[T]) -> _Group[T]:
        return _Group(items, sum(time_limit(task.size(item)) for item in items))

    waiting = deque(map(group_of, groups))
    running: dict[Future, _Group[T]] = {}
    looked, submitted = time.monotonic(), 0
    while waiting or running:
        while waiting and len(running) < 2 * len(places):
            group, submitted = waiting.popleft(), submitted + 1
            group.number = submitted
            running[pool.schedule(_do_some, args=(group.items, threads, group.number))] = group
        for future in wait(running, timeout=_TICK, return_when=FIRST_COMPLETED).done:
            group = running.pop(future)
            try:
                outcomes = future.result()
            except ProcessExpired as end:
                if len(group.items) > 1:  # retry them one by one, so that only the cause fails
                    waiting.extend(group_of([item]) for item in group.items)
                    continue
                if not group.is_late and group.tries < TRIES:
                    waiting.append(replace(group, tries=group.tries + 1, used=0.0))
                    continue
                died = f"its worker process died {TRIES} times (exit code {end.exitcode})"
                outcomes = [Failed(late(task.size(group.items[0])) if group.is_late else died)]
            yield from zip(group.items, outcomes, strict=True)
        looked, before = time.monotonic(), looked
        # Less if this process was stopped, with its workers.
        _end_late(running, min(looked - before, 10 * _TICK), places, numbers)


@dataclass
class _Group(Generic[T]):
    """Items that a worker takes up together.

    Attributes:
        limit: seconds that they may take.
        tries: number of workers that were given them.
        used: seconds in which the last one was seen at work.
        number: of the last submission.
    """

    items: Sequence[T]
    limit: float
    tries: int = 1
    used: float = 0.0
    number: int = 0

    @property
    def is_late(self) -> bool:
        return self.used > self.limit


def _end_late(running: Mapping[Future, _Group], seconds: float, places: Any, numbers: Any) -> None:
    """After so many seconds, kill the workers of what exceeds its time limit.

    Pebble's own limits would follow a clock that is set. Cancelling a future that is just being completed would end the
    thread that receives the results.
    """
    at_work = dict(zip(numbers[:], places[:], strict=True))
    for future, group in running.items():
        if future.running():
            group.used += seconds
            if group.is_late and group.number in at_work:
                with contextlib.suppress(ProcessLookupError):  # it has died just now
                    os.kill(at_work[group.number], signal.SIGKILL)


def share_out(items: int, workers: int, cores: int) -> tuple[int, int]:
    """(threads per worker, items per group): the worker's share of the cores, and four items per thread.

    Groups are smaller if there would not be one for each worker.
    """
    threads = max(1, cores // workers)
    return threads, 1 if threads == 1 else max(1, min(4 * threads, items // workers))


# ------------------------------------------------------------------------------------------- in a worker
_task: Any = None  # this worker's task, initialized
_fault: str = ""  # why initialization failed
_numbers: Any = None  # shared: of the groups that the workers work on
_place: int = 0  # of this worker


def _start_worker(task: Task, devices: Sequence[str], places: Any, numbers: Any) -> None:
    """Take a place, and initialize the task on its device."""
    global _task, _fault, _numbers, _place
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    _numbers, _place = numbers, take_place(places, os.getpid())
    _numbers[_place] = 0  # the one before may have died at work
    device = devices[_place % len(devices)]
    try:
        task.start(device)
    except Exception as error:  # reported by the first item; if this raised, the pool would keep starting new workers
        _fault = f"a worker can't be initialized on {device}: {type(error).__name__}: {error}"
    _task = task
    limit_threads(1)  # after `start`, which may have loaded PyTorch


def _end_with_parent() -> None:
    """Wait for the end of the parent, then end this worker in the middle of its work: the next run does it again."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def take_place(places: Any, own: int) -> int:
    """Take the first free one of `places` (shared process ids; 0 or of an ended process: free) for process `own`."""
    with places.get_lock():
        free = [place for place, other in enumerate(places) if not other or process_start(other) is None]
        place = free[0] if free else 0
        places[place] = own
    return place


def _do_some(items: Sequence[Any], threads: int, number: int) -> list[Any]:
    """The outcomes of `items`, the group `number`, processed in `threads` threads; decoding releases Python's GIL."""
    if _fault:
        raise WorkersError(f"{_fault}; fix this, or choose another device or fewer workers")
    _numbers[_place] = number
    try:
        if threads == 1:
            return [outcome_of(_task.work, item) for item in items]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(partial(outcome_of, _task.work), items))
    finally:
        _numbers[_place] = 0
