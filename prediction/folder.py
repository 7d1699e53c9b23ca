"""A folder of videos and pictures: scored, and written to submission.csv and .json. What predict_folder.py does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dfdc.command_line import SettingError
from dfdc.devices import resolve_device
from dfdc.imaging import MARGIN_PART
from dfdc.progress import progress_bar
from dfdc.text import printable
from networks.ensemble import Ensemble, common_thresholds
from networks.files import ModelFile, describe_models, find_models
from networks.onnx_model import check_model
from networks.precision import choose_precision
from prediction.calibration import apply_temperature, check_enough, fit_to_file, read_temperature
from prediction.conclusion import conclude
from prediction.inputs import check_held_out, held_out_inputs, list_inputs, read_labels
from prediction.metrics_report import evaluate, print_report
from prediction.pages import make_report
from prediction.places import check_places
from prediction.progress import Progress, only_run
from prediction.results import HeldOut, Summary, plain, print_summary, write_results
from prediction.scorer import Scorer
from prediction.selftest import self_test
from prediction.settings import FRAMES_PER_VIDEO, FolderSettings, RunSettings
from prediction.verdict import Verdict


@dataclass(frozen=True)
class _Run:
    """What scoring gave.

    Attributes:
        files: the fingerprint of each video, by name.
        ensemble: None where all had been scored before.
    """

    verdicts: list[Verdict]
    settings: RunSettings
    files: dict[str, dict | None]
    ensemble: Ensemble | None


def score_folder(settings: FolderSettings) -> list[Verdict]:
    """Score videos and pictures, write what came out, and print how good it is.

    What an earlier run of the same settings has scored is taken over, see docs/scoring.md.

    Returns:
        the verdicts, in the order of submission.csv.

    Raises:
        UserError: something that was asked for can't be used; nothing of it was written.
    """
    if settings.fold is not None:
        videos, labels = held_out_inputs(settings.places, settings.fold)
    else:
        videos = list_inputs(settings.places, settings.lists, recursive=settings.recursive)
        labels = read_labels(settings.labels, videos) if settings.labels else None
    if settings.calibrate:
        check_enough(list((labels or {}).values()))
    check_places(settings, videos.values())
    with only_run(settings.output):
        return _score_and_write(settings, videos, labels)


def run_self_test(settings: FolderSettings, *, store: bool) -> int:
    """The exit status of --self-test, of the settings' checkpoints; with `force` all are stored anew.

    Raises:
        UserError: there is no such device, or a checkpoint can't be used.
    """
    device = resolve_device(settings.device)
    paths = find_models(settings.weights_dir, settings.models)
    compiled = settings.compile == "on"
    anew, precision = settings.force, settings.precision
    return self_test(paths, store=store, anew=anew, device=device, precision=precision, compile_=compiled)


def _score_and_write(settings: FolderSettings, videos: dict[str, Path], labels: dict[str, int] | None) -> list[Verdict]:
    paths = find_models(settings.weights_dir, settings.models)
    fold, held_out = settings.fold, None
    if fold is not None:
        held_out = HeldOut(fold, check_held_out(videos, fold, paths))
    models, temperature = describe_models(paths), None
    if settings.calibration:
        temperature = read_temperature(settings.calibration, models, settings.strategy)
    run = _score(settings, videos, paths, models, temperature)
    verdicts = run.verdicts if temperature is None else apply_temperature(run.verdicts, temperature)

    evaluation = None if labels is None else evaluate(verdicts, labels)
    summary = Summary(
        statuses=dict(Counter(verdict.status for verdict in verdicts)),
        doubts=dict(Counter(doubt for verdict in verdicts for doubt in verdict.doubts)),
        held_out=held_out,
        **(evaluation.summary() if evaluation else {}),
    )
    write_results(settings.output, verdicts, run.settings, summary)
    print_summary(settings.output, verdicts, summary)
    plot = settings.output.with_name(f"{settings.output.stem}_reliability.png")
    plot.unlink(missing_ok=True)  # of an earlier run
    if evaluation:
        print_report(evaluation, plot)
        if settings.calibrate:
            scores = evaluation.verdict_scores.tolist()
            fit_to_file(settings.calibrate, evaluation.labels.tolist(), scores, models, settings.strategy)
    if settings.report:
        ensemble = run.ensemble or Ensemble(paths, resolve_device(settings.device), settings.precision)
        page = make_report(settings.report, verdicts, plain(run.settings), ensemble, run.files)
        print(printable(f"report: {page}"))
    return verdicts


def _score(
    settings: FolderSettings,
    videos: dict[str, Path],
    paths: Sequence[Path],
    models: list[ModelFile],
    temperature: float | None,
) -> _Run:
    """Score the videos that have no verdict yet."""
    device = resolve_device(settings.device)
    precision = choose_precision(settings.precision, device)
    names = [model.name for model in models]
    # Faces' scores are kept, and every strategy makes its own of them.
    kept = {
        "models": [asdict(model) for model in models],
        "frames": FRAMES_PER_VIDEO,
        "detector_scale": settings.detector_scale,
        "margin_part": MARGIN_PART,
        "precision": precision,
        "device": device.partition(":")[0],
    }
    place = settings.output.with_name(settings.output.name + ".progress")
    progress = Progress(place, kept, videos, anew=settings.force)
    _conclude_again(progress, names, settings)
    if progress.done:
        print(f"{len(progress.done)} of {len(videos)} were scored before; --force scores them again")
    todo = [path for name, path in videos.items() if name not in progress.done]
    ensemble = _score_rest(settings, device, paths, todo, progress) if todo else None
    if ensemble:
        thresholds = ensemble.detector_thresholds
    else:
        thresholds = common_thresholds([check_model(path)[0] for path in paths], names)
    made = RunSettings(
        models=models,
        frames=FRAMES_PER_VIDEO,
        detector_scale=settings.detector_scale,
        margin_part=MARGIN_PART,
        strategy=settings.strategy,
        floors=settings.floors,
        precision=precision,
        detector_thresholds=thresholds,
        temperature=temperature,
    )
    return _Run([progress.done[name] for name in videos], made, progress.files, ensemble)


def _conclude_again(progress: Progress, names: Sequence[str], settings: FolderSettings) -> None:
    for name, verdict in list(progress.done.items()):
        try:
            if verdict.judged:
                conclude(verdict, names, settings.strategy, settings.floors)
        except ValueError:  # a line that was edited or damaged: that video is scored again
            del progress.done[name]


def _score_rest(
    settings: FolderSettings, device: str, paths: Sequence[Path], todo: Sequence[Path], progress: Progress
) -> Ensemble:
    """Score what `progress` has not done, into it."""
    print(f"loading {len(paths)} checkpoint{'s' if len(paths) > 1 else ''}", flush=True)
    scorer = Scorer(
        paths,
        device=device,
        precision=settings.precision,
        strategy=settings.strategy,
        detector_scale=settings.detector_scale,
        floors=settings.floors,
    )
    with scorer:
        if scorer.should_compile(settings.compile, todo):
            print("compiling the networks: this takes a minute or two", flush=True)
            try:
                print(scorer.ensemble.compile(only_if_faster=settings.compile == "auto"), flush=True)
            except RuntimeError as error:
                raise SettingError("compile", "on", str(error)) from error
        every = len(progress.videos)
        with progress_bar(total=every, initial=every - len(todo), desc="videos", unit="video") as bar:
            scorer.run(progress, tell=lambda verdict: bar.update())
    return scorer.ensemble
