"""SSIM difference masks: scikit-image in float64 against dfdc/imaging.py, in turn, one thread.

    python benchmarks/bench_ssim.py [REAL_VIDEO FAKE_VIDEO]

Compares face-sized windows from the middle of the frames of both videos, at several sizes. The default videos are the
first fake of the demo dataset and its original. Prints the times, their ratio, and the largest pixel difference in grey
levels. Floor: reading the PNGs of the two crops.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from measuring import DEMO, best_in_turn, one_thread, run_measured

from dfdc.imaging import encode_png, ssim_difference
from dfdc.layout import load_dataset
from dfdc.video import VideoReader

SIDES = (100, 200, 400)


def find_pair() -> tuple[Path, Path]:

    if not DEMO.is_dir():
        sys.exit(f"{DEMO} does not exist; give two videos, or create the demo dataset with ./quickstart.sh")
    dataset = load_dataset(DEMO)
    fake = dataset.fakes()[0]
    return dataset.videos[fake.source].path, fake.path


def windows(path: Path, side: int) -> list[np.ndarray]:
    """Square windows from the middle of every 20th frame, enlarged if the frame is too small."""

    found = []
    with VideoReader(path) as reader:
        for _, frame in reader.frames(stride=20):
            height, width = frame.shape[:2]
            cut = min(side, height, width)
            top, left = (height - cut) // 2, (width - cut) // 2
            found.append(cv2.resize(frame[top : top + cut, left : left + cut], (side, side)))
    return found


def scikit_image(real: np.ndarray, fake: np.ndarray) -> np.ndarray:
    """The plain form, which computes in float64 for bytes."""

    from skimage.metrics import structural_similarity  # imported here, to exclude it from the memory of ours

    similar = structural_similarity(real, fake, channel_axis=2, full=True)[1]
    return cv2.cvtColor(np.clip(255 * (1 - similar), 0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)


def apply(form: Callable, arguments: Iterable[tuple]) -> None:
    for some in arguments:
        form(*some)


def main() -> None:

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="*", help="a real video and the fake made from it")
    parser.add_argument("--turns", type=int, default=5, help="number of turns; the best counts (default: 5)")
    parser.add_argument(
        "--only", choices=("plain", "ours"), help="only compute, with this form (to measure its memory)"
    )
    args = parser.parse_args()
    if len(args.videos) not in (0, 2):
        parser.error(f"{len(args.videos)} videos given; give two, or none")
    real, fake = args.videos or find_pair()
    one_thread()
    forms = {"plain": scikit_image, "ours": ssim_difference}
    if not args.only:
        print("| window | plain ms | ours ms | ratio | floor ms | largest difference |\n|---|---|---|---|---|---|")
    for side in SIDES:
        pairs = list(zip(windows(real, side), windows(fake, side), strict=False))
        if args.only:
            for pair in pairs:
                forms[args.only](*pair)
            continue
        stored = [np.frombuffer(encode_png(picture), np.uint8) for pair in pairs for picture in pair]
        works = {name: partial(apply, form, pairs) for name, form in forms.items()}
        works["floor"] = partial(apply, lambda data: cv2.imdecode(data, cv2.IMREAD_COLOR), [(data,) for data in stored])
        best = best_in_turn(works, args.turns)
        apart = max(int(np.abs(scikit_image(*pair).astype(int) - ssim_difference(*pair)).max()) for pair in pairs)
        plain, ours, floor = (best[name] / len(pairs) * 1000 for name in ("plain", "ours", "floor"))
        print(f"| {side}x{side} | {plain:.2f} | {ours:.2f} | {plain / ours:.1f} | {floor:.2f} | {apart} |")
    if not args.only:
        for name in forms:
            _, memory, _ = run_measured([sys.executable, __file__, real, fake, "--only", name])
            print(f"peak memory of a process, {name}: {memory:.0f} MiB")


if __name__ == "__main__":
    main()
