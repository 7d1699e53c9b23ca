"""Score videos and photos with an ensemble of checkpoints: a score, 0 (real) to 1 (fake), per file, person and face.

    python predict_folder.py --test-dir DIR
    python predict_folder.py --test-dir DIR --weights-dir weights --models A B C D E --output submission.csv

Faces are detected in 32 frames of each video, and every checkpoint scores every face. A strategy combines the face
scores into one score per checkpoint. Their mean is the video's score. A video without a score has an empty label and a
status with the reason; the exit status is then 1. Doubts mark scores that rest on weak grounds, such as few faces.

submission.csv has the columns filename,label,status,doubts,faces,frames. submission.json has every person, face and
score. submission_report/ has an index.html and a page for each video. Results are saved after each video. Re-running
scores only new or changed videos, and those with `timed out`, `out of memory` or `error`. With labels, the metrics are
printed and the scores can be calibrated.
--self-test checks that this machine reproduces scores that were stored on another one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from dfdc import command_line, layout
from dfdc.command_line import PLACES, UsageError, add_ray_address, check_ray_address, parse_detector_scale
from dfdc.devices import DEVICE_HELP
from dfdc.shards import SHARD_HELP, WHOLE, parse_shard
from dfdc.text import printable
from networks.files import SELECTED_NAME, find_models
from networks.precision import ENGINES, PRECISIONS
from prediction.inputs import find_inputs
from prediction.settings import STRATEGIES, Floors, FolderSettings


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_inputs(parser)
    _add_way_and_results(parser)
    args = parser.parse_args(argv)
    args.place, args.engine = _split_engines(args.engine)
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
    add("--weights-dir", type=Path, default=Path("weights"), help="folder of the checkpoints (default: weights)")
    names = "checkpoints in that folder, or paths; @FILE reads the names from FILE"
    default = f"@weights/{SELECTED_NAME} if it exists, else all of the folder; of a training run, only _best"
    add("--models", nargs="+", default=[], metavar="NAME", help=f"{names} (default: {default})")

    add = parser.add_argument_group("inputs").add_argument
    files = "folders of videos and photos, or single files"
    add("--test-dir", type=Path, nargs="+", default=[], metavar="PATH", dest="places", help=files)
    add("--recursive", action="store_true", help="also search subfolders")
    listed = "text file with the path of a video or photo on each line"
    add("--list", type=Path, action="append", default=[], metavar="FILE", dest="lists", help=listed)
    refused = "refused if a checkpoint was trained on its videos"
    held_out = f"score fold K of the DATA_ROOT given by --test-dir, and print log loss and AUC; {refused}"
    add("--fold", type=int, metavar="K", help=held_out)
    printed = "print log loss, AUC and more for each checkpoint and the ensemble"
    labels = f"metadata.json, or a CSV with filename,label: {printed}, and save a reliability plot beside the output"
    add("--labels", type=Path, metavar="FILE", help=labels)

    add = parser.add_argument_group("self-test").add_argument
    tested = "tests this machine with the given --device, --engine, --precision and --compile"
    clip = f"score a small generated clip, and compare with the scores stored beside the checkpoints; {tested}"
    add("--self-test", action="store_true", help=clip)
    store = "with --self-test: store the scores of checkpoints that have none; with --force, of all"
    add("--store", action="store_true", help=store)


def _add_way_and_results(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("scoring").add_argument
    auto = "auto, which is 2 if the longer side is under 300 pixels, 1 up to 1000, 0.5 above"
    scale = f"resize frames by this factor before face detection; the winners used 0.5 (default: {auto})"
    add("--detector-scale", type=parse_detector_scale, default="auto", metavar="auto|FACTOR", help=scale)
    ways = "by the winners' rule, mean, highest mean of a person, or expected maximum of a person"
    strategy = f"combine face scores {ways}; see docs/scoring.md (default: confident)"
    add("--strategy", choices=STRATEGIES, default="confident", help=strategy)
    floors = Floors()
    few = f"add the doubt 'few faces' if fewer frames than this show a face (default: {floors.faces})"
    add("--few-faces", type=int, default=floors.faces, metavar="N", help=few)
    small = f"add the doubt 'small faces' if most faces are smaller than this (default: {floors.side:g})"
    add("--small-faces", type=float, default=floors.side, metavar="PIXELS", help=small)
    apply = "apply the temperature in FILE, fitted for these checkpoints by --calibrate"
    add("--calibration", type=Path, metavar="FILE", help=apply)
    add("--device", default="auto", help=DEVICE_HELP)
    auto = "auto, which is OpenVINO on a CPU if it agrees with PyTorch and is faster, else PyTorch"
    library = f"library that runs the networks; converted networks are kept beside the checkpoints (default: {auto})"
    engine = f"{library}; or where the work runs: local, or ray for a cluster, see docs/cluster.md; or one of each"
    add("--engine", nargs="+", choices=(*ENGINES, *PLACES), default=[], metavar="NAME", help=engine)
    add_ray_address(add)
    auto = "auto, which is fp16 on a GPU, fp32 on a CPU; bf16 is faster on CPUs that support it"
    precision = f"precision of the networks; ONNX files always use fp32 (default: {auto})"
    add("--precision", choices=PRECISIONS, default="auto", help=precision)
    auto = "auto, which compiles if there are enough videos and it is faster on this machine"
    compiling = f"compile each kind of network once with torch.compile; PyTorch only (default: {auto})"
    add("--compile", choices=("auto", "on", "off"), default="auto", help=compiling)

    add = parser.add_argument_group("results").add_argument
    add("--output", type=Path, default=Path("submission.csv"), help="result file, .csv (default: submission.csv)")
    fit = "with labels: fit a temperature to the scores, and write it to FILE as JSON"
    add("--calibrate", type=Path, metavar="FILE", help=fit)
    pages = "folder of index.html and a page for each video (default: submission_report, beside the output)"
    add("--report", type=Path, metavar="DIR", help=pages)
    add("--no-report", action="store_true", help="do not write the pages")
    add("--force", action="store_true", help="score all videos again")
    add("--shard", type=parse_shard, default=WHOLE, metavar="I/N", help=SHARD_HELP)


def _split_engines(names: Sequence[str]) -> tuple[str, str]:
    """(place, library) of --engine, which names one of each kind at most."""
    places, libraries = ([name for name in names if name in kind] for kind in (PLACES, ENGINES))
    if len(places) > 1 or len(libraries) > 1:
        kinds = f"one of {', '.join(PLACES)} (where the work runs) and one of {', '.join(ENGINES)} (library)"
        raise UsageError(f"--engine {' '.join(names)}: give at most {kinds}")
    return (places or ["local"])[0], (libraries or ["auto"])[0]


def _check(args: argparse.Namespace) -> None:
    check_ray_address(args.place, args.ray_address)
    if args.self_test and args.place != "local":
        raise UsageError("--self-test tests this machine; leave out --engine ray")
    if args.store and not args.self_test:
        raise UsageError("--store requires --self-test")
    others = (args.places, args.lists, args.labels, args.fold is not None, args.calibrate, args.calibration)
    if args.self_test and (any(others) or not args.shard.is_whole):
        raise UsageError("--self-test scores its own clip; leave out videos, labels, calibrations and shards")
    if args.calibrate and args.calibration:
        raise UsageError("--calibrate fits uncalibrated scores; leave out --calibration")
    if args.calibrate and args.fold is None and not args.labels:
        raise UsageError("--calibrate requires labels; add --labels or --fold")
    if args.fold is not None and args.labels:
        raise UsageError("--fold already provides the labels; leave out --labels")
    if args.output.suffix.lower() != ".csv" or args.output.is_dir():
        raise UsageError(f"--output {args.output}: choose a file name that ends in .csv")
    if args.output.with_suffix(".json").name == layout.METADATA_NAME:
        taken = f"its details would be written to {layout.METADATA_NAME}"
        raise UsageError(f"--output {args.output}: {taken}; choose another name")
    if args.report and args.no_report:
        raise UsageError("--report and --no-report are mutually exclusive; give only one")
    if not (args.self_test or args.places or args.lists or args.fold is not None):
        raise UsageError("nothing to score; give --test-dir or --list")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    settings = FolderSettings(**{item.name: getattr(args, item.name) for item in fields(FolderSettings)})
    inputs = None if args.self_test else find_inputs(settings)
    models = find_models(settings.weights_dir, settings.models)
    if not settings.models:
        print(f"checkpoints in {printable(settings.weights_dir)}: {printable(', '.join(path.name for path in models))}")
    from prediction import folder  # here: --help and usage errors must not wait for PyTorch

    if args.self_test:
        return folder.run_self_test(settings, store=args.store)
    return 0 if all(verdict.judged for verdict in folder.score_folder(settings, inputs)) else 1


if __name__ == "__main__":
    command_line.run_main(main)
