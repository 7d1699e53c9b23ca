"""Overhead of the engines for each video, and the memory of the driver.

    python benchmarks/bench_cluster.py --videos 20000

Each engine runs a task that does nothing, on two workers, over a quarter of the videos and over all of them; each run
in a new process. The overhead is the wall-clock time from the first to the last outcome, divided by the videos between
them. Memory is the peak of the driver's resident set. A straight line through both runs gives the figure for the full
dataset.

Ray runs on a cluster that the benchmark starts: a head without cores, and two nodes with one core each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from dfdc.artifacts import Stamp
from dfdc.layout import Video
from dfdc.workers import Engine, LocalWorkers, require_ray

FULL = 119_000  # videos of the full dataset
_SETTINGS = {"version": 1, "margin_part": 3, "matching": {"apart": 2}, "looks": ["phash", 8]}


class Stub:
    """A `dfdc.workers.Task` that does nothing, with an outcome like that of step 2."""

    preload = ("bench_cluster",)

    def size(self, video: Video) -> int:
        return 0

    def start(self, device: str) -> None:
        pass

    def work(self, video: Video) -> Stamp:
        source = {"size": 4_000_000, "mtime_ns": 1, "xxh3": "0" * 32}
        return Stamp({"settings": _SETTINGS, "boxes": "0" * 32, "source": source}, {"crops": 34}, content="0" * 32)


def measure(engine: Engine, count: int) -> tuple[float, float, float]:
    """Seconds for each video, processor seconds of this process for each, and its peak memory in MiB."""
    names = (f"video_{number:06}" for number in range(count))
    videos = [Video(name, Path("/data/dfdc_train_part_0") / f"{name}.mp4", "part", "REAL", None) for name in names]
    outcomes = iter(engine(Stub(), videos))
    next(outcomes)
    started, used = time.perf_counter(), time.process_time()
    assert all(isinstance(outcome, Stamp) for _, outcome in outcomes)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    return seconds / (count - 1), used / (count - 1), _peak()


def _peak() -> float:
    """Peak resident set of this process in MiB. Not ru_maxrss, which begins with that of the parent."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def run_one(name: str, count: int, address: str | None) -> None:
    """Measure one engine in this process, and print the result as JSON."""
    if name == "ray":
        from dfdc.ray_workers import RayWorkers  # here, because Ray is optional

        engine: Engine = RayWorkers(address, workers=2)
    else:
        engine = LocalWorkers(2)
    print(json.dumps(measure(engine, count)))


def run_all(engines: Iterable[str], counts: tuple[int, int], address: str | None) -> None:
    """Measure each engine, and print the table."""
    print(f"| engine | videos | ms a video | driver's processor ms | driver's peak, MiB | for {FULL:,} videos |")
    print("|---|---|---|---|---|---|")
    for name in engines:
        found = []
        for count in counts:
            command = [sys.executable, __file__, "--one", name, "--videos", str(count)]
            command += ["--address", address] if address else []
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{name} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
            found.append(json.loads(done.stdout.splitlines()[-1]))
        less, more = (memory for *_, memory in found)
        full = more + (more - less) / (counts[1] - counts[0]) * (FULL - counts[1])
        for count, (wall, used, peak), said in zip(counts, found, ("", f"{full:.0f}"), strict=True):
            print(f"| {name} | {count:,} | {1000 * wall:.2f} | {1000 * used:.2f} | {peak:.0f} | {said} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=20_000, help="number of videos (default: 20000)")
    parser.add_argument("--engines", nargs="+", choices=("local", "ray"), default=["local", "ray"], help="which")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.one, args.videos, args.address)
        return
    counts = (max(2, args.videos // 4), args.videos)
    if "ray" not in args.engines:
        run_all(args.engines, counts, None)
        return
    require_ray()
    from ray.cluster_utils import Cluster  # here, because Ray is optional

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        run_all(args.engines, counts, cluster.address)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
