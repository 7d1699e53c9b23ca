"""Crops as training samples: folds.csv, balanced sampling for each epoch, and the images.

Everything random about a sample follows from (seed, epoch, row). It therefore depends neither on the worker or rank
that loads the sample, nor on where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset, Sampler

from dfdc import artifacts, layout
from dfdc.command_line import SettingError, setting
from dfdc.folds import COLUMNS, FoldsError, FoldsFileError, check_columns, read_columns
from dfdc.identity import regular
from dfdc.imaging import MARGIN_PART, fit, read_picture, shows_change, tighten, tighten_offset
from dfdc.landmarks import read_landmarks
from training.config import OcclusionConfig
from training.occlusions import occlude
from training.transforms import Augment

VALIDATE_STRIDE = 2  # every second sampled frame, as the winners did


def read_folds(path: Path) -> pd.DataFrame:
    """Read folds.csv: columns video, file, label, original, frame, fold. Text columns become categories.

    Raises:
        FoldsError: the file is missing or has no rows, or its columns or types are invalid.
    """
    names = ["video", "original", "file"]
    try:
        regular(path)
        table = pd.read_csv(path, dtype=dict.fromkeys(names, str), keep_default_na=False)
        check_columns(path, table.columns, COLUMNS)
        # Not parsed as categories, because pandas would turn names such as 007 into numbers.
        table = table.astype(dict.fromkeys(names, "category"))
        numbers = table.select_dtypes("integer").columns
        sound = {"label", "frame", "fold"} <= {*numbers} and table["label"].isin((0, 1)).all()
    except FoldsError:
        raise
    except (OSError, ValueError) as error:
        raise FoldsFileError(path, f"can't be read ({error})") from None
    if not len(table):
        raise FoldsFileError(path, "it has no rows")
    if not sound:
        list(read_columns(path))  # raises an error that names the line
        raise FoldsFileError(path, "a label, frame or fold is not a whole number")
    return table


def split_folds(table: pd.DataFrame, fold: int, path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split the table into training rows and held-out rows (every second sampled frame of `fold`).

    Raises:
        SettingError: the fold does not exist, or the training set lacks a class.
    """
    folds = sorted(table["fold"].unique().tolist())
    if fold not in folds:
        raise SettingError("fold", fold, f"choose a fold of {path}, which has the folds {', '.join(map(str, folds))}")
    held_out = (table["fold"] == fold).to_numpy()
    train = table[~held_out].reset_index(drop=True)
    reals, fakes = ((train["label"] == label).sum() for label in (0, 1))
    if not reals or not fakes:
        found = f"without it, {path} contains {reals} real and {fakes} fake crops, but training needs both"
        raise SettingError("fold", fold, f"{found}; hold out another fold, or preprocess more parts")
    return train, rows_to_validate(table[held_out])


