"""Values that no program writes, for tests of what reads files (hypothesis); and what a user must be told of them.

The suite tries a few cases of each kind, always the same. `HOSTILE_CASES=1250` tries that many, other ones each time.
"""

import contextlib
import csv
import io
import json
import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from dfdc import command_line

CASES = int(os.environ.get("HOSTILE_CASES", "0"))
hostile = settings(
    max_examples=CASES or 15,
    derandomize=not CASES,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # making a failing case small would take minutes
    suppress_health_check=list(HealthCheck),
)

# --------------------------------------------------------------------------------------------------- what is drawn
TEXTS = st.text(max_size=12) | st.sampled_from(["", " ", "\0", "\ud800", "\u202e", "a" * 5000, "9" * 5000, "1e999"])
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 1 << 31, 1 << 63, 1 << 64, 10**400])
PLAIN = st.none() | st.booleans() | NUMBERS | TEXTS
ANY = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)
_PLAIN_NAMES = ["a.mp4", "b.mp4", "c.mp4", "A.mp4", "a.avi", "a", "-a.mp4", "é.mp4", "e\u0301.mp4"]
_ODD_NAMES = ["../a.mp4", "/etc/a.mp4", "x/a.mp4", "..", ".", ".a.mp4", "~", "a\n.mp4", "metadata.json", "crops"]
NAMES = TEXTS | st.sampled_from([*_PLAIN_NAMES, *_ODD_NAMES, "a" * 300 + ".mp4"])


CELLS = TEXTS | st.sampled_from(["a", "0", "1", "10", "-1", "007", "٣", "1.0", "nan", "0_0.png", "NA", '"', "1_0"])


@st.composite
def changed(draw, valid):
    """A valid value in which some parts, at any depth, are others, missing or more."""

    def change(value):
        if draw(st.integers(0, 9)) == 0:
            return draw(ANY)
        if isinstance(value, dict):
            kept = {key: change(part) for key, part in value.items() if draw(st.integers(0, 19))}
            return kept | (draw(st.dictionaries(TEXTS, ANY, max_size=2)) if draw(st.integers(0, 9)) == 0 else {})
        if isinstance(value, (list, tuple)):
            return [change(part) for part in value if draw(st.integers(0, 19))]
        return value

    return change(draw(valid))


@st.composite
def one_changed(draw, valid):
    """A valid value of which one part, at any depth, is another one, or is also under another key."""

    def change(value):
        if not value or not isinstance(value, (dict, list)) or draw(st.integers(0, 3)) == 0:
            return draw(ANY)
        if isinstance(value, list):
            at = draw(st.integers(0, len(value) - 1))
            return [*value[:at], change(value[at]), *value[at + 1 :]]
        key = draw(st.sampled_from([*value]))
        if draw(st.integers(0, 5)) == 0:
            return value | {draw(TEXTS | st.sampled_from(["-1", str(10**20), "../x"])): value[key]}
        return value | {key: change(value[key])}

    return change(draw(valid))


@st.composite
def damaged(draw, texts):
    """A file's bytes: valid ones, or with some bytes replaced; rarely only noise."""
    text = draw(texts)
    data = bytearray(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 5))] = draw(st.binary(max_size=5))
    return bytes(draw(st.binary(max_size=40))) if draw(st.integers(0, 29)) == 0 else bytes(data)


def as_json(values):
    return st.builds(lambda value, ascii_only: json.dumps(value, ensure_ascii=ascii_only), values, st.booleans())


# --------------------------------------------------------------------------------------------------- what is told
def told(read):
    """Run `read` as a command; return its value, or None if the command ended with a message, which must be sound."""
    found, out, err = [], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), command_line.flags_shown():
        status = command_line._run(lambda _: found.append(read()) or 0)
    said = err.getvalue()
    if status:
        assert (status, found) == (2, []), said
        lines = said.splitlines()
        assert 1 <= len(lines) <= 30, said
        assert all(len(line) < 3000 for line in lines), said[:4000]
        assert "Traceback" not in said
        assert ": " in lines[0]
    return found[0] if found else None


@contextlib.contextmanager
def place():
    """A folder `root` with neighbours that must stay as they are."""
    with tempfile.TemporaryDirectory() as home:
        root = Path(home, "in here", "root")
        root.mkdir(parents=True)
        Path(home, "neighbour.txt").write_text("mine")
        yield root
        left = {str(path.relative_to(home)) for path in Path(home).rglob("*") if root not in (path, *path.parents)}
        assert left == {"in here", "neighbour.txt"}
        assert Path(home, "neighbour.txt").read_text() == "mine"


@st.composite
def tables(draw, header, row):
    """A CSV file in which some cells are others."""
    rows = [list(header), *draw(st.lists(row, max_size=6))]
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        cells = draw(st.sampled_from(rows))
        if cells:
            cells[draw(st.integers(0, len(cells) - 1))] = draw(CELLS)
        if draw(st.integers(0, 9)) == 0:
            cells.append(draw(CELLS))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator=draw(st.sampled_from(["\n", "\r\n"])), escapechar="\\")
    writer.writerows(rows)
    return buffer.getvalue()
