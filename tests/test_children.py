"""Child processes that run a module and end with their parent (dfdc/children.py)."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT, run_script

from dfdc.children import start_module
from dfdc.processes import process_start

MODULE = """
import sys, threading, time
from dfdc.children import end_with_parent
end_with_parent()
print(sys.argv[1:], flush=True)
if sys.argv[1] == "loop":
    while True:
        time.sleep(0.1) if sys.argv[2] == "sleep" else sum(range(1000))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that prints its arguments, and either ends or loops."""
    (tmp_path / "child_for_test.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "child_for_test"


def ended(number):
    """Wait until a process has ended."""
    for _ in range(600):
        if process_start(number) is None:
            return True
        time.sleep(0.05)
    return False


def test_arguments_folder_and_session_of_a_child(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dfdc").mkdir()  # of the user; must not shadow ours
    (tmp_path / "dfdc/children.py").write_text("raise ImportError('shadowed')")
    with start_module(module, ["once", 3], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert os.getsid(child.pid) == child.pid
        assert child.stdout.read() == "['once', '3']\n"
        assert child.stderr.read() == ""
    assert child.returncode == 0


@pytest.mark.parametrize("how", ["sleep", "busy"])
def test_a_child_ends_when_its_stdin_closes(module, how):
    with start_module(module, ["loop", how], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == f"['loop', '{how}']\n"
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(60) == 0


def test_a_child_ends_when_its_parent_is_killed(module):
    code = (
        "import subprocess, sys; from dfdc.children import start_module\n"
        f"child = start_module({module!r}, ['loop', 'sleep'], stdout=subprocess.PIPE, text=True)\n"
        "child.stdout.readline(); print(child.pid, flush=True); sys.stdin.read()"
    )
    paths = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env={**os.environ, "PYTHONPATH": paths}, **pipes) as parent:
        number = int(parent.stdout.readline())
        assert process_start(number) is not None
        parent.send_signal(signal.SIGKILL)
        assert parent.wait(60) == -signal.SIGKILL
        assert ended(number)
        assert parent.stderr.read() == ""


@pytest.mark.parametrize("status", [0, 3])
def test_an_exit_of_its_own_is_without_a_traceback(status):
    code = (
        "import os, sys, threading; from dfdc.children import end_with_parent\n"
        "reading, writing = os.pipe(); os.dup2(reading, 0)\n"  # as a parent that goes on
        f"end_with_parent(); print(threading.active_count()); sys.exit({status})"
    )
    done = run_script("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (status, "2\n", "")
