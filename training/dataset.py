"""Crops as training samples: folds.csv, a balanced draw for each epoch, and the pictures.

Everything random about a sample follows from (seed, epoch, row), so that it does not depend on which worker or
rank makes it, nor on where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from dfdc import layout
from dfdc.imaging import read_picture
from training.occlusions import occlude
from training.transforms import Augment, fit

if TYPE_CHECKING:
    import pandas as pd

VALIDATE_STRIDE = 2  # every second sampled frame, as the winners did


class FoldsError(ValueError):
    """A folds.csv, or crops, that can't be trained on; the message names the file and what to do."""


def read_folds(path: Path) -> pd.DataFrame:
    """folds.csv with columns video, file, label, original, frame, fold.

    Raises:
        FoldsError: not there, without rows, or not with these columns and types.
    """
    import pandas as pd

    try:
        kinds = {"video": "category", "original": "category", "file": "category"}
        table = pd.read_csv(path, dtype=kinds, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise FoldsError(f"--folds-csv {path}: can't be read ({error}); preprocessing step 5 writes it") from None
    missing = [column for column in layout.FOLDS_COLUMNS if column not in table]
    if missing:
        raise FoldsError(f"--folds-csv {path}: no column {', '.join(missing)}; preprocessing step 5 writes all six")
    if not len(table):
        raise FoldsError(f"--folds-csv {path}: it has no rows")
    for column in ("label", "frame", "fold"):
        if not pd.api.types.is_integer_dtype(table[column]):
            raise FoldsError(f"--folds-csv {path}: column {column} holds something that is no whole number")
    if not table["label"].isin((0, 1)).all():
        raise FoldsError(f"--folds-csv {path}: label must be 0 (real) or 1 (fake)")
    return table


def split_folds(table: pd.DataFrame, fold: int, path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to train on and rows held out (`fold`, every second sampled frame).

    Raises:
        FoldsError: no such fold, nothing left to train on, or only one class to train on.
    """
    folds = sorted(table["fold"].unique().tolist())
    if fold not in folds:
        raise FoldsError(f"--fold {fold}: {path} has the folds {', '.join(map(str, folds))}")
    held_out = (table["fold"] == fold).to_numpy()
    train = table[~held_out].reset_index(drop=True)
    counts = train["label"].value_counts()
    if counts.get(0, 0) == 0 or counts.get(1, 0) == 0:
        raise FoldsError(
            f"--fold {fold}: without it {path} holds {counts.get(0, 0)} real and {counts.get(1, 0)} fake crops, but "
            "both are needed to train; hold out another fold, or preprocess more parts"
        )
    validated = held_out & ((table["frame"] // layout.FRAME_STRIDE) % VALIDATE_STRIDE == 0).to_numpy()
    return train, table[validated if validated.any() else held_out].reset_index(drop=True)


def check_crops(table: pd.DataFrame, crops: Path, folds: Path) -> None:
    """Raise FoldsError where the folder is absent, or files that `table` names are not in it.

    Folders are listed, not files opened: 4 million crops take a minute, not an hour.
    """
    if not crops.is_dir():
        raise FoldsError(f"{crops} is not a folder; give --data-dir DATA_ROOT, in which --crops-dir (crops) lies")
    missing: list[str] = []
    for video, rows in table.groupby("video", observed=True):
        folder = crops / str(video)
        present = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        missing += [f"{folder / name}" for name in rows["file"] if name not in present]
    if missing:
        raise FoldsError(
            f"{folds} names {len(missing)} crops that do not exist, {missing[0]} for one; run preprocessing again"
        )


class CropDataset(Dataset):
    """The rows of a folds table as samples.

    A training sample is taken by (row, epoch), is occluded and augmented; a validation sample by its row.

    Returns:
        dict of image (uint8 [size, size, 3], RGB), label (0 or 1), row, and error (a text where the crop could
        not be read: its image is black then and must not be used).
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
        occlusions: bool = True,
    ) -> None:
        self._names = [table[column].astype(str).to_numpy() for column in ("video", "file", "original")]
        self._labels = table["label"].to_numpy(np.int64)
        self._root, self._crops_dir, self._size = data_dir, crops_dir, size
        self._train, self._seed, self._occlusions = train, seed, occlusions
        self._augment: Augment | None = None  # made in the worker: no copy of it travels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        row, epoch = key if isinstance(key, tuple) else (key, 0)
        sample = {"image": None, "label": int(self._labels[row]), "row": row, "error": ""}
        try:
            sample["image"] = self._picture(row, epoch)
        except OSError as error:
            sample["error"] = str(error)
            sample["image"] = np.zeros((self._size, self._size, 3), np.uint8)
        return sample

    def _picture(self, row: int, epoch: int) -> np.ndarray:
        video, file, original = (names[row] for names in self._names)
        picture = read_picture(layout.crops_path(self._root, video, self._crops_dir) / file)
        if not self._train:
            return fit(picture, self._size)
        rng = np.random.default_rng((self._seed, epoch, row))
        if self._occlusions:
            frame, face = layout.parse_crop_name(file)
            points = layout.landmarks_path(self._root, original) / layout.landmarks_name(frame, face)
            mask = None
            if self._labels[row]:
                mask = _load_mask(layout.diffs_path(self._root, video) / layout.diff_name(frame, face), picture.shape)
            picture, _ = occlude(picture, mask, _load_landmarks(points), rng)
        if self._augment is None:
            self._augment = Augment(self._size)
        return self._augment(picture, int(rng.integers(2**31)))


def _load_landmarks(path: Path) -> np.ndarray | None:
    """int16 [5, 2], or None: a crop without landmarks is normal, and is then not occluded by them."""
    return np.load(path) if path.is_file() else None


def _load_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """uint8 [h, w], or None where there is none of the picture's size (the ledger of step 4 says why)."""
    if not path.is_file():
        return None
    mask = read_picture(path, grey=True)
    return mask if mask.shape == shape[:2] else None


def epoch_rows(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Row numbers of one epoch, shuffled: the whole smaller class and as many drawn from the larger.

    Each epoch and each seed draws another part of the larger class.
    """
    rng = np.random.default_rng((seed, epoch, 0x5EED))
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    count = min(map(len, classes))
    rows = np.concatenate([rng.choice(members, count, replace=False) for members in classes])
    return rng.permutation(rows)


class EpochSampler(Sampler):
    """Batches of (row, epoch) for one rank; `set_epoch` draws anew.

    All ranks see the same global order, cut into batches of batch_size * ranks; what does not fill a batch at the
    end is left to another epoch's draw.
    """

    def __init__(
        self, labels: np.ndarray, batch_size: int, seed: int, *, rank: int = 0, ranks: int = 1, max_batches: int
    ) -> None:
        self._labels, self._batch_size, self._seed = labels, batch_size, seed
        self._rank, self._ranks = rank, ranks
        self._epoch, self._first = 0, 0
        balanced = 2 * int(np.bincount(labels, minlength=2).min())
        self.batches = min(max_batches, balanced // (batch_size * ranks))

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Draw for `epoch`, and leave out the batches before `first_batch` (a resumed run has seen them)."""
        self._epoch, self._first = epoch, first_batch

    def __len__(self) -> int:
        return self.batches - self._first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rows = epoch_rows(self._labels, self._seed, self._epoch)
        whole = self._batch_size * self._ranks
        for batch in range(self._first, self.batches):
            start = batch * whole + self._rank * self._batch_size
            yield [(int(row), self._epoch) for row in rows[start : start + self._batch_size]]


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples -> image uint8 [n, size, size, 3], label float32 [n], row int64 [n], error list of texts.

    Pictures stay bytes until they are on the device: a quarter of the memory and the traffic of floats.
    """
    import torch

    return {
        "image": torch.from_numpy(np.stack([sample["image"] for sample in samples])),
        "label": torch.tensor([sample["label"] for sample in samples], dtype=torch.float32),
        "row": torch.tensor([sample["row"] for sample in samples], dtype=torch.int64),
        "error": [sample["error"] for sample in samples if sample["error"]],
        "broken": torch.tensor([bool(sample["error"]) for sample in samples]),
    }
