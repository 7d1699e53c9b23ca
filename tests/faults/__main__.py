"""Rounds of faults by hand: python -m tests.faults --rounds N --seed S [--engine ray] [--step NAME] [--fault NAME]."""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.faults.engines import ENGINES, Engine, Local
from tests.faults.faults import FAULTS, Fault
from tests.faults.rounds import Undisturbed, run_round, run_undisturbed
from tests.faults.work import OUTPUTS, Work, list_work, make_base

STEPS = (*OUTPUTS, "train", "score")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=20, metavar="N", help="number of rounds (default: 20)")
    add("--seed", type=int, default=0, metavar="S", help="decides the rounds (default: 0)")
    add("--first", type=int, default=0, metavar="N", help="begin with this round of the seed (default: 0)")
    add("--step", choices=STEPS, action="append", help="only this command; repeatable (default: all)")
    add("--fault", choices=FAULTS, action="append", help="only this fault; repeatable (default: all)")
    add("--data-root", type=Path, metavar="DIR", help="preprocessed demo dataset to copy (default: makes one)")
    add("--engine", choices=ENGINES, default="local", help="engine of the commands that distribute (default: local)")
    args = parser.parse_args()
    faults = [fault for fault in (FAULTS[name] for name in args.fault or FAULTS) if args.engine in fault.engines]
    for fault in faults.copy():
        if reason := fault.obstacle():
            print(f"skipped: {fault.name}: {reason}")
            faults.remove(fault)
    numbers = range(args.first, args.first + args.rounds)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, ENGINES[args.engine]() as engine:
        work = list_work(args.data_root or make_base(Path(folder) / "base"))
        steps = [work[name] for name in args.step or STEPS if engine.name == "local" or work[name].distributes]
        pairs = list(itertools.product(steps, faults))
        random.Random(args.seed).shuffle(pairs)
        failures = _run(Path(folder), [pairs[number % len(pairs)] for number in numbers], args.seed, numbers, engine)
    return 1 if failures else 0


def _run(folder: Path, pairs: Sequence[tuple[Work, Fault]], seed: int, numbers: Sequence[int], engine: Engine) -> int:
    """Run the rounds, print the failures and the table; return the number of failed rounds."""
    undisturbed: dict[str, Undisturbed] = {}
    rounds, missed, failed = Counter(), Counter(), Counter()
    began = time.monotonic()
    try:
        for number, (work, fault) in zip(numbers, pairs, strict=True):
            if work.name not in undisturbed:
                undisturbed[work.name] = found = _expected(work, folder, engine)
                print(f"{work.name} takes {found.seconds:.1f} s undisturbed", flush=True)
            rng = random.Random(f"{seed} {number}")
            outcome = run_round(work, fault, undisturbed[work.name], folder / f"round-{number}", engine, rng)
            key = fault.name, work.name
            rounds[key] += 1
            missed[key] += not outcome.struck
            late = "" if outcome.struck else " (after the end)"
            print(f"round {number}: {work.name}, {fault.name}{late}: {'; '.join(outcome.wrong) or 'well'}", flush=True)
            if outcome.wrong:
                failed[key] += 1
                print("\n".join(outcome.told), flush=True)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    _print_table(rounds, missed, failed)
    print(f"{rounds.total()} rounds in {time.monotonic() - began:.0f} s, {failed.total()} failed")
    return failed.total()


def _expected(work: Work, folder: Path, engine: Engine) -> Undisturbed:
    """What the command leaves on one machine, and how long it takes on this engine."""
    found = run_undisturbed(work, folder / "undisturbed", engine)
    if engine.name == "local":
        return found
    return replace(run_undisturbed(work, folder / "undisturbed", Local()), seconds=found.seconds)


def _print_table(rounds: Counter, missed: Counter, failed: Counter) -> None:
    print("\n| fault | step | rounds | of which after the end | failures |\n|---|---|---|---|---|")
    for fault in FAULTS:
        for step in STEPS:
            if number := rounds[fault, step]:
                print(f"| {fault} | {step} | {number} | {missed[fault, step]} | {failed[fault, step]} |")


if __name__ == "__main__":
    sys.exit(main())
