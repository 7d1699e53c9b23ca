"""Run by torchrun in test_distributed.py.

steps OUT                  each rank trains on its own, unequal share of fixed crops: one step, and three of which
                           the last rank alone has an infinite loss in the second; all ranks save what came of it
die-once MARKER ...        as train_classifier.py, but rank 1 is killed at step 7, the first time
differ ...                 as train_classifier.py, but rank 1 gets other flags and finds no _last
stop-at STEP ...           as train_classifier.py, but rank 1 gets a SIGTERM as it begins STEP, and rank 0 saves slowly
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import tiny_runs
import torch

from dfdc import command_line
from networks.model import build_network
from training import distributed, engine, losses, saving, train_classifier, wrapping

LABELS = (1.0, 1, 1, 1, 1, 0, 0, 0)  # the first rank has fakes only


def make_run(ranks: distributed.Ranks, steps: int = 1, **optimizer: float) -> tuple[engine.Run, dict]:
    """A run of `steps` steps, and this rank's share of the crops."""
    network = partial(build_network, "DeepFakeClassifier", "test_convnext")
    run = tiny_runs.make_run(steps, optimizer=optimizer, network=network, ranks=ranks)
    share = slice(ranks.rank * len(LABELS) // ranks.world_size, (ranks.rank + 1) * len(LABELS) // ranks.world_size)
    return run, {name: values[share] for name, values in tiny_runs.make_batch(1, LABELS, size=32).items()}


def steps(out: Path) -> None:
    """One step, whose change of the weights is the gradient; and three, of which one overflows on one rank."""
    ranks = distributed.start("cpu")
    run, batch = make_run(ranks)
    engine.train_epoch(run, wrapping.wrap(run, frozen=False)[0], [batch], 0)
    found = {"gradients": run.model.state_dict()}

    run, batch = make_run(ranks, steps=3, learning_rate=0.1)
    original, calls = losses.CRITERIA["bce"], []

    def criterion(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(1)  # the gradient stays finite
        overflows = len(calls) == 2 and ranks.rank == ranks.world_size - 1
        return original(logits, targets) + (float("inf") if overflows else 0.0)

    losses.CRITERIA["bce"] = criterion
    result = engine.train_epoch(run, wrapping.wrap(run, frozen=False)[0], [batch] * 3, 0)
    found["overflow"] = {"weights": run.model.state_dict(), "result": result.to_dict()}
    torch.save(found, out.with_name(f"{out.name}{ranks.rank}"))
    distributed.barrier()
    distributed.stop()


def at_step(number: int, act: object) -> None:
    """Call `act` as rank 1 begins global step `number`."""
    original = engine.seed_step

    def seed_step(seed: int, step: int, rank: int) -> None:
        if step == number and rank == 1:
            act()
        original(seed, step, rank)

    engine.seed_step = seed_step


def die_once(marker: Path, arguments: list[str]) -> int:
    """Train; rank 1 kills itself at step 7 unless `marker` says it did so already."""

    def die() -> None:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    at_step(7, die)
    return train_classifier.main(arguments)


def differ(arguments: list[str]) -> int:
    """Train; rank 1 has other flags, and is on a machine whose weights/ is another folder."""
    if os.environ["RANK"] == "1":
        given = dict(itertools.pairwise(arguments))
        arguments = [*arguments, "--seed", "6", "--output-dir", f"{given['--output-dir']}2", "--max-failed", "0.5"]
        arguments += ["--test-every", "2", "--validate-on", f"x={given['--data-dir']}"]
    return train_classifier.main(arguments)


def stop_at(step: int, arguments: list[str]) -> int:
    """Train; rank 1 is told to stop, and rank 0 takes its time to save."""
    at_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    original = saving.Saver.last

    def slow(*args: object) -> None:
        time.sleep(1.0)
        original(*args)

    saving.Saver.last = slow
    status = train_classifier.main(arguments)
    print(f"rank {os.environ['RANK']} leaves at {time.time():.2f} with {status}", flush=True)
    return 0  # torchrun would end the others at once otherwise


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "steps":
        steps(Path(rest[0]))
    elif what == "differ":
        sys.exit(command_line.run_main(lambda _: differ(rest)))
    elif what == "stop-at":
        sys.exit(stop_at(int(rest[0]), rest[1:]))
    else:
        sys.exit(die_once(Path(rest[0]), rest[1:]))
