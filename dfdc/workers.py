"""One pool for all work on many items: processes of one thread each, with one GPU of its own where there are any.

A worker that dies (a decoder's crash, the kernel's out-of-memory killer) or takes far too long costs the item it was
at, and is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent import futures
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pebble import ProcessExpired, ProcessPool

from dfdc.artifacts import process_start
from dfdc.command_line import UserError, reason_of, setting
from dfdc.devices import available_cores, keep_freed_memory, limit_threads, resolve_device
from dfdc.limits import time_limit

_FULL = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")  # an item: a video, say
T_in = TypeVar("T_in", contravariant=True)
R = TypeVar("R")  # what comes of it
R_out = TypeVar("R_out", covariant=True)


class SkipVideo(UserError):
    """Raised by a step: the data set does not hold what this video takes. No failure, but in the ledger."""


class FailVideo(UserError):
    """Raised by a step: this video can't be done, for the reason given."""


class WorkersError(UserError):
    """No worker can be started; the message says why and what to do."""

    status = 1


@dataclass(frozen=True)
class Skipped:
    """An item that can't be done, which is no failure."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """An item that could not be done."""

    reason: str


class Task(Protocol[T_in, R_out]):
    """What is done with each item. It is pickled on its way to the workers.

    Attributes:
        preload: modules that every worker needs: imported once, and workers are forked from there.
    """

    @property
    def preload(self) -> tuple[str, ...]: ...

    def size(self, item: T_in, /) -> int:
        """About how many bytes of work an item is: the largest come first, and get the most time."""
        ...

    def start(self, device: str) -> None:
        """Make ready in a worker, on its device."""
        ...

    def work(self, item: T_in, /) -> R_out:
        """Do it, in a worker. What is raised becomes the outcome of this item."""
        ...


class Engine(Protocol):
    """What does a task for many items, wherever that is. `LocalWorkers` is one; another may use many machines."""

    def __call__(self, task: Task[T, R], items: Sequence[T]) -> Generator[tuple[T, R | Skipped | Failed]]:
        """Each item with its outcome, as soon as that is known. What is not begun when this is closed is left.

        Raises:
            WorkersError: a worker could not make itself ready.
            OSError: the disk is full.
        """
        ...


def outcome_of(function: Callable[[T], R], item: T) -> R | Skipped | Failed:
    """What `function` returns for `item`, or why it raised an error.

    Raises:
        OSError: the disk is full. No other item would fare better.
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
        # Not foreseen, so say where. It costs this item, not the hours of work on the others.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Failed(f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})")


def worker_count(requested: int, devices: Sequence[str]) -> int:
    """How many workers: at least 1, at most one per core.

    Args:
        requested: what the user wants; 0 for what suits the machine.
        devices: the devices they share; on GPUs one worker each is the default.
    """
    cores = available_cores()
    if requested > cores:
        print(f"{setting('workers')} {requested}: there are {cores} cores, so {cores} are used", file=sys.stderr)
    default = len(devices) if devices[0].startswith("cuda") else cores
    return max(1, min(requested or default, cores))


def list_devices(name: str) -> list[str]:
    """The devices that `name` means: every visible GPU for `cuda` (and `auto` with one), else the one named.

    Raises:
        SettingError: no such device, or not here.
    """
    device = resolve_device(name)
    if device != "cuda":
        return [device]
    import torch  # here, since it takes seconds that work without a GPU need not wait for

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


@contextlib.contextmanager
def _in_own_folder() -> Generator[None]:
    here = Path.cwd()
    os.chdir(Path(__file__).resolve().parents[1])
    try:
        yield
    finally:
        os.chdir(here)


