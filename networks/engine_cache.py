"""Networks converted for another engine, kept beside their checkpoints.

An entry is a folder: the converted network, and entry.json, which says what it was made from. It is used only if the
checkpoint's SHA-256 and all versions are the same.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from dfdc import artifacts, identity, locks
from dfdc.devices import available_cores, package_versions
from dfdc.processes import disk_time
from networks.files import sha256
from networks.parity import Difference, difference
from networks.sample_faces import sample_faces

CACHE_NAME = ".engines"
# Version of the conversion. Raise it with every change that alters a converted network or the images of its check.
CONVERSION_VERSION = 1
PACKAGES = {"openvino": "openvino", "onnx": "onnxruntime"}  # by engine
FILES = {"openvino": "model.xml", "onnx": "model.onnx"}  # the network in an entry; OpenVINO's weights are in model.bin
# The largest allowed differences from PyTorch in fp32. fp32: what docs promise of a score. bf16: at least twice the
# largest difference seen on faces, as in `prediction.selftest.BOUNDS`.
TOLERANCES = {"fp32": Difference(1e-3, 2e-2), "bf16": Difference(0.1, 0.5)}
CHECKED_AT_START = 1  # image; the conversion has compared all, and each takes half a second of a start
# Age of an entry that is removed if this machine can't use it, or if no checkpoint has its name. Until then, a machine
# with other versions may use it, or a checkpoint with a new name. An entry is as large as its checkpoint.
KEPT_SECONDS = 30 * 24 * 3600.0
_ENTRY_NAME = "entry.json"


class EngineError(RuntimeError):
    """A converted network can't be used; the message says why.

    Attributes:
        checkpoint: the checkpoint whose network failed, if it is known.
    """

    checkpoint: Path | None = None


class DifferenceError(EngineError):
    """The results of a converted network differ from PyTorch's."""


@dataclass(frozen=True)
class Entry:
    """entry.json of a converted network.

    Attributes:
        checkpoint: file name of the checkpoint.
        sha256: of the checkpoint.
        versions: of the conversion, and of the packages that it depends on.
        description: of the checkpoint, see `networks.checkpoint.describe`.
        logits: of PyTorch in fp32 for `networks.sample_faces.sample_faces`.
        refused: why the converted network must not be used, by machine, then by precision.
        seconds: per face, by machine, then by engine and precision, such as "torch fp32".
    """

    checkpoint: str
    sha256: str
    versions: dict[str, str]
    description: dict[str, str]
    logits: list[float]
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    version: Literal[1] = 1

    def seconds_here(self, engine: str, precision: str) -> tuple[float, float] | None:
        """Seconds per face of PyTorch and of `engine` on this machine; None if they were not measured."""
        own = self.seconds.get(machine(), {})
        theirs, ours = (own.get(f"{name} {precision}") for name in ("torch", engine))
        return None if theirs is None or ours is None else (theirs, ours)

    def refused_here(self, precision: str) -> str | None:
        """Why the converted network must not be used in this precision on this machine; None if it may be."""
        return self.refused.get(machine(), {}).get(precision)

    def is_complete(self, engine: str, precision: str) -> bool:
        """Whether nothing is left to do for this precision on this machine."""
        return self.refused_here(precision) is not None or self.seconds_here(engine, precision) is not None


_ENTRIES = TypeAdapter(Entry)


def versions_of(engine: str) -> dict[str, str]:
    """The versions that a converted network depends on."""
    packages = package_versions(("torch", "timm", PACKAGES[engine]), "unknown")
    return {"conversion": str(CONVERSION_VERSION), **packages}


def machine() -> str:
    """The processor and the number of cores, on which the fastest engine depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.processor() or platform.machine())}, {available_cores()} cores"


def place_of(checkpoint: Path, engine: str) -> Path:
    """The folder of a checkpoint's entry, complete or not.

    It lies beside the checkpoint, or in the user's cache folder if the checkpoint's folder is read-only.
    """
    places = _places(checkpoint, engine)
    return next((place for place in places if os.access(place / _ENTRY_NAME, os.R_OK)), places[0])


def own_place_of(checkpoint: Path, engine: str) -> Path:
    """As `place_of`, but never an entry that this user can't change."""
    return _places(checkpoint, engine)[0]


def _places(checkpoint: Path, engine: str) -> list[Path]:
    name = f"{engine}-{sha256(checkpoint)[:16]}-{identity.digest_of(versions_of(engine))[:8]}"
    return [folder / name for folder in _cache_folders(checkpoint)]


