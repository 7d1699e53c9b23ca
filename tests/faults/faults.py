"""The faults: what each does to a running command, and how it is undone."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.engines import Engine, HasNodes
from tests.faults.work import Work

_PAGE = 4096  # bytes; the smallest space that a file takes on a tmpfs
_JUMP = 400 * 24 * 3600  # seconds
_CLOCK = Path(__file__).parent / "clock"


@dataclass
class Run:
    """A command that a fault strikes.

    Attributes:
        mark: random text in the environment of its processes.
        rng: draws what the fault leaves open.
        at: time of the strike, in seconds after the start.
        written: size in bytes of each file that an undisturbed run writes.
        environment: further variables of the command.
        said: what the fault did, for the report of a failure.
        undo: undoes the fault before the command is run again.
        close: what remains to be undone at the end of the round.
    """

    work: Work
    place: Path
    engine: Engine
    mark: str
    rng: random.Random
    at: float
    written: list[int]
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen | None = None
    said: str = ""
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    close: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def over(self) -> bool:
        """Whether the command has ended."""
        assert self.process is not None
        return self.process.poll() is not None


def _nothing(run: Run) -> None:
    pass


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        name: for the table.
        strike: does it, at the drawn time; not called if the command has ended before.
        before_filling: prepares an empty place.
        before_start: prepares a filled place.
        obstacle: why this machine can't have it; None if it can.
        alters: whether the command may succeed with other results while the fault lasts.
        statuses: how the command may end, as a shell shows it: 128 + the number of a signal that ended it.
        engines: that can have it.
        earliest: seconds after the start. While Python itself loads, Ctrl-C shows its traceback.
    """

    name: str
    strike: Callable[[Run], None] = _nothing
    before_filling: Callable[[Run], None] = _nothing
    before_start: Callable[[Run], None] = _nothing
    obstacle: Callable[[], str | None] = lambda: None
    alters: bool = False
    earliest: float = 0.0
    statuses: tuple[int, ...] = (0, 1, 2)
    engines: tuple[str, ...] = ("local", "ray")


# ------------------------------------------------------------------------------------------------------------ signals
def _to_group(number: signal.Signals) -> Callable[[Run], None]:
    return lambda run: os.killpg(run.pid, number)


def _to_command(number: signal.Signals) -> Callable[[Run], None]:
    return lambda run: os.kill(run.pid, number)


def _press_ctrl_c_repeatedly(run: Run) -> None:
    for _ in range(6):
        with contextlib.suppress(ProcessLookupError):  # all have ended
            os.killpg(run.pid, signal.SIGINT)
        time.sleep(0.1)


def _kill_worker(run: Run) -> None:
    before: set[int] = set()
    while not run.over:
        found = run.engine.workers(run.mark, run.pid)
        if workers := [pid for pid in found if pid in before]:  # not one that is about to run another program
            with contextlib.suppress(ProcessLookupError):
                os.kill(run.rng.choice(workers), signal.SIGKILL)
                return
        before = set(found)
        time.sleep(0.03)


def _kill_raylet(run: Run) -> None:
    """The node is replaced before the command is run again, or only at the end of the round."""
    assert isinstance(run.engine, HasNodes)
    run.engine.kill_raylet(run.rng)
    at_once = run.rng.random() < 0.5
    run.said = f"replaced {'before the command is run again' if at_once else 'at the end'}"
    (run.undo if at_once else run.close).callback(run.engine.restore)


# -------------------------------------------------------------------------------------------------------------- disks
def _limit_files(run: Run) -> None:
    limit = run.rng.randint(1, max(run.written))
    run.said = f"files of at most {limit} bytes"
    for found in run.engine.processes(run.mark):
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(found.pid, resource.RLIMIT_FSIZE, (limit, limit))


def _mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True, text=True)


def _no_mount() -> str | None:
    if os.geteuid() != 0:
        return "only root may mount a small disk"
    with tempfile.TemporaryDirectory() as folder:
        try:
            _mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
        except (OSError, subprocess.CalledProcessError) as error:
            return f"a small disk can't be mounted: {getattr(error, 'stderr', '') or error}"
        subprocess.run(["umount", folder], check=True)
    return None


def _mount_disk(run: Run) -> None:
    _mount("-t", "tmpfs", "-o", "size=1g", "tmpfs", run.place)
    run.close.callback(subprocess.run, ["umount", "-l", str(run.place)], check=True)


