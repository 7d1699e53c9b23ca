"""The nodes of a Ray cluster, and whether each of them sees what this machine sees. Imported only if Ray is chosen."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import xxhash
from ray.exceptions import GetTimeoutError, NodeDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dfdc.artifacts import remove_leftovers, temporary_file
from dfdc.command_line import UserError
from dfdc.devices import package_versions

_PACKAGES = ("numpy", "opencv-python-headless", "av", "openvino", "torch")  # their versions may alter results
_ROOT = Path(__file__).resolve().parents[1]
_CODE = ("dfdc", "networks", "preprocessing", "prediction")
_TOKEN = "ray-token"  # its file is hidden, and its name goes on with the process and random digits
_ANSWER_SECONDS = 300.0  # a node that starts its first worker on a slow disk may need a minute


class ClusterError(UserError):
    """There is no usable cluster, or a node of it can't take part; the message names it."""


class NoAnswerError(ClusterError):
    """A node does not answer in time."""


@dataclass(frozen=True)
class Shared:
    """What all nodes must see under the same paths.

    Attributes:
        folders: workers write there; compared by a new file.
        files: workers read them; compared by size.
        root: NFS shall look up its subfolders anew, see `refresh`.
    """

    folders: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()
    root: Path | None = None


@dataclass(frozen=True)
class NodeInfo:
    """A node of the cluster; `name` is for messages."""

    id: str
    name: str
    cores: int
    gpus: int


@dataclass(frozen=True)
class _View:
    """What a node sees: path -> text of a token, or size of a file in bytes; None if it is missing."""

    paths: dict[str, str | int | None]
    versions: dict[str, str]
    code: str


def list_nodes() -> list[NodeInfo]:
    """The live nodes that have cores for workers; a head without cores is none of them.

    Raises:
        ClusterError: there is none.
    """
    found = []
    for node in ray.nodes():
        cores, gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
        if node["Alive"] and cores:
            name = f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"
            found.append(NodeInfo(node["NodeID"], name, cores, gpus))
    if not found:
        raise ClusterError("no node of the Ray cluster has cores for workers; start one with 'ray start'")
    return sorted(found, key=lambda node: node.name)


def living() -> set[str]:
    """The ids of the live nodes."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def check_nodes(shared: Shared, nodes: Sequence[NodeInfo]) -> None:
    """Make sure that each of `nodes` can take part, see `find_faults`.

    Raises:
        ClusterError: one can't; the message names it.
        OSError: a shared folder can't be written to here.
    """
    with contextlib.closing(find_faults(shared, nodes)) as faults:
        for _, fault in faults:
            if fault is not None:
                raise fault


def find_faults(
    shared: Shared, nodes: Sequence[NodeInfo], seconds: float = _ANSWER_SECONDS
) -> Generator[tuple[NodeInfo, ClusterError | None]]:
    """Whether each of `nodes` has this code and these packages, and sees what is shared.

    Args:
        shared: compared with what this machine sees.
        nodes: all are asked at once.
        seconds: longest time that is waited for all of them.

    Yields:
        Each node, and why it can't take part, or None. The message names the node, and the path that differs.

    Raises:
        OSError: a shared folder can't be written to here.
    """
    with _tokens(shared.folders) as tokens:
        paths = [str(path) for path in (*tokens, *shared.files)]
        question = paths, len(tokens), Path.cwd(), shared.root
        ours = look(*question)
        answers = [_on_node(node).remote(*question) for node in nodes]
        until = time.monotonic() + seconds
        for node, answer in zip(nodes, answers, strict=True):
            try:
                yield node, _fault_of(node, ours, ray.get(answer, timeout=max(0.0, until - time.monotonic())))
            except GetTimeoutError:
                yield node, NoAnswerError(f"{node.name} does not answer within {seconds:.0f} s")
            except RayError as error:
                yield node, _fault_of_code(node, error)


def _on_node(node: NodeInfo) -> Any:
    there = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=there)


def _fault_of(node: NodeInfo, ours: _View, theirs: _View) -> ClusterError | None:
    """How a node's view differs from ours."""
    for path, value in ours.paths.items():
        if theirs.paths[path] != value:
            shown = Path(path).parent if Path(path).name.startswith(f".{_TOKEN}") else Path(path)
            seen = "does not see" if theirs.paths[path] is None else "sees another"
            where = "all nodes need it under this path, on shared storage"
            return ClusterError(f"{node.name} {seen} {shown.absolute()}; {where}")
    pairs = ((key, theirs.versions[key], version) for key, version in ours.versions.items())
    differ = [f"{key} {their}, not {our}" for key, their, our in pairs if their != our]
    if differ:
        advice = "install the versions of requirements.txt on all nodes"
        return ClusterError(f"{node.name} has {'; '.join(differ)}; {advice}")
    if theirs.code != ours.code:
        return ClusterError(f"{node.name} has another version of this project in {_ROOT}; update it there")
    return None


def _fault_of_code(node: NodeInfo, error: RayError) -> ClusterError | None:
    """Why a node raised `error`; None if it has gone, which the run survives."""
    if isinstance(error, NodeDiedError) or node.id not in living():  # the list of nodes says so only later
        return None
    last = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
    advice = f"install this project there, in {_ROOT}, and start Ray from its environment"
    return ClusterError(f"{node.name} can't run this project's code ({last}); {advice}")


def look(paths: Sequence[str], tokens: int, folder: Path, root: Path | None) -> _View:
    """What this machine sees; runs on each node.

    Args:
        paths: of which the first `tokens` are read, and of the others the size is taken.
        folder: what relative paths are relative to.
        root: see `Shared`.
    """
    with contextlib.suppress(OSError):  # needed for relative paths only, which are then missing
        os.chdir(folder)
    seen = {path: _see(Path(path), is_token=number < tokens) for number, path in enumerate(paths)}
    if root is not None:
        refresh(root)
    return _View(seen, package_versions(_PACKAGES, "nothing"), _digest_of_code())


def _see(path: Path, *, is_token: bool) -> str | int | None:
    try:
        return path.read_text(encoding="ascii") if is_token else path.stat().st_size
    except OSError:
        return None


def _digest_of_code() -> str:
    digest = xxhash.xxh3_128()
    for package in _CODE:
        for path in sorted((_ROOT / package).rglob("*.py")):
            digest.update(str(path.relative_to(_ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def refresh(folder: Path) -> None:
    """Have NFS forget what it remembers of a DATA_ROOT's folders, so that new files of other nodes are seen at once.

    It may remember for a minute that a file is missing. Opening the folder makes it ask the server whether the folder
    has changed (close-to-open consistency, `man 5 nfs`).
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                with contextlib.suppress(OSError):
                    os.close(os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY))


@contextlib.contextmanager
def _tokens(folders: Sequence[Path]) -> Generator[list[Path]]:
    """Write a file with a random name and text to each folder; remove it at the end."""
    with contextlib.ExitStack() as written:
        for folder in folders:
            remove_leftovers(folder, of=_TOKEN)
        yield [written.enter_context(temporary_file(folder / _TOKEN, uuid.uuid4().hex)) for folder in folders]
