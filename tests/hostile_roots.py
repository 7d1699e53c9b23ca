"""Small DATA_ROOTs in which some files and names are what no program writes, and whole commands on them."""

import contextlib
import csv
import io
import itertools
import json
import os
import pickle
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from detectors import faces_of
from families import textured_frames
from helpers import write_part
from hostile import ANY, NAMES, as_json, changed, damaged, one_changed, tables
from hypothesis import strategies as st

from dfdc import command_line, layout
from dfdc.text import printable
from dfdc.video import write_video
from dfdc.workers import outcome_of
from preprocessing import (
    detect_original_faces,
    extract_crops,
    generate_diffs,
    generate_folds,
    generate_landmarks,
    report,
)

COMMANDS = {
    "detect_original_faces": (detect_original_faces.main, ("bboxes", "failures")),
    "extract_crops": (extract_crops.main, ("crops", "failures")),
    "generate_landmarks": (generate_landmarks.main, ("landmarks", "failures")),
    "generate_diffs": (generate_diffs.main, ("diffs", "failures")),
    "generate_folds": (generate_folds.main, ("folds.csv", ".folds.csv.stamp.json", "failures")),
    "report": (report.main, ("report",)),
}
# What `dfdc.workers.outcome_of` makes of an error of ours.
UNFORESEEN = re.compile(r"\w+: .*\(\w+\.py:\d+\)", re.DOTALL)


# ------------------------------------------------------------------------------------------- stand-ins of heavy parts
class InThisProcess:
    """The engine of a step, without processes."""

    def __call__(self, task, items):
        task, items = pickle.loads(pickle.dumps((task, list(items))))
        task.start("cpu")
        for item in items:
            yield item, outcome_of(task.work, item)


class Middle:
    """A detector that finds a face in the middle of each picture."""

    def __init__(self, *_):
        pass

    def batch_size(self, width, height, scale=1.0):
        return 8

    def detect(self, pictures, scale=1.0, smallest=0.0):
        places = [(picture.shape[1], picture.shape[0]) for picture in pictures]
        return [faces_of((0.3 * w, 0.3 * h, 0.7 * w, 0.7 * h), points=[(w / 2, h / 2)] * 5) for w, h in places]


def make_root(root):
    """Two families in two parts, with all artifacts."""
    for part, (real, fake) in enumerate((("a.mp4", "b.mp4"), ("c.mp4", "d.mp4"))):
        folder = write_part(root / f"part_{part}", {real: {"label": "REAL"}, fake: {"label": "FAKE", "original": real}})
        write_video(folder / real, textured_frames(21, seed=part), crf=20)
        write_video(folder / fake, textured_frames(21, seed=part, face=60), crf=20)
    (root / layout.REJECTED_NAME).write_text("video,frame,face,reason\nd,20,0,dark\n")
    for name in COMMANDS:
        ran = run(name, root)
        assert ran.status == 0, ran.said
    assert all((root / of).exists() for _, folders in COMMANDS.values() for of in folders)


# ------------------------------------------------------------------------------------------------------------ a command
@dataclass
class Ran:
    """What a command did."""

    status: int
    said: str


