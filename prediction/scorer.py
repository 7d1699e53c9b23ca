"""Scoring from another program: `score` once, or a `Scorer` that keeps its checkpoints between calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dfdc import layout
from dfdc.command_line import UsageError
from dfdc.devices import resolve_device
from dfdc.faces import FaceDetector
from dfdc.scoring import STRATEGIES
from networks.ensemble import Ensemble, worth_compiling
from networks.files import refuse_twins
from prediction.batches import Options, predict, reader_count
from prediction.progress import Results
from prediction.settings import FRAMES_PER_VIDEO, DetectorScale, Floors
from prediction.verdict import Verdict


class Scorer:
    """Checkpoints and a face detector, ready to score videos and photos.

    It may be used in a `with` statement, and holds threads and memory until it is closed. One call of `score` at a
    time: threads that share one wait for each other.

    Args:
        models: paths of checkpoints, ours or the winners' own, or of files of export_model.py.
        device: auto, cpu, cuda or cuda:N.
        precision: of networks.precision.PRECISIONS.
        strategy: how faces' scores become a video's: a name in dfdc.scoring.STRATEGIES.
        detector_scale: frames are resized by it before detection, or "auto"; see dfdc/detector_settings.py.
        floors: under which a verdict stands with a doubt.

    Raises:
        ValueError: no checkpoint, one that can't be used (networks.checkpoint.CheckpointError), the same one twice, two
            that want different detectors, an unknown device, precision or strategy.
    """

    def __init__(
        self,
        models: Sequence[str | Path],
        *,
        device: str = "auto",
        precision: str = "auto",
        strategy: str = "confident",
        detector_scale: DetectorScale = "auto",
        floors: Floors | None = None,
    ) -> None:
        if isinstance(models, (str, Path)):
            raise TypeError(f"models: a list of paths is expected, not {models!r}")
        if not models:
            raise UsageError("no checkpoint is given")
        if strategy not in STRATEGIES:
            raise UsageError(f"strategy {strategy!r} is unknown; there are {', '.join(STRATEGIES)}")
        if detector_scale != "auto" and not (isinstance(detector_scale, (int, float)) and 0 < detector_scale <= 4):
            raise UsageError(f"detector_scale {detector_scale!r} is neither 'auto' nor a factor over 0 and up to 4")
        self.options = Options(detector_scale, strategy, floors or Floors())
        paths = [Path(path) for path in models]
        refuse_twins(paths)
        self.device = resolve_device(device)
        self.ensemble = Ensemble(paths, self.device, precision)
        self._turn = threading.RLock()
        self._busy = self._closed = False
        self._detector = FaceDetector(self.ensemble.detector_thresholds, self.device)

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads. What was scored stays."""
        self._closed = True
        self.ensemble.close()

    def score(self, paths: Iterable[str | Path], *, tell: Callable[[Verdict], None] | None = None) -> list[Verdict]:
        """A verdict for each path, in their order; nothing is printed or written.

        What is wrong with one file is its verdict's status, and never an exception.

        Args:
            paths: of videos and photos; `Verdict.filename` is the path as it was given.
            tell: called with each verdict as soon as it is known, in the order in which they end.

        Raises:
            FileNotFoundError: a path leads to nothing; nothing was scored then.
            TypeError: a single path instead of several.
            RuntimeError: this scorer is closed, or `tell` calls it.
        """
        if isinstance(paths, (str, Path)):
            raise TypeError(f"paths: several are expected, in a list, not {paths!r}")
        given = [str(path) for path in paths]
        absent = [path for path in given if not Path(path).exists()]
        if absent:
            raise FileNotFoundError(f"{len(absent)} of {len(given)} files are not there, {absent[0]!r} for one")
        found = self.run(Results({path: Path(path) for path in given}), tell=tell)
        by_name = {verdict.filename: verdict for verdict in found}
        return [by_name[path] for path in given]

    def run(self, results: Results, *, tell: Callable[[Verdict], None] | None = None) -> list[Verdict]:
        """As `score`, of the videos of `results`, which keeps the verdicts and knows the earlier ones."""
        readers = reader_count(self.device)
        with self._turn:
            if self._closed or self._busy:  # busy: this very thread is at it
                raise RuntimeError("this Scorer is closed" if self._closed else "`tell` must not call its own Scorer")
            self._busy = True
            try:
                return predict(self.ensemble, self._detector, results, self.options, readers=readers, tell=tell)
            finally:
                self._busy = False

    def should_compile(self, when: str, paths: Sequence[Path]) -> bool:
        """Whether to have `ensemble.compile` called: "on", "off", or "auto": for so many files that it may pay."""
        faces = sum(1 if layout.is_picture(path) else FRAMES_PER_VIDEO for path in paths)  # or so
        kinds = self.ensemble.compilable
        return bool(kinds) and (when == "on" or (when == "auto" and worth_compiling(faces, kinds)))


def score(
    paths: Iterable[str | Path],
    models: Sequence[str | Path],
    *,
    device: str = "auto",
    precision: str = "auto",
    strategy: str = "confident",
    detector_scale: DetectorScale = "auto",
    floors: Floors | None = None,
) -> list[Verdict]:
    """A verdict for each path, in their order; see `Scorer` for the arguments and what is raised.

    Nothing is printed or written. Who scores more than once keeps a `Scorer`, which loads the checkpoints once.
    """
    with Scorer(
        models, device=device, precision=precision, strategy=strategy, detector_scale=detector_scale, floors=floors
    ) as scorer:
        return scorer.score(paths)