def _cache_folders(checkpoint: Path) -> Iterator[Path]:
    beside = checkpoint.parent / CACHE_NAME
    if os.access(beside if beside.is_dir() else checkpoint.parent, os.W_OK):
        yield beside
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    with contextlib.suppress(RuntimeError):  # a user without a home
        home = home.expanduser()
    if home.is_absolute():
        # A folder for each folder of checkpoints, because the same name in another one is another checkpoint.
        yield home / "dfdc-pipeline" / "engines" / identity.digest_of(str(checkpoint.parent.resolve()))[:16]
    yield beside  # entries that another user wrote


def read_entry(checkpoint: Path, engine: str, folder: Path | None = None) -> Entry | None:
    """The entry of a checkpoint; None if it is missing, corrupt, or of another checkpoint or version.

    Args:
        folder: where it is; None for `place_of`.
    """
    try:
        entry, digest = _read(folder or place_of(checkpoint, engine)), sha256(checkpoint)
    except FileNotFoundError:  # its reader says that there is no checkpoint
        return None
    same = entry is not None and entry.sha256 == digest and entry.versions == versions_of(engine)
    return entry if same else None


def only_writer(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Wait until no other process writes entries beside `folder`, and keep others waiting while the block runs."""
    return locks.only_one(folder.parent / ".lock", None)


def write_entry(folder: Path, entry: Entry) -> None:
    """Write entry.json into the folder of an entry."""
    artifacts.write_json(folder / _ENTRY_NAME, asdict(entry), indent=1)


def add_seconds(folder: Path, entry: Entry, seconds: dict[str, float]) -> None:
    """Add measurements of this machine to an entry."""
    own = {**entry.seconds.get(machine(), {}), **seconds}
    write_entry(folder, replace(entry, seconds={**entry.seconds, machine(): own}))


def add_refusal(folder: Path, entry: Entry, precision: str, reason: str) -> None:
    """Record that this machine must not use the converted network in a precision."""
    own = {**entry.refused.get(machine(), {}), precision: reason}
    write_entry(folder, replace(entry, refused={**entry.refused, machine(): own}))


def remove_stale(checkpoint: Path, folder: Path, engine: str) -> None:
    """Remove entries that nobody needs beside `folder`, which is the entry of `checkpoint`.

    Unfinished folders of processes that have ended are removed too.
    """
    artifacts.remove_leftovers(folder.parent)
    now = disk_time(folder.parent)
    for other in folder.parent.glob(f"{engine}-*"):
        with contextlib.suppress(PermissionError):  # of another user
            if other != folder and _is_stale(other, checkpoint, engine, now):
                artifacts.remove(other)


def _is_stale(other: Path, checkpoint: Path, engine: str, now: float) -> bool:
    """Whether an entry is of `checkpoint` before it changed, or is old and of no use to this machine."""
    entry = _read(other)
    if entry is not None and entry.checkpoint == checkpoint.name and entry.sha256 != sha256(checkpoint):
        return True
    same = entry is not None and entry.versions == versions_of(engine)
    if same and checkpoint.with_name(entry.checkpoint).exists():
        return False
    return now - other.stat().st_mtime > KEPT_SECONDS


def _read(folder: Path) -> Entry | None:
    try:
        return _ENTRIES.validate_json((folder / _ENTRY_NAME).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def check(
    logits: Callable[[np.ndarray], np.ndarray], size: int, entry: Entry, precision: str, count: int | None
) -> None:
    """Compare a converted network with PyTorch on images of a face.

    Args:
        logits: RGB uint8 [n, size, size, 3] -> logits, float32 [n].
        count: number of images; None for all.

    Raises:
        DifferenceError: the results differ by more than TOLERANCES.
    """
    images = sample_faces(size)[: len(entry.logits) if count is None else count]
    expected = np.array(entry.logits[:count], np.float32)
    off, most = difference(expected, np.concatenate([logits(image[None]) for image in images])), TOLERANCES[precision]
    if not off.within(most):
        raise DifferenceError(
            f"its scores in {precision} differ from PyTorch's: probabilities by {off.probability:.2g} (allowed: "
            f"{most.probability:g}), logits by {off.logit:.2g} (relative; allowed: {most.logit:g})"
        )


def drop_entry(checkpoint: Path, engine: str) -> None:
    """Remove the entry of a checkpoint, so that the next run converts it again."""
    artifacts.remove(place_of(checkpoint, engine))
