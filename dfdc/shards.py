"""Shards: N disjoint sets of videos, for several machines that share only a disk (`--shard I/N`).

The shard of a video depends only on a name, so all machines agree without communication.
"""

from __future__ import annotations

import argparse
import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dfdc.identity import digest_of

SHARD_HELP = (
    "process only shard I of N of the videos; shards are numbered from 1 to N. After all shards, the same command "
    "without this flag completes the work"
)


@dataclass(frozen=True, order=True)
class Shard:
    """Shard `number` of `count`. The default holds all videos.

    Attributes:
        number: from 1 to `count`.

    Raises:
        ValueError: there is no such shard.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"there is no shard {self.number} of {self.count}; they are numbered from 1")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def is_whole(self) -> bool:
        return self.count == 1

    def holds(self, name: str) -> bool:
        """Whether the video or family with this name is in this shard."""
        return self.is_whole or int(digest_of(name), 16) % self.count == self.number - 1

    def file(self, path: Path) -> Path:
        """The file of this shard beside the file `path` of all videos, such as a.shard-2-of-3.csv beside a.csv."""
        if self.is_whole:
            return path
        return path.with_name(f"{path.stem}.shard-{self.number}-of-{self.count}{path.suffix}")

    def overlapping(self, path: Path) -> Iterator[Path]:
        """The existing files beside `path` of runs with the same videos: all shards, or for a shard that of all videos.

        The folder is read when the first one is requested.
        """
        if self.is_whole:
            yield from (file for _, file in shard_files(path))
        elif path.exists():
            yield path


WHOLE = Shard()


def shard_files(path: Path) -> Iterator[tuple[Shard, Path]]:
    """The existing files of shards beside the file `path` of all videos, in order."""
    found = {}
    for file in path.parent.glob(f"{glob.escape(path.stem)}.shard-*-of-*{glob.escape(path.suffix)}"):
        numbers = re.search(r"\.shard-([1-9][0-9]*)-of-([1-9][0-9]*)$", file.stem)
        if numbers and int(numbers[1]) <= int(numbers[2]) > 1:
            found[Shard(int(numbers[1]), int(numbers[2]))] = file
    yield from sorted(found.items())


def parse_shard(text: str) -> Shard:
    """argparse type: I/N, with I from 1 to N."""
    numbers = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if numbers is None:
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N, such as 2/3 for the second of three")
    try:
        return Shard(int(numbers[1]), int(numbers[2]))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
