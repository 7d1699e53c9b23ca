"""Detect videos that look alike: fingerprints of a few crops per video, and a search over all pairs of videos.

Step 2 calls `look` on up to three crops of each video and stores the results in its stamp. Step 5 compares them across
folds. A perceptual hash changes little when a video is re-encoded or downscaled, and comparing 64 bits is fast enough
for all pairs. The hash describes only coarse shape, which many faces share. A thumbnail therefore confirms each match
by colour.

Measured on 13 real videos with four copies each (H.264 at crf 23, 28 and 35, two downscaled; faces detected again).
All 130 pairs of copies match. None of 2,953 pairs of strangers matches. None of 4,608 pairs of the demo dataset (seeds
0 to 2) in different parts matches, although all its faces are warped from one portrait. The hashes alone match 116.
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

LOOKS = 3  # crops per video
ALIKE = 2  # near crops required for two videos to look alike
COMPARED = LOOKS - ALIKE + 1  # if ALIKE of LOOKS crops are near, at least one of the first COMPARED is
NEAR_BITS = 10  # largest distance of near hashes; copies differ in up to 10 bits, strangers mostly in 20 to 36
# Agreement of thumbnails (-1 to 1): 0.96 or more for copies, 0.943 or less for people of the demo dataset.
SAME_COLOURS = 0.95
FLAT = 2.0  # grey levels; below this standard deviation, noise dominates the hash
TINY = 8  # thumbnail side in pixels
BLOCK = 256  # videos per side of a comparison block; the results fit into the CPU cache
_PAIRS = 1 << 13  # pairs per thumbnail comparison


@dataclass(frozen=True, slots=True)
class Look:
    """Fingerprint of one crop: checksum of its pixels, perceptual hash (64 bits; None if flat) and thumbnail."""

    pixels: bytes
    phash: int | None
    tiny: bytes  # RGB uint8 [TINY, TINY, 3]


@dataclass(frozen=True, slots=True)
class Alike:
    """Two videos that look alike, by index; `bits` holds the hash distances of their near crops."""

    first: int
    second: int
    bits: tuple[int, ...]


def pick(names: Sequence[str]) -> list[str]:
    """Choose the first, middle and last crop of the person with the most crops.

    Args:
        names: crop names, `<frame>_<face>.png`, in any order. In a tie, the lower person number wins.

    Raises:
        ValueError: a name is not a crop name.
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
    """Return the fingerprint of one crop, RGB uint8 [h, w, 3], for storage as JSON.

    Returns:
        `crop`: the name. `pixels`: XXH3 (128 bits, hexadecimal) of shape and pixels. `phash`: 16 hexadecimal digits, or
        None for an image with very low contrast. `tiny`: thumbnail, RGB uint8 [8, 8, 3], hexadecimal.
    """
    digest = xxhash.xxh3_128(repr(picture.shape).encode())
    digest.update(np.ascontiguousarray(picture).data)
    grey = Image.fromarray(picture).convert("L")
    phash = str(imagehash.phash(grey)) if np.asarray(grey).std() >= FLAT else None
    tiny = cv2.resize(picture, (TINY, TINY), interpolation=cv2.INTER_AREA)
    return {"crop": name, "pixels": digest.hexdigest(), "phash": phash, "tiny": tiny.tobytes().hex()}


def read_look(kept: dict[str, Any]) -> Look:
    """Parse a result of `look` into a form that uses less memory.

    Raises:
        KeyError, TypeError, ValueError: `kept` is not a result of `look`.
    """
    phash, tiny = kept["phash"], bytes.fromhex(kept["tiny"])
    if len(tiny) != TINY * TINY * 3:
        raise ValueError(f"thumbnail has {len(tiny)} bytes, not {TINY * TINY * 3}")
    return Look(bytes.fromhex(kept["pixels"]), None if phash is None else int(phash, 16), tiny)


@dataclass(frozen=True, slots=True)
class _Table:
    """Looks of n videos, sorted by fold: code uint64, known bool, tiny uint8 [LOOKS, n, ...]; fold int64 [n]."""

    code: np.ndarray
    known: np.ndarray
    tiny: np.ndarray
    fold: np.ndarray


