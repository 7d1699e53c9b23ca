"""Reading, detection and scoring side by side: faces of many videos share batches, and memory stays bounded.

Reader threads decode videos and find faces; each crop goes through a queue of limited length to the scoring, which
takes as many as make full batches, whichever videos they are of. A video is done when its last face is.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dfdc import parallel
from dfdc.devices import available_cores
from dfdc.faces import FaceDetector
from prediction.ensemble import Ensemble
from prediction.reading import find_faces
from prediction.verdict import VERDICT_STATUSES, Progress, Verdict, conclude


@dataclass
class _Job:
    """A video on its way: how many faces were handed out (its reader counts), how many were scored, what came of it."""

    name: str
    emitted: int = 0
    scored: int = 0
    verdict: Verdict | None = None
    error: BaseException | None = None


class _Stopped(Exception):
    """The scoring ended; a reader that waits for room in the queue must end as well."""


def reader_count(device: str) -> int:
    """Threads that decode and detect: half of the cores beside a CPU's scoring, up to 8 beside a GPU's."""
    cores = available_cores()
    return max(1, min(cores, 8) if device.startswith("cuda") else cores // 2)


def predict(
    videos: dict[str, Path],
    ensemble: Ensemble,
    detector: FaceDetector,
    scale: str | float,
    progress: Progress,
    *,
    strategy: str = "confident",
    readers: int = 1,
) -> list[Verdict]:
    """Verdicts of all videos, in their order; each is kept by `progress` when it is known.

    Args:
        videos: name -> file; those that `progress` knows are not read again.
        scale: the detector's, see `dfdc.faces.detector_scale`.
        readers: threads that decode and detect.
    """
    todo = [name for name in videos if name not in progress.done]
    bar = parallel.progress_bar(total=len(videos), initial=len(videos) - len(todo), desc="videos", unit="video")
    at_once = ensemble.batch_size * max(1, ensemble.threads)
    reading = _Readers(videos, todo, detector, scale, progress, threads=readers, room=2 * at_once)
    try:
        with bar:
            batch: list[tuple[_Job, dict[str, Any], np.ndarray]] = []
            # One video more than there are readers waits for its last faces; its crops are in the queue or scored.
            open_jobs = sum(reading.start_next() for _ in range(readers + 1))
            while open_jobs:
                item = reading.next_item(wait=not batch)
                if item is not None and item[1] is not None:
                    batch.append(item)
                if batch and (len(batch) >= at_once or item is None):
                    _score(batch, ensemble)
                    for job in {id(job): job for job, _, _ in batch}.values():
                        open_jobs -= _finish(job, ensemble.names, strategy, progress, bar)
                    batch = []
                if item is not None and item[1] is None:  # a video is read
                    open_jobs += reading.start_next()
                    job, _, verdict = item
                    job.verdict = verdict
                    open_jobs -= _finish(job, ensemble.names, strategy, progress, bar)
    finally:
        reading.stop()
    return [progress.done[name] for name in videos]


class _Readers:
    """Threads that each read a video; what they find comes out one by one.

    An item is (job, face, crop), or (job, None, verdict) when a video is read.

    Args:
        todo: names in `videos`, in the order in which they are read.
        room: how many faces may wait to be taken.
    """

    def __init__(
        self,
        videos: dict[str, Path],
        todo: Sequence[str],
        detector: FaceDetector,
        scale: str | float,
        progress: Progress,
        *,
        threads: int,
        room: int,
    ) -> None:
        self._videos, self._waiting = videos, iter(todo)
        self._detector, self._scale, self._progress = detector, scale, progress
        self._pool = ThreadPoolExecutor(threads, initializer=_one_thread)
        self._items: queue.Queue = queue.Queue(maxsize=room)
        self._stopped = threading.Event()

    def start_next(self) -> int:
        """Have the next video read, if there is one; return how many that were."""
        name = next(self._waiting, None)
        if name is not None:
            self._pool.submit(self._read, _Job(name))
        return int(name is not None)

    def _read(self, job: _Job) -> None:
        def emit(face: dict[str, Any], crop: np.ndarray) -> None:
            job.emitted += 1
            self._put((job, face, crop))

        self._progress.begin(job.name)
        self._put((job, None, find_faces(self._videos[job.name], job.name, self._detector, self._scale, emit)))

    def _put(self, item: tuple) -> None:
        while not self._stopped.is_set():
            try:
                self._items.put(item, timeout=0.5)
                return
            except queue.Full:
                continue
        raise _Stopped

    def next_item(self, *, wait: bool) -> tuple | None:
        """The next face or finished video; None when there is none at the moment and `wait` is not set."""
        try:
            return self._items.get(timeout=None if wait else 0.05)
        except queue.Empty:
            return None

    def stop(self) -> None:
        """End the threads, whatever they are at."""
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # of this thread alone


def _score(batch: Sequence[tuple[_Job, dict[str, Any], np.ndarray]], ensemble: Ensemble) -> None:
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


def _put_scores(batch: Sequence[tuple[_Job, dict[str, Any], np.ndarray]], scores: np.ndarray) -> None:
    for (_, face, _), values in zip(batch, scores.T, strict=True):
        # Digits and not decimals: near 0, the log loss hangs on them.
        face["scores"] = [float(f"{value:.7g}") for value in values]


def _finish(job: _Job, names: Sequence[str], strategy: str, progress: Progress, bar: Any) -> int:
    """Conclude a video that is read and scored to its last face; return 1 for it, 0 if it is not so far."""
    verdict = job.verdict
    if verdict is None or job.scored < job.emitted:
        return 0
    job.verdict = None  # done once
    if job.error is not None and verdict.status in VERDICT_STATUSES:
        verdict.fail(job.error, "while scoring: ")
    if verdict.status in VERDICT_STATUSES:
        try:
            conclude(verdict, names, strategy)
        except ValueError as error:  # a score that is no probability
            verdict.fail(error, "while combining the scores: ")
    progress.add(verdict)
    bar.update()
    return 1
