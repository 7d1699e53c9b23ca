"""Broken videos: sound ones of many codecs and containers, damage drawn by a seed, and what scoring says of each file.

    python -m tests.broken_videos --files 2000 --seed 1

Every file is read as predict_folder.py reads it: by `prediction.batches.predict`, which decodes 32 frames in a child
process. Stubs replace the networks and, for all files but every tenth, the face detector. The frames of a file that
seems sound are compared with those of the file before the damage.

The exit status is 1 if a file ended with `error` or `out of memory`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dfdc.detector_settings import PREDICT_THRESHOLDS
from dfdc.faces import FaceDetector, Faces
from prediction.batches import Options, predict
from prediction.progress import Results
from prediction.verdict import Status, Verdict
from tests.sound_videos import KINDS, Kind, blocks, compare, sound

_SEEM_SOUND = (Status.OK, Status.TOO_SHORT, Status.NO_FACE)


# ---------------------------------------------------------------------------------------------------- damage
def _place(data: bytearray, rng: random.Random, most: int = 1 << 40) -> tuple[int, int]:
    """Begin and end of a block: 1 byte to a quarter of the file, small ones as likely as large ones."""
    length = int(min(len(data) / 4, most) ** rng.random())
    begin = rng.randrange(len(data) - length)
    return begin, begin + length


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[int(len(data) * rng.uniform(0.02, 0.999)) :]


def _flip(data: bytearray, rng: random.Random, begin: int = 0, end: int | None = None) -> None:
    for _ in range(rng.choice((1, 2, 5, 20, 100, 500))):
        data[rng.randrange(begin, end or len(data))] ^= 1 << rng.randrange(8)


def _zero(data: bytearray, rng: random.Random) -> None:
    begin, end = _place(data, rng)
    data[begin:end] = bytes(end - begin)


def _fill(data: bytearray, rng: random.Random) -> None:
    begin, end = _place(data, rng)
    data[begin:end] = rng.randbytes(end - begin)


def _double(data: bytearray, rng: random.Random) -> None:
    begin, end = _place(data, rng)
    data[begin:begin] = data[begin:end]


def _overwrite(data: bytearray, rng: random.Random) -> None:
    begin, end = _place(data, rng)
    at = rng.randrange(len(data) - (end - begin))
    data[at : at + end - begin] = data[begin:end]


def _remove(data: bytearray, rng: random.Random) -> None:
    begin, end = _place(data, rng)
    del data[begin:end]


def _swap(data: bytearray, rng: random.Random) -> None:
    begin, end = _place(data, rng)
    middle = (begin + end) // 2
    data[begin:end] = data[middle:end] + data[begin:middle]


def _header(data: bytearray, rng: random.Random) -> None:
    end = min(len(data), rng.choice((64, 512, 4096)))
    if rng.random() < 0.7:
        _flip(data, rng, 0, end)
    else:
        begin = rng.randrange(end)
        data[begin:end] = rng.choice((bytes, rng.randbytes))(end - begin)


def _tail(data: bytearray, rng: random.Random) -> None:
    begin = max(0, len(data) - rng.choice((64, 512, 4096)))
    if rng.random() < 0.7:
        _flip(data, rng, begin)
    else:
        end = rng.randrange(begin, len(data))
        data[begin:end] = rng.choice((bytes, rng.randbytes))(end - begin)


DAMAGES: dict[str, Callable[[bytearray, random.Random], None]] = {
    "cut off": _cut,
    "bits flipped": _flip,
    "block of zeros": _zero,
    "random block": _fill,
    "block doubled": _double,
    "block over another": _overwrite,
    "block removed": _remove,
    "blocks swapped": _swap,
    "damaged header": _header,
    "damaged tail": _tail,
}


@dataclass(frozen=True)
class Broken:
    """One file of the corpus, the same for the same seed and number."""

    seed: int
    number: int
    kind: Kind
    damages: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.number}{Path(self.kind.name).suffix}"

    @property
    def about(self) -> str:
        return f"{self.number} ({self.kind.name}: {', '.join(self.damages)})"

    def data(self) -> bytes:
        rng, data = random.Random(f"{self.seed} {self.number} damage"), bytearray(sound(self.kind))
        for damage in self.damages:
            DAMAGES[damage](data, rng)
        return bytes(data)


def draw(seed: int, number: int) -> Broken:
    """File `number` of the corpus of a seed: a kind, and one damage or two."""
    rng = random.Random(f"{seed} {number}")
    (kind,) = rng.choices(KINDS, [kind.often for kind in KINDS])
    return Broken(seed, number, kind, tuple(rng.sample(list(DAMAGES), rng.choice((1, 1, 1, 2)))))


# -------------------------------------------------------------------------------------------------- the real path
class Networks:
    """In place of an ensemble: a network that says the same of every face."""

    names, batch_size, threads = ("stub",), 32, 1

    def score(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        return np.full((1, len(crops)), 0.4)


class Seeing:
    """A detector that keeps the `blocks` of what it is shown; unless `real`, it finds one face in each frame."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.real = False

    @functools.cached_property
    def detector(self) -> FaceDetector:
        return FaceDetector(PREDICT_THRESHOLDS, "cpu")

    def batch_size(self, width: int, height: int, scale: float) -> int:
        return self.detector.batch_size(width, height, scale) if self.real else 1

    def detect(self, frames: Sequence[np.ndarray], scale: float) -> list[Faces]:
        self.seen += map(blocks, frames)
        if self.real:
            return self.detector.detect(frames, scale)
        one = [np.array([[2, 2, 12, 12]], np.float32), np.ones(1, np.float32), np.zeros((1, 5, 2), np.float32)]
        return [Faces(*one)] * len(frames)


