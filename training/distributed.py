"""Distributed training: start-up under torchrun and other launchers, reductions and gathers.

Without a launcher, every function here does nothing or returns its input, so the trainer has one code path.
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
    """The rank of this process: `rank` over all nodes, `local_rank` on this node."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this process writes files: True on global rank 0 only, not on the first rank of each node."""
        return self.rank == 0


def start(device: str, local_rank: int | None = None) -> Ranks:
    """Join the process group if a launcher (torchrun, or one that passes --local_rank) started this process.

    Args:
        device: "cpu", "cuda" (each process uses the GPU of its local rank), or "cuda:N" for a single process.
        local_rank: the flag of an old launcher; the environment variable LOCAL_RANK overrides it.

    Raises:
        SettingError: the machine has fewer GPUs than processes.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Ranks(device="cuda:0" if device == "cuda" else device)
    local = int(os.environ.get("LOCAL_RANK", local_rank or 0))
    if device.startswith("cuda"):
        if local >= torch.cuda.device_count():
            found = f"process {local} of this machine has no GPU ({torch.cuda.device_count()} available)"
            advice = "start fewer processes (torchrun's --nproc_per_node), or use cpu"
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
    """torchrun's store with a prefix that is unique to this process group.

    The agent keeps one store over restarts, and also when a node joins or leaves, which does not count as a restart.
    Without a unique prefix, a new group reads the addresses of the previous group, and waits for dead processes.
    """
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return dist.PrefixStore(agree_on_prefix(store, rank, world_size), store)


def agree_on_prefix(store: dist.Store, rank: int, world_size: int, timeout: float = 600.0) -> str:
    """Agree on a unique prefix for this process group; rank 0 chooses it.

    Each other rank publishes a new unique name, and waits for rank 0's answer to that name. Entries and answers of
    dead processes are therefore never mistaken for those of live ones.

    Raises:
        TimeoutError: a rank did not join within `timeout` seconds.
    """
    own = uuid.uuid4().hex
    if rank:
        store.set(f"hello/{rank}", own)
        prefix = store.get(f"welcome/{own}").decode()  # blocks until it is set
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
            raise TimeoutError(
                f"only {store.add(f'{own}/heard', 0) + 1} of {world_size} processes joined within {timeout:g} s"
            )
        time.sleep(0.02)
    return own


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        # An unused DistributedDataParallel holds the group and its threads until it is garbage-collected.
        # A process that exits before that can abort.
        gc.collect()
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def share_buffers(model: torch.nn.Module) -> None:
    """Broadcast the buffers of rank 0 to all processes. Without SyncBN, each process has its own statistics.

    The checkpoint stores those of rank 0, and DistributedDataParallel also broadcasts them before the next step.
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
    """Gather the `value` of each process, in rank order, on all processes."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
