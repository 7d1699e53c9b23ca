"""docs/guarantees.md names tests that exist."""

import ast
import re

from helpers import ROOT

PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


def test_each_promise_has_a_test_that_exists():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").glob("test_*.py")]
    tests = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| fault")]
    assert len(rows) > 10
    for _, fault, _, named, _ in rows:
        names = re.findall(r"`(test_\w+)`", named)
        assert names, f"{fault.strip()} has no test"
        assert set(names) <= tests, f"{fault.strip()}: there is no test {set(names) - tests}"