def rows_to_validate(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of every second sampled frame; all rows if none of those frames was sampled."""
    chosen = (table["frame"] // layout.FRAME_STRIDE) % VALIDATE_STRIDE == 0
    return table[chosen if chosen.any() else slice(None)].reset_index(drop=True)


def check_crops(table: pd.DataFrame, crops: Path, folds: Path) -> None:
    """Check that all crops of `table` exist.

    Folders are listed instead of opening files: 4 million crops take a minute, not an hour.

    Raises:
        FoldsError: the folder or a crop is missing.
    """
    if not crops.is_dir():
        advice = f"set {setting('data_dir')} to the DATA_ROOT that contains {setting('crops_dir')} (default: crops)"
        raise FoldsError(f"{crops} is not a folder; {advice}")
    missing: list[Path] = []
    for video, rows in table.groupby("video", observed=True):
        folder = crops / str(video)
        present = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        missing += [folder / name for name in rows["file"] if name not in present]
    if missing:
        said = f"{len(missing)} crops that do not exist, e.g. {missing[0]}"
        raise FoldsError(f"{folds} names {said}; run preprocessing again")


class CropDataset(Dataset):
    """The samples of a folds table, loaded from DATA_ROOT.

    Training samples are indexed by (row, epoch), and are occluded and augmented. Validation samples are indexed by row.

    Returns:
        dict with
        image: uint8 [size, size, 3], RGB; black if the crop could not be read, see `fill_unreadable`.
        label: 0 or 1.
        row: the row number.
        error: why the crop could not be read; empty if it was read.
        valid: False if the crop could not be read, or, with `only_changed`, if it is a fake without visible changes.

    Args:
        size: side length of the network's input in pixels.
        occlusions: probability of each occlusion in training; None: no occlusions.
        only_changed: mark fake crops without a visible change as not valid.
        margin_part: crop with a margin of 1/margin_part of the face; MARGIN_PART: unchanged crops.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        data_dir: Path,
        crops_dir: str,
        size: int,
        *,
        train: bool,
        seed: int = 0,
        occlusions: OcclusionConfig | None = None,
        only_changed: bool = False,
        margin_part: int = MARGIN_PART,
    ) -> None:
        self._names = [table[column].astype(str).to_numpy() for column in ("video", "file", "original")]
        self._labels = table["label"].to_numpy(np.int64)
        self._root, self._crops_dir, self._size = data_dir, crops_dir, size
        self._train, self._seed, self._occlusions = train, seed, occlusions
        self._only_changed, self._margin_part = only_changed, margin_part
        self._augment: Augment | None = None  # created in the worker, so that it is not pickled

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: tuple[int, int] | int) -> dict[str, Any]:
        row, epoch = index if isinstance(index, tuple) else (index, 0)
        sample = {"label": int(self._labels[row]), "row": row, "error": ""}
        try:
            sample["image"], sample["valid"] = self._picture(row, epoch)
        except (OSError, ValueError) as error:  # ValueError: a corrupt landmarks file
            sample |= {"error": str(error), "image": np.zeros((self._size, self._size, 3), np.uint8), "valid": False}
        return sample

    def _picture(self, row: int, epoch: int) -> tuple[np.ndarray, bool]:
        video, file, original = (names[row] for names in self._names)
        picture = read_picture(layout.crops_path(self._root, video, self._crops_dir) / file)
        if not self._train:
            return fit(tighten(picture, self._margin_part), self._size), True
        rng = np.random.default_rng((self._seed, epoch, row))
        frame, face = layout.parse_crop_name(file)
        mask = points = None
        if self._labels[row] and (self._occlusions or self._only_changed):
            mask = _load_mask(layout.diffs_path(self._root, video) / layout.diff_name(frame, face), picture.shape)
        if self._occlusions:
            # Crops without landmarks are normal; they get no occlusion that needs landmarks.
            points = read_landmarks(layout.landmarks_path(self._root, original) / layout.landmarks_name(frame, face))
        if self._margin_part != MARGIN_PART:
            height, width = picture.shape[:2]
            picture = tighten(picture, self._margin_part)
            mask = None if mask is None else tighten(mask, self._margin_part)
            if points is not None:
                points = points - [tighten_offset(side, self._margin_part) for side in (width, height)]
        if self._occlusions:
            picture, mask = occlude(picture, mask, points, rng, self._occlusions)
        # Checked after the occlusion, which may hide the changes. A fake without a mask counts as valid.
        valid = not (self._only_changed and mask is not None and not shows_change(mask))
        if self._augment is None:
            self._augment = Augment(self._size)
        return self._augment(picture, int(rng.integers(2**31))), valid


