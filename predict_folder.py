"""Score videos and pictures with an ensemble of checkpoints: which are fake, who in them, and how sure?

    python predict_folder.py --weights-dir weights --models A B C D E --test-dir DIR --output submission.csv

32 frames of each video are searched for faces, every checkpoint scores every face, the faces' scores give one
score per checkpoint, and the mean of those is the video's probability of being fake. submission.csv holds
filename,label,status,doubts,faces,frames; submission.json, beside it, says how each came about, person by person. A
video without a verdict has an empty label and a status that says why, and the exit status is then 1. Doubts name what a
score should not be trusted for: few, small or cut faces, and more. Results are kept as they come: the same command goes
on where a stopped run was, and scores only what was added or changed since. With labels it says how good the verdicts
are and can calibrate them; --self-test compares this machine's scores of a small clip with stored ones.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from dfdc import artifacts, command_line, identity, layout
from dfdc.command_line import UsageError
from dfdc.detector_settings import parse_detector_scale
from dfdc.devices import DEVICE_HELP, resolve_device
from dfdc.imaging import MARGIN_PART
from dfdc.progress import progress_bar
from dfdc.scoring import STRATEGIES
from dfdc.text import printable
from networks.ensemble import PRECISIONS, Ensemble, choose_precision, common_thresholds
from networks.files import find_models, model_names
from networks.onnx_model import check_model
from prediction.calibration import apply_temperature, check_enough, fit_to_file, read_temperature
from prediction.conclusion import Floors, conclude
from prediction.inputs import check_held_out, held_out_inputs, list_inputs, read_labels
from prediction.metrics_report import evaluate, print_report
from prediction.progress import Progress, only_run, program_version
from prediction.reading import FRAMES_PER_VIDEO
from prediction.scorer import Scorer
from prediction.selftest import self_test
from prediction.verdict import VERDICT_STATUSES, Verdict

SCHEMA_VERSION = 2  # of submission.json; see docs/scoring.md
COLUMNS = ("filename", "label", "status", "doubts", "faces", "frames")  # of submission.csv


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the checkpoints (weights)")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME",
                        help="checkpoints in it, ours or the winners' own, or files of export_model.py; paths will do; "
                        "@FILE: those named in FILE")  # fmt: skip
    parser.add_argument("--test-dir", type=Path, nargs="+", default=[], metavar="PATH",
                        help="folders of videos and pictures, and single files")  # fmt: skip
    parser.add_argument("--recursive", action="store_true", help="look into the folders' own folders as well")
    parser.add_argument("--list", type=Path, action="append", default=[], metavar="FILE",
                        help="a text file with the path of a video or picture on each line")  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("submission.csv"), help="(submission.csv)")
    parser.add_argument("--fold", type=int, metavar="K",
                        help="--test-dir is a DATA_ROOT: score the videos of this fold of its folds.csv, and print "
                        "log loss and AUC; refused where a checkpoint was trained on them")  # fmt: skip
    parser.add_argument("--labels", type=Path, metavar="FILE",
                        help="metadata.json, or a CSV with filename,label: print log loss, AUC and more, of each "
                        "checkpoint and the ensemble, and draw a reliability plot beside the output")  # fmt: skip
    parser.add_argument("--calibrate", type=Path, metavar="FILE",
                        help="with labels: fit a temperature to the scores, and write it to FILE (JSON)")  # fmt: skip
    parser.add_argument("--calibration", type=Path, metavar="FILE",
                        help="apply the temperature in FILE, fitted for these checkpoints by --calibrate")  # fmt: skip
    parser.add_argument("--detector-scale", type=parse_detector_scale, default="auto", metavar="auto|FACTOR",
                        help="resize frames by this before face detection; the winners used 0.5 (auto: x2 where the "
                        "longer side is under 300 pixels, x1 up to 1000, x0.5 above)")  # fmt: skip
    parser.add_argument("--strategy", choices=STRATEGIES, default="confident",
                        help="how faces' scores become a video's: the winners' rule, the mean, the most suspicious "
                        "person's mean, or smooth, without thresholds (confident); see README")  # fmt: skip
    floors = Floors()
    parser.add_argument("--few-faces", type=int, default=floors.faces, metavar="N",
                        help="a video with faces in fewer frames than this gets the doubt 'few faces' "
                        f"({floors.faces})")  # fmt: skip
    parser.add_argument("--small-faces", type=float, default=floors.side, metavar="PIXELS",
                        help="where most faces are smaller than this, the doubt is 'small faces' "
                        f"({floors.side:g})")  # fmt: skip
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument("--precision", choices=PRECISIONS, default="auto",
                        help="of the networks (auto: fp16 on a GPU, bf16 on a CPU that gains from it); ONNX files are "
                        "always fp32, and never compiled")  # fmt: skip
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto",
                        help="torch.compile, once for all checkpoints of a kind (auto: where there are so many videos "
                        "that it may pay, and only if it is faster on this machine)")  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="DIR",
                        help="write a page to look at for each video, and DIR/index.html")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="score again what an earlier run has scored")
    parser.add_argument("--self-test", action="store_true",
                        help="score a small made-up clip, and compare with the scores stored beside the "
                        "checkpoints: do this machine and these --device, --precision and --compile still give the "
                        "same?")  # fmt: skip
    parser.add_argument("--store", action="store_true",
                        help="with --self-test: store the scores of checkpoints without stored ones (with --force, of "
                        "all)")  # fmt: skip
    args = parser.parse_args(argv)
    if args.store and not args.self_test:
        raise UsageError("--store goes with --self-test")
    others = (args.test_dir, args.list, args.labels, args.fold is not None, args.calibrate, args.calibration)
    if args.self_test and any(others):
        raise UsageError("--self-test scores its own clip: give --models and --weights-dir, and no videos or labels")
    if args.calibrate and args.calibration:
        raise UsageError("--calibrate fits to scores without a calibration; leave out --calibration")
    if args.calibrate and args.fold is None and not args.labels:
        raise UsageError("--calibrate takes labels: give --labels or --fold as well")
    if args.fold is not None and args.labels:
        raise UsageError("--fold knows the labels already; give either --fold or --labels")
    if args.output.suffix.lower() != ".csv" or args.output.is_dir():
        raise UsageError(f"--output {args.output}: the name of a file that ends in .csv is expected")
    if args.output.with_suffix(".json").name == layout.METADATA_NAME:
        raise UsageError(
            f"--output {args.output}: its details would be written to {layout.METADATA_NAME}; take another name"
        )
    try:
        args.floors = Floors(args.few_faces, args.small_faces)
    except ValueError as error:
        raise UsageError(f"--few-faces and --small-faces: {error}") from error
    if args.report and args.report.exists() and not args.report.is_dir():
        raise UsageError(f"--report {args.report}: a folder is expected")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.self_test:
        return run_self_test(args)
    labels = None
    if args.fold is not None:
        videos, labels = held_out_inputs(args.test_dir, args.fold)
    else:
        videos = list_inputs(args.test_dir, args.list, recursive=args.recursive)
        labels = read_labels(args.labels, videos) if args.labels else None
    if args.calibrate:
        check_enough(list(labels.values()))
    check_places(args, videos.values())
    with only_run(args.output):
        return score_folder(args, videos, labels)


def check_places(args: argparse.Namespace, videos: Iterable[Path]) -> None:
    """See that nothing is written over a file that is not a result of this program.

    Raises:
        UsageError: a place holds one, or is one of the files that are read or written as well.
    """
    details = args.output.with_suffix(".json")
    written = {"--output": args.output, "the details of --output": details, "--calibrate": args.calibrate}
    read = {os.path.realpath(path) for path in (args.labels, args.calibration, *args.list, *videos) if path}
    if args.calibrate and os.path.realpath(args.calibrate) == os.path.realpath(details):
        raise UsageError(f"--calibrate {args.calibrate}: the details of --output go there; take another name")
    for option, path in written.items():
        if path is None:
            continue
        if os.path.realpath(path) in read:
            raise UsageError(f"{option} {path}: is one of the files that are read; take another name")
        if path.is_file() and path.stat().st_size and not is_result(path):
            raise UsageError(f"{option} {path}: holds no result of this program; remove it or take another name")
    index = args.report and args.report / "index.html"
    if index and index.is_file() and "predict_folder.py --report" not in index.read_text(errors="replace"):
        raise UsageError(f"--report {args.report}: its index.html is no page of this program; take another folder")


def is_result(path: Path) -> bool:
    """Whether a file is a submission.csv, its details or a temperature, of this version or an earlier one."""
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8", errors="replace") as handle:
            header = handle.readline().rstrip("\n")
        # The header of an earlier version is that of a table of labels: the details beside it tell.
        return header == ",".join(COLUMNS) or (header == "filename,label" and is_result(path.with_suffix(".json")))
    content = artifacts.read_json(path)
    return isinstance(content, dict) and ({"settings", "videos"} <= content.keys() or "temperature" in content)


def run_self_test(args: argparse.Namespace) -> int:
    """The exit status of --self-test.

    Raises:
        UsageError: there is no such device, or a checkpoint can't be used.
    """
    try:
        device = resolve_device(args.device)
    except ValueError as error:
        raise UsageError(str(error)) from error
    paths = find_models(args.weights_dir, args.models)
    return self_test(paths, store=args.store, anew=args.force, device=device, precision=args.precision,
                     compile_=args.compile == "on")  # fmt: skip


def score_folder(args: argparse.Namespace, videos: dict[str, Path], labels: dict[str, int] | None) -> int:
    """Score the videos, write what came out, and say how good it is; the exit status."""
    paths = find_models(args.weights_dir, args.models)
    held_out = [] if args.fold is None else check_held_out(videos, args.fold, paths)
    settings = {
        "models": [describe_file(path, name) for path, name in zip(paths, model_names(paths), strict=True)],
        "frames": FRAMES_PER_VIDEO,
        "detector_scale": args.detector_scale,
        "margin_part": MARGIN_PART,
        "strategy": args.strategy,
        "floors": asdict(args.floors),
    }
    temperature = read_temperature(args.calibration, settings) if args.calibration else None
    run = score_videos(args, videos, paths, settings)
    verdicts, settings = run.verdicts, run.settings
    if temperature is not None:
        verdicts = apply_temperature(verdicts, temperature)
        settings["temperature"] = temperature

    summary: dict[str, Any] = {
        "statuses": dict(Counter(verdict.status for verdict in verdicts)),
        "doubts": dict(Counter(doubt for verdict in verdicts for doubt in verdict.doubts)),
    }
    if held_out:
        summary["held_out"] = {"fold": args.fold, "by": held_out}
    evaluation = None if labels is None else evaluate(verdicts, labels)
    if evaluation:
        summary.update(evaluation.summary())
    write_results(args.output, verdicts, settings, summary)
    print_summary(args.output, verdicts, summary)
    plot = args.output.with_name(f"{args.output.stem}_reliability.png")
    plot.unlink(missing_ok=True)  # of an earlier run
    if evaluation:
        print_report(evaluation, plot)
    if args.calibrate:
        fit_to_file(args.calibrate, evaluation.labels.tolist(), evaluation.verdict_scores, settings)
    if args.report:
        from prediction.report import make_report

        ensemble = run.ensemble or Ensemble(paths, resolve_device(args.device), args.precision)
        page = make_report(args.report, verdicts, settings, ensemble, run.files)
        print(printable(f"report: {page}"))
    return 0 if all(verdict.judged for verdict in verdicts) else 1


def describe_file(path: Path, name: str) -> dict[str, Any]:
    """A checkpoint's name, size and checksum. Not its time of change: a copied checkpoint is the same one."""
    found = identity.fingerprint(path)
    return {"name": name, "size": found["size"], "xxh3": found["xxh3"]}


