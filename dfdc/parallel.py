"""One map over videos, for every preprocessing step: workers, progress, failures, exit status.

A step says which videos it works on, how to tell a finished one, and what to do for one video; this module does
the rest. Each worker is a process with one thread, and one GPU of its own where there are any. A worker that
dies (a decoder's crash, the kernel's out-of-memory killer) costs the video it was at, and is replaced.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dfdc.artifacts import Ledger
from dfdc.devices import DEVICE_HELP, available_cores
from dfdc.layout import DataError, Video, ledger_path

USAGE_ERROR = 2
_DISK_THREADS = 8
_BATCH = 64  # items that a thread takes at once
_LONG_WAIT = 0.02  # seconds in a batch that went by without computing: 0.3 ms an item is a disk's, not a cache's


class UsageError(DataError):
    """A value on the command line that can't be used; the message names it and what to do."""


class SkipVideo(Exception):
    """Raised by a step: the data set does not hold what this video takes. No failure, but in the ledger."""


class FailVideo(Exception):
    """Raised by a step: this video can't be done, for the reason given."""


@dataclass
class Step:
    """What one preprocessing step is.

    Attributes:
        name: the script's, and its ledger's.
        work: (video, context) -> stamp: makes a video's artifact; runs in a worker.
        read_stamp: video -> the stamp of its artifact if that is complete and fresh, else None.
        context: picklable, the same for all videos; `work` gets it.
        start: called once in every worker with the context and a device; what it returns replaces the context.
        preload: modules that every worker needs; they are imported once, and workers are forked from there.

    A stamp holds `made` (counts by kind), `notes` (what the artifact lacks) and `failed` (a reason, or None).
    """

    name: str
    work: Callable[[Video, Any], dict]
    read_stamp: Callable[[Video], dict | None]
    context: Any = None
    start: Callable[[Any, str], Any] | None = None
    preload: tuple[str, ...] = ("cv2",)


def step_parser(doc: str, *, crops: bool = False, device: bool = False, png: bool = False) -> argparse.ArgumentParser:
    """The arguments that every step takes; `doc` is the script's docstring."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "folder in which the dfdc_train_part_* folders lie; artifacts are written there"
    parser.add_argument("--root-dir", type=Path, required=True, metavar="DATA_ROOT", help=where)
    if crops:
        parser.add_argument("--crops-dir", default="crops", help="folder of the crops, in DATA_ROOT (crops)")
    many = "processes, at most one per core (all cores; where --device uses GPUs, one for each)"
    parser.add_argument("--workers", type=int, default=0, metavar="N", help=many)
    if device:
        parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    if png:
        level = "compression of the PNGs, all lossless: 0 (twice the size of 1) to 9 (a tenth smaller, and slow) (1)"
        parser.add_argument("--png-level", type=int, choices=range(10), default=1, metavar="0..9", help=level)
    parser.add_argument("--force", action="store_true", help="redo what is already complete")
    parser.add_argument("--max-failed", type=float, default=0.05, metavar="FRACTION",
                        help="exit with status 1 if a larger part of the videos fails (0.05)")  # fmt: skip
    return parser


def run_main(main: Callable[[Sequence[str] | None], int]) -> None:
    """Run a script's `main`; wrong usage and unusable data end with their message and status 2."""
    try:
        status = main(None)
    except DataError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        status = USAGE_ERROR
    except (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError, FileNotFoundError) as error:
        # Of places given on the command line; a video's own errors went to the ledger.
        print(f"{Path(sys.argv[0]).name}: {error.filename}: {error.strerror}; give a place that can be used",
              file=sys.stderr)  # fmt: skip
        status = USAGE_ERROR
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"{Path(sys.argv[0]).name}: {place}{error.strerror or error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on", file=sys.stderr)
        status = 130
    sys.exit(status)


def worker_count(requested: int, devices: Sequence[str]) -> int:
    """How many workers: at least 1, at most one per core.

    Args:
        requested: the user's --workers; 0 for what suits the machine.
        devices: the devices they share; on GPUs one worker each is the default.

    Raises:
        UsageError: a negative number.
    """
    if requested < 0:
        raise UsageError(f"--workers {requested}: give a number from 1 on, or leave it out")
    cores = available_cores()
    if requested > cores:
        print(f"--workers {requested}: there are {cores} cores, so {cores} are used", file=sys.stderr)
    default = len(devices) if devices[0].startswith("cuda") else cores
    return max(1, min(requested or default, cores))


