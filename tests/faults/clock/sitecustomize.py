"""Imported by Python at its start in a command whose clock jumps: FAULT_CLOCK is "when by how much", in seconds."""

import os
import time

_when, _jump = map(float, os.environ["FAULT_CLOCK"].split())
_time, _time_ns = time.time, time.time_ns


def _now() -> float:
    now = _time()
    return now + _jump if now >= _when else now


def _now_ns() -> int:
    now = _time_ns()
    return now + int(_jump * 1e9) if now >= _when * 1e9 else now


time.time, time.time_ns = _now, _now_ns