def _fill_disk(run: Run) -> None:
    """Leave room for a drawn part of what the command writes."""
    about = os.statvfs(run.place)
    used = (about.f_blocks - about.f_bfree) * about.f_frsize
    need = sum(-(-size // _PAGE) * _PAGE for size in run.written)
    room = int(need * run.rng.uniform(0, 0.95))
    run.said = f"room for {room} of {need} bytes"
    _mount("-o", f"remount,size={used + room}", run.place)
    run.undo.callback(_mount, "-o", "remount,size=1g", run.place)


def _no_read_only() -> str | None:
    if os.geteuid() != 0:
        return None
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["chattr", "+i", folder], capture_output=True, text=True, check=False)
        subprocess.run(["chattr", "-i", folder], capture_output=True, check=False)
    return f"a folder can't be made read-only for root: {done.stderr.strip()}" if done.returncode else None


def _make_read_only(run: Run) -> None:
    folder = next(path for path in (run.place / run.work.output, run.place / "root", run.place) if path.is_dir())
    run.said = folder.relative_to(run.place).as_posix()
    if os.geteuid() == 0:  # no permission stops root, but this attribute does
        subprocess.run(["chattr", "+i", folder], check=True)
        run.undo.callback(subprocess.run, ["chattr", "-i", str(folder)], check=True)
    else:
        run.undo.callback(folder.chmod, folder.stat().st_mode)
        folder.chmod(0o555)


# ----------------------------------------------------------------------------------------------- files and their times
def _put_aside(run: Run) -> tuple[Path, Path]:
    """Rename a drawn input file; returns its path and its present one. Undone by the opposite."""
    path = run.rng.choice(sorted(run.place.glob(run.work.inputs)))
    aside = run.place.parent / f"aside-{run.mark}"
    run.said = path.relative_to(run.place).as_posix()
    path.replace(aside)
    run.undo.callback(aside.replace, path)
    return path, aside


def _put_folder(run: Run) -> None:
    path, _ = _put_aside(run)
    path.mkdir()
    run.undo.callback(path.rmdir)


def _truncate(run: Run) -> None:
    path, aside = _put_aside(run)
    path.write_bytes(aside.read_bytes()[: run.rng.randrange(aside.stat().st_size)])


def _move_clock(run: Run) -> None:
    jump = run.rng.choice((-_JUMP, _JUMP))
    run.said = f"{jump} s"
    run.environment |= {"PYTHONPATH": str(_CLOCK), "FAULT_CLOCK": f"{time.time() + run.at} {jump}"}


def _touch_inputs(run: Run) -> None:
    for path in run.place.glob(run.work.inputs):
        os.utime(path, (time.time() + _JUMP,) * 2)


def _ended_by(number: signal.Signals) -> tuple[int, ...]:
    return (128 + number,)


_FAULTS = [
    Fault("SIGKILL to the group", _to_group(signal.SIGKILL), statuses=_ended_by(signal.SIGKILL)),
    Fault("SIGKILL to the command alone", _to_command(signal.SIGKILL), statuses=_ended_by(signal.SIGKILL)),
    Fault("SIGKILL to one worker", _kill_worker, statuses=(0, 1)),
    Fault("SIGKILL to one raylet", _kill_raylet, statuses=(0,), engines=("ray",)),
    Fault("SIGTERM to the group", _to_group(signal.SIGTERM), statuses=_ended_by(signal.SIGTERM)),
    Fault("SIGTERM to the command alone", _to_command(signal.SIGTERM), statuses=_ended_by(signal.SIGTERM)),
    Fault("SIGINT to the group (Ctrl-C)", _to_group(signal.SIGINT), earliest=0.5, statuses=_ended_by(signal.SIGINT)),
    Fault("six times Ctrl-C", _press_ctrl_c_repeatedly, earliest=0.5, statuses=_ended_by(signal.SIGINT)),
    Fault("full disk", _fill_disk, before_filling=_mount_disk, obstacle=_no_mount),
    Fault("limited file size", _limit_files),
    Fault("folder becomes read-only", _make_read_only, obstacle=_no_read_only),
    Fault("input becomes a folder", _put_folder, alters=True),
    Fault("input is truncated", _truncate, alters=True),
    Fault("clock jumps by 400 days", before_start=_move_clock, statuses=(0, 1)),
    Fault("inputs' times jump by 400 days", _touch_inputs, statuses=(0, 1)),
]
FAULTS = {fault.name: fault for fault in _FAULTS}