def call(main: Callable, *arguments: object) -> Ran:
    """Run a command's `main` as its script does; its messages must be what a user can read."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["command.py", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), command_line.flags_shown():
            status = command_line._run(lambda _: main(sys.argv[1:]))
    except SystemExit as end:  # of argparse
        status = end.code
    finally:
        sys.argv = before
    said = err.getvalue()
    assert status in (0, 1, 2), said
    assert said or not status, "a command that fails says why"
    for line in (out.getvalue() + said).split("\n"):
        assert "Traceback" not in line, said
        assert len(line) < 3000, line[:4000]
        assert printable(line) == line, "a terminal would obey it"
    if status == 2:
        assert len(said.splitlines()) <= 40, said
    return Ran(status, said)


def run(name: str, root: Path, *flags: object) -> Ran:
    ran = call(COMMANDS[name][0], "--root-dir", root, *flags)
    ledger = layout.ledger_path(root, name)
    if name != "report" and ran.status != 2 and ledger.is_file():
        rows = list(csv.reader(io.StringIO(ledger.read_text(encoding="utf-8"))))
        assert rows[0] == ["video", "outcome", "reason"]
        assert not [row for row in rows if UNFORESEEN.search(row[2])], rows
    return ran


# -------------------------------------------------------------------------------------------------------- what is there
class Files(dict[str, bytes]):
    """The content of files by path; not printed."""

    def __repr__(self):
        return f"{len(self)} files"


def snapshot(home: str | Path) -> dict[str, object]:
    """Each entry below `home`, by its path: a file's content, a link's target, or the kind of entry."""
    found: dict[str, object] = {}
    for place, folders, files in os.walk(home):
        for name in (*folders, *files):
            path = os.path.join(place, name)  # noqa: PTH118 - several hundred each time
            if os.path.islink(path):  # noqa: PTH114
                found[path] = "->", os.readlink(path)  # noqa: PTH115
            elif os.path.isfile(path):  # noqa: PTH113
                with open(path, "rb") as handle:  # noqa: PTH123
                    found[path] = handle.read()
            else:
                found[path] = "folder" if os.path.isdir(path) else "pipe"  # noqa: PTH112
    return found


def contents_of(home: Path) -> Files:
    """The content of each file below `home`, by its path there."""
    found = {os.path.relpath(path, home): data for path, data in snapshot(home).items()}
    return Files({path: data for path, data in found.items() if isinstance(data, bytes)})


# ------------------------------------------------------------------------------------------------------- what is edited
HOSTILE = st.sampled_from(
    [
        *("../x.mp4", "../../neighbour/x.mp4", "/tmp/x.mp4", "sub/x.mp4", "..\\x.mp4", "a\0.mp4", "a\nb.mp4", ".mp4"),
        *("a\x1b[31m.mp4", "a\x7f.mp4", "\u202ea.mp4", "a" * 230 + ".mp4", "a" * 250 + ".mp4", "é.mp4", "e\u0301.mp4"),
        *("A.mp4", "a", "a.MP4", "a.mov", "-rf.mp4", "--force.mp4", "~.mp4", "$(touch x).mp4", "a b.mp4", "*.mp4"),
        *("a,b.mp4", '"a".mp4', "=1+1.mp4", "<b>.mp4", "{{7*7}}.mp4", "%s{}.mp4", "٣.mp4", "10_0.png.mp4", "crops.mp4"),
        *("folds.csv.mp4", ".stamp.mp4", "..mp4", "...mp4", "a.part-0.mp4", "\udcff.mp4", "\U0001f600.mp4", "NUL.mp4"),
    ]
)
LINKS = ("../neighbour", "../../neighbour", "../../neighbour/file", "../../neighbour/a", ".", "..", "nowhere", "loop")


@dataclass(frozen=True, repr=False)
class Edit:
    """A path below DATA_ROOT, and what is put there: bytes, a link (text), or a "pipe", "folder", "nothing"."""

    path: str
    kind: str
    content: bytes | str = b""

    def __repr__(self):
        return f"Edit({self.path!r}, {self.kind!r}, {self.content[:200]!r})"

    def apply(self, root: Path) -> None:
        path = root / self.path
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have, or its folder is gone
            if self.kind == "beside":
                if not path.exists():  # a further file; what is there stays
                    path.write_bytes(self.content)
                return
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            if self.kind == "link":
                path.symlink_to(self.content)
            elif self.kind == "pipe":
                os.mkfifo(path)
            elif self.kind == "folder":
                path.mkdir()
            elif self.kind == "bytes":
                path.write_bytes(self.content)


@contextlib.contextmanager
def edited(root: Path, edits: list[list[Edit]], may_change: Callable[[Path, str, dict], bool]) -> Iterator[Path]:
    """An edited copy of `root` in a new folder, which has a neighbour.

    The block may change only those paths for which `may_change` of the copy, a path and the earlier snapshot is true.
    """
    with tempfile.TemporaryDirectory() as home:
        copy, neighbour = Path(home, "in", "root"), Path(home, "neighbour")
        shutil.copytree(root, copy)
        (neighbour / "a").mkdir(parents=True)
        for name in ("file", "x.mp4", "a/0_0.png"):
            (neighbour / name).write_text("mine")
        for edit in itertools.chain(*edits):
            edit.apply(copy)
        before = snapshot(home)
        yield copy
        after = snapshot(home)
        wrong = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
        assert not [path for path in wrong if not may_change(copy, path, before)]
        assert not [path for path in after.keys() - before.keys() if re.search(r"/\.[^/]*(\.part-|\.lock$)", path)]


def is_output(copy: Path, path: str, before: dict) -> bool:
    """Whether a path is in the folder that a command was told to write to; it may be a link."""
    return os.path.realpath(path).startswith(os.path.realpath(copy / "out"))


@st.composite
def metadata_edits(draw, files, root=""):
    """A part's metadata.json with hostile names, and files of these names; `root`: path of DATA_ROOT in `files`."""
    part = root + draw(st.sampled_from(["part_0", "part_1"]))
    names = st.sampled_from(["a.mp4", "b.mp4", "c.mp4", "d.mp4"]) | HOSTILE | NAMES
    entry = st.fixed_dictionaries(
        {"label": st.sampled_from(["REAL", "FAKE"])}, optional={"original": names, "donor": names, "split": ANY}
    )
    whole = json.loads(files[f"{part}/metadata.json"])
    added = draw(st.dictionaries(names, entry, min_size=1, max_size=3))
    if draw(st.integers(0, 4)):  # mostly what is valid, since one refused name ends every command at once
        added = {name: value for name, value in added.items() if _is_valid(name, value)}
        data = draw(as_json(st.just(whole | added))).encode("utf-8", "surrogatepass")
    else:
        data = draw(damaged(as_json(changed(st.just(whole | added)))))
    video = files[f"{root}part_0/a.mp4"]
    return [Edit(f"{part}/metadata.json", "bytes", data), *(Edit(f"{part}/{name}", "beside", video) for name in added)]


