"""What the benchmarks share: best of several turns, and the memory of processes."""

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
    """As a preprocessing worker computes: on one core, and keeping the memory it frees."""
    import torch  # not above: whoever imports this module is measured as well

    keep_freed_memory()
    limit_threads(1)
    torch.set_grad_enabled(False)


def add_videos(parser: argparse.ArgumentParser) -> None:
    """The videos to measure on: files, or folders that are searched."""
    text = "video files, or folders of them (demo/, which ./quickstart.sh makes)"
    parser.add_argument("videos", type=Path, nargs="*", default=[DEMO], help=text)


def find_videos(given: Sequence[Path]) -> list[Path]:
    """The video files that were given, and those in folders that were; ends the program if there are none."""
    found = [video for path in given for video in (list_videos(path, recursive=True) if path.is_dir() else [path])]
    if not found or not all(path.is_file() for path in found):
        sys.exit(f"no videos at {' '.join(map(str, given))}; ./quickstart.sh makes demo/")
    return found


def repeat_video(source: Path, target: Path, *, times: int = 0, minutes: float = 0) -> None:
    """`source` so many times one after the other, or until it is so long, without decoding it."""
    import av  # not above: whoever imports this module is measured as well

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
    """How long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def best_in_turn(forms: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """The best time of each form over `turns`, taken in turn so that the machine's moods fall on all alike."""
    best = dict.fromkeys(forms, float("inf"))
    for _ in range(turns):
        for name, work in forms.items():
            best[name] = min(best[name], seconds(work))
    return best


def run_measured(command: Sequence[object]) -> tuple[float, float, str]:
    """Run a program: seconds from start to end, peak memory of it and its children in MiB, what it printed.

    The memory is the sum of proportional set sizes (a page that two processes share counts half in each), looked at
    ten times a second.

    Raises:
        SystemExit: it failed; with what it said.
    """
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        peak, done = [0.0], threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                peak[0] = max(peak[0], _session_memory(process.pid))

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
    """MiB of all processes of a session."""
    total = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if os.getsid(int(folder.name)) == session:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):  # it ended while being looked at
            continue
    return total / 1024