class Run(NamedTuple):
    """What scoring gave: `settings` with what was chosen by itself, `ensemble` None where all had been scored before.

    `files` has the fingerprint of each video, by name.
    """

    verdicts: list[Verdict]
    settings: dict[str, Any]
    files: dict[str, Any]
    ensemble: Ensemble | None


def score_videos(
    args: argparse.Namespace, videos: dict[str, Path], paths: Sequence[Path], settings: dict[str, Any]
) -> Run:
    """Score the videos that have no verdict yet.

    Raises:
        UsageError: a checkpoint can't be used, or not with the others or the settings.
    """
    try:
        device = resolve_device(args.device)
        settings = {**settings, "precision": choose_precision(args.precision, device)}
        # Faces' scores are kept, and every strategy makes its own of them.
        kept = {key: value for key, value in settings.items() if key not in ("strategy", "floors")}
        kept["device"] = device.partition(":")[0]
        progress = Progress(args.output.with_name(args.output.name + ".progress"), kept, videos, anew=args.force)
        names = [model["name"] for model in settings["models"]]
        for name, verdict in list(progress.done.items()):
            try:
                if verdict.judged:
                    conclude(verdict, names, args.strategy, args.floors)
            except ValueError:  # a line that was edited or damaged: that video is scored again
                del progress.done[name]
        if progress.done:
            print(f"{len(progress.done)} of {len(videos)} were scored before; --force scores them again")
        todo = [path for name, path in videos.items() if name not in progress.done]
        if not todo:
            thresholds = common_thresholds([check_model(path)[0] for path in paths], names)
            settings["detector_thresholds"] = list(thresholds)
            return Run([progress.done[name] for name in videos], settings, progress.files, None)
        print(f"loading {len(paths)} checkpoint{'s' if len(paths) > 1 else ''}", flush=True)
        scorer = Scorer(paths, device=device, precision=args.precision, strategy=args.strategy,
                        detector_scale=args.detector_scale, floors=args.floors)  # fmt: skip
    except ValueError as error:  # a CheckpointError is one
        raise UsageError(str(error)) from error
    settings["detector_thresholds"] = list(scorer.ensemble.detector_thresholds)
    with scorer:
        if scorer.should_compile(args.compile, todo):
            print("compiling the networks: this takes a minute or two", flush=True)
            try:
                print(scorer.ensemble.compile(only_if_faster=args.compile == "auto"), flush=True)
            except RuntimeError as error:
                raise UsageError(f"--compile on: {error}") from error
        bar = progress_bar(total=len(videos), initial=len(videos) - len(todo), desc="videos", unit="video")
        with bar:
            verdicts = scorer.run(progress, tell=lambda verdict: bar.update())
    return Run(verdicts, settings, progress.files, scorer.ensemble)


