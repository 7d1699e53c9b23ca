"""Which videos look alike: what is kept of a few crops of each, and the search over all pairs of videos.

Step 2 looks at up to three crops of each video while it has their pictures, and its stamp keeps what `look` gives.
Step 5 compares what two folds hold. A perceptual hash changes little when a video is encoded again or shrunk, and its
64 bits can be compared over all pairs. It sees the coarse form only, in which many faces agree; so the colours of a
tiny picture have the last word.

Measured on 13 real videos and four copies of each (H.264 at crf 23, 28 and 35, two of them shrunk; faces found anew):
all 130 pairs of copies are found. Of 2,953 pairs of strangers, and of 4,608 pairs of the demo set (seeds 0 to 2) that
are in different parts, none is, though all its faces are warped from one portrait. The hashes alone would find 116.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from itertools import chain, islice
from typing import Any

import cv2
import imagehash
import numpy as np
import xxhash
from PIL import Image

from dfdc import layout
from dfdc.devices import available_cores

LOOKS = 3  # crops of a video that are looked at
ALIKE = 2  # of them must be near for two videos to look alike
COMPARED = LOOKS - ALIKE + 1  # where ALIKE of LOOKS crops are near, one of the first so many is
NEAR_BITS = 10  # hashes that differ in no more bits are near; copies differ in up to 10, strangers mostly in 20 to 36
# Agreement of tiny pictures (-1 to 1): copies have 0.96 or more, people of the demo set 0.943 or less.
SAME_COLOURS = 0.95
FLAT = 2.0  # grey levels: with a smaller standard deviation, noise decides the hash
TINY = 8  # pixels a side of a tiny picture
BLOCK = 256  # videos by videos: what is computed for them stays in the processor's cache
_PAIRS = 1 << 13  # pairs whose tiny pictures are compared at a time


@dataclass(frozen=True, slots=True)
class Look:
    """What is kept of one crop: a checksum of its pixels, its hash (64 bits; None if it is flat), its tiny picture."""

    pixels: bytes
    phash: int | None
    tiny: bytes  # RGB uint8 [TINY, TINY, 3]


@dataclass(frozen=True, slots=True)
class Alike:
    """Two videos that look alike, by their places in the list; distances in bits of the crops that are near."""

    first: int
    second: int
    bits: tuple[int, ...]


def pick(names: Sequence[str]) -> list[str]:
    """The crops of a video to look at: the first, the middle and the last of the person with the most crops.

    Args:
        names: of crops, `<frame>_<face>.png`, in any order. Where two persons have as many, the lower number counts.

    Raises:
        ValueError: a name is no crop's.
    """
    frames: dict[int, list[int]] = {}
    for name in names:
        frame, face = layout.parse_crop_name(name)
        frames.setdefault(face, []).append(frame)
    if not frames:
        return []
    face = min(frames, key=lambda number: (-len(frames[number]), number))
    chosen = sorted(frames[face])
    places = dict.fromkeys((0, len(chosen) // 2, len(chosen) - 1))
    return [layout.crop_name(chosen[place], face) for place in places]


def look(name: str, picture: np.ndarray) -> dict[str, str | None]:
    """What is kept of one crop, RGB uint8 [h, w, 3], to find it again under another name.

    Returns:
        `crop`: the name. `pixels`: XXH3 (128 bits, hexadecimal) of shape and pixels. `phash`: 16 hexadecimal digits, or
        None for a picture with hardly any contrast. `tiny`: the picture as RGB uint8 [8, 8, 3], hexadecimal.
    """
    digest = xxhash.xxh3_128(repr(picture.shape).encode())
    digest.update(np.ascontiguousarray(picture).data)
    grey = Image.fromarray(picture).convert("L")
    phash = str(imagehash.phash(grey)) if np.asarray(grey).std() >= FLAT else None
    tiny = cv2.resize(picture, (TINY, TINY), interpolation=cv2.INTER_AREA)
    return {"crop": name, "pixels": digest.hexdigest(), "phash": phash, "tiny": tiny.tobytes().hex()}


def read_look(kept: dict[str, Any]) -> Look:
    """What `look` gave, in a form that takes less memory.

    Raises:
        KeyError, TypeError, ValueError: it is not what `look` gives.
    """
    phash, tiny = kept["phash"], bytes.fromhex(kept["tiny"])
    if len(tiny) != TINY * TINY * 3:
        raise ValueError(f"a tiny picture of {len(tiny)} bytes")
    return Look(bytes.fromhex(kept["pixels"]), None if phash is None else int(phash, 16), tiny)


@dataclass(frozen=True, slots=True)
class _Table:
    """The looks of n videos in order of their folds: code uint64, known bool, tiny uint8 [LOOKS, n, ...]; fold [n]."""

    code: np.ndarray
    known: np.ndarray
    tiny: np.ndarray
    fold: np.ndarray


def find_alike(looks: Sequence[Sequence[Look]], folds: Sequence[int], bits: int, most: int = 1000) -> list[Alike]:
    """The pairs of videos in different folds that look alike; all pairs are compared, so that none is missed.

    Two videos look alike if at least two of their crops are near, the first compared with the first and so on, and the
    tiny pictures of the near ones show the same colours.

    Args:
        looks: of each video's crops, at most LOOKS.
        folds: of each video.
        bits: two crops are near if their hashes differ in so many bits or fewer.
        most: so many are enough.
    """
    order = np.argsort(np.asarray(folds, np.int64), kind="stable")  # so that blocks within a fold can be left out
    shape = (LOOKS, len(order))
    tiny = np.zeros((*shape, TINY * TINY * 3), np.uint8)
    table = _Table(np.zeros(shape, np.uint64), np.zeros(shape, bool), tiny, np.asarray(folds, np.int64)[order])
    for column, video in enumerate(order):
        for row, seen in enumerate(looks[video]):
            if seen.phash is not None:
                table.code[row, column], table.known[row, column] = seen.phash, True
                table.tiny[row, column] = np.frombuffer(seen.tiny, np.uint8)
    pool = ThreadPoolExecutor(available_cores())  # NumPy lets other threads run while it computes
    try:
        rows = pool.map(lambda start: list(islice(_search(table, bits, start), most)), range(0, len(order), BLOCK))
        pairs = islice(chain.from_iterable(rows), most)
        return [Alike(*sorted((int(order[one]), int(order[other]))), distances) for one, other, distances in pairs]
    finally:
        pool.shutdown(cancel_futures=True)


def _search(table: _Table, bits: int, start: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """(place, place, bits) of the alike pairs of the BLOCK videos from `start` with those that follow."""
    for other in range(start, len(table.fold), BLOCK):
        if table.fold[start] == table.fold[other : other + BLOCK][-1]:  # sorted: all between are of this fold
            continue
        codes = table.code[:COMPARED]
        differences = (code[start : start + BLOCK, None] ^ code[other : other + BLOCK] for code in codes)
        near = reduce(np.logical_or, [np.bitwise_count(difference) <= bits for difference in differences])
        # Flat: nonzero() of a table is a hundred times slower.
        first, second = np.divmod(np.flatnonzero(near), near.shape[1])
        first, second = first + start, second + other
        apart = table.fold[first] < table.fold[second]
        first, second = first[apart], second[apart]
        for at in range(0, len(first), _PAIRS):
            yield from _confirm(table, bits, first[at : at + _PAIRS], second[at : at + _PAIRS])


def _confirm(table: _Table, bits: int, first: np.ndarray, second: np.ndarray) -> list[tuple[int, int, tuple[int, ...]]]:
    """Of pairs (int64 [n] each) those that look alike, looked at again by what is known, and by colour."""
    distance = np.bitwise_count(table.code[:, first] ^ table.code[:, second])
    near = (distance <= bits) & table.known[:, first] & table.known[:, second]
    enough = near.sum(axis=0) >= ALIKE
    first, second, distance, near = first[enough], second[enough], distance[:, enough], near[:, enough]
    colour = _agreement(table.tiny[:, first], table.tiny[:, second])
    same = (colour * near).sum(axis=0) >= SAME_COLOURS * near.sum(axis=0)  # their mean
    return [
        (int(first[pair]), int(second[pair]), tuple(distance[near[:, pair], pair].tolist()))
        for pair in np.flatnonzero(same)
    ]


def _agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How far tiny pictures, uint8 [LOOKS, n, values], agree in form, brightness and contrast: [LOOKS, n], -1 to 1."""
    # Lin's concordance correlation coefficient (1989, Biometrics 45(1)): 1 for the same picture, 0 for strangers.
    a, b = first.astype(np.float32), second.astype(np.float32)
    mean_a, mean_b = a.mean(axis=2), b.mean(axis=2)
    a -= mean_a[..., None]
    b -= mean_b[..., None]
    spread = (a * a).mean(axis=2) + (b * b).mean(axis=2) + (mean_a - mean_b) ** 2
    return 2 * (a * b).mean(axis=2) / np.maximum(spread, 1e-6)  # two pictures of one same colour: 0
