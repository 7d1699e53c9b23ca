"""Score videos on a Ray cluster: each worker holds the ensemble and the detector. Imported only if it is chosen."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfdc import limits
from dfdc.faces import FaceDetector
from dfdc.progress import progress_bar
from dfdc.ray_connection import connected
from dfdc.ray_nodes import Shared, list_nodes
from dfdc.ray_workers import MOST_CORES, RayWorkers, find_places
from dfdc.workers import Failed, Skipped
from networks.engine_cache import FILES, place_of
from networks.ensemble import Ensemble
from networks.files import is_onnx
from prediction.batches import Options, predict
from prediction.decoding import Decoder
from prediction.progress import FileResults, Results
from prediction.verdict import Status, Verdict

# Bytes that give a day more than decoding has. A decoder that hangs is then ended by its own limit, and not with its
# worker, which works on other videos too. One core needs 3 s for a face and five B7, so hours for a crowd in 32 frames.
_FOR_NETWORKS = 864_000_000

Item = tuple[str, Path]  # name and path of a video
Scored = tuple[dict[str, Any] | None, Verdict]  # fingerprint of the file before it was read, and the verdict


@dataclass
class ScoringTask:
    """A `dfdc.workers.Task`: score one video. A worker with N cores scores N videos at a time, with one ensemble.

    Attributes:
        paths, precision, engine: see `networks.ensemble.Ensemble`; the driver has converted the checkpoints.
    """

    paths: tuple[Path, ...]
    precision: str
    engine: str
    options: Options
    preload: tuple[str, ...] = ()
    _held: _Held | None = field(default=None, init=False)  # in a worker

    def size(self, item: Item) -> int:
        return limits.known_size(item[1]) + _FOR_NETWORKS

    def start(self, device: str) -> None:
        ensemble = Ensemble(self.paths, device, self.precision, self.engine)
        self._held = _Held(ensemble, FaceDetector(ensemble.detector_thresholds, device), threading.local())
        ensemble.warm_up()

    def work(self, item: Item) -> Scored:
        assert self._held is not None, "start was not called"
        return self._held.score(item, self.options)


@dataclass(frozen=True)
class _Held:
    """What a worker holds; each of its threads has its own decoder."""

    ensemble: Ensemble
    detector: FaceDetector
    own: threading.local

    def score(self, item: Item, options: Options) -> Scored:
        name, path = item
        video = FileResults({name: path})
        decoder = getattr(self.own, "decoder", None) or Decoder()
        self.own.decoder = None  # an error closes it
        (verdict,) = predict(self.ensemble, self.detector, video, options, decoder=decoder)
        self.own.decoder = decoder
        return video.files.get(name), verdict


@dataclass(frozen=True)
class Cluster:
    """A connected cluster; `device` is cpu or cuda, that of its workers."""

    device: str

    def score(self, results: Results, paths: Sequence[Path], precision: str, engine: str, options: Options) -> None:
        """Score the videos of `results` that have no verdict, and add their verdicts.

        Raises:
            ClusterError: a node does not see the checkpoints or the videos.
            WorkersError: a worker can't load the checkpoints.
        """
        todo = [(name, path) for name, path in results.videos.items() if name not in results.done]
        folders = {path.parent: path for _, path in todo if path.exists()}  # one video of each
        converted = [place_of(path, engine) / FILES[engine] for path in paths if engine in FILES and not is_onnx(path)]
        shared = Shared(files=(*paths, *converted, *folders.values()))
        workers = RayWorkers(device=self.device, shared=shared, most_cores=MOST_CORES)
        scored = workers(ScoringTask(tuple(paths), precision, engine, options), todo)
        every = len(results.videos)
        with (
            contextlib.closing(scored),
            progress_bar(total=every, initial=len(results.done), desc="videos", unit="video") as bar,
        ):
            for (name, path), outcome in scored:
                if isinstance(outcome, (Failed, Skipped)):
                    results.begin(name)
                    results.add(Verdict(name, Status.ERROR, outcome.reason, path=str(path)))
                else:
                    results.files[name], verdict = outcome
                    results.add(verdict)
                bar.update()


@contextlib.contextmanager
def open_cluster(address: str | None, device: str) -> Generator[Cluster]:
    """Connect to a cluster while the block runs.

    Args:
        address: see `dfdc.ray_connection.connected`.
        device: auto, cpu or cuda.

    Raises:
        ClusterError: there is no such cluster.
        SettingError: no node has this device.
    """
    with connected(address):
        yield Cluster(find_places(list_nodes(), device).device)
