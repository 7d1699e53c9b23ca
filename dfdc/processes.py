"""Which process on which machine: the owners of locks and of unfinished files; the clock of a disk; temporary files."""

from __future__ import annotations

import os
import platform
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dfdc.command_line import UserError
from dfdc.identity import digest_of
from dfdc.text import printable

# Bytes. A socket's path may have 107 on Linux and 103 on macOS; multiprocessing appends 32 for its own names.
_LONGEST_TEMP = 70


@dataclass(frozen=True)
class Process:
    """A process of any machine.

    Attributes:
        host: its machine since its last start, and its container; see `host_id`.
        pid: process id.
        start: see `process_start`.
    """

    host: str
    pid: int
    start: int

    @classmethod
    def own(cls) -> Process:
        """The process that calls this."""
        pid = os.getpid()
        return cls(host_id(), pid, process_start(pid) or 0)

    @property
    def ended(self) -> bool | None:
        """Whether it has ended; None if nobody here can tell: it is of another host, or hidden from this user."""
        if self.host != host_id():
            return None
        start = process_start(self.pid)
        return None if start is None and _is_hidden(self.pid) else start != self.start


@cache
def host_id() -> str:
    """8 hexadecimal digits for this machine's name, its last start, and the container whose process ids are valid.

    Two machines may have one name, and two containers may use the same process ids.
    """
    return digest_of([platform.node(), _boot_id(), _pid_namespace()])[:8]


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return ""


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        return ""


def process_start(number: int) -> int | None:
    """Start time of the process with this id in Linux clock ticks; None if it does not exist or has ended.

    Process ids are reused, especially in containers; the start time distinguishes two processes with one id. A zombie
    keeps its id until its parent waits for it, which may never happen in a container. On other systems the result is 0.
    """
    if not Path("/proc/self/stat").exists():
        return 0 if _has_number(number) else None
    try:
        fields = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])  # man 5 proc: state is field 3, starttime field 22


def _is_hidden(number: int) -> bool:
    """Whether /proc does not show a process that exists: other users' processes with the mount option hidepid."""
    try:
        Path(f"/proc/{number}/stat").read_bytes()
    except OSError:
        return _has_number(number)
    return False


def _has_number(number: int) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError, PermissionError) as error:
        return isinstance(error, PermissionError)  # it exists, but belongs to another user
    return True


def disk_time(folder: Path) -> float:
    """The time of the disk that holds `folder`, in seconds since 1970; on shared storage, that of its server."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def check_temp_folder() -> None:
    """Make sure that worker processes can have sockets in the folder of temporary files.

    Raises:
        UserError: its path is too long. The workers of a `torch.utils.data.DataLoader` would hang.
    """
    folder = tempfile.gettempdir()
    if (length := len(os.fsencode(folder))) > _LONGEST_TEMP:
        said = f"{printable(folder)} has {length} bytes, too many for the sockets of worker processes"
        raise UserError(
            f"TMPDIR: {said}; set it to a folder with a path of at most {_LONGEST_TEMP} bytes, such as /tmp"
        )
