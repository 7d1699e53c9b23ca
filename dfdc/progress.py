"""Progress bars, and a threaded map for work that waits on a disk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

_LOG_INTERVAL_S = 60.0
_DISK_THREADS = 8
_BATCH = 64  # items per thread task; submitting items one by one takes 1.5 times as long
T = TypeVar("T")
R = TypeVar("R")


class LogBar(tqdm):
    """A progress bar for a log file: one line per interval, none for a job that ends before the first interval."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        text = str(self) if msg is None else msg
        if text:
            self.fp.write(f"{text}\n")
            self.fp.flush()
        return False  # there is no line to clear

    @classmethod
    def write(cls, s: str, file: TextIO | None = None, end: str = "\n", nolock: bool = False) -> None:
        """Print a message; no bar needs to be cleared first."""
        print(s, file=file, end=end, flush=True)


def progress_bar(iterable: Iterable[T] | None = None, **options: Any) -> tqdm:
    """tqdm with the remaining time: a bar in a terminal, one line per minute in a log file.

    Args:
        options: passed to tqdm. `leave` applies to a terminal only.
    """
    if sys.stderr.isatty():
        return tqdm(iterable, dynamic_ncols=True, mininterval=0.5, **options)
    # miniters=1: otherwise tqdm's monitor thread prints a second line in each interval.
    options |= {"mininterval": _LOG_INTERVAL_S, "miniters": 1, "delay": _LOG_INTERVAL_S, "leave": False}
    return LogBar(iterable, ncols=100, **options)


def disk_map(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Apply `function`, which waits on a disk, to each item in threads; yield the results in order.

    An error of `function` is raised when its batch's results are due. Batches not yet started are cancelled then, and
    if the caller stops: `Executor.map` does that.
    """
    batches = [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
    with ThreadPoolExecutor(_DISK_THREADS) as pool:
        for results in pool.map(lambda batch: [function(item) for item in batch], batches):
            yield from results
