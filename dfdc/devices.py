"""Devices, threads, package versions, and splitting batches when memory runs out."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from dfdc.command_line import SettingError

_WORTH_IT = 0.95  # largest ratio of compiled to uncompiled time for which compiling is kept
_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_most_cores: int | None = None  # a limit for this process, see limit_cores
DEVICE_HELP = "auto, cpu, cuda or cuda:N (default: auto, which is CUDA if available)"


def limit_cores(most: int) -> None:
    """Let `available_cores` return at most `most` in this process, which shares its machine with others."""
    global _most_cores
    _most_cores = most


def available_cores(cgroups: Path = _CGROUPS, own_cgroups: Path = _OWN_CGROUPS) -> int:
    """Cores this process may use, at least 1: the smaller of its affinity mask (cpuset) and its container's quota.

    `limit_cores` may set a lower limit. Quotas are rounded up: 1.5 cores count as two.

    Args:
        cgroups: mount point of Linux control groups, version 1 or 2.
        own_cgroups: the file that lists the control groups of this process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = filter(None, map(_cpu_quota, _own_groups(cgroups, own_cgroups)))
    return min([cores, *quotas, *([_most_cores] if _most_cores else [])])


def _own_groups(cgroups: Path, own_cgroups: Path) -> Iterator[Path]:
    """Folders of the control groups that can limit this process's CPU time: its own and their ancestors."""
    for line in _kernel_text(own_cgroups).splitlines():
        _, controllers, name = line.split(":", 2)
        if not controllers:  # version 2, alone or beside version 1
            mounts = [cgroups, cgroups / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [cgroups / controllers, cgroups / "cpu"]
        else:
            mounts = []
        for mount in mounts:
            # A container may see its group's name on the host, while the group itself is mounted at the root.
            group = mount / name.lstrip("/")
            yield from (group, *group.parents[: len(group.parts) - len(mount.parts)])


def _cpu_quota(group: Path) -> int | None:
    """CPU quota of a control group in cores, rounded up; None without a limit."""
    version_2, version_1 = ["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    words = [word for name in version_2 + version_1 for word in _kernel_text(group / name).split()]
    times = [int(word) for word in words if word.isdecimal()]  # the first is "max" or -1 without a limit
    return math.ceil(times[0] / times[1]) if len(times) == 2 else None


def _kernel_text(path: Path) -> str:
    """Content of a kernel file; empty if it does not exist (other systems, or no such limit)."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def resolve_device(name: str) -> str:
    """Resolve `auto` to cuda or cpu; check any other name.

    Raises:
        SettingError: the name is invalid, or the device is not available.
    """
    kind, _, index = name.partition(":")
    if name not in ("auto", "cpu") and (kind != "cuda" or (index and not index.isdigit())):
        raise SettingError("device", name, f"unknown; use {DEVICE_HELP}")
    if name == "cpu" or (name == "auto" and not _may_have_gpu()):
        return "cpu"  # without loading PyTorch, which takes seconds, since there may be nothing to do
    import torch  # here: command lines import this module

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.cuda.is_available():
        raise SettingError("device", name, "PyTorch detects no CUDA device; use cpu or auto")
    if index and int(index) >= torch.cuda.device_count():
        raise SettingError("device", name, f"only {torch.cuda.device_count()} CUDA devices exist, numbered from cuda:0")
    return name


def _may_have_gpu() -> bool:
    """False only if PyTorch would certainly detect no GPU. This avoids the seconds of loading PyTorch."""
    if _loaded_torch() or not sys.platform.startswith("linux") or Path("/dev/kfd").exists():  # AMD's
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def keep_freed_memory() -> None:
    """Let this process keep up to 256 MB of freed memory for reuse by the next image.

    By default glibc returns large blocks to the kernel, which zeroes them again for each image-sized array. That is a
    third of the time of SSIM on 500 x 400 pixels. Other C libraries lack the setting; nothing happens there.
    """
    mallopt = _c_function("mallopt")
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # <malloc.h>
        mallopt(trim_threshold, 256 * 2**20)
        mallopt(mmap_threshold, 32 * 2**20)  # glibc's maximum


def release_freed_memory() -> None:
    """Return freed memory to the system, for example after loading a model; only with glibc."""
    trim = _c_function("malloc_trim")
    if trim is not None:
        trim(0)


def release_file_pages(path: Path) -> None:
    """Give back this process's memory pages of a file that it has mapped read-only; a later access reads them again.

    Only on Linux; nothing happens elsewhere.
    """
    advise, maps = _c_function("madvise"), Path("/proc/self/maps")
    if advise is None or not maps.exists():
        return
    do_not_need = 4  # <sys/mman.h>
    for line in maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        bounds, rights, *_ = line.split(maxsplit=5)
        if rights.startswith("r--") and line.endswith(f" {path}"):
            first, last = (int(bound, 16) for bound in bounds.split("-"))
            advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), do_not_need)


def _c_function(name: str) -> Callable | None:
    """A function of this process's C library; None if it does not exist."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


def limit_threads(threads: int = 1, *, of_torch: bool = True) -> None:
    """Limit OpenCV, and (`of_torch`) PyTorch if it is loaded, to `threads` threads in this process.

    Do not call this in a process forked from one in which OpenCV had threads: it would deadlock.
    """
    import cv2  # here: command lines import this module

    cv2.setNumThreads(threads)
    if of_torch:
        limit_torch_threads(threads)


def limit_torch_threads(threads: int) -> None:
    """Limit PyTorch in the current thread to `threads` threads, if PyTorch is loaded."""
    torch = _loaded_torch()
    if torch:
        torch.set_num_threads(threads)


def _loaded_torch() -> ModuleType | None:
    """PyTorch if this process has already loaded it, else None; loading takes seconds."""
    return sys.modules.get("torch")


def package_versions(names: Iterable[str], unknown: str) -> dict[str, str]:
    """Version of each package; `unknown` if it is missing or installed under another name, as OpenCV may be."""
    return {name: _version(name) or unknown for name in names}


@cache
def _version(name: str) -> str | None:
    """Cached, because a start asks 60 times, and reading a package's metadata takes 2 ms."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def judge_compiling(without: float, with_it: float) -> tuple[bool, str]:
    """Whether to keep compiled networks, and a message about it; the arguments are seconds for the same work."""
    ratio = f"{without / with_it:.2f} times as fast"
    if with_it < _WORTH_IT * without:
        return True, f"compiled: {ratio}"
    return False, f"compiling brings no speed-up here ({ratio}); continuing without"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is an out-of-memory error of Python, PyTorch, cuDNN, cuBLAS or the CPU allocator."""
    torch = _loaded_torch()
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate" in text)


def run_halving(run: Callable[[Any], Iterable[Any]], batch: Any) -> list[Any]:
    """`run(batch)`; when memory runs out, the batch is split into halves, recursively.

    Args:
        run: takes a slice of `batch` and returns one result for each element.

    Raises:
        The out-of-memory error itself, if a single element does not fit.
    """
    try:
        return list(run(batch))
    except Exception as error:
        if len(batch) < 2 or not is_out_of_memory(error):
            raise
    # Outside the except block, because the error's traceback keeps the tensors that filled the memory alive.
    torch = _loaded_torch()
    if torch and torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    return run_halving(run, batch[:middle]) + run_halving(run, batch[middle:])
