"""Plain values as dataclasses, and back (networks/values.py)."""

import json
from dataclasses import dataclass

import pytest
import torch

from networks.values import plain_values, read_values


@dataclass(frozen=True)
class Inner:
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    size: int
    pair: tuple[float, float]
    inner: Inner = Inner()


GOOD = {"size": 3, "pair": [1.0, 2.0], "inner": {"names": ["a"]}}


def test_values_are_read_as_they_were_written():
    found = read_values(Outer, GOOD)
    assert found == Outer(3, (1.0, 2.0), Inner(("a",)))
    assert list(plain_values(found).items()) == list(GOOD.items())
    assert json.loads(json.dumps(plain_values(found))) == GOOD
    assert read_values(Outer, GOOD | {"of_tomorrow": 1}) == found
    assert read_values(Outer, GOOD | {"pair": (1, 2)}) == found


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (GOOD | {"size": "3"}, "^size: [^;]*integer$"),
        (GOOD | {"size": True}, "^size: "),
        (GOOD | {"size": 3.0}, "^size: "),
        (GOOD | {"pair": [1.0]}, r"^pair\.1: "),
        (GOOD | {"pair": "12", "inner": {"names": "ab"}}, r"^pair: [^;]*; inner\.names: "),
        (GOOD | {"inner": {"names": ["a\n", 1]}}, r"^inner\.names\.1: "),
        ({"size": 3, "pair": [1.0, 2.0]}, "^inner: missing$"),
        ({"pair": [1.0, 2.0], "inner": {}}, "^size: "),
        (3, "^all: "),
        (None, "^all: "),
        ([], "^all: "),
        (GOOD | {"size": torch.zeros(1)}, "^not plain values: "),
    ],
    ids=str,
)
def test_every_fault_is_named_by_its_place(values, said):
    with pytest.raises(ValueError, match=said):
        read_values(Outer, values)


def test_brackets_without_end_are_a_fault():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match=r"^not plain values: "):
        read_values(Outer, deep)
