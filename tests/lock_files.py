"""Lock files of other processes, for the tests of dfdc/locks.py."""

import os
import time
from dataclasses import replace

from dfdc import locks
from dfdc.command_line import UserError
from dfdc.locks import Owner
from dfdc.processes import Process


def refusal(owner):
    return UserError(f"held by {owner}")


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def write_lock(path, owner):
    path.write_bytes(locks._OWNERS.dump_json(owner))
    return path


def make_old(path, seconds=locks.ABANDONED + 1):
    then = time.time() - seconds
    os.utime(path, (then, then))


def far_owner():
    """A process on another host."""
    return replace(Owner.own(), process=Process("0" * 8, 5, 5), machine="node-b", command="the far run")


class Clock:
    """Stands in for the module `time`: a pause ends at once. `events` are called when their second has come."""

    strftime = staticmethod(time.strftime)

    def __init__(self):
        self.now, self.events = 1000.0, {}

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        for at in [at for at in self.events if self.waited >= at]:
            self.events.pop(at)()

    @property
    def waited(self):
        return self.now - 1000.0
