"""One map over videos in worker processes: one thread each, and one GPU of its own where there are any.

A worker that dies (a decoder's crash, the kernel's out-of-memory killer) or takes far too long costs the video it was
at, and is replaced.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfdc.artifacts import process_start
from dfdc.command_line import UserError, reason_of
from dfdc.devices import available_cores
from dfdc.layout import Video

if TYPE_CHECKING:
    from dfdc.steps import Step

# What a video may take: ten minutes, and a second for each 10 KB of it. The slowest steps need a hundredth of it.
_LEAST_SECONDS = 600.0
_BYTES_A_SECOND = 10_000
_FULL = (errno.ENOSPC, errno.EDQUOT)


class SkipVideo(Exception):
    """Raised by a step: the data set does not hold what this video takes. No failure, but in the ledger."""


class FailVideo(Exception):
    """Raised by a step: this video can't be done, for the reason given."""


class WorkersError(UserError):
    """No worker can be started; the message says why and what to do."""

    status = 1


# A stamp, a SkipVideo, or the reason of a failure.
Outcome = dict[str, Any] | SkipVideo | str


def outcome_of(function: Callable[[Video], Any], video: Video) -> Any:
    """What `function` returns for `video`; a SkipVideo that it raised; of any other error, its reason as a text.

    Raises:
        OSError: the disk is full. No other video would fare better.
    """
    from dfdc.video import VideoError

    try:
        return function(video)
    except SkipVideo as reason:
        return reason
    except (FailVideo, VideoError) as reason:
        return str(reason)
    except OSError as error:
        if error.errno in _FULL:
            raise
        return reason_of(error)
    except Exception as error:
        # Not foreseen, so say where. It costs this video, not the hours of work on the others.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"


def do_all(
    step: Step, videos: Sequence[Video], workers: int, devices: Sequence[str]
) -> Iterator[tuple[Video, Outcome]]:
    """Do `videos` in worker processes; each comes with its outcome as soon as that is known.

    A worker with a GPU reads several at a time, on its share of the cores.

    Args:
        workers: how many at most, 1 or more.
        devices: worker i gets number i of these, beginning anew after the last; so does the one that replaces it.

    Raises:
        WorkersError: a worker could not make itself ready.
        OSError: the disk is full.
    """
    from pebble import ProcessExpired, ProcessPool

    # forkserver: no copy of this process's threads or CUDA state, and workers start with few imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "pebble", "dfdc.artifacts", *step.preload])
    # The largest first, so that at the end no worker waits for one that has a long video left.
    videos = sorted(videos, key=lambda video: _file_size(video.path), reverse=True)
    workers = min(workers, len(videos))
    threads, size = share_out(len(videos), workers, available_cores() if devices[0].startswith("cuda") else 1)
    waiting = deque(videos[start : start + size] for start in range(0, len(videos), size))
    running: dict[Future, Sequence[Video]] = {}
    places = context.Array("q", workers)  # the process at each place; a place has a device
    pool = ProcessPool(max_workers=workers, context=context, initializer=_start_worker,
                       initargs=(step, list(devices), places))  # fmt: skip
    try:
        while waiting or running:
            while waiting and len(running) < 2 * workers:
                some = waiting.popleft()
                limit = sum(time_limit(video.path) for video in some)
                running[pool.schedule(_do_some, args=(some, threads), timeout=limit)] = some
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                some = running.pop(future)
                try:
                    outcomes = future.result()
                except (ProcessExpired, futures.TimeoutError) as end:  # before Python 3.11 not the built-in one
                    if len(some) > 1:  # one of them is to blame; the others must not pay for it
                        waiting.extend([video] for video in some)
                        continue
                    outcomes = [_reason_of_end(end, some[0])]
                yield from zip(some, outcomes, strict=True)
        pool.close()
        pool.join()
    except WorkersError:
        raise
    except RuntimeError as error:  # BrokenProcessPool: they all died before they had begun
        advice = "; with fewer --workers they need less memory" if workers > 1 else ""
        raise WorkersError(f"no worker can be started ({error}){advice}") from error
    finally:
        pool.stop()
        pool.join()


def share_out(videos: int, workers: int, cores: int) -> tuple[int, int]:
    """(threads of a worker, videos that it takes at once): its share of the cores, and four videos for each thread.

    No more at once than that each worker gets some.
    """
    threads = max(1, cores // workers)
    return threads, 1 if threads == 1 else max(1, min(4 * threads, videos // workers))


def _reason_of_end(end: Exception, video: Video) -> str:
    code = getattr(end, "exitcode", None)
    if code is not None:
        return f"its worker process died (exit code {code})"
    return f"it took longer than {time_limit(video.path):.0f} s, and was given up"


def time_limit(path: Path) -> float:
    """Seconds that the work on a video may take, generously, by its length in bytes."""
    return _LEAST_SECONDS + _file_size(path) / _BYTES_A_SECOND


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # that is for the step to say
        return 0


# ------------------------------------------------------------------------------------------- in a worker
_step: Any = None  # this worker's own, made ready
_fault: str = ""  # why it could not be made ready


def _start_worker(step: Step, devices: Sequence[str], places: Any) -> None:
    """Take a place, and make the step ready on its device.

    It raises nothing: the pool would start worker after worker. The first video that comes says what was wrong.
    """
    global _step, _fault
    from dfdc.devices import keep_freed_memory, limit_threads

    keep_freed_memory()
    device = devices[take_place(places, os.getpid()) % len(devices)]
    try:
        step.start(device)
    except Exception as error:
        _fault = f"a worker can't be made ready on {device}: {type(error).__name__}: {error}"
    _step = step
    limit_threads(1)  # after `start`, which may have loaded PyTorch


def take_place(places: Any, own: int) -> int:
    """The first place that no running process has; it is now that of process `own`.

    Args:
        places: a shared array of process numbers, 0 where nobody was yet.
    """
    with places.get_lock():
        free = [place for place, other in enumerate(places) if not other or process_start(other) is None]
        place = free[0] if free else 0
        places[place] = own
    return place


def _do_some(videos: Sequence[Video], threads: int) -> list[Outcome]:
    """The outcomes of `videos`, so many at a time: decoding holds no lock of Python's."""
    if _fault:
        raise WorkersError(f"{_fault}; mend that, or choose another --device or fewer --workers")
    if threads == 1:
        return [outcome_of(_step.work, video) for video in videos]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(partial(outcome_of, _step.work), videos))