def write_results(output: Path, verdicts: Sequence[Verdict], settings: dict[str, Any], summary: dict) -> None:
    """submission.csv, and submission.json beside it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    quoting = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for v in verdicts:  # csv quotes a name with its own end of line, but not one with another's
        row = quoting if "\r" in v.filename else writer
        label = "" if v.score is None else repr(v.score)  # all its digits: calibrated scores near 1 must not tie
        row.writerow([v.filename, label, v.status, "; ".join(v.doubts), len(v.faces), v.frames_read])
    details = {
        "version": SCHEMA_VERSION,
        "program": program_version(),
        "settings": settings,
        "summary": summary,
        "videos": [asdict(verdict) for verdict in verdicts],
    }
    artifacts.write_json(output.with_suffix(".json"), details, indent=1)
    artifacts.write_bytes(output, buffer.getvalue().encode(errors="backslashreplace"))


def print_summary(output: Path, verdicts: Sequence[Verdict], summary: dict) -> None:
    for verdict in verdicts:
        if verdict.judged and len(verdicts) <= 50:
            doubts = f"  ({', '.join(verdict.doubts)})" if verdict.doubts else ""
            print(f"  {verdict.score:.4f} {printable(verdict.filename)}{doubts}")
        if verdict.status != "ok":
            print(f"  {verdict.status}: {printable(verdict.filename)}: {printable(verdict.reason)}")
    width = max(len(status) for status in summary["statuses"])
    print("videos by status")
    for status, number in sorted(summary["statuses"].items(), key=lambda item: -item[1]):
        print(f"  {status:<{width}} {number:>8}  {'scored' if status in VERDICT_STATUSES else 'no verdict'}")
    if summary["doubts"]:
        counted = sorted(summary["doubts"].items(), key=lambda item: -item[1])
        shown = ", ".join(f"{number} {doubt}" for doubt, number in counted)
        print(f"doubts: {shown} (docs/scoring.md explains them)")
    values = summary.get("metrics")
    if values:
        names = ("log_loss", "auc", "average_precision", "equal_error_rate", "accuracy")
        shown = [f"{name.replace('_', ' ')} {values[name]:.4f}" for name in names if name in values]
        print(f"on {values['count']} labelled videos ({values['fakes']} fake): {', '.join(shown)}")
    unknown = [said["name"] for said in summary.get("held_out", {}).get("by", []) if said["fold"] == "unknown"]
    if unknown:
        print(f"  (whether {', '.join(unknown)} learned from these videos is not known)")
    print(printable(f"written: {output} and {output.with_suffix('.json')}"))


if __name__ == "__main__":
    command_line.run_main(main)