@dataclass(frozen=True)
class LocalWorkers:
    """The engine of one machine.

    Attributes:
        workers: processes, 1 or more.
        devices: worker i gets number i of these, beginning anew after the last; so does the one that replaces it. A
            worker with a GPU does several items at a time, on its share of the cores.
    """

    workers: int
    devices: Sequence[str] = ("cpu",)

    def __call__(self, task: Task[T, R], items: Sequence[T]) -> Generator[tuple[T, R | Skipped | Failed]]:
        """See `Engine`."""
        # forkserver: no copy of this process's threads or CUDA state, and workers start with few imports.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", "pebble", "dfdc.artifacts", *task.preload])
        with _in_own_folder():  # where the server looks for what it preloads; each worker goes back to ours
            forkserver.ensure_running()
        # The largest first, so that at the end no worker waits for one that has a long video left.
        items = sorted(items, key=task.size, reverse=True)
        workers = min(self.workers, len(items))
        threads, some = share_out(len(items), workers, available_cores() if self.devices[0].startswith("cuda") else 1)
        places = context.Array("q", workers)  # the process at each place; a place has a device
        start = task, list(self.devices), places
        pool = ProcessPool(max_workers=workers, context=context, initializer=_start_worker, initargs=start)
        try:
            groups = [items[at : at + some] for at in range(0, len(items), some)]
            yield from _run_pool(pool, task, groups, threads, ahead=2 * workers)
            pool.close()
            pool.join()
        except RuntimeError as error:  # BrokenProcessPool: they all died before they had begun
            advice = "; with fewer workers they need less memory" if workers > 1 else ""
            raise WorkersError(f"no worker can be started ({error}){advice}") from error
        finally:
            pool.stop()
            pool.join()


def _run_pool(
    pool: ProcessPool, task: Task[T, R], groups: Sequence[Sequence[T]], threads: int, *, ahead: int
) -> Generator[tuple[T, R | Skipped | Failed]]:
    """Each item with its outcome; no more than `ahead` groups are on their way to the workers."""
    waiting = deque(groups)
    running: dict[Future, Sequence[T]] = {}
    while waiting or running:
        while waiting and len(running) < ahead:
            some = waiting.popleft()
            limit = sum(time_limit(task.size(item)) for item in some)
            running[pool.schedule(_do_some, args=(some, threads), timeout=limit)] = some
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            some = running.pop(future)
            try:
                outcomes = future.result()
            except (ProcessExpired, futures.TimeoutError) as end:  # before Python 3.11 not the built-in one
                if len(some) > 1:  # one of them is to blame; the others must not pay for it
                    waiting.extend([item] for item in some)
                    continue
                outcomes = [Failed(_reason_of_end(end, task.size(some[0])))]
            yield from zip(some, outcomes, strict=True)


def share_out(items: int, workers: int, cores: int) -> tuple[int, int]:
    """(threads of a worker, items that it takes at once): its share of the cores, and four items for each thread.

    No more at once than that each worker gets some.
    """
    threads = max(1, cores // workers)
    return threads, 1 if threads == 1 else max(1, min(4 * threads, items // workers))


def _reason_of_end(end: Exception, size: int) -> str:
    code = getattr(end, "exitcode", None)
    if code is not None:
        return f"its worker process died (exit code {code})"
    return f"it took longer than {time_limit(size):.0f} s, and was given up"


# ------------------------------------------------------------------------------------------- in a worker
_task: Any = None  # this worker's own, made ready
_fault: str = ""  # why it could not be made ready


def _start_worker(task: Task, devices: Sequence[str], places: Any) -> None:
    """Take a place, and make the task ready on its device."""
    global _task, _fault
    keep_freed_memory()
    device = devices[take_place(places, os.getpid()) % len(devices)]
    try:
        task.start(device)
    except Exception as error:  # the first item says so; after an error here, the pool would start worker after worker
        _fault = f"a worker can't be made ready on {device}: {type(error).__name__}: {error}"
    _task = task
    limit_threads(1)  # after `start`, which may have loaded PyTorch


def take_place(places: Any, own: int) -> int:
    """The first of `places` (shared process numbers, 0: nobody) that no running process has, now taken by `own`."""
    with places.get_lock():
        free = [place for place, other in enumerate(places) if not other or process_start(other) is None]
        place = free[0] if free else 0
        places[place] = own
    return place


def _do_some(items: Sequence[Any], threads: int) -> list[Any]:
    """The outcomes of `items`, so many at a time: decoding holds no lock of Python's."""
    if _fault:
        raise WorkersError(f"{_fault}; mend that, or choose another device or fewer workers")
    if threads == 1:
        return [outcome_of(_task.work, item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(partial(outcome_of, _task.work), items))