@dataclass(frozen=True)
class Ended:
    """How one file ended."""

    file: Broken
    verdict: Verdict
    seconds: float
    peak: int  # MiB: the most memory of a decoding process so far
    shown: Counter[str]  # number of frames by `compare`; empty if the file does not seem sound

    @property
    def fault(self) -> bool:
        return self.verdict.status in (Status.ERROR, Status.OUT_OF_MEMORY)


class _Corpus(Results):
    """The files, each written just before it is read, and removed when it is read."""

    def __init__(self, folder: Path, files: Sequence[Broken], detector: Seeing, real_each: int) -> None:
        super().__init__({file.name: folder / file.name for file in files})
        self.by_name = {file.name: file for file in files}
        self.detector, self.real_each = detector, real_each
        self.began = time.monotonic()
        self.ended: list[Ended] = []
        self._seen: dict[str, list[np.ndarray]] = {}
        self._seconds: dict[str, float] = {}
        self._current = ""

    def begin(self, name: str) -> None:
        self._note_current()
        file = self.by_name[name]
        self.videos[name].write_bytes(file.data())
        self.detector.real = bool(self.real_each) and file.number % self.real_each == 0
        self.detector.seen, self._current, self.began = [], name, time.monotonic()

    def _note_current(self) -> None:
        if self._current and self._current not in self._seconds:
            self._seconds[self._current] = time.monotonic() - self.began
            self._seen[self._current] = self.detector.seen

    def add(self, verdict: Verdict) -> None:
        super().add(verdict)
        self._note_current()
        self.videos[verdict.filename].unlink()
        file, seen = self.by_name[verdict.filename], self._seen.pop(verdict.filename)
        frames = sorted(set(_wanted(verdict)) - set(verdict.frames_lost))
        shown: Counter[str] = Counter()
        if verdict.status in _SEEM_SOUND and len(verdict.sizes) == 1 and not verdict.notes:
            shown.update(compare(file.kind, *pair) for pair in zip(frames, seen, strict=True))
        self.ended.append(Ended(file, verdict, self._seconds[verdict.filename], _peak_of_children(), shown))


def _wanted(verdict: Verdict) -> list[int]:
    return [int(number) for number in np.linspace(0, verdict.frame_count - 1, min(32, verdict.frame_count))]


def _peak_of_children() -> int:
    """The most memory that a running child has held at once, in MiB; 0 without one."""
    found = [0]
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        for child in task.joinpath("children").read_text().split():
            with contextlib.suppress(FileNotFoundError):  # it ended just now
                held = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{child}/status").read_text())
                found.append(int(held[1]) >> 10 if held else 0)
    return max(found)


def score(files: Sequence[Broken], folder: Path, *, real_each: int = 10) -> list[Ended]:
    """Score the files one after the other; the detector looks at every `real_each`th (0: at none)."""
    detector = Seeing()
    corpus = _Corpus(folder, files, detector, real_each)

    def tell(verdict: Verdict) -> None:
        if len(corpus.ended) % 100 == 0:
            print(f"{len(corpus.ended)} of {len(files)} files", file=sys.stderr, flush=True)

    predict(Networks(), detector, corpus, Options(), readers=1, tell=tell)
    return corpus.ended


def summary(ended: Sequence[Ended]) -> Iterator[str]:
    """The lines of the table."""
    for status, count in Counter(one.verdict.status.value for one in ended).most_common():
        yield f"{count:5}  {status}"
    yield _looks("all", ended)
    yield from (_looks(kind.name, [one for one in ended if one.file.kind == kind]) for kind in KINDS)
    yield from (_looks(damage, [one for one in ended if one.file.damages == (damage,)]) for damage in DAMAGES)
    slowest, largest = max(ended, key=lambda one: one.seconds), max(ended, key=lambda one: one.peak)
    yield f"slowest: {slowest.seconds:.1f} s, {slowest.file.about}"
    yield f"most memory of a decoding process: {largest.peak} MiB, {largest.file.about}"
    yield from (f"{one.verdict.status}: {one.file.about}: {one.verdict.reason}" for one in ended if one.fault)


def _looks(title: str, ended: Sequence[Ended]) -> str:
    """How many of these files seem sound, and how many of those show something else."""
    shown = [one.shown for one in ended if one.shown]
    wrong, elsewhere = (sum(bool(counts[kind]) for counts in shown) for kind in ("wrong", "elsewhere"))
    frames = f"{sum(counts['wrong'] for counts in shown)} of {sum(sum(counts.values()) for counts in shown)} frames"
    scored = f"{len(ended):5} files, {len(shown):5} seem sound"
    return f"{title:18} {scored}, {wrong:4} with a wrong picture ({frames}), {elsewhere:4} with a moved one"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000, help="number of files (default: 2000)")
    parser.add_argument("--seed", type=int, default=1, help="draws kinds and damage (default: 1)")
    parser.add_argument("--first", type=int, default=0, help="number of the first file (default: 0)")
    parser.add_argument("--keep", type=Path, help="only write the files to this folder")
    args = parser.parse_args()
    files = [draw(args.seed, number) for number in range(args.first, args.first + args.files)]
    if args.keep:
        for file in files:
            (args.keep / file.name).write_bytes(file.data())
        return 0
    with tempfile.TemporaryDirectory() as folder:
        ended = score(files, Path(folder))
    print(*summary(ended), sep="\n")
    return int(any(one.fault for one in ended))


if __name__ == "__main__":
    raise SystemExit(main())
