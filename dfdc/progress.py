"""Long jobs show their progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

_LOG_INTERVAL_S = 60.0
_DISK_THREADS = 8
_BATCH = 64  # items that a thread takes at once: handing over each alone takes half as long again
T = TypeVar("T")
R = TypeVar("R")


class LogBar(tqdm):
    """A bar for a log file: a line of its own at each interval, and none for a job that ends before the first."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        text = str(self) if msg is None else msg
        if text:
            self.fp.write(f"{text}\n")
            self.fp.flush()
        return False  # nothing stands on the line that would have to be cleared

    @classmethod
    def write(cls, s: str, file: TextIO | None = None, end: str = "\n", nolock: bool = False) -> None:
        """Print a message; no bar has to make room for it."""
        print(s, file=file, end=end, flush=True)


def progress_bar(iterable: Iterable[T] | None = None, **options: Any) -> tqdm:
    """tqdm with time left: a bar in a terminal, and a line a minute in a log file.

    Args:
        options: tqdm's. `leave` applies to a terminal only.
    """
    if sys.stderr.isatty():
        return tqdm(iterable, dynamic_ncols=True, mininterval=0.5, **options)
    options |= {"mininterval": _LOG_INTERVAL_S, "delay": _LOG_INTERVAL_S, "leave": False}
    return LogBar(iterable, ncols=100, **options)


def disk_map(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """`function`, which waits for a disk, of each item, many at a time in threads; in order.

    An error of `function` is raised here, at the turn of its item's batch; what was not begun then is left.
    """
    batches = [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
    pool = ThreadPoolExecutor(_DISK_THREADS)
    try:
        for results in pool.map(lambda batch: [function(item) for item in batch], batches):
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)  # a stopped run need not look at the other 100,000 videos first
