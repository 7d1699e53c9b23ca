"""Reading, detection and scoring side by side: faces of many videos share batches, and memory stays bounded.

Reader threads have videos decoded, each by a process of its own, and find faces; each crop goes through a queue of
limited length to the scoring, which takes as many as make full batches, whichever videos they are of. A video is done
when its last face is.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dfdc.devices import available_cores
from dfdc.faces import FaceDetector
from networks.ensemble import Ensemble
from prediction.conclusion import Floors, conclude
from prediction.decoding import Decoder
from prediction.progress import Results
from prediction.reading import find_faces
from prediction.verdict import VERDICT_STATUSES, Face, Verdict


@dataclass(frozen=True)
class Options:
    """How faces are found and what becomes of their scores.

    Attributes:
        detector_scale: see `dfdc.detector_settings.detector_scale`.
        strategy: a name in dfdc.scoring.STRATEGIES.
        floors: under which a verdict stands with a doubt.
    """

    detector_scale: str | float = "auto"
    strategy: str = "confident"
    floors: Floors = field(default_factory=Floors)


@dataclass
class _Job:
    """A video on its way: how many faces were handed out (its reader counts), how many were scored, what came of it."""

    name: str
    emitted: int = 0
    scored: int = 0
    verdict: Verdict | None = None
    error: BaseException | None = None


class _Read(NamedTuple):
    """A video that is read: its verdict so far, or a fault of this program, with which the run ends."""

    job: _Job
    verdict: Verdict | None = None
    fault: BaseException | None = None


_Item = tuple[_Job, Face, np.ndarray]


class _Stopped(Exception):
    """The scoring ended; a reader that waits for room in the queue must end as well."""


def reader_count(device: str) -> int:
    """Threads that decode and detect: half of the cores beside a CPU's scoring, up to 8 beside a GPU's."""
    cores = available_cores()
    return max(1, min(cores, 8) if device.startswith("cuda") else cores // 2)


def predict(
    ensemble: Ensemble,
    detector: FaceDetector,
    results: Results,
    options: Options,
    *,
    readers: int = 1,
    tell: Callable[[Verdict], None] | None = None,
) -> list[Verdict]:
    """Verdicts of all videos of `results`, in their order; each goes to `results` when it is known.

    Args:
        results: names the videos; those that it has done are not read again.
        readers: threads that have videos decoded and find faces.
        tell: called with each new verdict.
    """
    work = _Work(ensemble.names, results, options, tell)
    todo = [name for name in results.videos if name not in results.done]
    at_once = ensemble.batch_size * max(1, ensemble.threads)
    reading = _Readers(results, todo, detector, options.detector_scale, threads=readers, room=2 * at_once)
    try:
        batch: list[_Item] = []
        # One video more than there are readers waits for its last faces; its crops are in the queue or scored.
        open_jobs = sum(reading.start_next() for _ in range(readers + 1))
        while open_jobs:
            item = reading.next_item(wait=not batch)
            if isinstance(item, _Read):
                if item.fault is not None:
                    raise item.fault
                item.job.verdict = item.verdict
                open_jobs += reading.start_next()
                open_jobs -= work.finish(item.job)
            elif item is not None:
                batch.append(item)
            if batch and (len(batch) >= at_once or item is None):
                _score(batch, ensemble)
                for job in {id(job): job for job, _, _ in batch}.values():
                    open_jobs -= work.finish(job)
                batch = []
    finally:
        reading.stop()
    return [results.done[name] for name in results.videos]


class _Readers:
    """Threads that each read a video; what they find comes out one by one.

    An item is (job, face, crop), or a _Read when a video is read.

    Args:
        todo: names of videos, in the order in which they are read.
        room: how many faces may wait to be taken.
    """

    def __init__(
        self,
        results: Results,
        todo: Sequence[str],
        detector: FaceDetector,
        scale: str | float,
        *,
        threads: int,
        room: int,
    ) -> None:
        self._results, self._waiting = results, iter(todo)
        self._detector, self._scale = detector, scale
        self._pool = ThreadPoolExecutor(threads, initializer=_one_thread)
        self._decoders = [Decoder() for _ in range(threads)]
        self._free = list(self._decoders)
        self._items: queue.Queue = queue.Queue(maxsize=room)
        self._stopped = threading.Event()

    def start_next(self) -> int:
        """Have the next video read, if there is one; return how many that were."""
        name = next(self._waiting, None)
        if name is not None:
            self._pool.submit(self._read, _Job(name))
        return int(name is not None)

    def _read(self, job: _Job) -> None:
        def emit(face: Face, crop: np.ndarray) -> None:
            job.emitted += 1
            self._put((job, face, crop))

        try:
            self._results.begin(job.name)
            decoder = self._free.pop()
            path = self._results.videos[job.name]
            done = _Read(job, find_faces(path, job.name, decoder, self._detector, self._scale, emit))
            self._free.append(decoder)
        except BaseException as error:  # the run must not wait for ever for this video
            done = _Read(job, fault=error)
        self._put(done)

    def _put(self, item: _Item | _Read) -> None:
        while not self._stopped.is_set():
            try:
                self._items.put(item, timeout=0.5)
                return
            except queue.Full:
                continue
        raise _Stopped

    def next_item(self, *, wait: bool) -> _Item | _Read | None:
        """The next face or read video; None when there is none at the moment and `wait` is not set."""
        try:
            return self._items.get(timeout=None if wait else 0.05)
        except queue.Empty:
            return None

    def stop(self) -> None:
        """End the threads, whatever they are at."""
        self._stopped.set()
        for decoder in self._decoders:
            decoder.stop()  # the thread that waits for it goes on, and ends at its next face
        self._pool.shutdown(cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # of this thread alone


def _score(batch: Sequence[_Item], ensemble: Ensemble) -> None:
    """Put the scores into the faces. Where that fails, each video is tried by itself, and the one at fault notes it."""
    try:
        _put_scores(batch, ensemble.score([crop for _, _, crop in batch]))
    except Exception as error:
        jobs = {id(job): job for job, _, _ in batch}
        for key, job in jobs.items():
            own = [item for item in batch if id(item[0]) == key]
            try:
                if len(jobs) == 1:
                    raise error
                _put_scores(own, ensemble.score([crop for _, _, crop in own]))
            except Exception as own_error:  # becomes the video's status, as in find_faces
                job.error = own_error
    for job, _, _ in batch:
        job.scored += 1


def _put_scores(batch: Sequence[_Item], scores: np.ndarray) -> None:
    for (_, face, _), values in zip(batch, scores.T, strict=True):
        # Digits and not decimals: near 0, the log loss hangs on them.
        face.scores = [float(f"{value:.7g}") for value in values]


@dataclass(frozen=True)
class _Work:
    """What is done with a video that is read and scored to its last face."""

    names: Sequence[str]
    results: Results
    options: Options
    tell: Callable[[Verdict], None] | None

    def finish(self, job: _Job) -> int:
        """Conclude a video; return 1 for it, 0 if it is not so far."""
        verdict = job.verdict
        if verdict is None or job.scored < job.emitted:
            return 0
        job.verdict = None  # done once
        if job.error is not None and verdict.status in VERDICT_STATUSES:
            verdict.fail(job.error, "while scoring: ")
        if verdict.status in VERDICT_STATUSES:
            try:
                conclude(verdict, self.names, self.options.strategy, self.options.floors)
            except ValueError as error:  # a score that is no probability
                verdict.fail(error, "while combining the scores: ")
        self.results.add(verdict)
        if self.tell is not None:
            self.tell(verdict)
        return 1