def _load_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Read a mask, uint8 [h, w]; None if it is missing or not of the image's size (step 4's ledger says why)."""
    if not path.is_file():
        return None
    mask = read_picture(path, grey=True)
    return mask if mask.shape == shape[:2] else None


def unchanged_share(table: pd.DataFrame, root: Path) -> tuple[int, int]:
    """Count (fake crops whose mask shows no change, fake crops with a mask) of `table`, from step 4's stamps.

    Unchanged crops of a fake are label noise; --only-changed-frames skips them.
    """
    unchanged = masks = 0
    for video in table.loc[table["label"] == 1, "video"].unique():
        stamp = artifacts.read_json(layout.diffs_path(root, str(video)) / artifacts.STAMP_NAME)
        if isinstance(stamp, dict) and artifacts.is_result(stamp):
            masks += stamp["made"].get("masks", 0)
            unchanged += stamp["made"].get("unchanged", 0)
    return unchanged, masks


def epoch_rows(labels: np.ndarray, seed: int, epoch: int, *, oversample: bool = True) -> np.ndarray:
    """The shuffled row numbers of one epoch: all rows of the smaller class, and equally many of the larger.

    Each epoch and each seed samples other rows of the larger class. Without `oversample`, an epoch has every row once.
    """
    rng = np.random.default_rng((seed, epoch, 0x5EED))
    if not oversample:
        return rng.permutation(len(labels))
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    count = min(map(len, classes))
    rows = np.concatenate([rng.choice(members, count, replace=False) for members in classes])
    return rng.permutation(rows)


class EpochSampler(Sampler):
    """Batches of (row, epoch) for one rank; `set_epoch` samples the rows of an epoch.

    All ranks use the same global order, split into batches of batch_size * ranks. An incomplete last batch is dropped.
    """

    def __init__(
        self,
        labels: np.ndarray,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        ranks: int = 1,
        max_batches: int,
        oversample: bool = True,
    ) -> None:
        self._labels, self._batch_size, self._seed = labels, batch_size, seed
        self._rank, self._ranks = rank, ranks
        self._epoch, self._first = 0, 0
        self._oversample = oversample
        self.rows = 2 * int(np.bincount(labels, minlength=2).min()) if oversample else len(labels)
        self.batches = min(max_batches, self.rows // (batch_size * ranks))

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Select `epoch`, and skip the batches before `first_batch` (already used by a run that resumes)."""
        self._epoch, self._first = epoch, first_batch

    def __len__(self) -> int:
        return self.batches - self._first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rows = epoch_rows(self._labels, self._seed, self._epoch, oversample=self._oversample)
        whole = self._batch_size * self._ranks
        for batch in range(self._first, self.batches):
            start = batch * whole + self._rank * self._batch_size
            yield [(int(row), self._epoch) for row in rows[start : start + self._batch_size]]


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate samples into a batch.

    Images stay bytes until they are on the device: a quarter of the memory and bandwidth of floats.

    Returns:
        dict of image uint8 [n, size, size, 3], label float32 [n], row int64 [n], valid bool [n] and readable bool [n].
        Its `error` is a list of strings, one per unreadable crop.
    """
    return {
        "image": torch.from_numpy(np.stack([sample["image"] for sample in samples])),
        "label": torch.tensor([sample["label"] for sample in samples], dtype=torch.float32),
        "row": torch.tensor([sample["row"] for sample in samples], dtype=torch.int64),
        "error": [sample["error"] for sample in samples if sample["error"]],
        "valid": torch.tensor([sample["valid"] for sample in samples]),
        "readable": torch.tensor([not sample["error"] for sample in samples]),
    }


def fill_unreadable(batch: dict[str, Any], spare: torch.Tensor | None) -> None:
    """Replace the unreadable images of a batch by a readable one, in place.

    Unreadable crops do not enter the loss, but they pass through batch norm. Black images would shift its statistics,
    and a batch of another size would trigger a recompilation.

    Args:
        batch: from `collate`, on the CPU.
        spare: uint8 [size, size, 3], the replacement if no image of the batch is readable.

    Raises:
        ValueError: no image is readable, and `spare` is None.
    """
    if not batch["error"]:
        return
    readable = batch["readable"]
    picture = batch["image"][readable][0] if readable.any() else spare
    if picture is None:
        raise ValueError(f"no crop of a batch could be read, and there is no spare image; {batch['error'][0]}")
    batch["image"][~readable] = picture
