"""Which shard a video is in, and the files of shards (dfdc/shards.py)."""

import argparse
import random
import string
from pathlib import Path

import pytest

from dfdc.shards import WHOLE, Shard, parse_shard, shard_files

RANDOM = random.Random(16)
LETTERS = f"{string.ascii_letters}{string.digits} ._-äé\u0301漢\U0001f600\udcff/"
NAMES = sorted({"".join(RANDOM.choices(LETTERS, k=RANDOM.randint(1, 40))) for _ in range(5000)})
SIMILAR = [f"video{number:06}" for number in range(5000)]


@pytest.mark.parametrize("count", [2, 3, 7, 64])
@pytest.mark.parametrize("names", [NAMES, SIMILAR], ids=["random", "numbered"])
def test_each_video_is_in_exactly_one_shard_and_all_are_of_similar_size(names, count):
    shards = [Shard(number, count) for number in range(1, count + 1)]
    held = [[name for name in names if shard.holds(name)] for shard in shards]
    assert sorted(name for one in held for name in one) == sorted(names)
    mean = len(names) / count
    assert all(abs(len(one) - mean) < 5 * mean**0.5 for one in held)


def test_the_shard_of_a_name_is_the_same_in_every_process_machine_and_version():
    """Another hash would move videos between the shards of a run that has begun."""
    assert [[name for name in "abcdefgh" if Shard(number, 3).holds(name)] for number in (1, 2, 3)] == [
        ["a", "b"],
        ["d", "e", "f", "h"],
        ["c", "g"],
    ]


def test_the_whole_holds_every_name_and_adds_nothing_to_a_file_name():
    assert all(map(WHOLE.holds, NAMES))
    assert Shard(1, 1) == WHOLE
    assert WHOLE.file(Path("a/b.csv")) == Path("a/b.csv")


def test_values_of_the_flag():
    assert parse_shard("2/3") == Shard(2, 3)
    assert str(Shard(2, 3)) == "2/3"
    assert parse_shard("01/1") == WHOLE


@pytest.mark.parametrize("text", ["0/3", "4/3", "0/0", "1/0"])
def test_there_is_no_such_shard(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}': there is no shard .*; they are numbered from 1"):
        parse_shard(text)


@pytest.mark.parametrize(
    "text", ["", "2", "2/", "/3", "-1/3", "2/3/4", " 2/3", "2/3\n", "a/b", "²/3", "1.0/3", "1/9999999999"]
)
def test_no_shard_is_named(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected I/N, such as 2/3"):
        parse_shard(text)


def test_files_of_shards_are_found_beside_the_file_of_all(tmp_path):
    path = tmp_path / "a [1].csv.progress"
    files = [Shard(number, count).file(path) for number, count in [(1, 3), (3, 3), (10, 12), (2, 12)]]
    assert files[0].name == "a [1].csv.shard-1-of-3.progress"
    others = ["a 1.csv.shard-1-of-3.progress", "a [1].csv.shard-4-of-3.progress", "a [1].csv.shard-0-of-3.progress"]
    others += [
        "a [1].csv.shard-1-of-1.progress",
        "a [1].csv.shard-1-of-3.progress.0123",
        "a [1].csv.shard-x-of-3.progress",
    ]
    others += ["b.csv.shard-1-of-3.progress", path.name]
    for file in (*files, *(tmp_path / name for name in others)):
        file.touch()
    found = {(shard.number, shard.count): file for shard, file in shard_files(path)}
    assert list(found) == [(1, 3), (2, 12), (3, 3), (10, 12)]
    assert sorted(found.values()) == sorted(files)
    assert list(shard_files(tmp_path / "absent" / "a.csv")) == []


def test_a_shard_overlaps_the_whole_and_the_whole_all_shards(tmp_path):
    path = tmp_path / "a.lock"
    assert list(WHOLE.overlapping(path)) == list(Shard(1, 2).overlapping(path)) == []
    one, two = (Shard(number, 2).file(path) for number in (1, 2))
    late = WHOLE.overlapping(path)
    for file in (path, one, two):
        file.touch()
    assert list(late) == [one, two]  # the folder is read only now
    assert list(Shard(1, 2).overlapping(path)) == [path]
