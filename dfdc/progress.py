"""Long jobs show how far they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tqdm import tqdm

_DISK_THREADS = 8
_BATCH = 64  # items that a thread takes at once: handing over each alone takes half as long again
T = TypeVar("T")
R = TypeVar("R")


def progress_bar(iterable: Iterable[T] | None = None, **options: Any) -> tqdm:
    """tqdm with time left; in a log file (no terminal) a line now and then instead of many."""
    terminal = sys.stderr.isatty()
    options.setdefault("mininterval", 0.5 if terminal else 15.0)
    if not terminal and options.get("leave") is False:
        options["disable"] = True  # a bar that vanishes leaves only blank lines in a log
    return tqdm(iterable, dynamic_ncols=True, **options)


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
