"""Selects checkpoints by name or path, and rejects duplicates."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dfdc import artifacts, identity, layout
from dfdc.command_line import SettingError, setting
from dfdc.text import TEXT, printable

CHECKSUM_SUFFIX = ".sha256"  # file beside a downloaded checkpoint
SELECTED_NAME = "selected.txt"  # lists the default checkpoints of a folder, one per line
_CONFIG_ENDING = "_config.json"  # file that each training run writes beside its checkpoints
ONNX_SUFFIX = ".onnx"
_EXPORTS = (ONNX_SUFFIX, ".safetensors")


@dataclass(frozen=True)
class ModelFile:
    """A checkpoint identified by its content, not by its modification time, so that a copy is equal.

    Attributes:
        name: see `model_names`.
        size: in bytes.
        xxh3: checksum of the whole file, hexadecimal; "" in files of earlier versions.
    """

    name: str
    size: int
    xxh3: str = ""


def describe_models(paths: Sequence[Path]) -> list[ModelFile]:
    """Name, size and checksum of each checkpoint."""
    names = model_names(paths)
    return [ModelFile(name, path.stat().st_size, _checksum(path)) for path, name in zip(paths, names, strict=True)]


def _checksum(path: Path) -> str:
    return _read_once(identity.file_checksum, path)


def sha256(path: Path) -> str:
    """SHA-256 of a checkpoint, in hexadecimal digits; read once while the file is unchanged."""
    return _read_once(artifacts.sha256_of, path)


def _read_once(digest: Callable[[Path], str], path: Path) -> str:
    about = path.stat()
    return _digest_of(digest, path.resolve(), about.st_size, about.st_mtime_ns)


@cache
def _digest_of(digest: Callable[[Path], str], path: Path, size: int, mtime_ns: int) -> str:
    """Cached while the file is unchanged, because a checkpoint may have gigabytes."""
    return digest(path)


def is_onnx(path: Path) -> bool:
    """Whether `path` is an ONNX file, by its suffix, because ONNX has no magic bytes."""
    return path.suffix.lower() == ONNX_SUFFIX


def find_models(folder: Path, names: Sequence[str]) -> list[Path]:
    """Paths of the selected checkpoints.

    Args:
        folder: folder in which names are looked up.
        names: names or paths, or @FILE for the names listed in FILE; if empty, `default_models`.

    Raises:
        SettingError: a checkpoint is missing (the message lists those in `folder`) or given twice, or there is no
            default.
    """
    names = names or default_models(folder)
    lists = [name[1:] for name in names if name.startswith("@")]
    names = [name for given in names for name in (_read_names(Path(given[1:])) if given.startswith("@") else [given])]
    paths = [folder / name if (folder / name).is_file() else Path(name) for name in names]  # else a path
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        present = [path.name for path in checkpoints_in(folder)]
        present.sort(key=lambda name: (not name.endswith("_best"), layout.natural_key(name)))
        close = difflib.get_close_matches(missing[0], present, 3, 0.4)
        shown = "\n  ".join(map(printable, present[:20]))
        shown = shown or "no checkpoint; README.md, 'Score your videos', says how to get some"
        like = f" (did you mean {printable(', '.join(close))}?)" if close else ""
        given = printable(" ".join(missing) + (f" (listed in {', '.join(lists)})" if lists else ""))
        if not folder.is_dir():
            raise SettingError("models", given, f"no such file, and there is no folder {printable(folder)}")
        raise SettingError("models", given, f"not in {printable(folder)}{like}, which contains\n  {shown}")
    refuse_twins(paths)
    return paths


def default_models(folder: Path) -> list[str]:
    """The default checkpoints of a folder.

    Returns:
        @FILE of the folder's selected.txt; without one, the names of all its checkpoints. Of each training run only
        `_best` is used. Exported networks are used only if there is nothing else, and each in one format: both files
        of a network would count twice.

    Raises:
        SettingError: the folder does not exist or contains no checkpoint; the message says how to get some.
    """
    selected = folder / SELECTED_NAME
    if selected.is_file():
        return [f"@{selected}"]
    names = [path.name for path in checkpoints_in(folder)]
    exports = {name.rpartition(".")[0]: name for name in names if name.endswith(_EXPORTS)}  # .safetensors is the last
    runs = [path.name.removesuffix(_CONFIG_ENDING) for path in folder.glob(f"*{_CONFIG_ENDING}")]
    names = [name for name in names if name.endswith("_best") or not any(name.startswith(f"{run}_") for run in runs)]
    names = [name for name in names if not name.endswith(_EXPORTS)] or list(exports.values())
    if not names:
        ways = "download the winners' with download_weights.py, or train your own with train.sh"
        lack = "contains no checkpoint;" if folder.is_dir() else "there is no such folder; check the path, or"
        raise SettingError("weights_dir", printable(folder), f"{lack} {ways} (README.md)")
    return names


def checkpoints_in(folder: Path) -> list[Path]:
    """The files of a folder that may be checkpoints: not hidden, and not of a kind that lies beside checkpoints."""
    others = (".json", ".jsonl", ".md", ".txt", ".csv", ".log", ".png", ".jpg", ".zip", CHECKSUM_SUFFIX)
    files = [path for path in folder.glob("*") if path.suffix not in others and not path.name.startswith(".")]
    return sorted((path for path in files if path.is_file()), key=lambda path: layout.natural_key(path.name))


def refuse_twins(paths: Sequence[Path]) -> None:
    """Raise SettingError if two paths are the same file or have the same content: that checkpoint would count twice.

    Missing files are ignored; their reader reports them.
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
            raise SettingError("models", printable(path), f"it is {said} and would count twice; list it once")


def model_names(paths: Sequence[Path]) -> list[str]:
    """File names of the checkpoints; equal names are prefixed with as many parent folders as make them unique."""
    parts = [path.absolute().parts for path in paths]

    def name(own: tuple[str, ...]) -> str:
        tails = [own[-depth:] for depth in range(1, len(own) + 1)]
        alone = (tail for tail in tails if sum(other[-len(tail) :] == tail for other in parts) == 1)
        return str(Path(*next(alone, own)))

    return [name(own) for own in parts]


def _read_names(path: Path) -> list[str]:
    """Checkpoint names from a file, one per line."""
    try:
        identity.regular(path)
        names = [line.strip() for line in path.read_text(**TEXT).split("\n") if line.strip()]
    except OSError as error:
        raise SettingError("models", f"@{printable(path)}", f"can't be read ({error.strerror})") from None
    if not names:
        advice = f"plot_loss.py with {setting('select')} writes such a file"
        raise SettingError("models", f"@{printable(path)}", f"it lists no checkpoint; {advice}")
    return names
