"""Which checkpoints: by their names in a folder or by paths, none of them twice."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dfdc import identity, layout
from dfdc.command_line import SettingError, setting
from dfdc.text import TEXT, printable


@dataclass(frozen=True)
class ModelFile:
    """A checkpoint by what it holds. Not by its time of change: a copied checkpoint is the same one.

    Attributes:
        name: see `model_names`.
        size: in bytes.
        xxh3: checksum of the whole file, hexadecimal; "" in what earlier versions wrote.
    """

    name: str
    size: int
    xxh3: str = ""


def describe_models(paths: Sequence[Path]) -> list[ModelFile]:
    """Name, size and checksum of each checkpoint."""
    names = model_names(paths)
    return [ModelFile(name, path.stat().st_size, _checksum(path)) for path, name in zip(paths, names, strict=True)]


def _checksum(path: Path) -> str:
    about = path.stat()
    return _read_checksum(path.resolve(), about.st_size, about.st_mtime_ns)


@cache
def _read_checksum(path: Path, size: int, mtime_ns: int) -> str:
    """Read once in a process, for as long as the file stays as it is: a checkpoint may have gigabytes."""
    return identity.file_checksum(path)


def find_models(folder: Path, names: Sequence[str]) -> list[Path]:
    """Paths of the checkpoints.

    Raises:
        SettingError: one is not there, and the message lists what is; or one is given twice.
    """
    names = [name for given in names for name in (_read_names(Path(given[1:])) if given.startswith("@") else [given])]
    paths = [folder / name if (folder / name).is_file() else Path(name) for name in names]  # a path will do as well
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        present = [p.name for p in folder.glob("*") if p.suffix not in (".json", ".md", ".txt") and p.is_file()]
        present.sort(key=lambda name: (not name.endswith("_best"), layout.natural_key(name)))
        close = difflib.get_close_matches(missing[0], present, 3, 0.4)
        shown = "\n  ".join(map(printable, present[:20]))
        shown = shown or "no checkpoint; README.md, 'Score your videos', says where some are to be had"
        like = f" (like it: {printable(', '.join(close))})" if close else ""
        given = printable(" ".join(missing))
        raise SettingError("models", given, f"not in {printable(folder)}{like}, which holds\n  {shown}")
    refuse_twins(paths)
    return paths


def refuse_twins(paths: Sequence[Path]) -> None:
    """Raise SettingError where two are one file, or files of the same content: such a checkpoint would count twice.

    A file that is not there is for its reader to name.
    """
    paths = [path for path in paths if path.is_file()]
    sizes = Counter(path.stat().st_size for path in paths)
    known: dict[tuple[int, str], Path] = {}
    for path in paths:
        size = path.stat().st_size
        content = size, _checksum(path) if sizes[size] > 1 else ""
        first = known.setdefault(content, path)
        if first is not path:
            said = "given twice" if str(first) == str(path) else f"the same checkpoint as {printable(first)}"
            raise SettingError("models", printable(path), f"it is {said}, and would count twice; give it once")


def model_names(paths: Sequence[Path]) -> list[str]:
    """The checkpoints' file names; of those that share one, with as many of their folders as tell them apart."""
    parts = [path.absolute().parts for path in paths]

    def name(own: tuple[str, ...]) -> str:
        tails = [own[-depth:] for depth in range(1, len(own) + 1)]
        alone = (tail for tail in tails if sum(other[-len(tail) :] == tail for other in parts) == 1)
        return str(Path(*next(alone, own)))

    return [name(own) for own in parts]


def _read_names(path: Path) -> list[str]:
    """Checkpoint names from a file, one a line."""
    try:
        names = [line.strip() for line in path.read_text(**TEXT).split("\n") if line.strip()]
    except OSError as error:
        raise SettingError("models", f"@{printable(path)}", f"can't be read ({error.strerror})") from None
    if not names:
        advice = f"plot_loss.py with {setting('select')} writes such a file"
        raise SettingError("models", f"@{printable(path)}", f"it names no checkpoint; {advice}")
    return names
