"""The connection of a command to a Ray cluster. Imported only if this engine is chosen, because Ray is optional."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Generator
from typing import Any
from unittest import mock

import ray
from ray._private import utils
from ray._private.services import canonicalize_bootstrap_address_or_die  # what ray.init does with "auto"
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError, RayError, RayTaskError

from dfdc.command_line import check_ray_address, setting
from dfdc.devices import available_cores
from dfdc.interrupts import held
from dfdc.ray_nodes import ClusterError
from dfdc.workers import in_own_folder


@contextlib.contextmanager
def connected(address: str | None) -> Generator[None]:
    """Be connected to a cluster while the block runs.

    Args:
        address: host:port of the cluster's head; "auto" for a cluster that runs on this machine; "local" to start Ray
            on this machine for this block. None: that of the environment variable RAY_ADDRESS, else "auto".

    Raises:
        ClusterError: there is no such cluster, or it has another version of Ray or Python.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    address = _reachable(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"num_cpus": available_cores(), "include_dashboard": False}
    try:
        try:
            # A signal amid this would leave Ray half connected, and Ray then waits for ever. Its own handler of SIGTERM
            # would end the command with another status.
            with held(), mock.patch.object(utils, "set_sigterm_handler"), in_own_folder():
                ray.init(address, **options)  # workers look for modules in this folder, and then change to ours
                ray.nodes()  # whose first call connects further
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise _no_cluster(address, line_of(error)) from error
        yield
    finally:
        ray.shutdown()


def _reachable(address: str) -> str:
    """Return HOST:PORT, or "local"; ClusterError if no head answers there. Ray itself would try for minutes."""
    if address == "local":
        return address
    if address == "auto":
        try:
            address = canonicalize_bootstrap_address_or_die("auto")
        except ConnectionError as error:
            raise _no_cluster(address, "none runs on this machine") from error
    check_ray_address("ray", address)  # also one of RAY_ADDRESS
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        GcsClient(address=address)
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from error
    except AuthenticationError as error:
        advice = "run 'export RAY_AUTH_MODE=token' first, also in each terminal where you start a node"
        raise ClusterError(f"can't connect to the Ray cluster {address}: it wants its token; {advice}") from error
    except RayError as error:
        raise _no_cluster(address, "what listens there does not answer as the head of a cluster") from error
    return address


def _no_cluster(address: str, reason: object) -> ClusterError:
    advice = f"start one with 'ray start', or give {setting('ray_address')} HOST:PORT"
    return ClusterError(f"can't connect to the Ray cluster {address}: {reason}; {advice}")


def line_of(error: BaseException) -> str:
    """The line of an error that says most: the last one of a worker's traceback, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    has_traceback = isinstance(error, RayTaskError) or getattr(error, "actor_init_failed", False)
    return lines[-1] if has_traceback else lines[0]
