"""Score from another program: `score` once, or a `Scorer` that keeps its checkpoints between calls."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dfdc import layout
from dfdc.command_line import UsageError
from dfdc.devices import resolve_device
from dfdc.faces import FaceDetector
from dfdc.scoring import STRATEGIES
from networks.engines import open_ensemble
from networks.ensemble import worth_compiling
from networks.files import refuse_twins
from prediction.batches import Options, predict, reader_count
from prediction.progress import Results
from prediction.settings import FRAMES_PER_VIDEO, DetectorScale, Floors
from prediction.verdict import Verdict


class Scorer:
    """Checkpoints and a face detector, ready to score videos and photos.

    It holds threads and memory until it is closed; a `with` statement closes it. Calls of `score` from several threads
    wait for each other.

    Args:
        models: paths of checkpoints, of this project or the winners, or of files of export_model.py.
        device: auto, cpu, cuda or cuda:N.
        precision: one of networks.precision.PRECISIONS.
        engine: one of networks.engines.ENGINES. A converted network is kept beside its checkpoint.
        strategy: rule that combines the face scores, a key of dfdc.scoring.STRATEGIES.
        detector_scale: factor that resizes frames before detection, or "auto"; see dfdc/detector_settings.py.
        floors: thresholds of the doubts.
        shown: whether to show the progress of conversions on stderr.

    Raises:
        ValueError: no checkpoint, an unusable one (networks.checkpoint.CheckpointError), the same one twice, two that
            need different detectors, or an unknown device, precision, engine, strategy or scale.
    """

    def __init__(
        self,
        models: Sequence[str | Path],
        *,
        device: str = "auto",
        precision: str = "auto",
        engine: str = "auto",
        strategy: str = "confident",
        detector_scale: DetectorScale = "auto",
        floors: Floors | None = None,
        shown: bool = False,
    ) -> None:
        if isinstance(models, (str, Path)):
            raise TypeError(f"models: give a list of paths, not {models!r}")
        if not models:
            raise UsageError("no checkpoint; give the path of at least one")
        if strategy not in STRATEGIES:
            raise UsageError(f"strategy {strategy!r} is unknown; choose one of {', '.join(STRATEGIES)}")
        if detector_scale != "auto" and not (isinstance(detector_scale, (int, float)) and 0 < detector_scale <= 4):
            raise UsageError(f"detector_scale {detector_scale!r} is invalid; give 'auto' or a factor above 0, up to 4")
        self.options = Options(detector_scale, strategy, floors or Floors())
        paths = [Path(path) for path in models]
        refuse_twins(paths)
        self.device = resolve_device(device)
        self.ensemble = open_ensemble(paths, self.device, precision, engine, shown=shown)
        self._turn = threading.RLock()
        self._busy = self._closed = False
        self._detector = FaceDetector(self.ensemble.detector_thresholds, self.device)
        self.ensemble.warm_up()  # last: an error above would wait for it

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads. Verdicts stay valid."""
        self._closed = True
        self.ensemble.close()

    def score(self, paths: Iterable[str | Path], *, tell: Callable[[Verdict], None] | None = None) -> list[Verdict]:
        """Return a verdict for each path, in their order. Nothing is printed or written.

        A problem with a file becomes the status of its verdict, never an exception.

        Args:
            paths: paths of videos and photos; `Verdict.filename` is the path as given.
            tell: called with each verdict as soon as it is known, in order of completion.

        Raises:
            FileNotFoundError: a path does not exist; nothing is scored then.
            TypeError: a single path instead of several.
            RuntimeError: the scorer is closed, or `tell` calls it.
        """
        if isinstance(paths, (str, Path)):
            raise TypeError(f"paths: give a list of paths, not {paths!r}")
        given = [str(path) for path in paths]
        absent = [path for path in given if not Path(path).exists()]
        if absent:
            raise FileNotFoundError(f"{len(absent)} of {len(given)} files are missing, for example {absent[0]!r}")
        found = self.run(Results({path: Path(path) for path in given}), tell=tell)
        by_name = {verdict.filename: verdict for verdict in found}
        return [by_name[path] for path in given]

    def run(self, results: Results, *, tell: Callable[[Verdict], None] | None = None) -> list[Verdict]:
        """Score the videos of `results` as `score` does; `results` has earlier verdicts, and keeps new ones."""
        readers = reader_count(self.device)
        with self._turn:
            if self._closed or self._busy:  # busy: the lock is reentrant, and this thread holds it
                raise RuntimeError("this Scorer is closed" if self._closed else "`tell` must not call its own Scorer")
            self._busy = True
            try:
                return predict(self.ensemble, self._detector, results, self.options, readers=readers, tell=tell)
            finally:
                self._busy = False

    def should_compile(self, when: str, paths: Sequence[Path]) -> bool:
        """Return whether to call `ensemble.compile`; `when` is "on", "off", or "auto": if there are enough files."""
        faces = sum(1 if layout.is_picture(path) else FRAMES_PER_VIDEO for path in paths)  # an estimate
        kinds = [model.spec for model in self.ensemble.compilable]
        return bool(kinds) and (when == "on" or (when == "auto" and worth_compiling(faces, kinds)))


def score(
    paths: Iterable[str | Path],
    models: Sequence[str | Path],
    *,
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    strategy: str = "confident",
    detector_scale: DetectorScale = "auto",
    floors: Floors | None = None,
) -> list[Verdict]:
    """Return a verdict for each path, in their order. `Scorer` describes the arguments and errors.

    Nothing is printed or written. To score more than once, keep a `Scorer`: it loads the checkpoints only once.
    """
    with Scorer(
        models,
        device=device,
        precision=precision,
        engine=engine,
        strategy=strategy,
        detector_scale=detector_scale,
        floors=floors,
    ) as scorer:
        return scorer.score(paths)
