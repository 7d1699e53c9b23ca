"""docs/architecture.md says what is so: its tree lists every module, its traps are those that tests are named after."""

import ast
import re

import pytest
from helpers import ROOT
from test_structure import PACKAGES

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_tree_lists_every_module_and_every_one_that_is_listed_exists():
    (tree,) = (block for block in re.findall(r"^```\n(.*?)^```", PAGE, re.M | re.S) if "layout.py" in block)
    rooms = re.findall(r"^(\w+)/ .*\n((?: .*\n)*)", tree, re.MULTILINE)
    assert {name for name, _ in rooms} == {name.split(".")[0] for name in PACKAGES}
    for name, lines in rooms:
        listed = re.findall(r"[\w/]+(?:\.html)?\.(?:py|css|j2)\b", lines)
        assert all((ROOT / name / file).is_file() for file in listed), (name, listed)
        paths = [path for path in (ROOT / name).rglob("*.py") if path.name != "__init__.py"]
        missing = {str(path.relative_to(ROOT / name)) for path in paths} - {*listed}
        assert not missing, f"docs/architecture.md does not list {missing} of {name}/"


def test_every_module_has_a_test_file_of_its_name():
    modules = [path for room in PACKAGES for path in (ROOT / room.replace(".", "/")).glob("*.py")]
    names = {path.stem for path in (*modules, *ROOT.glob("*.py"))} - {"__init__"}
    missing = {name for name in names if not (ROOT / "tests" / f"test_{name}.py").is_file()}
    assert not missing, f"tests/ has no test file of {missing}"


def trap_tests():
    """Names of the tests that bear the number of a trap -> these numbers."""
    found = {}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (prefix := re.match(r"test_((?:t\d+_)+)", node.name)):
                found[node.name] = {int(number) for number in re.findall(r"\d+", prefix[1])}
    return found


@pytest.mark.slow
def test_every_trap_has_a_test_and_every_number_of_a_test_its_trap():
    tests = trap_tests()
    lines = re.findall(r"^- T(\d+): .+ `(\w+)`$", PAGE, re.MULTILINE)
    assert len(lines) == len(re.findall(r"^- T\d", PAGE, re.MULTILINE))
    assert [int(number) for number, _ in lines] == [*range(1, len(lines) + 1)]
    for number, name in lines:
        assert int(number) in tests.get(name, ()), f"T{number}: there is no test {name}"
    assert set.union(*tests.values()) == {int(number) for number, _ in lines}
