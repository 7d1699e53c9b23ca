"""Score a folder of videos and photos, and write submission.csv and .json: the work of predict_folder.py."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfdc.command_line import SettingError, setting
from dfdc.devices import resolve_device
from dfdc.imaging import MARGIN_PART
from dfdc.progress import progress_bar
from dfdc.shards import shard_files
from dfdc.text import plural, printable
from networks.engines import check_model, choose_engine
from networks.ensemble import Ensemble, common_thresholds
from networks.files import ModelFile, describe_models, find_models, model_names
from networks.precision import choose_precision
from prediction.batches import Options
from prediction.calibration import apply_temperature, check_enough, read_temperature
from prediction.conclusion import conclude
from prediction.held_out import check_held_out, warn_of_few
from prediction.inputs import Inputs, find_inputs
from prediction.progress import Progress, only_run
from prediction.results import HeldOut, Summary, check_places, print_summary, write_results
from prediction.scorer import Scorer
from prediction.selftest import self_test
from prediction.settings import FRAMES_PER_VIDEO, FolderSettings, RunSettings
from prediction.verdict import Verdict

if TYPE_CHECKING:
    from prediction.cluster import Cluster
    from prediction.reports import Reports


def score_folder(settings: FolderSettings, inputs: Inputs | None = None) -> list[Verdict]:
    """Score videos and photos, write the results, and print the metrics.

    Scores of an earlier run with the same settings are reused, see docs/scoring.md.

    Args:
        inputs: result of `find_inputs`, if already known.

    Returns:
        the verdicts, in the order of submission.csv; of a shard, those of its videos, and no result is written.

    Raises:
        UserError: a setting or an input can't be used; its result is not written.
    """
    videos, labels = inputs or find_inputs(settings)
    if settings.calibrate:
        check_enough(list((labels or {}).values()))
    check_places(settings, videos.values())
    with only_run(settings.output, settings.shard):
        return (_score_and_write if settings.shard.is_whole else _score_shard)(settings, videos, labels)


def _progress_path(output: Path) -> Path:
    return output.with_name(output.name + ".progress")


def run_self_test(settings: FolderSettings, *, store: bool) -> int:
    """Self-test the checkpoints of `settings`, and return the exit status; with `force`, overwrite stored scores.

    Raises:
        UserError: the device is not available, or a checkpoint can't be used.
    """
    paths, device = find_models(settings.weights_dir, settings.models), resolve_device(settings.device)
    way = {"device": device, "precision": settings.precision, "engine": _requested_engine(settings)}
    return self_test(paths, store=store, force=settings.force, compile_=settings.compile == "on", **way)


def _score_shard(settings: FolderSettings, videos: dict[str, Path], labels: dict[str, int] | None) -> list[Verdict]:
    """Score the videos of a shard. Its progress file holds the verdicts; a whole run writes the results."""
    paths = find_models(settings.weights_dir, settings.models)
    if settings.fold is not None:
        check_held_out(videos, settings.fold, paths)
    own = {name: path for name, path in videos.items() if settings.shard.holds(name)}
    warn_of_few(paths)
    progress, *_ = _score(settings, own, paths, describe_models(paths))
    verdicts = [progress.done[name] for name in own]
    counts = ", ".join(f"{number} {status}" for status, number in Counter(v.status for v in verdicts).most_common())
    print(f"shard {settings.shard}: {len(own)} of {plural(len(videos), 'video')}{counts and f' ({counts})'}")
    output = printable(settings.output)
    print(f"After all shards, the same command without {setting('shard')} and {setting('force')} writes {output}")
    return verdicts


def _score_and_write(settings: FolderSettings, videos: dict[str, Path], labels: dict[str, int] | None) -> list[Verdict]:
    paths, fold = find_models(settings.weights_dir, settings.models), settings.fold
    held_out = None if fold is None else HeldOut(fold, check_held_out(videos, fold, paths))
    models, temperature = describe_models(paths), None
    if settings.calibration:
        temperature = read_temperature(settings.calibration, models, settings.strategy)
    warnings = warn_of_few(paths)
    progress, made, ensemble = _score(settings, videos, paths, models)
    verdicts = [progress.done[name] for name in videos]
    if temperature is not None:
        verdicts, made = apply_temperature(verdicts, temperature), replace(made, temperature=temperature)

    reports = _reports(settings, verdicts, labels)
    summary = Summary(
        statuses=dict(Counter(verdict.status for verdict in verdicts)),
        doubts=dict(Counter(doubt for verdict in verdicts for doubt in verdict.doubts)),
        held_out=held_out,
        warnings=warnings or None,
        **(reports.summary() if reports else {}),
    )
    write_results(settings.output, verdicts, made, summary)
    print_summary(settings.output, verdicts, summary)
    plot = settings.output.with_name(f"{settings.output.stem}_reliability.png")
    plot.unlink(missing_ok=True)  # left by an earlier run
    if reports:
        reports.measure(plot, models)
    if reports and settings.report:
        checkpoints = dict(zip([model.name for model in models], paths, strict=True))
        load = partial(_loaded, ensemble, paths, settings)
        reports.show(settings.report, made, warnings, checkpoints, load, progress.files)
    return verdicts


def _loaded(ensemble: Ensemble | None, paths: Sequence[Path], settings: FolderSettings) -> Ensemble:
    """Return the checkpoints in PyTorch, for the heat maps."""
    return ensemble or Ensemble(paths, resolve_device(settings.device), settings.precision)


def _reports(settings: FolderSettings, verdicts: list[Verdict], labels: dict[str, int] | None) -> Reports | None:
    """Return None if `settings` request nothing beyond the results."""
    if labels is None and not settings.report:
        return None
    from prediction.reports import Reports  # here: scoring alone must not load scikit-learn, Matplotlib and Grad-CAM

    return Reports(settings, verdicts, labels)


def _score(
    settings: FolderSettings, videos: dict[str, Path], paths: Sequence[Path], models: list[ModelFile]
) -> tuple[Progress, RunSettings, Ensemble | None]:
    """Score the videos that have no verdict yet. The ensemble is None if all had one, or if it can't be used again."""
    with _cluster_of(settings) as cluster:
        return _score_there(settings, videos, paths, models, cluster)


