"""Shared by the benchmarks: best time of several turns, and memory of processes."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dfdc.devices import keep_freed_memory, limit_threads
from dfdc.layout import list_videos

ROOT = Path(__file__).resolve().parents[1]

DEMO = ROOT / "demo"


def one_thread() -> None:
    """Compute like a preprocessing worker: on one core, without returning freed memory to the system."""
    import torch  # imported here, because importers of this module are measured

    keep_freed_memory()
    limit_threads(1)
    torch.set_grad_enabled(False)


def add_videos(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the input videos: files, or folders of them."""
    text = "video files, or folders of them (default: demo/, which ./quickstart.sh creates)"
    parser.add_argument("videos", type=Path, nargs="*", default=[DEMO], help=text)


def find_videos(given: Sequence[Path]) -> list[Path]:
    """The given video files, and those inside the given folders; ends the program if there are none."""
    found = [video for path in given for video in (list_videos(path, recursive=True) if path.is_dir() else [path])]
    if not found or not all(path.is_file() for path in found):
        sys.exit(f"no videos at {' '.join(map(str, given))}; ./quickstart.sh creates demo/")
    return found


def repeat_video(source: Path, target: Path, *, times: int = 0, minutes: float = 0) -> None:
    """Write `source` repeated `times` times, or up to a length of `minutes`, without decoding it."""
    import av  # imported here, because importers of this module are measured

    with av.open(str(source)) as first, av.open(str(target), "w") as writer:
        stream = first.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        length = round(stream.frames / stream.average_rate / stream.time_base)
        for turn in range(times or math.ceil(minutes * 60 / (length * stream.time_base))):
            with av.open(str(source)) as container:
                for packet in container.demux(video=0):
                    if packet.dts is None:
                        continue
                    packet.pts += turn * length
                    packet.dts += turn * length
                    packet.stream = copy
                    writer.mux(packet)


def seconds(work: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def best_in_turn(forms: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """The best time of each form over `turns`; the forms alternate, so that changes of the machine affect all alike."""
    best = dict.fromkeys(forms, float("inf"))
    for _ in range(turns):
        for name, work in forms.items():
            best[name] = min(best[name], seconds(work))
    return best


def run_measured(command: Sequence[object]) -> tuple[float, float, str]:
    """Run a program; returns its seconds, the peak memory of it and its children in MiB, and its output.

    Memory is the sum of proportional set sizes, sampled ten times a second at most. A page shared by two processes
    counts half in each. Sampling a process of 10 GB takes 30 ms, and stops it meanwhile. So a twentieth of the time at
    most is spent on it.

    Raises:
        SystemExit: the program failed; the message contains its output.
    """
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        peak, done = [0.0], threading.Event()

        def watch() -> None:
            pause = 0.1
            while not done.wait(pause):
                begun = time.perf_counter()
                peak[0] = max(peak[0], _session_memory(process.pid))
                pause = max(0.1, 19 * (time.perf_counter() - begun))

        watcher = threading.Thread(target=watch)
        watcher.start()
        status = process.wait()
        took = time.perf_counter() - started
        done.set()
        watcher.join()
        output.seek(0)
        text = output.read()
    if status:
        sys.exit(f"{' '.join(map(str, command))} ended with {status}:\n{text}")
    return took, peak[0], text


def _session_memory(session: int) -> float:
    """Memory of all processes of a session in MiB."""
    total = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if os.getsid(int(folder.name)) == session:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):  # the process has ended
            continue
    return total / 1024
