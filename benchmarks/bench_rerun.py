"""Seconds that each preprocessing step needs on a complete dataset, with nothing to do.

    python benchmarks/bench_rerun.py --videos 10000

Creates a DATA_ROOT of stubs in a temporary folder, which is removed at the end. It is complete for all five steps;
each step's command runs on it. Times are wall-clock and include the start of Python. If a step has anything to do, the
benchmark ends with status 1.
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
FAKES = 4  # per original


def run_step(step: str, root: Path) -> tuple[float, str]:
    """Run a step's command on `root`; returns the seconds and the standard output."""
    command = [sys.executable, str(HERE.parent / "preprocessing" / f"{step}.py"), "--root-dir", str(root)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{step} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return seconds, done.stdout


def check_complete(step: str, out: str, videos: int) -> None:
    """End the benchmark if `step` did not report all of its `videos` as complete."""
    said = " (was complete)" if step == "generate_folds" else f" {videos} videos ({videos} were complete)"
    if said not in out:
        sys.exit(f"{step} did not print '{said.strip()}', but:\n{out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--videos", type=int, default=10_000, help=f"number of videos, with {FAKES} fakes per original (default: 10000)"
    )
    parser.add_argument("--crops", type=int, default=30, help="crops per video (default: 30)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each step; the best counts (default: 3)")
    parser.add_argument("--dir", type=Path, help="create the temporary folder here (default: the system's)")
    args = parser.parse_args()
    originals = max(1, args.videos // (1 + FAKES) // 10)  # per part; there are ten
    reals, fakes = 10 * originals, 10 * originals * FAKES
    with tempfile.TemporaryDirectory(prefix="bench_rerun_", dir=args.dir) as temp:
        root = Path(temp)
        started = time.perf_counter()
        for number in range(10):
            make_part(root, number, originals, FAKES, args.crops, all_steps=True)
        made = time.perf_counter() - started
        print(f"created {reals} originals, {fakes} fakes, {args.crops} crops each in {made:.0f} s", file=sys.stderr)
        run_step("generate_folds", root)  # the stubs lack only the output of this step
        videos = dict.fromkeys(STEPS, reals) | {"extract_crops": reals + fakes, "generate_diffs": fakes}
        seconds = {}
        for step in STEPS:
            times = []
            for _ in range(args.repeats):
                taken, out = run_step(step, root)
                check_complete(step, out, videos[step])
                times.append(taken)
            seconds[step] = min(times)
    print("| complete step | seconds |\n|---|---|")
    for step, value in [*seconds.items(), ("all five", sum(seconds.values()))]:
        print(f"| {step} | {value:.1f} |")


if __name__ == "__main__":
    main()
