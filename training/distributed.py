"""Processes that train together: start-up under torchrun and other launchers, sums and gathers.

Without a launcher everything here is the identity, so that the trainer has one code path.
"""

from __future__ import annotations

import gc
import os
import time
import uuid
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from dfdc.command_line import SettingError


@dataclass(frozen=True)
class Ranks:
    """Which process of how many this is. `rank` counts over all nodes, `local_rank` on this one."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """The one process that writes files: global rank 0, not the first of each node."""
        return self.rank == 0


def start(device: str, local_rank: int | None = None) -> Ranks:
    """Join the other processes, if a launcher (torchrun, or one that gives --local_rank) started this one.

    Args:
        device: "cpu" or "cuda" (each process takes the GPU of its local rank), or "cuda:N" for a single process.
        local_rank: from an old launcher's flag; the environment's LOCAL_RANK goes before it.

    Raises:
        SettingError: there are fewer GPUs than processes.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Ranks(device="cuda:0" if device == "cuda" else device)
    local = int(os.environ.get("LOCAL_RANK", local_rank or 0))
    if device.startswith("cuda"):
        if local >= torch.cuda.device_count():
            found = f"process {local} of this machine has no GPU ({torch.cuda.device_count()} are there)"
            advice = "start fewer processes (torchrun's nproc_per_node), or take cpu"
            raise SettingError("device", device, f"{found}; {advice}")
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group(backend, store=_agents_store(rank, world_size), rank=rank, world_size=world_size)
    else:
        dist.init_process_group(backend)
    return Ranks(dist.get_rank(), local, dist.get_world_size(), device)


def _agents_store(rank: int, world_size: int) -> dist.Store:
    """torchrun's own store, with names of their own for these processes.

    Its agent keeps one store for all that it starts: after a restart, and after a node joined or left, which counts
    no restart. Without a prefix of its own a new group reads the addresses that those before it left, and waits for
    the dead.
    """
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return dist.PrefixStore(agree_on_prefix(store, rank, world_size), store)


def agree_on_prefix(store: dist.Store, rank: int, world_size: int, timeout: float = 600.0) -> str:
    """A text that only the processes of this group know, told by rank 0.

    Each other rank leaves a name that nobody had before, and waits for rank 0's answer to that very name, so that
    neither what a dead process left nor its answer is taken for that of a living one.

    Raises:
        TimeoutError: a rank did not come within `timeout` seconds.
    """
    own = uuid.uuid4().hex
    if rank:
        store.set(f"hello/{rank}", own)
        prefix = store.get(f"welcome/{own}").decode()  # waits
        store.add(f"{prefix}/heard", 1)
        return prefix
    answered: set[str] = set()
    give_up = time.monotonic() + timeout
    while store.add(f"{own}/heard", 0) < world_size - 1:
        present = [key for key in (f"hello/{other}" for other in range(1, world_size)) if store.check([key])]
        for name in {store.get(key).decode() for key in present} - answered:
            store.set(f"welcome/{name}", own)
            answered.add(name)
        if time.monotonic() > give_up:
            raise TimeoutError(f"of {world_size} processes only {store.add(f'{own}/heard', 0) + 1} came together")
        time.sleep(0.02)
    return own


def stop() -> None:
    """Leave the group, if there is one."""
    if dist.is_initialized():
        # A DistributedDataParallel that nobody uses any more holds the group, and its threads, until it is collected;
        # a process that ends before that can abort.
        gc.collect()
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def share_buffers(model: torch.nn.Module) -> None:
    """Give all processes the main one's buffers: where batch norm is not synchronised, each has its own statistics.

    Its checkpoint holds them, and DistributedDataParallel shares them before the next step as well.
    """
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum of `values` over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def gather_objects(value: Any) -> list[Any]:
    """Each process's `value`, in the order of ranks, on all of them."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
