"""Crops as training samples: folds.csv, a balanced draw for each epoch, and the pictures.

Everything random about a sample follows from (seed, epoch, row), so that it does not depend on which worker or
rank makes it, nor on where a run was resumed.
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
from dfdc.imaging import MARGIN_PART, fit, read_picture, shows_change, tighten, tighten_offset
from dfdc.landmarks import read_landmarks
from training.config import OcclusionConfig
from training.occlusions import occlude
from training.transforms import Augment

VALIDATE_STRIDE = 2  # every second sampled frame, as the winners did


def read_folds(path: Path) -> pd.DataFrame:
    """folds.csv with columns video, file, label, original, frame, fold; the texts are categories.

    Raises:
        FoldsError: not there, without rows, or not with these columns and types.
    """
    names = ["video", "original", "file"]
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(names, str), keep_default_na=False)
        check_columns(path, table.columns, COLUMNS)
        # Not read as categories: pandas would make numbers of names such as 007.
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
        list(read_columns(path))  # which says what is wrong, and where
        raise FoldsFileError(path, "a label, frame or fold is too large a number")
    return table


def split_folds(table: pd.DataFrame, fold: int, path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to train on and rows held out (`fold`, every second sampled frame).

    Raises:
        SettingError: no such fold, nothing left to train on, or only one class to train on.
    """
    folds = sorted(table["fold"].unique().tolist())
    if fold not in folds:
        raise SettingError("fold", fold, f"{path} has the folds {', '.join(map(str, folds))}")
    held_out = (table["fold"] == fold).to_numpy()
    train = table[~held_out].reset_index(drop=True)
    reals, fakes = ((train["label"] == label).sum() for label in (0, 1))
    if not reals or not fakes:
        found = f"without it {path} holds {reals} real and {fakes} fake crops, but both are needed to train"
        raise SettingError("fold", fold, f"{found}; hold out another fold, or preprocess more parts")
    return train, rows_to_validate(table[held_out])


def rows_to_validate(table: pd.DataFrame) -> pd.DataFrame:
    """Every second sampled frame of `table`; all of it where only others were sampled."""
    chosen = (table["frame"] // layout.FRAME_STRIDE) % VALIDATE_STRIDE == 0
    return table[chosen if chosen.any() else slice(None)].reset_index(drop=True)


def check_crops(table: pd.DataFrame, crops: Path, folds: Path) -> None:
    """Raise FoldsError where the folder is absent, or files that `table` names are not in it.

    Folders are listed, not files opened: 4 million crops take a minute, not an hour.
    """
    if not crops.is_dir():
        advice = f"{setting('data_dir')} must be DATA_ROOT, in which {setting('crops_dir')} (crops) lies"
        raise FoldsError(f"{crops} is not a folder; {advice}")
    missing: list[Path] = []
    for video, rows in table.groupby("video", observed=True):
        folder = crops / str(video)
        present = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        missing += [folder / name for name in rows["file"] if name not in present]
    if missing:
        said = f"{len(missing)} crops that do not exist, {missing[0]} for one"
        raise FoldsError(f"{folds} names {said}; run preprocessing again")


class CropDataset(Dataset):
    """The rows of a folds table, under DATA_ROOT, as samples.

    A training sample is taken by (row, epoch), is occluded and augmented; a validation sample by its row.

    Returns:
        dict of image (uint8 [size, size, 3], RGB), label (0 or 1), row, error (a text where the crop could not be
        read: its image is black then, see `fill_unreadable`) and valid (whether it may count: it was read, and, with
        `only_changed`, it is no fake in which nothing that was changed is to be seen).

    Args:
        size: of the pictures that the network takes, in pixels.
        occlusions: how often what is blacked out in training; None: never.
        only_changed: whether fake crops without a visible change are not valid.
        margin_part: the margin of the samples, a part of the face; MARGIN_PART as cropped.
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
        self._augment: Augment | None = None  # made in the worker: no copy of it travels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: tuple[int, int] | int) -> dict[str, Any]:
        row, epoch = index if isinstance(index, tuple) else (index, 0)
        sample = {"label": int(self._labels[row]), "row": row, "error": ""}
        try:
            sample["image"], sample["valid"] = self._picture(row, epoch)
        except (OSError, ValueError) as error:  # the last: a broken landmarks file
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
            # A crop without landmarks is normal, and is then not occluded by them.
            points = read_landmarks(layout.landmarks_path(self._root, original) / layout.landmarks_name(frame, face))
        if self._margin_part != MARGIN_PART:
            height, width = picture.shape[:2]
            picture = tighten(picture, self._margin_part)
            mask = None if mask is None else tighten(mask, self._margin_part)
            if points is not None:
                points = points - [tighten_offset(side, self._margin_part) for side in (width, height)]
        if self._occlusions:
            picture, mask = occlude(picture, mask, points, rng, self._occlusions)
        # After the occlusion: what is blacked out can't be seen. A fake without a mask gets the benefit of the doubt.
        valid = not (self._only_changed and mask is not None and not shows_change(mask))
        if self._augment is None:
            self._augment = Augment(self._size)
        return self._augment(picture, int(rng.integers(2**31))), valid


def _load_mask(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """uint8 [h, w], or None where there is none of the picture's size (the ledger of step 4 says why)."""
    if not path.is_file():
        return None
    mask = read_picture(path, grey=True)
    return mask if mask.shape == shape[:2] else None


def unchanged_share(table: pd.DataFrame, root: Path) -> tuple[int, int]:
    """(fake crops whose mask shows no change, fake crops with a mask) of `table`'s videos, from step 4's stamps.

    Crops of a fake in which nothing was changed are label noise; --only-changed-frames leaves them out.
    """
    unchanged = masks = 0
    for video in table.loc[table["label"] == 1, "video"].unique():
        stamp = artifacts.read_json(layout.diffs_path(root, str(video)) / artifacts.STAMP_NAME)
        if isinstance(stamp, dict) and artifacts.is_result(stamp):
            masks += stamp["made"].get("masks", 0)
            unchanged += stamp["made"].get("unchanged", 0)
    return unchanged, masks


def epoch_rows(labels: np.ndarray, seed: int, epoch: int, *, oversample: bool = True) -> np.ndarray:
    """Row numbers of one epoch, shuffled: the whole smaller class and as many drawn from the larger.

    Each epoch and each seed draws another part of the larger class. Without `oversample` an epoch is every row once.
    """
    rng = np.random.default_rng((seed, epoch, 0x5EED))
    if not oversample:
        return rng.permutation(len(labels))
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
        """Draw for `epoch`, and leave out the batches before `first_batch` (a resumed run has seen them)."""
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
    """Samples -> image uint8 [n, size, size, 3], label float32 [n], row int64 [n], valid bool [n], readable bool [n],
    error list of texts.

    Pictures stay bytes until they are on the device: a quarter of the memory and the traffic of floats.
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
    """Give the crops of a batch that could not be read the picture of one that could: in place, before the transfer.

    They count for no loss, but they would go through batch norm: black pictures shift its statistics, and a batch of
    another size is compiled anew.

    `spare`, uint8 [size, size, 3], is for a batch of which nothing could be read.

    Raises:
        ValueError: nothing could be read, and there is no spare.
    """
    if not batch["error"]:
        return
    readable = batch["readable"]
    picture = batch["image"][readable][0] if readable.any() else spare
    if picture is None:
        raise ValueError(f"no crop of a batch could be read, and there is no other picture; {batch['error'][0]}")
    batch["image"][~readable] = picture
