"""Read, detect and score in parallel: faces of many videos share batches, and memory stays bounded.

Each reader thread has a process that decodes videos, and detects faces in their frames. The crops go through a queue of
limited length to the scoring thread, which fills batches with crops of any video. A video is finished when its last
face is scored.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from dfdc.devices import available_cores, limit_torch_threads
from dfdc.faces import FaceDetector
from networks.ensemble import Ensemble
from prediction.conclusion import conclude
from prediction.decoding import Decoder
from prediction.progress import Results
from prediction.reading import find_faces
from prediction.settings import DetectorScale, Floors
from prediction.verdict import Verdict


@dataclass(frozen=True)
class Options:
    """How faces are detected, and how their scores are combined."""

    detector_scale: DetectorScale = "auto"  # see dfdc.detector_settings.detector_scale
    strategy: str = "confident"  # a key of dfdc.scoring.STRATEGIES
    floors: Floors = field(default_factory=Floors)  # thresholds of the doubts


@dataclass(eq=False)
class _Job:
    """A video in progress. Readers only pass it on; the scoring thread records results in it."""

    name: str
    scores: list[list[float] | Exception] = field(default_factory=list)  # of each crop so far, in order
    read: _Read | None = None  # None until reading ends, and again after the video is finished


@dataclass(frozen=True)
class _Crop:
    """A face to be scored: RGB uint8 [h, w, 3]."""

    job: _Job
    pixels: np.ndarray


@dataclass(frozen=True)
class _Read:
    """A video whose reading ended: the number of its crops, and its verdict so far."""

    job: _Job
    crops: int = 0
    verdict: Verdict | None = None
    fault: BaseException | None = None  # an error of this program, which ends the run


class _Stopped(Exception):
    """Scoring ended; a reader that waits for room in the queue must end too."""


def reader_count(device: str) -> int:
    """Return the number of reader threads: half of the cores if the CPU scores, all up to 8 if a GPU does."""
    cores = available_cores()
    return max(1, min(cores, 8) if device.startswith("cuda") else cores // 2)


def predict(
    ensemble: Ensemble,
    detector: FaceDetector,
    results: Results,
    options: Options,
    *,
    readers: int = 1,
    decoder: Decoder | None = None,
    tell: Callable[[Verdict], None] | None = None,
) -> list[Verdict]:
    """Return the verdicts of all videos of `results`, in their order; add each to `results` when it is known.

    Args:
        results: names the videos; those already done are not read again.
        readers: number of threads that decode videos and detect faces.
        decoder: for a single reader; it stays open, except after an error. Default: one for each reader.
        tell: called with each new verdict.
    """
    work = _Work(ensemble.names, results, options, tell)
    at_once = ensemble.batch_size * max(1, ensemble.threads)
    decoders = [decoder] if decoder else [Decoder() for _ in range(readers)]
    reading = _Readers(results, detector, options.detector_scale, decoders, room=2 * at_once)
    stays_open = False
    try:
        batch: list[_Crop] = []
        # One video more than there are readers: it waits for its last faces, which are queued or being scored.
        open_jobs = sum(reading.start_next() for _ in range(readers + 1))
        while open_jobs:
            item = reading.next_item(wait=not batch)
            if isinstance(item, _Read):
                if item.fault is not None:
                    raise item.fault
                item.job.read = item
                open_jobs += reading.start_next()
                open_jobs -= work.finish(item.job)
            elif item is not None:
                batch.append(item)
            if batch and (len(batch) >= at_once or item is None):
                for crop, scores in zip(batch, _score(batch, ensemble), strict=True):
                    crop.job.scores.append(scores)
                open_jobs -= sum(work.finish(job) for job in dict.fromkeys(crop.job for crop in batch))
                batch = []
        stays_open = decoder is not None
    finally:
        reading.stop(decoders_too=not stays_open)
    return [results.done[name] for name in results.videos]


class _Readers:
    """Threads that each read a video and queue what they detect; at most `room` items wait in the queue."""

    def __init__(
        self,
        results: Results,
        detector: FaceDetector,
        scale: DetectorScale,
        decoders: Sequence[Decoder],
        *,
        room: int,
    ) -> None:
        self._results = results
        self._waiting = iter([name for name in results.videos if name not in results.done])
        self._detector, self._scale = detector, scale
        self._pool = ThreadPoolExecutor(len(decoders), initializer=partial(limit_torch_threads, 1))
        self._decoders = decoders
        self._free = list(self._decoders)
        self._items: queue.Queue[_Crop | _Read] = queue.Queue(maxsize=room)
        self._stopped = threading.Event()

    def start_next(self) -> int:
        """Start reading the next video, if there is one; return the number started, 0 or 1."""
        name = next(self._waiting, None)
        if name is not None:
            self._pool.submit(self._read, _Job(name))
        return int(name is not None)

    def _read(self, job: _Job) -> None:
        crops = 0

        def emit(pixels: np.ndarray) -> None:
            nonlocal crops
            crops += 1
            self._put(_Crop(job, pixels))

        try:
            self._results.begin(job.name)
            decoder, path = self._free.pop(), self._results.videos[job.name]
            verdict = find_faces(path, job.name, decoder, self._detector, self._scale, emit)
            done = _Read(job, crops, verdict)
            self._free.append(decoder)
        except BaseException as error:  # the run must not wait forever for this video
            done = _Read(job, fault=error)
        self._put(done)

    def _put(self, item: _Crop | _Read) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                return self._items.put(item, timeout=0.5)
        raise _Stopped

    def next_item(self, *, wait: bool) -> _Crop | _Read | None:
        """Return the next crop or read video; without `wait`, None if there is none at the moment."""
        try:
            return self._items.get(timeout=None if wait else 0.05)
        except queue.Empty:
            return None

    def stop(self, *, decoders_too: bool) -> None:
        """End the threads; with the decoders, even while they work."""
        self._stopped.set()
        ending = self._decoders if decoders_too else ()
        for decoder in ending:
            decoder.stop()  # a thread that waits for it wakes up, and ends at its next item
        self._pool.shutdown(cancel_futures=True)
        for decoder in ending:
            decoder.close()


def _score(batch: Sequence[_Crop], ensemble: Ensemble) -> Sequence[list[float] | Exception]:
    """Score each crop. If that fails, score each video alone; the crops of a failing video get the error."""
    try:
        return _scores(batch, ensemble)
    except Exception as error:  # becomes the video's status, as in find_faces
        jobs = dict.fromkeys(crop.job for crop in batch)
        if len(jobs) == 1:
            return [error] * len(batch)
    by_job = {job: iter(_score([crop for crop in batch if crop.job is job], ensemble)) for job in jobs}
    return [next(by_job[crop.job]) for crop in batch]


def _scores(batch: Sequence[_Crop], ensemble: Ensemble) -> list[list[float]]:
    # Significant digits, not decimals: the log loss depends on them near 0.
    scores = ensemble.score([crop.pixels for crop in batch])
    return [[float(f"{value:.7g}") for value in values] for values in scores.T]


@dataclass(frozen=True)
class _Work:
    """Finishes a video after its last face is scored."""

    names: Sequence[str]
    results: Results
    options: Options
    tell: Callable[[Verdict], None] | None

    def finish(self, job: _Job) -> int:
        """Conclude a video, and return 1; return 0 if it is not complete yet."""
        read = job.read
        if read is None or read.verdict is None or len(job.scores) < read.crops:
            return 0
        verdict, job.read = read.verdict, None  # only once
        if verdict.status.scored:
            self._put_scores(verdict, job.scores)
        self.results.add(verdict)
        if self.tell is not None:
            self.tell(verdict)
        return 1

    def _put_scores(self, verdict: Verdict, found: Sequence[list[float] | Exception]) -> None:
        errors = [error for error in found if isinstance(error, Exception)]
        if errors:
            verdict.fail(errors[-1], "while scoring: ")
            return
        verdict.faces = [replace(face, scores=values) for face, values in zip(verdict.faces, found, strict=True)]
        try:
            conclude(verdict, self.names, self.options.strategy, self.options.floors)
        except ValueError as error:  # a score is not a probability
            verdict.fail(error, "while combining the scores: ")