def list_devices(name: str) -> list[str]:
    """The devices that `--device` means: every visible GPU for `cuda` (and `auto` with one), else the one named."""
    from dfdc.devices import resolve_device

    try:
        device = resolve_device(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if device != "cuda":
        return [device]
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


@dataclass
class _Tally:
    ledger: Ledger
    made: Counter = field(default_factory=Counter)
    failed: int = 0

    def count(self, video: str, stamp: dict) -> None:
        self.made.update(stamp.get("made", {}))
        if stamp.get("failed"):
            self.fail(video, stamp["failed"])
        if stamp.get("notes"):
            self.ledger.add(video, "incomplete", "; ".join(stamp["notes"]))

    def add(self, video: str, outcome: str, value: Any) -> None:
        """Take an outcome as `_do_one` gives it."""
        if outcome == "made":
            self.count(video, value)
        elif outcome == "skipped":
            self.ledger.add(video, "skipped", value)
        else:
            self.fail(video, value)

    def fail(self, video: str, reason: str) -> None:
        self.failed += 1
        self.ledger.add(video, "failed", reason)


def run_step(step: Step, args: argparse.Namespace, videos: Sequence[Video], skipped: dict[str, str]) -> int:
    """Do what is missing or stale of `step`, keep its ledger, print what came out; return the exit status.

    Args:
        args: root_dir, workers, force, max_failed and, where the step uses one, device.
        videos: the step's videos; those finished already are counted but not done again.
        skipped: video -> why the data set does not allow it; goes to the ledger.
    """
    devices = list_devices(args.device) if hasattr(args, "device") and args.device != "auto" else None
    workers = worker_count(args.workers, devices or ["cpu"])  # now, so that wrong values are told even if all is done
    if not 0 <= args.max_failed <= 1:
        raise UsageError(f"--max-failed {args.max_failed}: a fraction from 0 to 1 is expected, such as 0.05")
    started = time.monotonic()
    ledger = Ledger(ledger_path(args.root_dir, step.name))
    for video, reason in skipped.items():
        ledger.rows[(video, "skipped")] = reason
    ledger.write()
    tally = _Tally(ledger)

    todo = []
    stamps: Iterable[dict | None] = itertools.repeat(None)
    if not args.force:
        checked = disk_map(step.read_stamp, videos)
        stamps = progress_bar(checked, total=len(videos), desc=f"{step.name}: checking", unit="video", delay=3)
    for video, stamp in zip(videos, stamps, strict=False):  # repeat() has no end
        if stamp is None:
            todo.append(video)
        else:
            tally.count(video.id, stamp)
    if todo:
        if devices is None and hasattr(args, "device"):  # auto: PyTorch is loaded only now that there is work
            devices = list_devices(args.device)
            workers = min(workers, worker_count(args.workers, devices))
        _map(step, todo, workers, devices or ["cpu"], tally)
    ledger.write()

    counts = ledger.counts()
    made = ", ".join(f"{number} {kind}" for kind, number in tally.made.items()) or "nothing made"
    print(
        f"{step.name}: {len(videos)} videos ({len(videos) - len(todo)} were complete), {made}; {tally.failed} failed, "
        f"{counts['skipped']} skipped, {counts['incomplete']} incomplete; {time.monotonic() - started:.1f} s"
    )
    if counts:
        print(f"  reasons: {ledger.path}")
    for (video, outcome), reason in list(ledger.rows.items()):
        if outcome == "failed":
            print(f"  failed: {video}: {reason}", file=sys.stderr)
    if videos and tally.failed > args.max_failed * len(videos):
        print(
            f"{step.name}: {tally.failed} of {len(videos)} videos failed, more than --max-failed {args.max_failed:g} "
            f"allows. Look at {ledger.path}; mend or remove those videos, or raise --max-failed",
            file=sys.stderr,
        )
        return 1
    return 0


def progress_bar(iterable: Iterable | None = None, **options: Any) -> Any:
    """tqdm with time left; in a log file (no terminal) a line now and then instead of many."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    options.setdefault("mininterval", 0.5 if terminal else 15.0)
    if not terminal and options.get("leave") is False:
        options["disable"] = True  # a bar that vanishes leaves only blank lines in a log
    return tqdm(iterable, dynamic_ncols=True, **options)


def disk_map(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """`function` of each item, in order; once they turn out to wait for a disk, several at a time in threads.

    Not in threads from the start: where the disk's contents are cached, they only wait for each other.
    An error of `function` is raised here, at its item's turn; what was not begun then is left.
    """
    batches = [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]

    def look(batch: Sequence[Any]) -> list[Any]:
        return [function(item) for item in batch]

    done, waited = 0, 0.0
    while done < len(batches) and waited < _LONG_WAIT:
        begun, computed = time.perf_counter(), time.thread_time()
        results = look(batches[done])
        waited = (time.perf_counter() - begun) - (time.thread_time() - computed)
        yield from results
        done += 1
    pool = ThreadPoolExecutor(_DISK_THREADS)
    try:
        for results in pool.map(look, batches[done:]):
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)  # a stopped run need not look at the other 100,000 videos first


_worker_context: Any = None


def _start_worker(start: Callable | None, context: Any, devices: Sequence[str], counter: Any) -> None:
    global _worker_context
    from dfdc.devices import keep_freed_memory, limit_threads

    keep_freed_memory()
    with counter.get_lock():
        device = devices[counter.value % len(devices)]
        counter.value += 1
    _worker_context = start(context, device) if start else context
    limit_threads(1)  # after `start`, which may have loaded PyTorch


def _do_one(work: Callable[[Video, Any], dict], video: Video) -> tuple[str, Any]:
    """('made', stamp), ('skipped', reason) or ('failed', reason): the outcome as plain data."""
    from dfdc.video import VideoError

    try:
        return "made", work(video, _worker_context)
    except SkipVideo as reason:
        return "skipped", str(reason)
    except (FailVideo, VideoError) as reason:
        return "failed", str(reason)
    except Exception as error:
        # Not foreseen, so say where. It costs this video, not the hours of work on the others.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "failed", f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"


def _do_some(work: Callable[[Video, Any], dict], videos: Sequence[Video], threads: int) -> list[tuple[str, Any]]:
    """The outcomes of `videos`, so many at a time: decoding holds no lock of Python's."""
    if threads == 1:
        return [_do_one(work, video) for video in videos]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(partial(_do_one, work), videos))


