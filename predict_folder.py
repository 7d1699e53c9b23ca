"""Score videos and pictures with an ensemble of checkpoints: which are fake, who in them, and how sure?

    python predict_folder.py --weights-dir weights --models A B C D E --test-dir DIR --output submission.csv

32 frames of each video are searched for faces, every checkpoint scores every face, the faces' scores give one
score per checkpoint, and the mean of those is the video's probability of being fake. submission.csv holds
filename,label; submission.json, beside it, says how each came about, person by person. A video without a verdict has
an empty label and a status that says why, and the exit status is then 1. Results are kept as they come: the same
command goes on where a stopped run was, and scores only what was added or changed since. With labels it says how good
the verdicts are and can calibrate them; --self-test compares this machine's scores of a small clip with stored ones.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from dfdc import artifacts, identity, layout, parallel
from dfdc.devices import DEVICE_HELP, resolve_device
from dfdc.faces import FaceDetector, parse_detector_scale
from dfdc.imaging import MARGIN_PART
from dfdc.parallel import UsageError
from dfdc.scoring import STRATEGIES
from prediction.calibration import apply_temperature, check_enough, fit_to_file, read_temperature
from prediction.ensemble import PRECISIONS, Ensemble, choose_precision, common_thresholds, worth_compiling
from prediction.inputs import check_held_out, find_models, held_out_inputs, list_inputs, read_labels
from prediction.metrics_report import evaluate, print_report
from prediction.onnx_model import check_model
from prediction.pipeline import predict, reader_count
from prediction.reading import FRAMES_PER_VIDEO
from prediction.selftest import self_test
from prediction.verdict import VERDICT_STATUSES, Progress, Verdict, conclude


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
                        "checkpoints: does this machine's software still give the same?")  # fmt: skip
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
    if args.report and args.report.exists() and not args.report.is_dir():
        raise UsageError(f"--report {args.report}: a folder is expected")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.self_test:
        return self_test(find_models(args.weights_dir, args.models), store=args.store, anew=args.force)
    labels = None
    if args.fold is not None:
        videos, labels = held_out_inputs(args.test_dir, args.fold)
    else:
        videos = list_inputs(args.test_dir, args.list, recursive=args.recursive)
        labels = read_labels(args.labels) if args.labels else None
    if labels is not None and not labels.keys() & videos.keys():  # not after hours of scoring
        raise UsageError(
            f"--labels {args.labels}: names none of the videos; it has {', '.join(list(labels)[:3]) or 'no names'}, "
            f"and they are {', '.join(list(videos)[:3])}"
        )
    if args.calibrate:
        check_enough([labels[name] for name in videos if name in labels])
    paths = find_models(args.weights_dir, args.models)
    held_out = [] if args.fold is None else check_held_out(videos, args.fold, paths)
    settings = {
        "models": [describe_file(path) for path in paths],
        "frames": FRAMES_PER_VIDEO,
        "detector_scale": args.detector_scale,
        "margin_part": MARGIN_PART,
        "strategy": args.strategy,
    }
    temperature = read_temperature(args.calibration, settings) if args.calibration else None
    run = score_videos(args, videos, paths, settings)
    verdicts, settings = run.verdicts, run.settings
    if temperature is not None:
        verdicts = apply_temperature(verdicts, temperature)
        settings["temperature"] = temperature

    summary: dict[str, Any] = {"statuses": dict(Counter(verdict.status for verdict in verdicts))}
    if held_out:
        summary["held_out"] = {"fold": args.fold, "by": held_out}
    evaluation = None if labels is None else evaluate(verdicts, labels)
    if evaluation:
        summary.update(evaluation.summary())
    write_results(args.output, verdicts, settings, summary)
    print_summary(args.output, verdicts, summary)
    if evaluation:
        print_report(evaluation, args.output.with_name(f"{args.output.stem}_reliability.png"))
    if args.calibrate:
        fit_to_file(args.calibrate, evaluation.labels.tolist(), evaluation.verdict_scores, settings)
    if args.report:
        from prediction.report import make_report

        ensemble = run.ensemble or Ensemble(paths, resolve_device(args.device), args.precision)
        page = make_report(args.report, verdicts, settings, ensemble, run.files)
        print(f"report: {page}")
    return 0 if all(verdict.judged for verdict in verdicts) else 1


def describe_file(path: Path) -> dict[str, Any]:
    """A checkpoint's name, size and checksum. Not its time of change: a copied checkpoint is the same one."""
    found = identity.fingerprint(path)
    return {"name": path.name, "size": found["size"], "xxh3": found["xxh3"]}


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
    from training.checkpoint import CheckpointError

    try:
        device = resolve_device(args.device)
        settings = {**settings, "precision": choose_precision(args.precision, device)}
        # Faces' scores are kept, and every strategy makes its own of them.
        kept = {key: value for key, value in settings.items() if key != "strategy"}
        progress = Progress(args.output.with_name(args.output.name + ".progress"), kept, videos, anew=args.force)
        for verdict in progress.done.values():
            if verdict.judged:
                conclude(verdict, [path.name for path in paths], args.strategy)
        if progress.done:
            print(f"{len(progress.done)} of {len(videos)} were scored before; --force scores them again")
        todo = [path for name, path in videos.items() if name not in progress.done]
        if not todo:
            specs = [check_model(path)[0] for path in paths]
            thresholds = common_thresholds(specs, [path.name for path in paths])
            settings["detector_thresholds"] = list(thresholds)
            return Run([progress.done[name] for name in videos], settings, progress.files, None)
        ensemble = Ensemble(paths, device, args.precision)
        thresholds = ensemble.detector_thresholds
    except (CheckpointError, ValueError) as error:
        raise UsageError(str(error)) from error
    faces = sum(1 if layout.is_picture(path) else FRAMES_PER_VIDEO for path in todo)
    large = args.compile == "auto" and worth_compiling(faces, ensemble.compilable)
    try:
        if large or (args.compile == "on" and ensemble.compilable):
            print("compiling the networks: this takes a minute or two", flush=True)
            print(ensemble.compile(only_if_faster=large), flush=True)
    except RuntimeError as error:
        raise UsageError(f"--compile on: {error}") from error
    try:
        verdicts = predict(videos, ensemble, FaceDetector(thresholds, device), args.detector_scale, progress,
                           strategy=args.strategy, readers=reader_count(device))  # fmt: skip
    finally:
        ensemble.close()
    return Run(verdicts, {**settings, "detector_thresholds": list(thresholds)}, progress.files, ensemble)


