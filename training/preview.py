"""Images for inspection: a grid of augmentations and occlusions, and the crops with the largest errors."""

from __future__ import annotations

import io
import random
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from dfdc import layout
from dfdc.artifacts import write_bytes
from dfdc.imaging import encode_small_png, fit, read_picture
from dfdc.landmarks import read_landmarks
from dfdc.plotting import Figure
from training import dataset, occlusions
from training.arguments import RunSettings
from training.config import OcclusionConfig, TrainConfig
from training.transforms import Augment, build_augmentation

# Title and number of tiles per occlusion; the first three are deterministic.
_OCCLUSIONS = {
    "eyes": ("eyes", 1),
    "nose": ("nose", 1),
    "mouth": ("mouth", 1),
    "half_face": ("half of the face", 3),
    "half_picture": ("half or two quadrants", 3),
    "random_half": ("random half", 3),
}
_COLUMNS = 6


def draw_grid(settings: RunSettings, config: TrainConfig, output: Path) -> None:
    """Write a PNG grid of a fake crop: unchanged, and with each augmentation and occlusion."""
    table = dataset.read_folds(settings.folds_path)
    train_rows, _ = dataset.split_folds(table, settings.fold, settings.folds_path)
    shares = None if settings.no_hardcore else config.occlusions
    example = _find_example(train_rows, settings.data_dir, settings.crops_dir)
    tiles = grid_tiles(*example, shares, config.size, settings.seed)
    rows = len(tiles) // _COLUMNS
    figure = Figure(figsize=(_COLUMNS * 1.9, rows * 2.1))
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axis, (name, tile) in zip(axes.flat, tiles, strict=True):
        axis.imshow(tile)
        axis.set_title(name, fontsize=8)
        axis.axis("off")
    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=85)
    write_bytes(output, encode_small_png(Image.open(drawn).convert("RGB")))
    print(f"augmentation grid: {output}")


def grid_tiles(
    picture: np.ndarray, mask: np.ndarray, points: np.ndarray, shares: OcclusionConfig | None, size: int, seed: int
) -> list[tuple[str, np.ndarray]]:
    """(title, RGB uint8 [size, size, 3]) in complete rows: the crop, each step and occlusion, and all together.

    Args:
        picture: crop of a fake, RGB uint8 [h, w, 3].
        mask: its SSIM mask, uint8 [h, w].
        points: int [5, 2], its landmarks.
        shares: occlusions with a share of 0 are not shown; None: no occlusions.
    """
    rng, draws = np.random.default_rng(seed), random.Random(seed)
    outlined = picture.copy()
    for x, y in points.tolist():
        cv2.circle(outlined, (x, y), max(2, picture.shape[1] // 50), (0, 255, 0), -1)
    grey = np.repeat(mask[..., None], 3, 2)
    shown = [("crop of a fake", picture), ("its SSIM mask", grey), ("five landmarks", outlined)]
    for step in build_augmentation(size):
        for transform in getattr(step, "transforms", [step]):  # the alternatives of a OneOf
            name = type(transform).__name__
            if name not in ("IsotropicResize", "PadIfNeeded"):  # every tile includes these
                transform.set_random_state(rng, draws)
                shown.append((name, transform(image=picture, force_apply=True)["image"]))
    for kind, (name, times) in _OCCLUSIONS.items():
        for _ in range(times if shares and getattr(shares, kind) else 0):
            hidden = occlusions.hidden_pixels(kind, *picture.shape[:2], points, rng)
            shown.append((name, picture * ~hidden[..., None]))
    tiles = [(name, fit(image, size)) for name, image in shown]
    augment = Augment(size)
    for number in range(-len(tiles) % _COLUMNS + _COLUMNS):
        occluded = occlusions.occlude(picture, mask, points, rng, shares)[0] if shares else picture
        tiles.append(("all together", augment(occluded, seed + number)))
    return tiles


def _find_example(rows: pd.DataFrame, root: Path, crops_dir: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, mask and landmarks of the first fake crop that has both a mask and landmarks."""
    fakes = rows[rows["label"] == 1].sort_values(["video", "frame", "file"])
    for row in fakes.itertuples():
        frame, face = layout.parse_crop_name(str(row.file))
        mask = layout.diffs_path(root, str(row.video)) / layout.diff_name(frame, face)
        points = read_landmarks(layout.landmarks_path(root, str(row.original)) / layout.landmarks_name(frame, face))
        if mask.is_file() and points is not None:
            crop = layout.crops_path(root, str(row.video), crops_dir) / str(row.file)
            return read_picture(crop), read_picture(mask, grey=True), points.astype(int)
    raise dataset.FoldsError("no fake crop has both a mask and landmarks; run preprocessing steps 3 and 4")


def wrong_sheet(crops: dataset.CropDataset, held_out: pd.DataFrame, rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """RGB uint8 [h, w, 3]: up to 24 crops with the largest errors, the largest first.

    Args:
        crops: the held-out samples.
        held_out: the table of `crops`.
        rows: row numbers of the table, [n].
        scores: probability of fake of each row, [n].
    """
    labels = held_out["label"].to_numpy()[rows]
    worst = np.argsort(-np.abs(scores - labels), kind="stable")[:24]
    tile = 160
    sheet = np.zeros((-(-len(worst) // _COLUMNS) * (tile + 20), _COLUMNS * tile, 3), np.uint8)
    for place, index in enumerate(worst):
        row = int(rows[index])
        top, left = place // _COLUMNS * (tile + 20), place % _COLUMNS * tile
        sheet[top : top + tile, left : left + tile] = fit(crops[row]["image"], tile)
        text = f"{'FAKE' if labels[index] else 'REAL'} {scores[index]:.2f} {held_out['video'].iloc[row]}"
        cv2.putText(sheet, text[:26], (left + 2, top + tile + 14), cv2.FONT_HERSHEY_PLAIN, 0.75, (255, 255, 255), 1)
    return sheet
