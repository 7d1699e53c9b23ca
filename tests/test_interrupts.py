"""Ctrl-C and SIGTERM (dfdc/interrupts.py)."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from helpers import ROOT, run_script

from dfdc import interrupts


def test_signals_of_a_process_to_itself():
    """In a process of its own: in one of pytest-xdist's, such a signal has ended all its tests."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "signals_to_itself.py"]
    own = {**os.environ, "PYTEST_ADDOPTS": ""}  # those of the caller may name pytest-xdist's
    done = subprocess.run(command, cwd=ROOT / "tests", env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout or "5 passed, 2 skipped" in done.stdout  # skipped: without Ray


def test_a_process_started_meanwhile_never_gets_ctrl_c_but_sigterm():
    code = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    command = [sys.executable, "-c", code]
    with interrupts.held():
        inside = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    outside = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "SIGINT" in inside
    assert "SIGTERM" not in inside
    assert "SIGINT" not in outside


def test_other_threads_hold_nothing_back():
    """Only the main thread may set handlers; a step called in another one must work."""
    failed = []

    def run():
        try:
            with interrupts.held():
                pass
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed


BEGIN = """
import os, signal, subprocess, sys, time
from dfdc.command_line import run_main
def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)
"""
STOPPED = "\nstopped; run the same command again to resume\n"


def run_code(code):
    return run_script("-c", BEGIN + code)


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_stopped_command_says_how_to_resume_and_shows_no_traceback(number, status):
    code = (
        "def main(argv):\n"
        "    try:\n"
        f"        send(signal.{number}); time.sleep(60)\n"
        "    finally: print('tidied up', flush=True)\n"
        "run_main(main)"
    )
    done = run_code(code)
    assert (done.returncode, done.stdout, done.stderr) == (status, "tidied up\n", STOPPED)


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("place", ["weakref.finalize(gone, send, {})", "type(gone).__del__ = lambda gone: send({})"])
def test_a_signal_that_python_drops_is_not_lost(number, status, place):
    code = (
        "import weakref\n"
        "class Gone: pass\n"
        "def main(argv):\n"
        "    gone = Gone()\n"
        f"    {place.format(f'signal.{number}')}\n"
        "    del gone\n"
        "    time.sleep(60)\n"
        "run_main(main)"
    )
    done = run_code(code)
    assert (done.returncode, done.stderr) == (status, STOPPED)


def test_other_dropped_errors_are_shown():
    code = "class Gone: __del__ = lambda gone: 1 / 0\nrun_main(lambda argv: str(Gone()) == '')"
    done = run_code(code)
    assert done.returncode == 0
    assert "ZeroDivisionError" in done.stderr


def test_pressing_ctrl_c_repeatedly_does_not_stop_the_tidying_up():
    code = (
        "def main(argv):\n"
        "    try: send(signal.SIGINT)\n"
        "    finally:\n"
        "        for _ in range(5): send(signal.SIGINT)\n"
        "        print('tidied up', flush=True)\n"
        "run_main(main)"
    )
    done = run_code(code)
    assert (done.returncode, done.stdout, done.stderr) == (130, "tidied up\n", STOPPED)


def test_ctrl_c_later_stops_what_hangs_while_it_tidies_up():
    code = (
        "def main(argv):\n"
        "    try: send(signal.SIGINT)\n"
        "    finally:\n"
        "        interrupts._last.at -= interrupts._PAUSE\n"
        "        send(signal.SIGINT); time.sleep(60)\n"
        "from dfdc import interrupts; run_main(main)"
    )
    done = run_code(code)
    assert (done.returncode, done.stderr) == (130, STOPPED)


@pytest.mark.parametrize("error", ["RuntimeError", "ImportError", "FileNotFoundError", "KeyboardInterrupt"])
def test_what_a_library_makes_of_a_signal_counts_as_the_signal(error):
    code = (
        "def main(argv):\n"
        "    try: send(signal.SIGTERM)\n"
        f"    except BaseException as stop: raise {error}('something broke') from stop\n"
        "run_main(main)"
    )
    done = run_code(code)
    assert (done.returncode, done.stderr) == (143, STOPPED)


def test_a_signal_while_the_error_is_told_shows_no_traceback():
    code = (
        "from dfdc.command_line import UserError\n"
        "class Bad(UserError): __str__ = lambda error: send(signal.SIGTERM)\n"
        "def main(argv): raise Bad\n"
        "run_main(main)"
    )
    done = run_code(code)
    assert (done.returncode, done.stderr) == (143, STOPPED)


def test_a_command_that_was_told_to_ignore_ctrl_c_ignores_it():
    """As a shell starts commands in the background of a script."""
    code = (
        "import atexit\n"
        "atexit.register(send, signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "run_main(lambda argv: send(signal.SIGINT) or 0)"
    )
    done = run_code(code)
    assert (done.returncode, done.stderr) == (0, "")


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
