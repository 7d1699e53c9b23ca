"""Seconds that each preprocessing step takes to find that there is nothing to do.

    python benchmarks/bench_rerun.py --videos 10000

Makes a DATA_ROOT of stand-ins in a temporary folder (removed at the end), complete for all five steps, and runs
each step's command on it. Times are wall-clock and include Python's start. A step that finds anything to do ends
the benchmark with status 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stub_root import make_part

HERE = Path(__file__).resolve().parent

STEPS = ("detect_original_faces", "extract_crops", "generate_landmarks", "generate_diffs", "generate_folds")
FAKES = 4  # of each original


def run_step(step: str, root: Path) -> tuple[float, str]:
    """(seconds, standard output) of a step's command on `root`."""
    command = [sys.executable, str(HERE.parent / "preprocessing" / f"{step}.py"), "--root-dir", str(root)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{step} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds, done.stdout


def check_complete(step: str, out: str, videos: int) -> None:
    """End the benchmark if `step` did not find all of its `videos` complete."""
    said = " (was complete)" if step == "generate_folds" else f" {videos} videos ({videos} were complete)"
    if said not in out:
        sys.exit(f"{step} did not say '{said.strip()}', but:\n{out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=10_000, help=f"originals and {FAKES} fakes of each (10000)")
    parser.add_argument("--crops", type=int, default=30, help="of each video (30)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each step, of which the best counts (3)")
    parser.add_argument("--dir", type=Path, help="where the temporary folder is made (the system's place)")
    args = parser.parse_args()
    originals = max(1, args.videos // (1 + FAKES) // 10)  # in each of ten parts
    reals, fakes = 10 * originals, 10 * originals * FAKES
    with tempfile.TemporaryDirectory(prefix="bench_rerun_", dir=args.dir) as temp:
        root = Path(temp)
        started = time.perf_counter()
        for number in range(10):
            make_part(root, number, originals, FAKES, args.crops, all_steps=True)
        made = time.perf_counter() - started
        print(f"made {reals} originals, {fakes} fakes, {args.crops} crops each in {made:.0f} s", file=sys.stderr)
        run_step("generate_folds", root)  # its output is the only one that the stubs lack
        videos = dict.fromkeys(STEPS, reals) | {"extract_crops": reals + fakes, "generate_diffs": fakes}
        seconds = {}
        for step in STEPS:
            times = []
            for _ in range(args.repeats):
                taken, out = run_step(step, root)
                check_complete(step, out, videos[step])
                times.append(taken)
            seconds[step] = min(times)
    print("| step, all of it complete | seconds |\n|---|---|")
    for step, value in [*seconds.items(), ("all five", sum(seconds.values()))]:
        print(f"| {step} | {value:.1f} |")


if __name__ == "__main__":
    main()
