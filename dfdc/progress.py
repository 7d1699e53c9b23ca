"""Long jobs show how far they are."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_DISK_THREADS = 8
_BATCH = 64  # items that a thread takes at once
_LONG_WAIT = 0.02  # seconds in a batch that went by without computing: 0.3 ms an item is a disk's, not a cache's


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