@contextlib.contextmanager
def _cluster_of(settings: FolderSettings) -> Generator[Cluster | None]:
    """Yield the connected cluster; None if the work runs on this machine."""
    if settings.place == "local":
        yield None
        return
    if settings.compile == "on":
        raise SettingError("compile", "on", f"networks are not compiled with {setting('engine')} ray")
    from dfdc.workers import require_ray  # here: scoring on this machine needs no pool of workers

    require_ray()
    from prediction.cluster import open_cluster  # here, because Ray is optional

    with open_cluster(settings.ray_address, settings.device) as cluster:
        yield cluster


def _score_there(
    settings: FolderSettings,
    videos: dict[str, Path],
    paths: Sequence[Path],
    models: list[ModelFile],
    cluster: Cluster | None,
) -> tuple[Progress, RunSettings, Ensemble | None]:
    device = cluster.device if cluster else resolve_device(settings.device)
    precision = choose_precision(settings.precision, device)
    requested = _requested_engine(settings)
    choice = choose_engine(paths, requested, precision, device, shown=True)
    hung_on: dict[str, Any] = {
        "models": models,
        "frames": FRAMES_PER_VIDEO,
        "detector_scale": settings.detector_scale,
        "margin_part": MARGIN_PART,
        "precision": precision,
        "engine": choice.engine,
    }
    progress, todo, ensemble = _open_progress(settings, videos, hung_on, device), [], None
    left = any(name not in progress.done for name in videos)
    if cluster and left:
        print(f"networks: {precision} on {device}, run by {choice.said}", flush=True)
        cluster.score(progress, paths, precision, choice.engine, _options_of(settings))
    elif left:
        print(f"loading {plural(len(paths), 'checkpoint')}", flush=True)
        in_torch = choice.engine == "torch"  # a conversion that failed just now is not tried again
        with _open_scorer(settings, device, paths, "torch" if in_torch else requested) as scorer:
            ensemble = scorer.ensemble
            said = choice.said if in_torch else ensemble.said
            print(f"networks: {precision} on {device}, run by {said}", flush=True)
            if ensemble.engine != choice.engine:  # the converted networks failed
                hung_on["engine"] = ensemble.engine
                progress = _open_progress(settings, videos, hung_on, device)
            todo = [path for name, path in videos.items() if name not in progress.done]
            _score_rest(settings, scorer, todo, progress)
    if ensemble:
        thresholds = ensemble.detector_thresholds
    else:
        thresholds = common_thresholds([check_model(path)[0] for path in paths], model_names(paths))
    made = RunSettings(**hung_on, strategy=settings.strategy, floors=settings.floors, detector_thresholds=thresholds)
    return progress, made, ensemble if ensemble and ensemble.engine == "torch" else None