def _is_valid(name, entry):
    return not any(map(layout._name_fault, (name, entry.get("original", "x"), entry.get("donor", "x"))))


@st.composite
def file_edits(draw, files):
    """One of the files, or a folder of them, is another one."""
    folders = sorted({str(parent) for path in files for parent in Path(path).parents} - {"."})
    kind = draw(st.sampled_from(["content"] * 6 + ["new", "link", "link", "pipe", "folder", "nothing"]))
    if kind == "new":
        name = draw(HOSTILE | NAMES | st.sampled_from(["99999999999999999999_0.png", "00_00.png", "٣_0.png", ".lock"]))
        content = draw(st.binary(max_size=20) | st.sampled_from(sorted(files.values())))
        return [Edit(f"{draw(st.sampled_from(['.', *folders]))}/{name}", "beside", content)]
    if kind == "content":
        # Each kind of file as often as the others, however many there are.
        path = draw(
            st.sampled_from(sorted({Path(path).suffix for path in files})).flatmap(
                lambda suffix: st.sampled_from([path for path in files if path.endswith(suffix)])
            )
        )
        return [Edit(path, "bytes", draw(_contents(path, files[path])))]
    path = draw(st.sampled_from([*sorted(files), *5 * folders]))
    return [Edit(path, kind, draw(st.sampled_from(LINKS)) if kind == "link" else b"")]


def _contents(path, data):
    if path.endswith(".json"):
        valid = st.just(json.loads(data))
        text = as_json(one_changed(valid)) | damaged(as_json(changed(valid)))
        return text.map(lambda text: text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    if path.endswith(".csv"):
        header, *rows = csv.reader(io.StringIO(data.decode()))
        return damaged(tables(header, st.sampled_from(rows or [header]).map(list)))
    if path.endswith((".progress", ".jsonl")):
        whole = [json.loads(line) for line in data.splitlines() if line.endswith(b"}")]
        return st.lists(_json_line(whole), max_size=5).map(b"\n".join)
    if path.endswith(".txt"):
        line = st.sampled_from(data.decode().splitlines()) | HOSTILE | NAMES
        return damaged(st.lists(line, max_size=5).map("\n".join))
    return damaged(st.just(data)) | st.binary(max_size=40) | st.integers(0, len(data)).map(lambda size: data[:size])


@st.composite
def _json_line(draw, lines):
    return draw(damaged(as_json(changed(st.sampled_from(lines)))))


_CROPS_DIR = st.sampled_from(["crops"] * 9 + ["../in", "part_0", "bboxes", "folds.csv", "a" * 300, "\udcff", "/"])
_OF_STEP = st.sampled_from([("--prune",), ("--prune", "part_1"), ("--shard", "1/2"), ("--max-failed", 1), ("--force",)])
_OF_CROPS = _CROPS_DIR.map(lambda text: (f"--crops-dir={text}",))
_OF_FOLDS = st.sampled_from([("--force",), ("--n-splits", 2), ("--similar", "off"), ("--val-ids", "none")])


def flags_of(name: str) -> st.SearchStrategy:
    """Lists of flags that the command takes."""
    own = {"detect_original_faces": _OF_STEP, "generate_folds": _OF_FOLDS | _OF_CROPS, "report": _OF_CROPS}
    return st.lists(own.get(name, _OF_STEP | _OF_CROPS), max_size=2)
