"""Long jobs show how far they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tqdm import tqdm

_DISK_THREADS = 8
T = TypeVar("T")
R = TypeVar("R")


def progress_bar(iterable: Iterable[T] | None = None, **options: Any) -> tqdm:
    """tqdm with time left; in a log file (no terminal) a line now and then instead of many."""
    terminal = sys.stderr.isatty()
    options.setdefault("mininterval", 0.5 if terminal else 15.0)
    if not terminal and options.get("leave") is False:
        options["disable"] = True  # a bar that vanishes leaves only blank lines in a log
    return tqdm(iterable, dynamic_ncols=True, **options)


def disk_map(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`function`, which waits for a disk, of each item, several at a time; in order.

    An error of `function` is raised here, at its item's turn; what was not begun then is left.
    """
    with ThreadPoolExecutor(_DISK_THREADS) as pool:
        yield from pool.map(function, items)