def write_results(output: Path, verdicts: Sequence[Verdict], settings: dict[str, Any], summary: dict) -> None:
    """submission.csv, and submission.json beside it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    quoting = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["filename", "label"])
    for v in verdicts:  # csv quotes a name with its own end of line, but not one with another's
        row = quoting if "\r" in v.filename else writer
        row.writerow([v.filename, "" if v.score is None else f"{v.score:.10g}"])
    details = {"settings": settings, "summary": summary, "videos": [asdict(verdict) for verdict in verdicts]}
    artifacts.write_json(output.with_suffix(".json"), details, indent=1)
    artifacts.write_bytes(output, buffer.getvalue().encode(errors="backslashreplace"))


def print_summary(output: Path, verdicts: Sequence[Verdict], summary: dict) -> None:
    for verdict in verdicts:
        if verdict.judged and len(verdicts) <= 50:
            print(f"  {verdict.score:.4f} {verdict.filename}")
        if verdict.status != "ok":
            print(f"  {verdict.status}: {verdict.filename}: {verdict.reason}")
    width = max(len(status) for status in summary["statuses"])
    print("videos by status")
    for status, number in sorted(summary["statuses"].items(), key=lambda item: -item[1]):
        print(f"  {status:<{width}} {number:>8}  {'scored' if status in VERDICT_STATUSES else 'no verdict'}")
    values = summary.get("metrics")
    if values:
        names = ("log_loss", "auc", "average_precision", "equal_error_rate", "accuracy")
        shown = [f"{name.replace('_', ' ')} {values[name]:.4f}" for name in names if name in values]
        print(f"on {values['count']} labelled videos ({values['fakes']} fake): {', '.join(shown)}")
    unknown = [said["name"] for said in summary.get("held_out", {}).get("by", []) if said["fold"] == "unknown"]
    if unknown:
        print(f"  (whether {', '.join(unknown)} learned from these videos is not known)")
    print(f"written: {output} and {output.with_suffix('.json')}")


if __name__ == "__main__":
    parallel.run_main(main)
