"""Seconds and memory to score a folder with two EfficientNet-B7 networks: plain, ours, and the floors.

    python benchmarks/bench_predict.py [VIDEOS ...]

Plain is a straightforward implementation of the published solution. It processes one video at a time: six threads
detect faces in one frame each with facenet-pytorch's MTCNN at half size. Each float32 network then scores all faces of
the video at once. Ours is predict_folder.py. Both include start-up, and use seeded networks, because speed does not
depend on the weights. The first run of ours converts the checkpoints, and is measured apart.
Floors: decoding the videos, and running only the networks on as many faces, in the first precision of ours.
Start-up: until the first video begins; of ours in the first precision, the best run.
Growth: ours on the first video, on this video repeated to an hour, and, with --most-models, on all videos with five
checkpoints. --short leaves out floors, growth, and the run that converts: for a GPU, which needs no conversion.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN
from measuring import ROOT, add_videos, find_videos, repeat_video, run_measured, seconds
from PIL import Image

from dfdc.detector_settings import PREDICT_THRESHOLDS
from dfdc.devices import resolve_device
from dfdc.imaging import center_pad, crop_face, isotropic_resize
from dfdc.scoring import confident_score
from dfdc.video import VideoReader
from networks.checkpoint import load_model, save_checkpoint
from networks.engines import open_ensemble
from networks.files import checkpoints_in
from networks.model import build_network
from networks.precision import choose_precision
from networks.spec import ModelSpec

MODELS, MOST_MODELS = 2, 5


def save_models(folder: Path, encoder: str, count: int) -> list[str]:
    names = [f"model{index}" for index in range(count)]
    for index, name in enumerate(names):
        torch.manual_seed(index)
        network = build_network("DeepFakeClassifier", encoder)
        spec = ModelSpec("DeepFakeClassifier", encoder, 380)
        save_checkpoint(folder / name, network, spec, epoch=0, bce_best=0.5, metrics={})
    return names


def plain(videos: list[Path], weights: Path) -> tuple[dict[str, float], float]:
    """Score of each video, and the seconds that this took without start-up."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = [load_model(path)[0].to(device) for path in checkpoints_in(weights)[:MODELS]]
    mtcnn = MTCNN(margin=0, keep_all=True, thresholds=list(PREDICT_THRESHOLDS), device=device)
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=device).view(3, 1, 1)

    def faces(frame: np.ndarray) -> list[np.ndarray]:
        picture = Image.fromarray(frame)
        boxes = mtcnn.detect(picture.resize([side // 2 for side in picture.size]))[0]
        crops = [crop_face(frame, [2 * corner for corner in box]) for box in ([] if boxes is None else boxes)]
        return [center_pad(isotropic_resize(crop, 380), 380) for crop in crops if crop is not None]

    scores, started = {}, time.perf_counter()
    for path in videos:
        capture = cv2.VideoCapture(str(path))
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        wanted, frames = set(np.linspace(0, count - 1, 32).astype(int).tolist()), []
        for number in range(count):
            capture.grab()
            if number in wanted:
                frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
        with ThreadPoolExecutor(6) as pool:
            crops = [crop for found in pool.map(faces, frames) for crop in found]
        batch = torch.from_numpy(np.stack(crops)).to(device).permute(0, 3, 1, 2).float() / 255
        batch = (batch - mean) / std
        with torch.no_grad():
            results = [confident_score(torch.sigmoid(model(batch))[:, 0].cpu().numpy()).score for model in models]
        scores[path.name] = float(np.mean(results))
    return scores, time.perf_counter() - started


def floors(videos: list[Path], weights: Path, faces: int, precision: str, engine: str) -> tuple[float, float]:
    """Seconds to decode the videos, and to score `faces` black crops."""

    def decode() -> None:
        for path in videos:
            with VideoReader(path) as reader:
                for _ in reader.frames([reader.frame_count - 1]):
                    pass

    paths, device = checkpoints_in(weights)[:MODELS], resolve_device("auto")
    ensemble = open_ensemble(paths, device, choose_precision(precision, device), engine)
    crops = [np.zeros((380, 380, 3), np.uint8)] * faces
    ensemble.score(crops[: ensemble.batch_size])
    return seconds(decode), seconds(lambda: ensemble.score(crops))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_videos(parser)
    parser.add_argument(
        "--encoder", default="tf_efficientnet_b7.ns_jft_in1k", help="encoder of the networks (default: that of B7)"
    )
    parser.add_argument("--precisions", nargs="+", default=["auto"], help="precisions of ours (default: auto)")
    parser.add_argument("--engine", default="auto", help="engine of ours (default: auto)")
    parser.add_argument("--compile", default="auto", help="--compile of ours (default: auto)")
    parser.add_argument("--most-models", action="store_true", help=f"also measure {MOST_MODELS} checkpoints")
    parser.add_argument("--short", action="store_true", help="measure only all videos, plain and ours")
    parser.add_argument(
        "--plain-in", type=Path, help=argparse.SUPPRESS
    )  # for the plain form, which runs in a separate process
    args = parser.parse_args()
    videos = find_videos(args.videos)
    if args.plain_in:
        print(json.dumps(plain(videos, args.plain_in)))
        return
    with tempfile.TemporaryDirectory() as folder:
        weights, output = Path(folder) / "weights", Path(folder) / "submission.csv"
        weights.mkdir()
        names = save_models(weights, args.encoder, MOST_MODELS if args.most_models else MODELS)

        def command_of(some: list[Path], precision: str, models: int) -> list[object]:
            command: list[object] = [sys.executable, ROOT / "predict_folder.py", "--weights-dir", weights, "--models"]
            command += [*names[:models], "--test-dir", *some, "--output", output, "--force", "--detector-scale", 0.5]
            command += ["--precision", precision, "--compile", args.compile]
            return [*command, "--engine", args.engine, "--no-report"]

        def ours(
            some: list[Path], precision: str = args.precisions[0], models: int = MODELS
        ) -> tuple[float, float, dict]:
            took, memory, _ = run_measured(command_of(some, precision, models))
            return took, memory, json.loads(output.with_suffix(".json").read_text())

        def ready(precision: str) -> float:
            """Seconds from the start of ours to its first video."""
            started = time.perf_counter()
            command = [str(part) for part in command_of(videos[:1], precision, MODELS)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                for line in process.stdout or ():
                    if line.startswith("networks: "):
                        took = time.perf_counter() - started
                        process.kill()
                        return took
            sys.exit("ours never said which engine runs the networks")

        plain_seconds, plain_memory, printed = run_measured([sys.executable, __file__, *videos, "--plain-in", weights])
        growth: dict[str, tuple[float, float, dict]] = {}
        if not args.short:
            growth["ours, the first video, with the conversion"] = ours(videos[:1])
        for other in args.precisions[1:]:
            ours(videos[:1], other)  # measures the engines
        found = {precision: ours(videos, precision) for precision in args.precisions}
        details = found[args.precisions[0]][2]
        faces = sum(len(video["faces"]) for video in details["videos"])
        begun = min(ready(args.precisions[0]) for _ in range(1 if args.short else 3))
        floor: dict[str, float] = {}
        if not args.short:
            hour = Path(folder) / "hour.mp4"
            repeat_video(videos[0], hour, minutes=60)
            growth["ours, the first video"] = ours(videos[:1])
            growth["ours, the first video repeated to an hour"] = ours([hour])
            decode, network = floors(videos, weights, faces, args.precisions[0], args.engine)
            floor = {"decoding": decode, "networks": network}
        if args.most_models:
            growth[f"ours, {MOST_MODELS} checkpoints"] = ours(videos, models=MOST_MODELS)

    expected, plain_working = json.loads(printed.splitlines()[-1])
    start = plain_seconds - plain_working
    print(f"{len(videos)} videos, {faces} faces, {MODELS} x {args.encoder}")
    print(
        "| form | seconds | start-up | peak MiB | plain / ours | memory, plain / ours | largest difference of a video |"
    )
    print("|---|---|---|---|---|---|---|")
    print(f"| plain | {plain_seconds:.1f} | {start:.1f} | {plain_memory:.0f} | | | |")
    for took, memory, told in found.values():
        apart = max(abs(video["score"] - expected[video["filename"]]) for video in told["videos"])
        name, faster = "{engine}, {precision}".format(**told["settings"]), plain_seconds / took
        less = plain_memory / memory
        print(f"| {name} | {took:.1f} | {begun:.1f} | {memory:.0f} | {faster:.2f} | {less:.1f} | {apart:.4f} |")
    for name, (took, memory, _) in growth.items():
        print(f"| {name} | {took:.1f} | | {memory:.0f} | | | |")
    for name, took in floor.items():
        print(f"| floor: {name} | {took:.1f} | | | | | |")


if __name__ == "__main__":
    main()
