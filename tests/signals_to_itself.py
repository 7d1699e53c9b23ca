"""Tests in which a process sends signals to itself (dfdc/interrupts.py). tests/test_interrupts.py runs them."""

import signal
import sys

import pytest

from dfdc import interrupts


@pytest.mark.parametrize(("number", "error"), [("SIGINT", KeyboardInterrupt), ("SIGTERM", interrupts.Terminated)])
def test_a_signal_waits_for_the_end_of_the_block(number, error):
    interrupts.raise_on_signals()
    done = []
    with pytest.raises(error) as raised, interrupts.held():
        signal.raise_signal(signal.Signals[number])
        done.append(sum(range(100000)))
    assert done
    assert type(raised.value) is error
    interrupts.raise_on_signals()  # so that the next signal is the first
    with pytest.raises(error):
        signal.raise_signal(signal.Signals[number])
        sum(range(100000))


def test_of_several_signals_one_comes():
    came = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    with interrupts.held():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        sum(range(100000))
    assert came == [signal.SIGTERM]


@pytest.mark.parametrize("border", ["begin", "end"])
def test_a_signal_at_the_border_of_the_block_leaves_no_handler_of_the_block(monkeypatch, border):
    """When one handler of two has been set, or put back. With one of the block, Ctrl-C or SIGTERM would do nothing."""
    interrupts.raise_on_signals()
    both = signal.SIGINT, signal.SIGTERM
    before, calls, set_one = [signal.getsignal(number) for number in both], [], signal.signal

    def set_and_stop(number, handler):
        old = set_one(number, handler)
        calls.append(number)
        if len(calls) == {"begin": 1, "end": 3}[border]:
            (other,) = {*both} - {number}
            signal.raise_signal(number if border == "end" else other)
            sum(range(1000))
        return old

    monkeypatch.setattr(signal, "signal", set_and_stop)
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        assert border == "end"
    assert [signal.getsignal(number) for number in both] == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize(("number", "error"), [("SIGINT", KeyboardInterrupt), ("SIGTERM", interrupts.Terminated)])
def test_a_signal_waits_until_ray_is_connected(monkeypatch, number, error):
    """Ray 2.60 may wait for ever after Ctrl-C, and ends with status 15 after SIGTERM."""
    pytest.importorskip("ray", reason="Ray is not installed: requirements-cluster.txt has it")
    from dfdc import ray_connection

    done = []

    def init(*address, **options):
        ray_connection.utils.set_sigterm_handler(lambda number, frame: sys.exit(number))
        signal.raise_signal(signal.Signals[number])
        done.append(sum(range(100000)))

    monkeypatch.setattr(ray_connection.ray, "init", init)
    monkeypatch.setattr(ray_connection.ray, "nodes", lambda: done.append("asked"))
    monkeypatch.setattr(ray_connection.ray, "shutdown", lambda: done.append("shut down"))
    interrupts.raise_on_signals()
    with pytest.raises(KeyboardInterrupt) as raised, ray_connection.connected("local"):
        raise AssertionError("it was stopped")
    assert type(raised.value) is error
    assert done == [sum(range(100000)), "asked", "shut down"]
