"""Ctrl-C and SIGTERM (dfdc/interrupts.py)."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from helpers import ROOT, run_script

from dfdc import interrupts


@pytest.mark.parametrize(("number", "error"), [("SIGINT", KeyboardInterrupt), ("SIGTERM", interrupts.Terminated)])
def test_a_signal_waits_for_the_end_of_the_block(number, error):
    interrupts.raise_on_sigterm()
    done = []
    with pytest.raises(error) as raised, interrupts.held():
        os.kill(os.getpid(), signal.Signals[number])
        done.append(sum(range(100000)))
    assert done
    assert type(raised.value) is error
    with pytest.raises(error):
        os.kill(os.getpid(), signal.Signals[number])
        sum(range(100000))


def test_of_several_signals_one_comes():
    came = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    with interrupts.held():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(100000))
    assert came == [signal.SIGTERM]


def test_a_process_started_meanwhile_never_gets_ctrl_c_but_sigterm():
    code = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    command = [sys.executable, "-c", code]
    with interrupts.held():
        inside = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    outside = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "SIGINT" in inside
    assert "SIGTERM" not in inside
    assert "SIGINT" not in outside


def test_a_library_does_not_take_sigterm():
    interrupts.raise_on_sigterm()
    with interrupts.handler_kept():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with pytest.raises(interrupts.Terminated):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(100000))


def test_other_threads_hold_nothing_back():
    """Only the main thread may set handlers; a step called in another one must work."""
    failed = []

    def run():
        try:
            with interrupts.held(), interrupts.handler_kept():
                pass
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_stopped_command_says_how_to_resume_and_shows_no_traceback(number, status):
    code = (
        "import os, signal, time; from dfdc.command_line import run_main\n"
        "def main(argv):\n"
        "    try:\n"
        f"        os.kill(os.getpid(), signal.{number}); time.sleep(60)\n"
        "    finally: print('tidied up', flush=True)\n"
        "run_main(main)"
    )
    done = run_script("-c", code)
    assert (done.returncode, done.stdout) == (status, "tidied up\n")
    assert done.stderr == "\nstopped; run the same command again to resume\n"


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_during_the_exit_of_python_shows_no_traceback(number):
    code = (
        "import atexit, os, signal, time; from dfdc.command_line import run_main\n"
        f"atexit.register(lambda: (os.kill(os.getpid(), signal.{number}), time.sleep(60)))\n"
        "run_main(lambda argv: 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.Signals[number]
    assert done.stderr == ""