def _requested_engine(settings: FolderSettings) -> str:
    """Return the engine to choose. Compiling is a feature of PyTorch.

    Raises:
        SettingError: another engine is to be compiled.
    """
    if settings.compile == "on" and settings.engine in ("openvino", "onnx"):
        raise SettingError("compile", "on", f"only PyTorch compiles; leave out {setting('engine')} {settings.engine}")
    return "torch" if settings.engine == "auto" and settings.compile == "on" else settings.engine


def _open_progress(settings: FolderSettings, videos: dict[str, Path], hung_on: dict[str, Any], device: str) -> Progress:
    models: list[ModelFile] = hung_on["models"]
    # Without the strategy: face scores are saved, and any strategy can combine them.
    kept = {**hung_on, "models": [asdict(model) for model in models], "device": device.partition(":")[0]}
    whole = _progress_path(settings.output)
    progress = Progress(settings.shard.file(whole), kept, videos, anew=settings.force)
    if settings.shard.is_whole:
        progress.merge([file for _, file in shard_files(whole)])
    else:
        progress.look_into(whole)
    _conclude_again(progress, [model.name for model in models], settings)
    if progress.done:
        print(f"{len(progress.done)} of {len(videos)} are already done; {setting('force')} scores them again")
    return progress


def _conclude_again(progress: Progress, names: Sequence[str], settings: FolderSettings) -> None:
    for name, verdict in list(progress.done.items()):
        try:
            if verdict.judged:
                conclude(verdict, names, settings.strategy, settings.floors)
        except ValueError:  # an edited or corrupt line: the video is scored again
            del progress.done[name]


def _open_scorer(settings: FolderSettings, device: str, paths: Sequence[Path], engine: str) -> Scorer:
    options = {name: getattr(settings, name) for name in ("precision", "strategy", "detector_scale", "floors")}
    return Scorer(paths, device=device, engine=engine, shown=True, **options)


def _score_rest(settings: FolderSettings, scorer: Scorer, todo: Sequence[Path], progress: Progress) -> None:
    """Score the videos of `todo`, and add their verdicts to `progress`."""
    if scorer.should_compile(settings.compile, todo):
        print("compiling the networks; this takes one to two minutes", flush=True)
        try:
            print(scorer.ensemble.compile(only_if_faster=settings.compile == "auto"), flush=True)
        except RuntimeError as error:
            raise SettingError("compile", "on", str(error)) from error
    with progress_bar(total=len(progress.videos), initial=len(progress.done), desc="videos", unit="video") as bar:
        scorer.run(progress, tell=lambda verdict: bar.update())


def _options_of(settings: FolderSettings) -> Options:
    return Options(settings.detector_scale, settings.strategy, settings.floors)
