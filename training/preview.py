"""Pictures for a person to look at: what augmentation and occlusion do to crops, and the most wrong crops."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dfdc import layout
from dfdc.imaging import read_picture
from training import dataset, occlusions
from training.config import TrainConfig
from training.transforms import build_augmentation, fit

if TYPE_CHECKING:
    import pandas as pd


def draw_grid(args: argparse.Namespace, config: TrainConfig, folds_path: Path) -> None:
    """Write the grid to args.augmentation_grid: a fake crop, alone and by each transform and occlusion."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    train_rows, _ = dataset.split_folds(dataset.read_folds(folds_path), args.fold, folds_path)
    picture, mask, points = _find_example(train_rows, args)
    height, width = picture.shape[:2]
    rng = np.random.default_rng(args.seed)
    size = config.size
    tiles = [("crop of a fake", fit(picture, size)), ("its SSIM mask", fit(np.repeat(mask[..., None], 3, 2), size))]
    outlined = picture.copy()
    for x, y in points.tolist():
        cv2.circle(outlined, (x, y), max(2, width // 50), (0, 255, 0), -1)
    tiles.append(("five landmarks", fit(outlined, size)))
    for name, transform in _single_transforms(size):
        transform.set_random_seed(args.seed)
        tiles.append((name, fit(transform(image=picture)["image"], size)))
    hiding = {
        "eyes, nose or mouth": lambda: occlusions.face_part(height, width, points, rng),
        "half of the face": lambda: occlusions.half_face(height, width, points, rng),
        "half or a quadrant": lambda: occlusions.half_picture(height, width, rng),
        "random half": lambda: occlusions.random_half(height, width, rng),
    }
    for name, hide in hiding.items():
        tiles += [(name, fit(picture * ~hide()[..., None], size)) for _ in range(3)]
    every = dataset.Augment(size)
    columns = 6
    for number in range(-len(tiles) % columns + columns):
        shown, _ = occlusions.occlude(picture, mask, points, rng)
        tiles.append(("all together", every(shown, args.seed + number)))

    rows = len(tiles) // columns
    figure, axes = plt.subplots(rows, columns, figsize=(columns * 1.9, rows * 2.1), squeeze=False)
    for axis, (name, tile) in zip(axes.flat, tiles, strict=True):
        axis.imshow(tile)
        axis.set_title(name, fontsize=8)
        axis.axis("off")
    figure.tight_layout()
    args.augmentation_grid.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.augmentation_grid, dpi=110, metadata={"Software": None})
    print(f"augmentation grid: {args.augmentation_grid}")


def _single_transforms(size: int) -> list:
    """(name, transform that always happens) for each of the augmentation list."""
    import albumentations as A

    flat = []
    for transform in build_augmentation(size):
        if isinstance(transform, A.OneOf):
            flat += list(transform)
        else:
            flat.append(transform)
    shown = []
    for transform in flat:
        name = type(transform).__name__
        if name in ("LongestMaxSize", "PadIfNeeded"):
            continue  # every tile shows these
        transform.p = 1.0
        shown.append((name, A.Compose([transform])))
    return shown


def _find_example(rows: pd.DataFrame, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first fake crop that has a mask and landmarks: picture, mask, points.

    Raises:
        FoldsError: none has.
    """
    fakes = rows[rows["label"] == 1].sort_values(["video", "frame", "file"])
    for row in fakes.itertuples():
        frame, face = layout.parse_crop_name(str(row.file))
        mask = layout.diffs_path(args.data_dir, str(row.video)) / layout.diff_name(frame, face)
        points = layout.landmarks_path(args.data_dir, str(row.original)) / layout.landmarks_name(frame, face)
        if mask.is_file() and points.is_file():
            crop = layout.crops_path(args.data_dir, str(row.video), args.crops_dir) / str(row.file)
            return read_picture(crop), read_picture(mask, grey=True), np.load(points).astype(int)
    raise dataset.FoldsError("no fake crop has both a mask and landmarks; run preprocessing steps 3 and 4")


def wrong_sheet(
    crops: dataset.CropDataset, held_out: pd.DataFrame, rows: np.ndarray, scores: np.ndarray, tile: int = 160
) -> np.ndarray:
    """RGB uint8 [h, w, 3]: up to 24 crops whose scores are farthest from their labels, the worst first.

    Args:
        crops: the validation samples.
        held_out: their table.
        rows, scores: rows of it, and the probability of fake of each, [n].
    """
    labels = held_out["label"].to_numpy()[rows]
    worst = np.argsort(-np.abs(scores - labels), kind="stable")[:24]
    columns = 6
    sheet = np.zeros((-(-len(worst) // columns) * (tile + 20), columns * tile, 3), np.uint8)
    for place, index in enumerate(worst):
        row = int(rows[index])
        top, left = place // columns * (tile + 20), place % columns * tile
        sheet[top : top + tile, left : left + tile] = fit(crops[row]["image"], tile)
        text = f"{'FAKE' if labels[index] else 'REAL'} {scores[index]:.2f} {held_out['video'].iloc[row]}"
        cv2.putText(sheet, text[:26], (left + 2, top + tile + 14), cv2.FONT_HERSHEY_PLAIN, 0.75, (255, 255, 255), 1)
    return sheet
