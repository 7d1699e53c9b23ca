"""The pairs on the page: real and fake crops with landmarks, and the mask over the fake.

The names alone decide which pairs are shown; they are spread evenly over parts, fakes and frames. The number of folders
that are read is bounded, so the time does not grow with the dataset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from dfdc import layout
from dfdc.imaging import encode_jpeg, isotropic_resize, read_picture
from dfdc.landmarks import read_landmarks
from dfdc.layout import Dataset, Video
from dfdc.rejections import load_rejections

MAX_PAIRS = 24
MAX_FRAMES = 4  # of one fake, if there are few fakes
MAX_TRIES = 20 * MAX_PAIRS  # fakes to check; many may have no crops
SIDE = 224  # pixels, the longer side of a thumbnail
QUALITY = 82  # of its JPEG
FULL_CHANGE = 128  # from this mask value on, the overlay hides the image
_GOLD, _DARK = (255, 214, 64), (24, 24, 24)
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Pair:
    """One crop of an original and of a fake made from it, as JPEG bytes.

    `mask_jpeg` is the fake in grey under its mask in colour; None without a mask. `landmarks`: the five points were
    drawn.
    """

    fake: Video
    frame: int
    face: int
    size: tuple[int, int]  # width and height of the crop, in pixels
    real_jpeg: bytes
    fake_jpeg: bytes
    mask_jpeg: bytes | None
    landmarks: bool

    @property
    def where(self) -> str:
        return f"frame {self.frame}, person {self.face}"


def make_pairs(dataset: Dataset, crops_dir: str, limit: int = MAX_PAIRS) -> tuple[list[Pair], list[str]]:
    """Up to `limit` pairs, sorted by part and fake, and the errors of other pairs."""
    faults: list[str] = []
    pairs: list[Pair] = []
    usable: list[tuple[Video, list[tuple[int, int]]]] = []  # with (frame, face) of its crops, the best first
    rejections = load_rejections(dataset.root)
    wanted = [video for video in dataset.fakes() if rejections.whole(video) is None]
    for tries, fake in enumerate(_spread_fakes(wanted)):
        if len(pairs) == limit or tries == MAX_TRIES:
            break
        crops = _pick_crops(dataset.root, crops_dir, fake, len(pairs))
        if crops and (pair := _load(dataset.root, crops_dir, fake, crops[0], faults)):
            pairs.append(pair)
            usable.append((fake, crops))
    for turn in range(1, MAX_FRAMES):
        more = [(fake, crops[turn]) for fake, crops in usable if turn < len(crops)]
        for fake, crop in more:
            if len(pairs) < limit and (pair := _load(dataset.root, crops_dir, fake, crop, faults)):
                pairs.append(pair)
    order = {part.name: index for index, part in enumerate(dataset.parts)}

    def place(pair: Pair) -> tuple[object, ...]:
        return order[pair.fake.part], layout.natural_key(pair.fake.id), pair.fake.id, pair.frame, pair.face

    return sorted(pairs, key=place), faults


def spread(items: Sequence[_Item]) -> list[_Item]:
    """`items` in an order of which every prefix is spread evenly over all items."""
    bits = max(1, (len(items) - 1).bit_length())
    return [items[i] for i in sorted(range(len(items)), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))]


def _spread_fakes(fakes: Iterable[Video]) -> Iterator[Video]:
    """Every fake: one of each part, then a second one of each part, and so on."""
    by_part: dict[str, list[Video]] = {}
    for video in fakes:
        by_part.setdefault(video.part, []).append(video)
    parts = spread([spread(sorted(videos, key=lambda video: video.id)) for videos in by_part.values()])
    for turn in range(max(map(len, parts), default=0)):
        yield from (videos[turn] for videos in parts if turn < len(videos))


def _pick_crops(root: Path, crops_dir: str, fake: Video, turn: int) -> list[tuple[int, int]]:
    """Crops that the fake and its original share; if any have landmarks and mask, only those."""
    own, real = (set(layout.list_crops(layout.crops_path(root, x, crops_dir))) for x in (fake.id, fake.source))
    shared = sorted(own & real)
    points, masks = layout.landmarks_path(root, fake.source), layout.diffs_path(root, fake.id)
    masked = [key for key in shared if (masks / layout.diff_name(*key)).is_file()]
    full = [key for key in masked if (points / layout.landmarks_name(*key)).is_file()]
    order = spread(full or shared)
    first = (turn + 1) % max(1, len(order))  # the middle one at turn 0; neighbouring turns lie far apart
    return order[first:] + order[:first]


def _load(root: Path, crops_dir: str, fake: Video, crop: tuple[int, int], faults: list[str]) -> Pair | None:
    """The pair at `crop` (frame, face); if it can't be read, None, and the error goes to `faults`."""
    frame, face = crop
    name = layout.crop_name(frame, face)
    points_path = layout.landmarks_path(root, fake.source) / layout.landmarks_name(frame, face)
    mask_path = layout.diffs_path(root, fake.id) / layout.diff_name(frame, face)
    try:
        crops = (layout.crops_path(root, video, crops_dir) / name for video in (fake.source, fake.id))
        real, forged = map(read_picture, crops)
        points = read_landmarks(points_path)
        mask = read_picture(mask_path, grey=True) if mask_path.is_file() else None
    except (OSError, ValueError) as error:
        faults.append(f"{fake.id}, {name}: {error}".replace(str(root), "DATA_ROOT"))
        return None
    size = real.shape[1], real.shape[0]
    real_jpeg, fake_jpeg = (encode_jpeg(_with_points(picture, points), QUALITY) for picture in (real, forged))
    mask_jpeg = None if mask is None else encode_jpeg(_with_mask(forged, mask), QUALITY)
    return Pair(fake, frame, face, size, real_jpeg, fake_jpeg, mask_jpeg, points is not None)


def _with_points(picture: np.ndarray, points: np.ndarray | None) -> np.ndarray:
    """The thumbnail of a crop, RGB uint8, with `points` [5, 2] (x, y in pixels of the crop) drawn on it."""
    small = isotropic_resize(picture, SIDE).copy()
    if points is not None:
        scale = max(small.shape[:2]) / max(picture.shape[:2])
        for x, y in points:
            centre = round((float(x) + 0.5) * scale * 16), round((float(y) + 0.5) * scale * 16)  # 1/16 pixels
            cv2.circle(small, centre, 5 * 16, _DARK, -1, cv2.LINE_AA, shift=4)
            cv2.circle(small, centre, 56, _GOLD, -1, cv2.LINE_AA, shift=4)
    return small


def _with_mask(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The thumbnail in dim grey under its mask, from dark red (little changed) to pale yellow."""
    small = isotropic_resize(picture, SIDE)
    height, width = small.shape[:2]
    value = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    colour = cv2.applyColorMap(value, cv2.COLORMAP_INFERNO)
    share = np.clip(value.astype(np.float32) / FULL_CHANGE, 0, 1)[..., None]
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32) * 0.6
    return np.clip(grey * (1 - share) + colour[..., ::-1] * share + 0.5, 0, 255).astype(np.uint8)