def _file_size(video: Video) -> int:
    try:
        return video.path.stat().st_size
    except OSError:  # that is for the step to say
        return 0


def _map(step: Step, videos: Sequence[Video], workers: int, devices: Sequence[str], tally: _Tally) -> None:
    """Do `videos` in worker processes. A worker with a GPU reads several at a time, on its share of the cores."""
    from pebble import ProcessExpired, ProcessPool

    # forkserver: no copy of this process's threads or CUDA state, and workers start with few imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "pebble", "dfdc.artifacts", *step.preload])
    counter = context.Value("i", 0)
    # The largest first, so that at the end no worker waits for one that has a long video left.
    videos = sorted(videos, key=_file_size, reverse=True)
    workers = min(workers, len(videos))
    threads = max(1, available_cores() // workers) if devices[0].startswith("cuda") else 1
    size = 1 if threads == 1 else max(1, min(4 * threads, len(videos) // workers))
    waiting = deque(videos[start : start + size] for start in range(0, len(videos), size))
    running: dict[Future, Sequence[Video]] = {}
    pool = ProcessPool(max_workers=workers, context=context, initializer=_start_worker,
                       initargs=(step.start, step.context, list(devices), counter))  # fmt: skip
    bar = progress_bar(total=len(videos), desc=step.name, unit="video")
    try:
        while waiting or running:
            while waiting and len(running) < 2 * workers:
                some = waiting.popleft()
                running[pool.schedule(_do_some, args=(step.work, some, threads))] = some
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                some = running.pop(future)
                try:
                    outcomes = future.result()
                except ProcessExpired as death:
                    if len(some) > 1:  # one of them is to blame; the others must not pay for it
                        waiting.extend([video] for video in some)
                        continue
                    outcomes = [("failed", f"its worker process died (exit code {death.exitcode})")]
                for video, outcome in zip(some, outcomes, strict=True):
                    tally.add(video.id, *outcome)
                bar.update(len(some))
                if tally.failed:
                    bar.set_postfix(failed=tally.failed, refresh=False)
        pool.close()
        pool.join()
    finally:
        bar.close()
        pool.stop()
        pool.join()
