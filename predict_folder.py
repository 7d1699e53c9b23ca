"""Score videos and pictures with an ensemble of checkpoints: which are fake, who in them, and how sure?

    python predict_folder.py --test-dir DIR
    python predict_folder.py --test-dir DIR --weights-dir weights --models A B C D E --output submission.csv

32 frames of each video are searched for faces. Every checkpoint scores every face. The scores of the faces give one
score per checkpoint, and the mean of these is the video's probability of being fake. A video without a score has an
empty label and a status that says why; the exit status is then 1. Doubts name what weakens a score, such as few faces.

submission.csv holds filename,label,status,doubts,faces,frames. submission.json holds every person, face and score.
submission_report/index.html is a page for each video. Results are saved after each video, and re-running scores only
new, changed or failed videos. With labels, the metrics are printed and the scores can be calibrated. --self-test checks
that this machine computes the scores that were stored on another one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from dfdc import command_line, layout
from dfdc.command_line import UsageError, parse_detector_scale
from dfdc.devices import DEVICE_HELP
from dfdc.text import printable
from networks.files import SELECTED_NAME, find_models
from networks.precision import PRECISIONS
from prediction.inputs import find_inputs
from prediction.settings import STRATEGIES, Floors, FolderSettings


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_inputs(parser)
    _add_way_and_results(parser)
    args = parser.parse_args(argv)
    _check(args)
    try:
        args.floors = Floors(args.few_faces, args.small_faces)
    except ValueError as error:
        raise UsageError(f"--few-faces and --small-faces: {error}") from error
    if args.report is None and not args.no_report:
        args.report = args.output.with_name(f"{args.output.stem}_report")
    return args


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("checkpoints").add_argument
    add("--weights-dir", type=Path, default=Path("weights"), help="folder of the checkpoints (weights)")
    names = "checkpoints in that folder, or paths; @FILE: those named in FILE"
    default = f"@weights/{SELECTED_NAME} if it exists, else all of the folder; of a training run, its _best"
    add("--models", nargs="+", default=[], metavar="NAME", help=f"{names} ({default})")

    add = parser.add_argument_group("what to score").add_argument
    files = "folders of videos and pictures, and single files"
    add("--test-dir", type=Path, nargs="+", default=[], metavar="PATH", dest="places", help=files)
    add("--recursive", action="store_true", help="look into the folders' own folders as well")
    listed = "a text file with the path of a video or picture on each line"
    add("--list", type=Path, action="append", default=[], metavar="FILE", dest="lists", help=listed)
    refused = "refused where a checkpoint was trained on them"
    held_out = f"--test-dir is a DATA_ROOT: score this fold of its folds.csv, and print log loss and AUC; {refused}"
    add("--fold", type=int, metavar="K", help=held_out)
    printed = "print log loss, AUC and more, of each checkpoint and the ensemble"
    labels = f"metadata.json, or a CSV with filename,label: {printed}, and draw a reliability plot beside the output"
    add("--labels", type=Path, metavar="FILE", help=labels)

    add = parser.add_argument_group("self-test").add_argument
    asked = "do this machine and these --device, --precision and --compile still give the same?"
    clip = f"score a small made-up clip, and compare with the scores stored beside the checkpoints: {asked}"
    add("--self-test", action="store_true", help=clip)
    store = "with --self-test: store the scores of checkpoints without stored ones (with --force, of all)"
    add("--store", action="store_true", help=store)


def _add_way_and_results(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how").add_argument
    auto = "auto: x2 where the longer side is under 300 pixels, x1 up to 1000, x0.5 above"
    scale = f"resize frames by this before face detection; the winners used 0.5 ({auto})"
    add("--detector-scale", type=parse_detector_scale, default="auto", metavar="auto|FACTOR", help=scale)
    ways = "the winners' rule, the mean, the most suspicious person's mean, or smooth, without thresholds"
    strategy = f"how faces' scores become a video's: {ways} (confident); see docs/scoring.md"
    add("--strategy", choices=STRATEGIES, default="confident", help=strategy)
    floors = Floors()
    few = f"a video with faces in fewer frames than this gets the doubt 'few faces' ({floors.faces})"
    add("--few-faces", type=int, default=floors.faces, metavar="N", help=few)
    small = f"where most faces are smaller than this, the doubt is 'small faces' ({floors.side:g})"
    add("--small-faces", type=float, default=floors.side, metavar="PIXELS", help=small)
    apply = "apply the temperature in FILE, fitted for these checkpoints by --calibrate"
    add("--calibration", type=Path, metavar="FILE", help=apply)
    add("--device", default="auto", help=DEVICE_HELP)
    auto = "auto: fp16 on a GPU, bf16 on a CPU that gains from it"
    precision = f"of the networks ({auto}); ONNX files are always fp32, and never compiled"
    add("--precision", choices=PRECISIONS, default="auto", help=precision)
    auto = "auto: where there are so many videos that it may pay, and only if it is faster on this machine"
    compiling = f"torch.compile, once for all checkpoints of a kind ({auto})"
    add("--compile", choices=("auto", "on", "off"), default="auto", help=compiling)

    add = parser.add_argument_group("results").add_argument
    add("--output", type=Path, default=Path("submission.csv"), help="(submission.csv)")
    fit = "with labels: fit a temperature to the scores, and write it to FILE (JSON)"
    add("--calibrate", type=Path, metavar="FILE", help=fit)
    pages = "folder of the pages, a page for each video and index.html (submission_report, beside the output)"
    add("--report", type=Path, metavar="DIR", help=pages)
    add("--no-report", action="store_true", help="write no pages")
    add("--force", action="store_true", help="score again what an earlier run has scored")


def _check(args: argparse.Namespace) -> None:
    if args.store and not args.self_test:
        raise UsageError("--store goes with --self-test")
    others = (args.places, args.lists, args.labels, args.fold is not None, args.calibrate, args.calibration)
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
        taken = f"its details would be written to {layout.METADATA_NAME}"
        raise UsageError(f"--output {args.output}: {taken}; take another name")
    if args.report and args.report.exists() and not args.report.is_dir():
        raise UsageError(f"--report {args.report}: a folder is expected")
    if args.report and args.no_report:
        raise UsageError("--report and --no-report exclude each other; give one of them")
    if not (args.self_test or args.places or args.lists or args.fold is not None):
        raise UsageError("nothing to score: give --test-dir or --list")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    settings = FolderSettings(**{item.name: getattr(args, item.name) for item in fields(FolderSettings)})
    inputs = None if args.self_test else find_inputs(settings)
    models = find_models(settings.weights_dir, settings.models)
    if not settings.models:
        print(f"checkpoints of {printable(settings.weights_dir)}: {printable(', '.join(path.name for path in models))}")
        settings = replace(settings, models=list(map(str, models)))
    from prediction import folder  # here: --help and wrong use must not wait for PyTorch

    if args.self_test:
        return folder.run_self_test(settings, store=args.store)
    return 0 if all(verdict.judged for verdict in folder.score_folder(settings, inputs)) else 1


if __name__ == "__main__":
    command_line.run_main(main)
