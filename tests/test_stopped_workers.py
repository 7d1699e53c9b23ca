"""Workers whose command is stopped or killed (dfdc/workers.py): all of them end, and none shows a traceback."""

import os
import secrets
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT

from tests.faults.engines import MARK, Local, end_orphans, processes

pytestmark = pytest.mark.slow

COMMAND = """
import sys
from pathlib import Path
from behaving import Behaving, run
from dfdc.command_line import run_main
Behaving.preload = ("behaving", "slow_to_load")
def main(argv):
    return run(Path(sys.argv[1]), ["hangs-1", "hangs-2"])[0]
if __name__ == "__main__":
    run_main(main)
"""


@pytest.fixture
def command(tmp_path):
    """A command whose two workers hang, after a server that takes a second to load; with its mark."""
    (tmp_path / "command.py").write_text(COMMAND)
    (tmp_path / "slow_to_load.py").write_text("import time; time.sleep(1)")
    mark = secrets.token_hex(8)
    paths = os.pathsep.join(map(str, (tmp_path, ROOT / "tests", ROOT)))
    process = subprocess.Popen(
        [sys.executable, tmp_path / "command.py", tmp_path],
        env={**os.environ, "PYTHONPATH": paths, MARK: mark},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process, mark
    end_orphans(Local(), mark, 0)
    process.wait()


def wait_for(happened):
    deadline = time.monotonic() + 60
    while not (found := happened()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["server starts", "workers start", "workers work"])
def test_a_stop_at_any_moment_ends_all_processes_without_a_traceback(command, number, status, moment):
    process, mark = command
    if moment == "server starts":
        wait_for(lambda: any("forkserver" in found.command for found in processes(mark)))
        time.sleep(0.3)
    else:
        wait_for(lambda: len(Local().workers(mark, process.pid)) >= (1 if moment == "workers start" else 2))
        time.sleep(0.5 if moment == "workers work" else 0)
    os.killpg(process.pid, number)
    assert process.wait(60) == status
    assert not end_orphans(Local(), mark, 20)
    assert process.stderr.read() == "\nstopped; run the same command again to resume\n"


def test_workers_end_when_the_command_is_killed(command):
    process, mark = command
    wait_for(lambda: len(Local().workers(mark, process.pid)) == 2)
    time.sleep(0.5)
    process.kill()
    process.wait()
    assert not end_orphans(Local(), mark, 20)
    assert "Traceback" not in process.stderr.read()
