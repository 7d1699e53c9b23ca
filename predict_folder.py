"""Score videos and pictures with an ensemble of checkpoints: which are fake, who in them, and how sure?

    python predict_folder.py --weights-dir weights --models A B C D E --test-dir DIR --output submission.csv

32 frames of each video are searched for faces, every checkpoint scores every face, the faces' scores give one
score per checkpoint, and the mean of those is the video's probability of being fake. submission.csv holds
filename,label; submission.json, beside it, says how each came about, person by person. A video without a verdict has
an empty label and a status that says why, and the exit status is then 1. Results are kept as they come: the same
command goes on where a stopped run was, and scores only what was added or changed since.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dfdc import artifacts, layout, parallel
from dfdc.devices import DEVICE_HELP
from dfdc.faces import PREDICT_THRESHOLDS, FaceDetector, parse_detector_scale
from dfdc.imaging import MARGIN_PART
from dfdc.parallel import UsageError
from dfdc.scoring import STRATEGIES, metrics
from prediction.ensemble import PRECISIONS
from prediction.inputs import find_models, held_out_inputs, list_inputs, read_labels
from prediction.reading import FRAMES_PER_VIDEO
from prediction.verdict import Progress, Verdict


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the checkpoints (weights)")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME",
                        help="checkpoints in it, ours or the winners' own; @FILE: those named in FILE")  # fmt: skip
    parser.add_argument("--test-dir", type=Path, nargs="+", default=[], metavar="PATH",
                        help="folders of videos and pictures, and single files")  # fmt: skip
    parser.add_argument("--recursive", action="store_true", help="look into the folders' own folders as well")
    parser.add_argument("--list", type=Path, action="append", default=[], metavar="FILE",
                        help="a text file with the path of a video or picture on each line")  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("submission.csv"), help="(submission.csv)")
    parser.add_argument("--fold", type=int, metavar="K",
                        help="--test-dir is a DATA_ROOT: score the videos of this fold of its folds.csv, and print "
                        "log loss and AUC")  # fmt: skip
    parser.add_argument("--labels", type=Path, metavar="FILE",
                        help="metadata.json, or a CSV with filename,label: print log loss and AUC")  # fmt: skip
    parser.add_argument("--detector-scale", type=parse_detector_scale, default="auto", metavar="auto|FACTOR",
                        help="resize frames by this before face detection; the winners used 0.5 (auto: x2 where the "
                        "longer side is under 300 pixels, x1 up to 1000, x0.5 above)")  # fmt: skip
    parser.add_argument("--strategy", choices=STRATEGIES, default="confident",
                        help="how faces' scores become a video's: the winners' rule, the mean, the most suspicious "
                        "person's mean, or smooth, without thresholds (confident); see README")  # fmt: skip
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument("--precision", choices=PRECISIONS, default="auto",
                        help="of the networks (auto: fp16 on a GPU, bf16 on a CPU that gains from it)")  # fmt: skip
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto",
                        help="torch.compile, once for all checkpoints of a kind (auto: where there are so many videos "
                        "that it pays)")  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="DIR",
                        help="write a page to look at for each video, and DIR/index.html")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="score again what an earlier run has scored")
    args = parser.parse_args(argv)
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
    labels = None
    if args.fold is not None:
        videos, labels = held_out_inputs(args.test_dir, args.fold)
    else:
        videos = list_inputs(args.test_dir, args.list, recursive=args.recursive)
        labels = read_labels(args.labels) if args.labels else None
    paths = find_models(args.weights_dir, args.models)
    settings = {
        "models": [{"name": path.name, **artifacts.fingerprint(path)} for path in paths],
        "frames": FRAMES_PER_VIDEO,
        "detector_scale": args.detector_scale,
        "detector_thresholds": list(PREDICT_THRESHOLDS),
        "margin_part": MARGIN_PART,
        "strategy": args.strategy,
    }
    verdicts, settings = score_videos(args, videos, paths, settings)

    summary: dict[str, Any] = {"statuses": dict(Counter(verdict.status for verdict in verdicts))}
    judged = [verdict for verdict in verdicts if verdict.judged]
    if labels is not None:
        labelled = [v for v in judged if v.filename in labels]
        if labelled:
            summary["metrics"] = metrics([labels[v.filename] for v in labelled], [v.score for v in labelled])
    write_results(args.output, verdicts, settings, summary)
    print_summary(args.output, verdicts, summary, labels)
    if args.report:
        from prediction.report import make_report

        progress = args.output.with_name(args.output.name + ".progress")
        page = make_report(args.report, verdicts, settings, paths, device=args.device, progress=progress)
        print(f"report: {page}")
    return 0 if len(judged) == len(verdicts) else 1


def score_videos(
    args: argparse.Namespace, videos: dict[str, Path], paths: Sequence[Path], settings: dict[str, Any]
) -> tuple[list[Verdict], dict[str, Any]]:
    """The verdicts, and the settings with what was chosen by itself."""
    from dfdc.devices import resolve_device
    from prediction.ensemble import Ensemble, choose_precision, worth_compiling
    from prediction.pipeline import predict, reader_count
    from training.checkpoint import CheckpointError, read_checkpoint

    try:
        device = resolve_device(args.device)
        settings = {**settings, "precision": choose_precision(args.precision, device)}
        progress = Progress(args.output.with_name(args.output.name + ".progress"), settings, videos, anew=args.force)
        todo = len(videos.keys() - progress.done.keys())
        if not todo:
            for path in paths:
                read_checkpoint(path)
            return [progress.done[name] for name in videos], settings
        compiled = args.compile == "on"
        ensemble = Ensemble(paths, device, args.precision)
        ensemble.compiled = compiled or (
            args.compile == "auto" and worth_compiling(todo * FRAMES_PER_VIDEO, ensemble.specs)
        )
    except (CheckpointError, ValueError) as error:
        raise UsageError(str(error)) from error
    detector = FaceDetector(PREDICT_THRESHOLDS, device)
    try:
        verdicts = predict(videos, ensemble, detector, args.detector_scale, progress, strategy=args.strategy,
                           readers=reader_count(device))  # fmt: skip
    finally:
        ensemble.close()
    return verdicts, settings


def write_results(output: Path, verdicts: Sequence[Verdict], settings: dict[str, Any], summary: dict) -> None:
    """submission.csv, and submission.json beside it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["filename", "label"])
    writer.writerows([v.filename, "" if v.score is None else f"{v.score:.6f}"] for v in verdicts)
    details = {"settings": settings, "summary": summary, "videos": [asdict(verdict) for verdict in verdicts]}
    artifacts.write_json(output.with_suffix(".json"), details, indent=1)
    artifacts.write_bytes(output, buffer.getvalue().encode(errors="backslashreplace"))


def print_summary(output: Path, verdicts: Sequence[Verdict], summary: dict, labels: dict[str, int] | None) -> None:
    for verdict in verdicts:
        if verdict.judged and len(verdicts) <= 50:
            print(f"  {verdict.score:.4f} {verdict.filename}")
        if verdict.status != "ok":
            print(f"  {verdict.status}: {verdict.filename}: {verdict.reason}")
    print("videos: " + ", ".join(f"{number} {status}" for status, number in summary["statuses"].items()))
    values = summary.get("metrics")
    if values:
        names = ("log_loss", "auc", "average_precision", "equal_error_rate", "accuracy")
        shown = [f"{name.replace('_', ' ')} {values[name]:.4f}" for name in names if name in values]
        print(f"on {values['count']} labelled videos ({values['fakes']} fake): {', '.join(shown)}")
    elif labels is not None:
        print("none of the videos with a verdict has a label")
    print(f"written: {output} and {output.with_suffix('.json')}")


if __name__ == "__main__":
    parallel.run_main(main)
