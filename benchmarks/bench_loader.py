"""Training samples that one core prepares per second, plain against ours, on the same crops in one run.

    python benchmarks/bench_loader.py --data-dir demo --size 380

Plain: PNG decoding, the augmentations with the library's FancyPCA, normalisation to float, and float collation.
Ours: training/dataset.py and training/transforms.py, which return bytes (normalised on the GPU at no cost).
Both exclude occlusions, which are timed as a separate stage. Times are the best of --repeats passes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import torch
from measuring import best_in_turn
from torch.utils.data import default_collate

from dfdc import imaging, layout
from training import dataset, occlusions
from training.config import OcclusionConfig
from training.transforms import Augment, build_augmentation


def plain(compose: A.Compose, batches: list[list[Path]]) -> None:
    mean, std = np.array(imaging.IMAGENET_MEAN), np.array(imaging.IMAGENET_STD)
    for batch in batches:
        samples = []
        for path in batch:
            picture = cv2.imread(str(path))
            assert picture is not None, path
            picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            picture = compose(image=picture)["image"]
            values = ((picture / 255.0 - mean) / std).transpose(2, 0, 1).astype(np.float32)
            samples.append({"image": torch.from_numpy(values), "label": 1.0})
        default_collate(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path("demo"),
        metavar="DATA_ROOT",
        help="a preprocessed dataset (default: demo)",
    )
    parser.add_argument("--size", type=int, default=380, help="side of the network's input (default: 380, for B7)")
    parser.add_argument("--samples", type=int, default=192, help="crops per pass (default: 192)")
    parser.add_argument("--batch-size", type=int, default=12, help="crops per batch (default: 12)")
    parser.add_argument("--repeats", type=int, default=5, help="number of passes; the best counts (default: 5)")
    args = parser.parse_args()

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    table = dataset.read_folds(args.data_dir / layout.FOLDS_NAME)
    rows = np.random.default_rng(0).permutation(len(table))[: args.samples].tolist()
    crops = args.data_dir / layout.CROPS_DIR
    paths = [crops / str(table["video"][row]) / str(table["file"][row]) for row in rows]
    batches = [slice(start, start + args.batch_size) for start in range(0, len(rows), args.batch_size)]

    compose = build_augmentation(args.size)
    groups = [item for item in compose if isinstance(item, A.BaseCompose)]
    (colours,) = [group for group in groups if len(group.transforms) == 3 and group.p == 0.7]
    colours.transforms[1] = A.FancyPCA()  # the library's, instead of our faster one

    data = dataset.CropDataset(table, args.data_dir, layout.CROPS_DIR, args.size, train=True)
    shares = OcclusionConfig()
    full = dataset.CropDataset(table, args.data_dir, layout.CROPS_DIR, args.size, train=True, occlusions=shares)

    def ours(source: dataset.CropDataset) -> None:
        for batch in batches:
            dataset.collate([source[(row, 0)] for row in rows[batch]])

    pictures = [imaging.read_picture(path) for path in paths]
    augment = Augment(args.size)
    ready = [data[(row, 0)] for row in rows]
    points = np.array([(0.35, 0.4), (0.65, 0.4), (0.5, 0.55), (0.38, 0.7), (0.62, 0.7)])
    marks = [points * picture.shape[1::-1] for picture in pictures]
    stages: dict[str, Callable[[], object]] = {
        "plain, whole": lambda: plain(compose, [paths[batch] for batch in batches]),
        "ours, whole": lambda: ours(data),
        "ours, with occlusions": lambda: ours(full),
        "  read": lambda: [imaging.read_picture(path) for path in paths],
        "  occlude": lambda: [
            occlusions.occlude(picture, None, mark, np.random.default_rng(index), shares)
            for index, (picture, mark) in enumerate(zip(pictures, marks, strict=True))
        ],
        "  augment": lambda: [augment(picture, index) for index, picture in enumerate(pictures)],
        "  collate": lambda: [dataset.collate(ready[batch]) for batch in batches],
    }
    seconds = best_in_turn(stages, args.repeats)
    sizes = [picture.shape for picture in pictures]
    height, width = (int(np.median([shape[axis] for shape in sizes])) for axis in (0, 1))
    print(f"{len(rows)} crops of {width}x{height} (median) to {args.size}x{args.size}, one core")
    print("| stage | ms per sample | samples per second |\n|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name.strip()} | {1000 * value / len(rows):.2f} | {len(rows) / value:.0f} |")
    print(f"ours is {seconds['plain, whole'] / seconds['ours, whole']:.2f} times plain")


if __name__ == "__main__":
    main()
