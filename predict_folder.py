"""Score a folder of videos with an ensemble of checkpoints: which are fake?

    python predict_folder.py --weights-dir weights --models A B C D E --test-dir DIR --output submission.csv

32 frames of each video are searched for faces, every checkpoint scores every face, the faces' scores give one
score per checkpoint, and the mean of those is the video's probability of being fake. submission.csv holds
filename,label; submission.json, beside it, says how each came about. A video without a verdict has an empty label
and a status that says why, and the exit status is then 1. Results are kept as they come: the same command goes on
where a stopped run was.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfdc import artifacts, layout, parallel
from dfdc.devices import DEVICE_HELP
from dfdc.faces import PREDICT_THRESHOLDS, FaceDetector, Tracker, detector_scale, parse_detector_scale
from dfdc.imaging import MARGIN_PART, center_pad, crop_face, isotropic_resize, tighten
from dfdc.parallel import UsageError
from dfdc.scoring import confident_score, metrics
from dfdc.video import VideoError, VideoReader

if TYPE_CHECKING:
    from training.checkpoint import ModelSpec

FRAMES_PER_VIDEO = 32
# With a verdict: ok; partial (some frames could not be decoded); too short (under 32 frames, all were read).
# Without: no face, unreadable, out of memory, error.
VERDICT_STATUSES = ("ok", "partial", "too short")


@dataclass
class Verdict:
    """What is known of one video. `score` is None where there are no grounds for one."""

    filename: str
    status: str
    reason: str = ""
    score: float | None = None
    frames_read: int = 0
    frames_lost: list[int] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)  # name, score, rule
    faces: list[dict[str, Any]] = field(default_factory=list)  # frame, person, box, detector, scores (one per model)


@dataclass
class FaceCrops:
    """The faces of one video, ready to be scored; `verdict` has what is known so far."""

    verdict: Verdict
    crops: list[np.ndarray] = field(default_factory=list)  # RGB uint8 [h, w, 3]


def frame_numbers(frame_count: int, wanted: int = FRAMES_PER_VIDEO) -> list[int]:
    """`wanted` frame numbers evenly from first to last, truncated to int; a shorter clip is read whole, once."""
    return sorted({int(number) for number in np.linspace(0, frame_count - 1, min(wanted, frame_count))})


def find_faces(path: Path, filename: str, detector: FaceDetector, scale_setting: str | float) -> FaceCrops:
    """Read a video and cut out its faces. What goes wrong becomes the verdict's status, never a score."""
    from dfdc.devices import is_out_of_memory

    found = FaceCrops(Verdict(filename, "ok"))
    verdict = found.verdict
    try:
        with VideoReader(path) as reader:
            scale = detector_scale(scale_setting, reader.width, reader.height)
            size = detector.batch_size(reader.width, reader.height, scale)
            tracker = Tracker(max_gap=max(50, reader.frame_count // 4))
            numbers = frame_numbers(reader.frame_count)
            for batch in _batches(reader.frames(numbers), size):
                verdict.frames_read += len(batch)
                for (number, frame), faces in zip(batch, detector.detect([f for _, f in batch], scale), strict=True):
                    people = tracker.update(number, faces.boxes)
                    for person, box, probability in zip(people, faces.boxes, faces.scores, strict=True):
                        crop = crop_face(frame, box)
                        if crop is None:
                            continue  # a box that holds no picture costs that crop, not the video
                        found.crops.append(crop.copy())  # the frame itself must not stay in memory
                        verdict.faces.append(
                            {
                                "frame": number,
                                "person": person,
                                "box": [round(float(corner), 2) for corner in box],
                                "detector": round(float(probability), 4),
                            }
                        )
            verdict.frames_lost = list(reader.lost)
        if verdict.frames_lost:
            verdict.status = "partial"
            verdict.reason = f"{len(verdict.frames_lost)} of {len(numbers)} frames can't be decoded"
        elif len(numbers) < FRAMES_PER_VIDEO:
            verdict.status, verdict.reason = "too short", f"only {len(numbers)} frames; all were read"
        if not found.crops:
            verdict.status = "no face"
            verdict.reason = f"no face found in the {verdict.frames_read} frames that were read"
    except VideoError as error:
        verdict.status, verdict.reason = "unreadable", error.reason
    except Exception as error:  # one video must not end the run; the status and the exit status say that it failed
        verdict.status = "out of memory" if is_out_of_memory(error) else "error"
        verdict.reason = f"{type(error).__name__}: {error}"
    if verdict.status not in VERDICT_STATUSES:
        found.crops, verdict.faces = [], []
    return found


def _batches(items: Iterator, size: int) -> Iterator[list]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class Ensemble:
    """Checkpoints that score the same crops; encoders and input sizes may differ."""

    def __init__(self, paths: Sequence[Path], device: str) -> None:
        """Load them all.

        Raises:
            CheckpointError: one of them can't be used.
        """
        import torch

        from training.checkpoint import load_model

        self._device = device
        self._models, self.names, self._specs = [], [], []
        for path in paths:
            model, checkpoint = load_model(path)
            self._models.append(model.to(device, memory_format=torch.channels_last))
            self._specs.append(checkpoint.spec)
            self.names.append(path.name)

    def score(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Probability of fake by each checkpoint of each crop: float32 [models, crops]."""
        from dfdc.devices import run_halving

        scores = np.zeros((len(self._models), len(crops)), np.float32)
        inputs: dict[tuple[int, int], np.ndarray] = {}  # the same size and margin are resized once
        for index, (model, spec) in enumerate(zip(self._models, self._specs, strict=True)):
            key = spec.size, spec.margin_part
            if key not in inputs:
                tight = [tighten(crop, spec.margin_part) for crop in crops]
                inputs[key] = np.stack([center_pad(isotropic_resize(c, spec.size), spec.size) for c in tight])
            images = inputs[key]
            step = 32 if self._device.startswith("cuda") else 8
            for start in range(0, len(images), step):
                part = images[start : start + step]
                scores[index, start : start + step] = run_halving(lambda x, m=model, s=spec: self._run(m, s, x), part)
        return scores

    def _run(self, model: Any, spec: ModelSpec, images: np.ndarray) -> np.ndarray:
        import torch

        from training.model import Normalizer

        with torch.inference_mode():
            batch = Normalizer(spec.mean, spec.std, self._device)(torch.from_numpy(images).to(self._device))
            with torch.autocast("cuda", torch.float16, enabled=self._device.startswith("cuda")):
                logits = model(batch)[:, 0]
            return torch.sigmoid(logits.float()).cpu().numpy()


def judge(found: FaceCrops, ensemble: Ensemble) -> Verdict:
    """Score the crops of one video and combine the scores into its verdict."""
    from dfdc.devices import is_out_of_memory

    verdict = found.verdict
    if verdict.status not in VERDICT_STATUSES:
        return verdict
    try:
        scores = ensemble.score(found.crops)
        combined = [confident_score(row) for row in scores]
    except Exception as error:  # as in find_faces
        verdict.status = "out of memory" if is_out_of_memory(error) else "error"
        verdict.reason = f"while scoring: {type(error).__name__}: {error}"
        return verdict
    for face, face_scores in zip(verdict.faces, scores.T, strict=True):
        face["scores"] = [round(float(value), 5) for value in face_scores]
    verdict.models = [
        {"name": name, "score": result.score, "rule": result.rule}
        for name, result in zip(ensemble.names, combined, strict=True)
    ]
    verdict.score = float(np.mean([result.score for result in combined]))
    return verdict


class Progress:
    """Verdicts on disk as they come (one JSON object a line), so that a stopped run can go on.

    The first line holds the settings; verdicts of other settings are not taken over.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.done: dict[str, Verdict] = {}
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        if lines and _parse(lines[0]) == settings:
            for line in lines[1:]:
                values = _parse(line)
                if isinstance(values, dict) and values.keys() == asdict(Verdict("", "")).keys():
                    self.done[values["filename"]] = Verdict(**values)  # not so a last line that a kill cut
        elif lines:
            print(f"{path}: left by a run with other settings or videos; beginning anew")
        rows = [settings, *(asdict(verdict) for verdict in self.done.values())]
        artifacts.write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def add(self, verdict: Verdict) -> None:
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(asdict(verdict)) + "\n")
        self.done[verdict.filename] = verdict


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def predict(videos: dict[str, Path], ensemble: Ensemble, detector: FaceDetector, scale: str | float,
            progress: Progress) -> list[Verdict]:  # fmt: skip
    """Verdicts of all videos, in their order. The next video is read while one is scored."""
    todo = [name for name in videos if name not in progress.done]
    bar = parallel.progress_bar(total=len(videos), initial=len(videos) - len(todo), desc="videos", unit="video")
    with ThreadPoolExecutor(1) as reader, bar:
        waiting, ahead = list(reversed(todo)), deque()
        while waiting or ahead:
            while waiting and len(ahead) < 2:
                name = waiting.pop()
                ahead.append(reader.submit(find_faces, videos[name], name, detector, scale))
            progress.add(judge(ahead.popleft().result(), ensemble))
            bar.update()
    return [progress.done[name] for name in videos]


# ------------------------------------------------------------------------------------------ input and output
def list_inputs(folders: Sequence[Path]) -> dict[str, Path]:
    """Name in the submission -> video. A name that occurs twice comes with its folder.

    Raises:
        UsageError: not a folder, or no videos.
    """
    paths: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                f"--test-dir {folder}: " + ("not a folder" if folder.exists() else "there is no such folder")
            )
        found = layout.list_videos(folder)
        if not found:
            kinds = ", ".join(sorted(layout.VIDEO_SUFFIXES))
            raise UsageError(f"--test-dir {folder}: no video lies right in it (looked for {kinds})")
        paths += found
    repeated = Counter(path.name for path in paths)
    return {path.name if repeated[path.name] == 1 else str(path): path for path in paths}


def held_out_inputs(folders: Sequence[Path], fold: int) -> tuple[dict[str, Path], dict[str, int]]:
    """The videos of one fold of DATA_ROOT/folds.csv, and their labels.

    Raises:
        UsageError: more than one folder, no folds.csv, or no such fold.
    """
    if len(folders) != 1:
        raise UsageError(f"--fold goes with one --test-dir, the DATA_ROOT; {len(folders)} are given")
    dataset = layout.load_dataset(folders[0])
    path = folders[0] / layout.FOLDS_NAME
    if not path.is_file():
        raise UsageError(f"--fold {fold}: there is no {path}; run ./preprocess_data.sh {folders[0]} first")
    with path.open(encoding="utf-8", newline="") as handle:
        folds = {row["video"]: int(row["fold"]) for row in csv.DictReader(handle)}
    wanted = sorted((video for video in folds if folds[video] == fold), key=layout.natural_key)
    if not wanted:
        raise UsageError(f"--fold {fold}: {path} has the folds {sorted(set(folds.values()))}")
    gone = [video for video in wanted if video not in dataset.videos]
    if gone:
        raise UsageError(
            f"--fold {fold}: {path} names videos that are not there: {', '.join(gone[:5])}; run step 5 again"
        )
    videos = [dataset.videos[video] for video in wanted]
    return {v.path.name: v.path for v in videos}, {v.path.name: int(v.label == layout.FAKE) for v in videos}


def read_labels(path: Path) -> dict[str, int]:
    """Labels by file name from a metadata.json or a CSV with filename,label (1 or FAKE: fake).

    Raises:
        UsageError: can't be read, or a label is neither.
    """
    words = {"FAKE": 1, "1": 1, "1.0": 1, "REAL": 0, "0": 0, "0.0": 0}
    try:
        if path.suffix == ".json":
            entries = {name: entry["label"] for name, entry in json.loads(path.read_text(encoding="utf-8")).items()}
        else:
            with path.open(encoding="utf-8", newline="") as handle:
                entries = {row["filename"]: row["label"] for row in csv.DictReader(handle)}
        return {name: words[str(label).upper()] for name, label in entries.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"--labels {path}: can't be read ({error})") from None
    except KeyError as error:
        raise UsageError(f"--labels {path}: {error} is missing, or is no label (REAL, FAKE, 0 or 1)") from None


def find_models(folder: Path, names: Sequence[str]) -> list[Path]:
    """Paths of the checkpoints.

    Raises:
        UsageError: one is not there; the message lists what is.
    """
    names = [name for given in names for name in (_read_names(Path(given[1:])) if given.startswith("@") else [given])]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        present = [path.name for path in folder.glob("*") if path.suffix != ".json" and path.is_file()]
        shown = "\n  ".join(sorted(present)[:20]) or "(none)"
        raise UsageError(f"--models {' '.join(missing)}: not in {folder}, which holds\n  {shown}")
    return [folder / name for name in names]


def _read_names(path: Path) -> list[str]:
    """Checkpoint names from a file, one a line."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--models @{path}: can't be read ({error})") from None
    if not names:
        raise UsageError(f"--models @{path}: it names no checkpoint; plot_loss.py --select writes such a file")
    return names


def write_results(output: Path, verdicts: Sequence[Verdict], settings: dict[str, Any], summary: dict) -> None:
    """submission.csv, and submission.json beside it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["filename", "label"])
    writer.writerows([v.filename, "" if v.score is None else f"{v.score:.6f}"] for v in verdicts)
    details = {"settings": settings, "summary": summary, "videos": [asdict(verdict) for verdict in verdicts]}
    artifacts.write_json(output.with_suffix(".json"), details, indent=1)
    artifacts.write_bytes(output, buffer.getvalue().encode(errors="backslashreplace"))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), help="folder of the checkpoints (weights)")
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME",
                        help="checkpoints in it, ours or the winners' own; @FILE: those named in FILE")  # fmt: skip
    parser.add_argument("--test-dir", type=Path, nargs="+", required=True, metavar="DIR", help="folders of videos")
    parser.add_argument("--output", type=Path, default=Path("submission.csv"), help="(submission.csv)")
    parser.add_argument("--fold", type=int, metavar="K",
                        help="--test-dir is a DATA_ROOT: score the videos of this fold of its folds.csv, and print "
                        "log loss and AUC")  # fmt: skip
    parser.add_argument("--labels", type=Path, metavar="FILE",
                        help="metadata.json, or a CSV with filename,label: print log loss and AUC")  # fmt: skip
    parser.add_argument("--detector-scale", type=parse_detector_scale, default="auto", metavar="auto|FACTOR",
                        help="resize frames by this before face detection; the winners used 0.5 (auto: x2 where the "
                        "longer side is under 300 pixels, x1 up to 1000, x0.5 above)")  # fmt: skip
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    args = parser.parse_args(argv)
    if args.fold is not None and args.labels:
        raise UsageError("--fold knows the labels already; give either --fold or --labels")
    if args.output.suffix.lower() != ".csv" or args.output.is_dir():
        raise UsageError(f"--output {args.output}: the name of a file that ends in .csv is expected")
    if args.output.with_suffix(".json").name == layout.METADATA_NAME:
        raise UsageError(
            f"--output {args.output}: its details would be written to {layout.METADATA_NAME}; take another name"
        )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    labels = None
    if args.fold is not None:
        videos, labels = held_out_inputs(args.test_dir, args.fold)
    else:
        videos = list_inputs(args.test_dir)
        labels = read_labels(args.labels) if args.labels else None
    paths = find_models(args.weights_dir, args.models)

    from dfdc.devices import resolve_device
    from training.checkpoint import CheckpointError

    try:
        device = resolve_device(args.device)
        ensemble = Ensemble(paths, device)
    except (CheckpointError, ValueError) as error:
        raise UsageError(str(error)) from error
    settings = {
        "models": [{"name": path.name, **artifacts.fingerprint(path)} for path in paths],
        "videos": {name: [str(path), path.stat().st_size, path.stat().st_mtime_ns] for name, path in videos.items()},
        "frames": FRAMES_PER_VIDEO,
        "detector_scale": args.detector_scale,
        "detector_thresholds": list(PREDICT_THRESHOLDS),
        "margin_part": MARGIN_PART,
        "strategy": "confident",
    }
    progress = Progress(args.output.with_name(args.output.name + ".progress"), settings)
    detector = FaceDetector(PREDICT_THRESHOLDS, device)
    verdicts = predict(videos, ensemble, detector, args.detector_scale, progress)

    summary: dict[str, Any] = {"statuses": dict(Counter(verdict.status for verdict in verdicts))}
    judged = [verdict for verdict in verdicts if verdict.score is not None]
    if labels is not None:
        labelled = [v for v in judged if v.filename in labels]
        if labelled:
            summary["metrics"] = metrics([labels[v.filename] for v in labelled], [v.score for v in labelled])
    write_results(args.output, verdicts, settings, summary)
    progress.path.unlink(missing_ok=True)
    print_summary(args.output, verdicts, summary, labels)
    return 0 if len(judged) == len(verdicts) else 1


def print_summary(output: Path, verdicts: Sequence[Verdict], summary: dict, labels: dict[str, int] | None) -> None:
    for verdict in verdicts:
        if verdict.score is not None and len(verdicts) <= 50:
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
