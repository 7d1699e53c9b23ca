"""Draw the image at the top of the README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dfdc import layout
from dfdc.boxes import read_boxes
from dfdc.command_line import UsageError
from dfdc.imaging import read_picture
from dfdc.landmarks import read_landmarks
from dfdc.layout import Dataset, Video
from dfdc.plotting import Axes, plt
from dfdc.video import VideoReader


def find_example(dataset: Dataset, crops_dir: str) -> tuple[Video, int, int]:
    """Return the first fake, frame and face with all artifacts.

    Raises:
        UsageError: no fake has all artifacts.
    """
    root = dataset.root
    for fake in dataset.fakes():
        for frame, face in layout.list_crops(layout.crops_path(root, fake.id, crops_dir)):
            points = layout.landmarks_path(root, fake.source) / layout.landmarks_name(frame, face)
            mask = layout.diffs_path(root, fake.id) / layout.diff_name(frame, face)
            if points.is_file() and mask.is_file():
                return fake, frame, face
    raise UsageError(f"no fake in {root} has a crop, landmarks and a mask; run ./preprocess_data.sh {root} first")


def draw(dataset: Dataset, crops_dir: str, output: Path) -> None:
    """Write the image to `output`."""
    root = dataset.root
    fake, number, face = find_example(dataset, crops_dir)
    original = dataset.videos[fake.source]
    boxes = read_boxes(layout.bboxes_path(root, original.id))
    points = read_landmarks(layout.landmarks_path(root, original.id) / layout.landmarks_name(number, face))
    if boxes is None or points is None:
        raise UsageError(f"{root} has no boxes or landmarks of {original.id}; run ./preprocess_data.sh {root} first")
    box = next(found.box for found in boxes.frames[number] if found.face == face)
    name = layout.crop_name(number, face)
    crops = {video.id: read_picture(layout.crops_path(root, video.id, crops_dir) / name) for video in (original, fake)}
    mask = read_picture(layout.diffs_path(root, fake.id) / layout.diff_name(number, face), grey=True)

    plt.switch_backend("Agg")
    figure, axes = plt.subplots(2, 4, figsize=(11.5, 5.6), width_ratios=[1.6, 1, 1, 1.25])
    for row, video in enumerate((original, fake)):
        with VideoReader(video.path) as reader:
            _, frame = next(iter(reader.frames([number])))
        _show(axes[row, 0], frame, f"{video.label} video, frame {number}")
        x1, y1, x2, y2 = box
        colour = "tab:green" if row == 0 else "tab:red"
        axes[row, 0].add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=2))
        _show(axes[row, 1], crops[video.id], "2  crop" if row == 0 else "2  crop, same box")
    axes[0, 0].set_title("1  REAL video: face boxes", fontsize=10)
    axes[1, 0].set_title("FAKE made from it", fontsize=10)
    _show(axes[0, 2], crops[original.id], "3  landmarks")
    axes[0, 2].plot(points[:, 0], points[:, 1], "o", ms=4, mfc="yellow", mec="black")
    _show(axes[1, 2], mask, "4  mask: 1 - SSIM")
    train = "train: 5 seeds, real and fake\nloss apart, per epoch:\ncheckpoint and log line"
    _text(axes[0, 3], "5  folds.csv: whole parts\nare held out", train)
    predict = "predict_folder.py:\n32 frames, every face,\nevery checkpoint"
    _text(axes[1, 3], predict, "submission.csv\nfilename,label\na.mp4,0.97")
    for axis in axes[:, :3].flat:
        _arrow(axis, (1.02, 0.5), (1.13, 0.5))
    _arrow(axes[0, 3], (0.5, 0.0), (0.5, -0.12))
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100, metadata={"Software": None})
    plt.close(figure)


def _show(axis: Axes, picture: np.ndarray, title: str) -> None:
    options: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255} if picture.ndim == 2 else {}
    axis.imshow(picture, **options)
    axis.set_title(title, fontsize=10)
    axis.axis("off")


def _text(axis: Axes, upper: str, lower: str) -> None:
    axis.axis("off")
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9.5, "transform": axis.transAxes}
    for height, text, colour in ((0.75, upper, "#e8eef7"), (0.27, lower, "#eef5e8")):
        axis.text(0.5, height, text, bbox={"boxstyle": "round,pad=0.5", "fc": colour, "ec": "0.6"}, **style)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow next to an image; the points are fractions of its sides."""
    arrow = {"arrowstyle": "-|>", "color": "0.4"}
    axis.annotate("", xy=end, xytext=start, xycoords="axes fraction", arrowprops=arrow)
