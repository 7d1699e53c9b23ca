"""Milliseconds per frame of face detection: facenet-pytorch's MTCNN in batches against dfdc/faces.py, in turn.

    python benchmarks/bench_detect.py [VIDEOS ...] --size 960x540

Both detect faces in the same RGB frames in memory, on one thread or with --device cuda. The thresholds are those of
preprocessing. Time and memory are also measured for a quarter of the frames; memory is measured in separate processes.
The detected boxes and scores are compared on every frame. Floor: decoding 10 frames for each frame with detection.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measuring import add_videos, best_in_turn, find_videos, one_thread, run_measured, seconds

from dfdc.detector_settings import DETECT_THRESHOLDS
from dfdc.devices import keep_freed_memory, limit_threads
from dfdc.faces import FaceDetector
from dfdc.video import VideoReader


def read_frames(videos: list[Path], count: int, size: tuple[int, int] | None) -> tuple[list, float]:
    """`count` frames over all videos, and the seconds to decode one of them and the next nine."""
    frames: list = []
    each = max(1, count // len(videos))

    def read() -> None:
        for path in videos:
            with VideoReader(path) as reader:
                for taken, (_, frame) in enumerate(reader.frames(stride=10)):
                    if taken == each:
                        break
                    frames.append(frame if size is None else cv2.resize(frame, size, interpolation=cv2.INTER_AREA))

    took = seconds(read)
    return frames, took / len(frames)


def compare(library: list, ours: list) -> None:
    """Print whether both detected the same (boxes, scores) on every frame."""
    pairs = list(zip(library, ours, strict=True))
    counts = [(0 if boxes is None else len(boxes), len(found)) for (boxes, _), (found, _) in pairs]
    same = [pair for pair, (one, other) in zip(pairs, counts, strict=True) if one == other and one]
    corner = max(float(np.abs(np.asarray(a, float) - b).max()) for (a, _), (b, _) in same)
    score = max(float(np.abs(np.asarray(a, float) - b).max()) for (_, a), (_, b) in same)
    others = sum(one != other for one, other in counts)
    found = f"{sum(one for one, _ in counts)} faces; {others} frames with different counts"
    print(f"{found}; corners within {corner:.4f} pixels, scores within {score:.6f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_videos(parser)
    parser.add_argument("--frames", type=int, default=64, help="number of frames over all videos (default: 64)")
    parser.add_argument("--size", default="960x540", help="resize all frames to WxH first (default: 960x540)")
    parser.add_argument("--batch", type=int, default=32, help="batch size of the library (default: 32)")
    parser.add_argument("--device", default="cpu", help="run on cpu or cuda (default: cpu)")
    parser.add_argument("--turns", type=int, default=3, help="number of turns; the best counts (default: 3)")
    parser.add_argument(
        "--only", choices=("library", "ours", "nothing"), help="only detect, with this form (to measure its memory)"
    )
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    keep_freed_memory()
    limit_threads(1)

    frames, floor = read_frames(find_videos(args.videos), args.frames, (width, height))

    @cache
    def mtcnn() -> Any:
        from facenet_pytorch import MTCNN  # imported here, so that only this form uses its memory

        one_thread()
        return MTCNN(margin=0, keep_all=True, thresholds=list(DETECT_THRESHOLDS), device=args.device)

    @cache
    def detector() -> FaceDetector:  # once, because a GPU's kernels are chosen anew for each
        return FaceDetector(DETECT_THRESHOLDS, args.device)

    def library(some: list) -> list:
        found = []
        for start in range(0, len(some), args.batch):
            boxes, scores, _ = mtcnn().detect(np.stack(some[start : start + args.batch]), landmarks=True)
            found += zip(boxes, scores, strict=True)
        return found

    def ours(some: list) -> list:
        found = detector().detect(some)
        if args.device != "cpu":
            import torch  # imported here, because it is not needed on the CPU

            torch.cuda.synchronize()
        return [(faces.boxes, faces.scores) for faces in found]

    forms = {"library": library, "ours": ours}
    if args.only:
        forms.get(args.only, len)(frames)
        return
    quarter = frames[::4]
    for form in forms.values():  # loads and warms up both
        form(quarter[:2])
    whole = best_in_turn({name: lambda form=form: form(frames) for name, form in forms.items()}, args.turns)
    part = best_in_turn({name: lambda form=form: form(quarter) for name, form in forms.items()}, args.turns)
    memory = {}
    for name in ("nothing", *forms):
        for count in (args.frames // 4, args.frames):
            command = [sys.executable, __file__, *args.videos, "--frames", count, "--size", args.size, "--only", name]
            command += ["--device", args.device, "--batch", args.batch]
            memory[name, count] = run_measured(command)[1]

    print(f"{len(frames)} frames of {width}x{height}, {args.device}, one thread; decoding 10: {floor * 1000:.1f} ms")
    memories = f"MiB for the detection, {args.frames // 4} frames | {args.frames} frames"
    print(f"| detector | ms per frame | on {len(quarter)} frames | {memories} |\n|---|---|---|---|---|")
    for name in forms:
        more = [memory[name, count] - memory["nothing", count] for count in (args.frames // 4, args.frames)]
        times = f"{whole[name] / len(frames) * 1000:.1f} | {part[name] / len(quarter) * 1000:.1f}"
        print(f"| {name} | {times} | {more[0]:.0f} | {more[1]:.0f} |")
    print(f"ours is {whole['library'] / whole['ours']:.2f} times as fast")

    if args.device != "cpu":
        import torch  # imported here, as above

        torch.backends.cudnn.allow_tf32 = False  # PyTorch's default, in which the library would round
    compare(library(frames), ours(frames))


if __name__ == "__main__":
    main()
