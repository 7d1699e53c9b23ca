"""Rounds of faults by hand: python -m tests.faults --rounds N --seed S [--step NAME] [--fault NAME]."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.engines import ENGINES, Engine
from tests.faults.faults import FAULTS
from tests.faults.rounds import run_round, run_undisturbed
from tests.faults.work import Work, list_work, make_base

STEPS = ("detect_original_faces", "extract_crops", "generate_landmarks", "generate_diffs", "generate_folds")
STEPS += ("train", "score")


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
    faults = [FAULTS[name] for name in args.fault or FAULTS]
    for fault in faults:
        if reason := fault.obstacle():
            print(f"skipped: {fault.name}: {reason}")
    pairs = [(step, fault) for step in args.step or STEPS for fault in faults if not fault.obstacle()]
    random.Random(args.seed).shuffle(pairs)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, ENGINES[args.engine]() as engine:
        failures = _run(
            Path(folder), pairs, range(args.first, args.first + args.rounds), args.seed, engine, args.data_root
        )
    return 1 if failures else 0


def _run(folder: Path, pairs: list, numbers: range, seed: int, engine: Engine, data: Path | None) -> int:
    """Run the rounds, print the failures and the table; return the number of failed rounds."""
    work = list_work(data or make_base(folder / "base"))
    undisturbed = {}
    rounds, missed, failed = Counter(), Counter(), Counter()
    began = time.monotonic()
    try:
        for number in numbers:
            step, fault = pairs[number % len(pairs)]
            if step not in undisturbed:
                undisturbed[step] = run_undisturbed(work[step], folder / "undisturbed", engine)
                print(f"{step} takes {undisturbed[step].seconds:.1f} s undisturbed", flush=True)
            rng = random.Random(f"{seed} {number}")
            found = run_round(work[step], fault, undisturbed[step], folder / f"round-{number}", engine, rng)
            rounds[fault.name, step] += 1
            missed[fault.name, step] += not found.struck
            late = "" if found.struck else " (after the end)"
            print(f"round {number}: {step}, {fault.name}{late}: {'; '.join(found.wrong) or 'well'}", flush=True)
            if found.wrong:
                failed[fault.name, step] += 1
                print("\n".join(found.told), flush=True)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    _print_table(work, rounds, missed, failed)
    print(f"{rounds.total()} rounds in {time.monotonic() - began:.0f} s, {failed.total()} failed")
    return failed.total()


def _print_table(work: dict[str, Work], rounds: Counter, missed: Counter, failed: Counter) -> None:
    print("\n| fault | step | rounds | of which after the end | failures |\n|---|---|---|---|---|")
    for fault in FAULTS:
        for step in work:
            if number := rounds[fault, step]:
                print(f"| {fault} | {step} | {number} | {missed[fault, step]} | {failed[fault, step]} |")


if __name__ == "__main__":
    sys.exit(main())