def find_alike(looks: Sequence[Sequence[Look]], folds: Sequence[int], bits: int, most: int = 1000) -> list[Alike]:
    """Return the pairs of videos in different folds that look alike, by exhaustive comparison.

    Crops are compared in order: first with first, second with second, and so on. Two videos look alike if at least two
    of these pairs are near and the thumbnails of the near pairs have the same colours.

    Args:
        looks: looks of each video, at most LOOKS.
        folds: fold of each video.
        bits: two crops are near if their hashes differ in at most this many bits.
        most: maximum number of pairs to return.
    """
    order = np.argsort(np.asarray(folds, np.int64), kind="stable")  # lets `_search` skip blocks within one fold
    shape = (LOOKS, len(order))
    tiny = np.zeros((*shape, TINY * TINY * 3), np.uint8)
    table = _Table(np.zeros(shape, np.uint64), np.zeros(shape, bool), tiny, np.asarray(folds, np.int64)[order])
    for column, video in enumerate(order):
        for row, seen in enumerate(looks[video]):
            if seen.phash is not None:
                table.code[row, column], table.known[row, column] = seen.phash, True
                table.tiny[row, column] = np.frombuffer(seen.tiny, np.uint8)
    pool = ThreadPoolExecutor(available_cores())  # NumPy releases the GIL while it computes
    try:
        rows = pool.map(lambda start: list(islice(_search(table, bits, start), most)), range(0, len(order), BLOCK))
        pairs = islice(chain.from_iterable(rows), most)
        return [Alike(*sorted((int(order[one]), int(order[other]))), distances) for one, other, distances in pairs]
    finally:
        pool.shutdown(cancel_futures=True)


def _search(table: _Table, bits: int, start: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Yield (column, column, bits) of alike pairs between the BLOCK videos from `start` and all later videos."""
    for other in range(start, len(table.fold), BLOCK):
        if table.fold[start] == table.fold[other : other + BLOCK][-1]:  # sorted: all videos in between share this fold
            continue
        codes = table.code[:COMPARED]
        differences = (code[start : start + BLOCK, None] ^ code[other : other + BLOCK] for code in codes)
        near = reduce(np.logical_or, [np.bitwise_count(difference) <= bits for difference in differences])
        # Flatten first: nonzero() on two dimensions is a hundred times slower.
        first, second = np.divmod(np.flatnonzero(near), near.shape[1])
        first, second = first + start, second + other
        apart = table.fold[first] < table.fold[second]
        first, second = first[apart], second[apart]
        for at in range(0, len(first), _PAIRS):
            yield from _confirm(table, bits, first[at : at + _PAIRS], second[at : at + _PAIRS])


def _confirm(table: _Table, bits: int, first: np.ndarray, second: np.ndarray) -> list[tuple[int, int, tuple[int, ...]]]:
    """Filter candidate pairs (int64 [n] each) by all known hashes and by colour."""
    distance = np.bitwise_count(table.code[:, first] ^ table.code[:, second])
    near = (distance <= bits) & table.known[:, first] & table.known[:, second]
    enough = near.sum(axis=0) >= ALIKE
    first, second, distance, near = first[enough], second[enough], distance[:, enough], near[:, enough]
    colour = _agreement(table.tiny[:, first], table.tiny[:, second])
    same = (colour * near).sum(axis=0) >= SAME_COLOURS * near.sum(axis=0)  # mean over the near crops
    return [
        (int(first[pair]), int(second[pair]), tuple(distance[near[:, pair], pair].tolist()))
        for pair in np.flatnonzero(same)
    ]


def _agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return agreement in form, brightness and contrast of thumbnails uint8 [LOOKS, n, values]: [LOOKS, n], -1 to 1."""
    # Lin's concordance correlation coefficient (1989, Biometrics 45(1)): 1 for identical images, 0 for unrelated ones.
    a, b = first.astype(np.float32), second.astype(np.float32)
    mean_a, mean_b = a.mean(axis=2), b.mean(axis=2)
    a -= mean_a[..., None]
    b -= mean_b[..., None]
    spread = (a * a).mean(axis=2) + (b * b).mean(axis=2) + (mean_a - mean_b) ** 2
    return 2 * (a * b).mean(axis=2) / np.maximum(spread, 1e-6)  # two images of the same uniform colour: 0
