"""Milliseconds per crop to detect five landmarks: facenet-pytorch's MTCNN crop by crop against ours in batches.

    python benchmarks/bench_landmarks.py [DATA_ROOT]

Uses the preprocessed crops of real videos on one thread; the PNGs are read beforehand. The default is demo/.
Time is also measured for a quarter of the crops. The landmarks of both forms are compared. Floor: reading the PNGs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from facenet_pytorch import MTCNN
from measuring import DEMO, best_in_turn, one_thread, seconds

from dfdc import layout
from dfdc.detector_settings import LANDMARK_THRESHOLDS
from dfdc.faces import FaceDetector
from dfdc.imaging import read_picture
from preprocessing.landmark_step import CROPS_AT_ONCE, find_landmarks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path, nargs="?", default=DEMO, help="a DATA_ROOT with crops (default: demo/)")
    parser.add_argument("--crops", type=int, default=256, help="maximum number of crops (default: 256)")
    parser.add_argument("--turns", type=int, default=3, help="number of turns; the best counts (default: 3)")
    args = parser.parse_args()
    one_thread()
    folders = [layout.crops_path(args.data_root, video.id) for video in layout.load_dataset(args.data_root).reals()]
    paths = [folder / layout.crop_name(*crop) for folder in folders for crop in layout.list_crops(folder)]
    if not paths:
        sys.exit(f"{args.data_root} has no crops of real videos; run preprocess_data.sh on it first")
    paths = paths[:: -(-len(paths) // args.crops)]
    floor = seconds(lambda: [read_picture(path) for path in paths])
    crops = [read_picture(path) for path in paths]
    mtcnn = MTCNN(margin=0, thresholds=list(LANDMARK_THRESHOLDS), device="cpu")
    detector = FaceDetector(LANDMARK_THRESHOLDS)

    def library(some: list) -> list:
        found = [mtcnn.detect(crop, landmarks=True)[2] for crop in some]
        return [None if points is None else np.rint(points[0].astype(float)).astype(np.int16) for points in found]

    def ours(some: list) -> list:
        starts = range(0, len(some), CROPS_AT_ONCE)
        return [points for start in starts for points in find_landmarks(some[start : start + CROPS_AT_ONCE], detector)]

    forms = {"library": library, "ours": ours}
    for form in forms.values():
        form(crops[:4])
    whole = best_in_turn({name: lambda form=form: form(crops) for name, form in forms.items()}, args.turns)
    quarter = crops[::4]
    part = best_in_turn({name: lambda form=form: form(quarter) for name, form in forms.items()}, args.turns)
    side = int(np.median([max(crop.shape[:2]) for crop in crops]))
    print(f"{len(crops)} crops of {side} pixels (median), one thread; reading one: {floor / len(crops) * 1000:.1f} ms")
    print(f"| detector | ms per crop | on {len(quarter)} crops |\n|---|---|---|")
    for name in forms:
        print(f"| {name} | {whole[name] / len(crops) * 1000:.1f} | {part[name] / len(quarter) * 1000:.1f} |")
    print(f"ours is {whole['library'] / whole['ours']:.1f} times as fast")
    pairs = zip(library(crops), ours(crops), strict=True)
    same = sum(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)
    print(f"{same} of {len(crops)} have identical landmarks (the library uses the largest face, ours the central one)")


if __name__ == "__main__":
    main()
