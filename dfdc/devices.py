"""Where the work runs: the device, the threads, the packages, and batches that are halved when memory runs out."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from dfdc.command_line import SettingError

_WORTH_IT = 0.95  # the part of the time without it that compiled networks may take at most
_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
DEVICE_HELP = "auto, cpu, cuda or cuda:N (auto: CUDA where there is one)"


def available_cores(cgroups: Path = _CGROUPS, own_cgroups: Path = _OWN_CGROUPS) -> int:
    """Cores this process may use, at least 1: its affinity mask (a container's cpuset), and its container's quota.

    A quota of one core and a half counts as two.

    Args:
        cgroups: where Linux shows its control groups, of version 1 or 2.
        own_cgroups: the file that says in which of them this process is.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = filter(None, map(_cpu_quota, _own_groups(cgroups, own_cgroups)))
    return min([cores, *quotas])


def _own_groups(cgroups: Path, own_cgroups: Path) -> Iterator[Path]:
    """The folders of the control groups that can limit this process's time: its own and those around it."""
    for line in _kernel_text(own_cgroups).splitlines():
        _, controllers, name = line.split(":", 2)
        if not controllers:  # version 2, alone or beside version 1
            mounts = [cgroups, cgroups / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [cgroups / controllers, cgroups / "cpu"]
        else:
            mounts = []
        for mount in mounts:
            # A container may be told its group's name outside, and see the group itself right at the mount.
            group = mount / name.lstrip("/")
            yield from (group, *group.parents[: len(group.parts) - len(mount.parts)])


def _cpu_quota(group: Path) -> int | None:
    """How many cores, rounded up, a control group may use; None where it sets no limit."""
    version_2, version_1 = ["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    words = [word for name in version_2 + version_1 for word in _kernel_text(group / name).split()]
    times = [int(word) for word in words if word.isdecimal()]  # "max", or -1, in place of the first: no limit
    return math.ceil(times[0] / times[1]) if len(times) == 2 else None


def _kernel_text(path: Path) -> str:
    """What a file of the kernel says; nothing where there is none: on another system, or without that limit."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def resolve_device(name: str) -> str:
    """`auto` -> what is there; any other name is checked.

    Raises:
        SettingError: no such device, or not here.
    """
    kind, _, index = name.partition(":")
    if name not in ("auto", "cpu") and (kind != "cuda" or (index and not index.isdigit())):
        raise SettingError("device", name, f"unknown; use {DEVICE_HELP}")
    if name == "cpu" or (name == "auto" and not _may_have_gpu()):
        return "cpu"  # without loading PyTorch, which takes seconds: there may be nothing to do
    import torch  # here: command lines import this module

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.cuda.is_available():
        raise SettingError("device", name, "PyTorch finds no CUDA device here; use cpu, or auto")
    if index and int(index) >= torch.cuda.device_count():
        raise SettingError("device", name, f"there are {torch.cuda.device_count()} CUDA devices, from cuda:0 on")
    return name


def _may_have_gpu() -> bool:
    """False only where PyTorch would find no GPU for certain: loading it takes seconds, this none."""
    if _loaded_torch() or not sys.platform.startswith("linux") or Path("/dev/kfd").exists():  # AMD's
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def keep_freed_memory() -> None:
    """Let this process keep what it frees, up to 256 MB, for the next picture.

    glibc hands large blocks back to the kernel, which clears them anew for each array of a picture's size: a third of
    the time of SSIM on 500 x 400 pixels. Other C libraries have no such setting, and nothing is done.
    """
    mallopt = _c_function("mallopt")
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # <malloc.h>
        mallopt(trim_threshold, 256 * 2**20)
        mallopt(mmap_threshold, 32 * 2**20)  # the most that glibc takes


def release_freed_memory() -> None:
    """Give what this process has freed back to the system, where the C library is glibc: after a model is loaded."""
    trim = _c_function("malloc_trim")
    if trim is not None:
        trim(0)


def _c_function(name: str) -> Callable | None:
    """A function of the C library that this process runs on; None where it has no such one."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


def limit_threads(threads: int = 1, *, of_torch: bool = True) -> None:
    """Keep OpenCV, and (`of_torch`) PyTorch if it is loaded, to `threads` threads in this process.

    Not to be called in a process that was forked from one in which OpenCV had threads: it would wait for them for ever.
    """
    import cv2  # here: command lines import this module

    cv2.setNumThreads(threads)
    torch = _loaded_torch()
    if of_torch and torch:
        torch.set_num_threads(threads)


def _loaded_torch() -> ModuleType | None:
    """PyTorch, if this process has loaded it, which takes seconds."""
    return sys.modules.get("torch")


def package_versions(names: Iterable[str], unknown: str) -> dict[str, str]:
    """The version of each package; `unknown` for one that is not there, or under another name, as OpenCV may be."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = unknown
    return versions


def judge_compiling(without: float, with_it: float) -> tuple[bool, str]:
    """Whether compiled networks are worth keeping, and a sentence that says so; from seconds of the same work."""
    ratio = f"{without / with_it:.2f} times as fast"
    if with_it < _WORTH_IT * without:
        return True, f"compiled: {ratio}"
    return False, f"compiling gains nothing here ({ratio}); going on without"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is Python's MemoryError, PyTorch's, or the like from cuDNN, cuBLAS or the CPU allocator."""
    torch = _loaded_torch()
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate" in text)


def run_halving(run: Callable[[Any], Iterable[Any]], batch: Any) -> list[Any]:
    """`run(batch)`, but where memory runs out, in two halves, as often as it takes.

    Args:
        run: takes a slice of `batch` and returns one result for each element.

    Raises:
        The out-of-memory error itself, when not even one element fits.
    """
    try:
        return list(run(batch))
    except Exception as error:
        if len(batch) < 2 or not is_out_of_memory(error):
            raise
    # Outside the except block: the error's traceback would keep the tensors that filled the memory.
    torch = _loaded_torch()
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    return run_halving(run, batch[:middle]) + run_halving(run, batch[middle:])
