"""Seconds and memory of generate_folds.py on a full-size dataset, by phase, and how both grow.

    python benchmarks/bench_folds.py --crops 4000000

Creates a DATA_ROOT of stubs in a temporary folder, which is removed at the end. It has 50 parts of originals with
5 fakes each, 34 crops per video as tiny files, and the stamps of step 2. generate_folds.py runs on a quarter of the
parts, on half and on all of them, each in a separate process. The last run repeats on finished work.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent

PARTS, FAKES, CROPS = 50, 5, 34
PHASES = {  # function of folds_step.py or dfdc.layout -> row of the table
    "load_dataset": "read metadata",
    "list_crops": "list crops",
    "assign_folds": "assign folds",
    "listed_digest": "digest",
    "write_folds": "write",
    "find_leaks": "look for leaks",
    "print_table": "print the table",
}


def measure(root: Path) -> None:
    """Run generate_folds.py on `root` in this process; print JSON with the seconds by phase and peak memory in GB."""
    started = time.perf_counter()
    from dfdc import layout  # imported here, because the import time is measured
    from preprocessing import folds_step, generate_folds

    seconds: defaultdict[str, float] = defaultdict(float, start=time.perf_counter() - started)

    def timed(function: Callable, name: str) -> Callable:
        def run(*arguments: object, **options: object) -> object:
            begun = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds[name] += time.perf_counter() - begun

        return run

    for function, name in PHASES.items():
        home = layout if function == "load_dataset" else folds_step
        setattr(home, function, timed(getattr(home, function), name))
    status = generate_folds.main(["--root-dir", str(root)])
    seconds["whole"] = time.perf_counter() - started
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"status": status, "seconds": seconds, "peak_gb": kilobytes * 1024 / 1e9}))


def run_measured(root: Path) -> dict:
    """The JSON that `measure` prints in a separate process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"generate_folds.py failed:\n{done.stdout}{done.stderr}")
    result = json.loads(done.stdout.splitlines()[-1])
    if result["status"]:
        sys.exit(f"generate_folds.py ended with status {result['status']}:\n{done.stdout}{done.stderr}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=4_000_000, help="approximate number of crops (default: 4000000)")
    parser.add_argument("--dir", type=Path, help="create the temporary folder here (default: the system's)")
    parser.add_argument("--measure", type=Path, metavar="DATA_ROOT", help="only measure this dataset, and print JSON")
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return

    from stub_root import make_part  # imported here, because `measure` times the import of its modules

    originals = max(1, round(args.crops / (CROPS * (1 + FAKES) * PARTS)))  # per part
    results: list[tuple[str, dict]] = []
    with tempfile.TemporaryDirectory(prefix="bench_folds_", dir=args.dir) as temp:
        root, crops, started = Path(temp), 0, time.perf_counter()
        for number in range(PARTS):
            crops += make_part(root, number, originals, FAKES, CROPS, all_steps=False)
            if number + 1 in (PARTS // 4, PARTS // 2, PARTS):
                print(f"{crops} crops after {time.perf_counter() - started:.0f} s", file=sys.stderr)
                results.append((f"{crops}", run_measured(root)))
        results.append((f"{crops}, again", run_measured(root)))
    print("| crops | " + " | ".join(name for name, _ in results) + " |\n|" + "---|" * (1 + len(results)))
    for phase in ["start", *PHASES.values(), "whole"]:
        print(f"| {phase}, s | " + " | ".join(f"{result['seconds'].get(phase, 0):.1f}" for _, result in results) + " |")
    print("| peak RSS, GB | " + " | ".join(f"{result['peak_gb']:.2f}" for _, result in results) + " |")


if __name__ == "__main__":
    main()
