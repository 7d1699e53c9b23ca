"""The engine `ray`: a cluster on this machine, which runs as long as the rounds. Imported only if it is chosen."""

from __future__ import annotations

import contextlib
import random
import secrets
from collections.abc import Generator, Iterator

from tests.clusters import TwoNodes
from tests.faults.engines import MARK, Found, all_processes, processes

_OWN = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")  # titles of Ray's own processes


class Ray:
    """Actors on a cluster of a head without cores and two nodes.

    The cluster outlives a command: its raylets, their agents and workers without a task are not left by the command.
    Whatever runs this project's code is: actors, tasks, and processes that these started. A worker overwrites its
    environment with its title, so it is known by its raylet. A process that a worker starts inherits the nodes' mark.

    Ray writes what nodes and workers say to its own folder. It counts only what the command prints: no traceback,
    also none of Ray, may reach the user.
    """

    name = "ray"

    def __init__(self, nodes: TwoNodes, mark: str) -> None:
        self._nodes, self._mark = nodes, mark
        self._of_killed: set[int] = set()  # workers whose raylet was killed

    @property
    def options(self) -> tuple[str, ...]:
        return "--ray-address", self._nodes.address

    def processes(self, mark: str) -> Iterator[Found]:
        yield from processes(mark)
        yield from self._workers()
        yield from (found for found in processes(self._mark) if not _is_of_ray(found))

    def workers(self, mark: str, driver: int) -> list[int]:
        return [found.pid for found in self._workers() if found.command.startswith("ray::_Worker")]

    def kill_raylet(self, rng: random.Random) -> None:
        """SIGKILL one of the two raylets."""
        self._of_killed |= {found.pid for found in self._workers()}
        self._nodes.kill_node(rng.randrange(2))

    def restore(self) -> None:
        """Have two nodes again."""
        self._nodes.restore()

    def _workers(self) -> Iterator[Found]:
        raylets = set(self._nodes.raylets)
        for found in all_processes():
            known = found.parent in raylets or found.pid in self._of_killed
            if known and found.command.startswith("ray::") and not found.command.startswith(_OWN):
                yield found


def _is_of_ray(found: Found) -> bool:
    return "/ray/" in found.command or found.command.startswith("ray::")


@contextlib.contextmanager
def ray_engine() -> Generator[Ray]:
    """Start a cluster; end it with the block."""
    mark = f"cluster-{secrets.token_hex(8)}"
    nodes = TwoNodes({MARK: mark})
    try:
        yield Ray(nodes, mark)
    finally:
        nodes.stop()
