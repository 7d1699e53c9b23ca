"""One round: a command is struck by a fault, and run again; what must hold afterwards."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.engines import MARK, Engine, end_orphans
from tests.faults.faults import Fault, Run
from tests.faults.work import Work, results
from tests.helpers import ROOT

_PATIENCE = 15.0  # seconds for processes to end by themselves
_LIMIT = 300.0  # seconds of a command


@dataclass(frozen=True)
class Undisturbed:
    """An undisturbed run of a command: its seconds, what it leaves, and the sizes in bytes of what it writes."""

    seconds: float
    results: dict[str, str]
    written: list[int]


@dataclass
class Outcome:
    """What a round found.

    Attributes:
        struck: whether the command still ran at the time of the strike.
        faults: what does not hold, a sentence each.
        told: what the commands printed.
    """

    struck: bool = True
    wrong: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


def temporary(mark: str) -> Path:
    """Folder of the temporary files of a round. Its path is short, because those of sockets have 107 bytes at most."""
    return Path(tempfile.gettempdir()) / f"f-{mark}"


def start(work: Work, place: Path, engine: Engine, mark: str, environment: dict[str, str]) -> subprocess.Popen:
    """Start the command as the leader of a process group."""
    (temp := temporary(mark)).mkdir(exist_ok=True)
    paths = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(ROOT)]))
    own = {"OMP_NUM_THREADS": "1", "TMPDIR": str(temp), MARK: mark}
    return subprocess.Popen(
        work.command_on(engine, place),
        cwd=ROOT,
        env={**os.environ, **own, **environment, "PYTHONPATH": paths},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def run_undisturbed(work: Work, place: Path, engine: Engine) -> Undisturbed:
    """Run a command in a new place, which is removed.

    Raises:
        RuntimeError: it failed.
    """
    work.prepare(place)
    before = set(results(place))
    began = time.monotonic()
    mark = secrets.token_hex(8)
    process = start(work, place, engine, mark, {})
    said, _ = process.communicate(timeout=_LIMIT)
    seconds = time.monotonic() - began
    shutil.rmtree(temporary(mark))
    if process.returncode != 0:
        raise RuntimeError(f"{work.name}, undisturbed, ends with status {process.returncode}:\n{said}")
    found = results(place)
    written = [(place / name).stat().st_size for name in found.keys() - before if (place / name).is_file()]
    shutil.rmtree(place)
    return Undisturbed(seconds, found, written)


def run_round(
    work: Work, fault: Fault, expected: Undisturbed, place: Path, engine: Engine, rng: random.Random
) -> Outcome:
    """Strike the command at a drawn time, run it again, and compare; the place is removed."""
    mark = secrets.token_hex(8)
    run = Run(work, place, engine, mark, rng, rng.uniform(fault.earliest, expected.seconds), expected.written)
    outcome = Outcome()
    place.mkdir(parents=True)
    with run.close, run.undo:
        run.close.callback(end_orphans, engine, mark, 0)  # if this round is stopped
        fault.before_filling(run)
        work.prepare(place)
        fault.before_start(run)
        run.process = start(work, place, engine, mark, run.environment)
        time.sleep(run.at)
        outcome.struck = not run.over
        if outcome.struck:
            fault.strike(run)
        _check_end(run, outcome, expected, fault)
        run.undo.close()
        _run_again(run, outcome, expected)
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(temporary(mark), ignore_errors=True)
    outcome.told.insert(0, f"{work.name}, {fault.name} at {run.at:.2f} s of {expected.seconds:.2f} s: {run.said}")
    return outcome


def _check_end(run: Run, outcome: Outcome, expected: Undisturbed, fault: Fault) -> None:
    """The end of the command: in time, as the fault says, no traceback, no orphan, and 0 only if all is done."""
    assert run.process is not None
    status = _wait(run.process, run, outcome, "the struck command")
    allowed = {*fault.statuses, *([0] if run.work.finishes else [])} if outcome.struck else {0}
    if status not in allowed:
        outcome.wrong.append(f"the struck command ended with status {status}, not {' or '.join(map(str, allowed))}")
    if status == 0 and not (fault.alters and outcome.struck):
        outcome.wrong += _differences(results(run.place), expected.results, "although the struck command returned 0")


def _run_again(run: Run, outcome: Outcome, expected: Undisturbed) -> None:
    """The same command completes the results, and removes what the other one left."""
    process = start(run.work, run.place, run.engine, run.mark, {})
    status = _wait(process, run, outcome, "the second command")
    if status != 0:
        outcome.wrong.append(f"the second command ended with status {status}")
    outcome.wrong += _differences(results(run.place), expected.results, "after the second command")


def _wait(process: subprocess.Popen, run: Run, outcome: Outcome, who: str) -> int:
    """The exit status of a command, as a shell shows it; what it says and leaves running goes to `outcome`."""
    try:
        process.wait(_LIMIT)
    except subprocess.TimeoutExpired:
        outcome.wrong.append(f"{who} did not end in {_LIMIT:.0f} s")
    orphans = end_orphans(run.engine, run.mark, _PATIENCE)
    said, _ = process.communicate()  # now, because an orphan may hold the pipe open
    status = process.returncode if process.returncode >= 0 else 128 - process.returncode
    outcome.told.append(f"--- {who} (status {status}):\n{said}")
    outcome.wrong += [f"{who} left a process: {command[:200]}" for command in orphans]
    if "Traceback (most recent call last)" in said:
        outcome.wrong.append(f"{who} shows a traceback")
    return status


def _differences(found: dict[str, str], expected: dict[str, str], when: str) -> Sequence[str]:
    """What is missing, left behind or different."""
    kinds = {
        "is missing": expected.keys() - found.keys(),
        "is left behind": found.keys() - expected.keys(),
        "differs": {name for name in found.keys() & expected.keys() if found[name] != expected[name]},
    }
    return [
        f"{min(names)}{f' and {len(names) - 1} more' if len(names) > 1 else ''} {what} {when}"
        for what, names in kinds.items()
        if names
    ]
