"""How far each engine and numeric precision moves scores from those of PyTorch in fp32, and seconds per face.

    python benchmarks/bench_precision.py --models CHECKPOINT ... --videos DIR ... [--engines torch openvino onnx]
    python benchmarks/bench_precision.py --models CHECKPOINT ... --videos DIR ... --device cuda

The faces of the videos are detected once on the CPU, as predict_folder.py does. All forms score these same faces on
--device. The reference runs on the CPU.

Differences are of scores, 0 to 1. Those of a video come from the strategy `confident`. A video changes sides if its
score crosses 0.5. Times are of a few faces, which the forms score in turn: the best turn, and the slowest.

Each table says how sure and how sensitive the network is, because both decide how much rounding shows:
- scores of faces in fp32: of a network that is sure of everything, the scores hardly move;
- noise gain: each value of the normalised input moves by at most 1e-6, at random. The gain is the change of the logit,
  divided by 1e-6.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measuring import find_videos

from dfdc.command_line import UserError
from dfdc.detector_settings import PREDICT_THRESHOLDS
from dfdc.devices import available_cores
from dfdc.faces import FaceDetector
from dfdc.imaging import fit, tighten
from dfdc.scoring import confident_score
from networks.engines import open_ensemble
from networks.ensemble import Ensemble
from networks.torch_model import TorchModel
from prediction.decoding import Decoder
from prediction.reading import find_faces

NOISE = 1e-6  # largest change of a value of the normalised input
NOISY_FACES = 32  # most faces to add noise to


@dataclass(frozen=True)
class Form:
    """A way to run a network."""

    engine: str
    precision: str
    device: str

    def __str__(self) -> str:
        return " ".join((self.engine, self.precision, *([] if self.device == "cpu" else ["GPU"])))


REFERENCE = Form("torch", "fp32", "cpu")


@dataclass(frozen=True)
class Video:
    """The faces of a video: RGB uint8 [h, w, 3] each, in frame order."""

    name: str
    crops: list[np.ndarray]


def read_videos(paths: Sequence[Path], frames: int) -> list[Video]:
    """The faces of each video on up to `frames` frames; videos without a face are named and left out."""
    detector, decoder, videos = FaceDetector(PREDICT_THRESHOLDS, "cpu"), Decoder(), []
    for path in paths:
        crops: list[np.ndarray] = []
        verdict = find_faces(path, path.name, decoder, detector, "auto", crops.append)
        numbers = np.unique([face.frame for face in verdict.faces])
        kept = set(numbers[np.linspace(0, len(numbers) - 1, min(frames, len(numbers))).astype(int)].tolist())
        chosen = [crop for face, crop in zip(verdict.faces, crops, strict=True) if face.frame in kept]
        if chosen and verdict.status.scored:
            videos.append(Video(path.name, chosen))
        else:
            print(f"left out: {path} ({verdict.status}: {verdict.reason})")
    decoder.close()
    return videos


def open_forms(path: Path, engines: Sequence[str], precisions: Sequence[str], device: str) -> dict[Form, Ensemble]:
    """The checkpoint by form, the reference first; forms that this installation lacks are named and left out."""
    forms = {REFERENCE: open_ensemble([path], REFERENCE.device, REFERENCE.precision, REFERENCE.engine)}
    for form in [Form(engine, precision, device) for engine in engines for precision in precisions]:
        if form != REFERENCE:
            try:
                forms[form] = open_ensemble([path], form.device, form.precision, form.engine)
            except UserError as error:
                print(f"left out: {form} ({error})")
    return forms


def time_in_turn(forms: Mapping[Form, Ensemble], crops: list[np.ndarray], turns: int) -> dict[Form, list[float]]:
    """Seconds per face of each form, by turn; the forms alternate, so that changes of the machine affect all alike."""
    took = {form: [] for form in forms}
    for _ in range(turns):
        for form, ensemble in forms.items():
            started = time.perf_counter()
            ensemble.score(crops)
            took[form].append((time.perf_counter() - started) / len(crops))
    return took


def noise_gains(path: Path, crops: Sequence[np.ndarray]) -> np.ndarray:
    """Change of each face's logit by noise, divided by NOISE, in PyTorch in fp32: float [n]."""
    model, generator, gains = TorchModel(path, "cpu", "fp32"), torch.Generator().manual_seed(0), []
    torch.set_num_threads(available_cores())
    for crop in crops:
        clean = model.normalized(fit(tighten(crop, model.spec.margin_part), model.spec.size)[None])
        noise = torch.rand(clean.shape, generator=generator).mul_(2 * NOISE).sub_(NOISE)
        with torch.inference_mode():
            change = model.network(clean + noise) - model.network(clean)
        gains.append(abs(change.item()) / NOISE)
    return np.array(gains)


def video_scores(scores: np.ndarray, videos: Sequence[Video]) -> np.ndarray:
    """Scores of all faces [faces], in the order of `videos` -> scores of the videos [videos]."""
    parts = np.split(scores, np.cumsum([len(video.crops) for video in videos])[:-1])
    return np.array([confident_score(part).score for part in parts])


def measure(path: Path, videos: Sequence[Video], args: argparse.Namespace) -> None:
    """Print the table of one checkpoint."""
    crops = [crop for video in videos for crop in video.crops]
    forms = open_forms(path, args.engines, args.precisions, args.device)
    scores = {form: np.concatenate([e.score(video.crops)[0] for video in videos]) for form, e in forms.items()}
    few = _spread(crops, args.timed)
    took = time_in_turn(forms, few, args.turns)
    gains = noise_gains(path, _spread(crops, NOISY_FACES))
    spec, expected = forms[REFERENCE].specs[0], scores[REFERENCE]
    of_videos = video_scores(expected, videos)
    print(f"\n**{path.name}**: {spec.network} with {spec.encoder}, {spec.size} px")
    print(f"\n- {len(crops)} faces of {len(videos)} videos")
    print(f"- scores in fp32 (smallest, median, largest): faces {_range(expected)}; videos {_range(of_videos)}")
    print(f"- noise gain of {len(gains)} faces: largest {gains.max():.3g}, median {np.median(gains):.3g}")
    print(f"- times of {len(few)} faces, {args.turns} turns\n")
    print("| form | face: worst | median | video: worst | median | change sides | s per face (slowest) | speed |")
    print("|---|---|---|---|---|---|---|---|")
    for form, found in scores.items():
        face, ours = np.abs(found - expected), video_scores(found, videos)
        video, sides = np.abs(ours - of_videos), int(((ours > 0.5) != (of_videos > 0.5)).sum())
        cells = [str(form), *(f"{v:.2g}" for v in (face.max(), np.median(face), video.max(), np.median(video)))]
        cells += [
            sides,
            f"{min(took[form]):.4f} ({max(took[form]):.4f})",
            f"{min(took[REFERENCE]) / min(took[form]):.2f}",
        ]
        print(f"| {' | '.join(map(str, cells))} |")
    for ensemble in forms.values():
        ensemble.close()


def _spread(crops: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Up to `count` of the crops, evenly spread."""
    return [crops[index] for index in np.linspace(0, len(crops) - 1, min(count, len(crops))).astype(int)]


def _range(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4f}" for value in (values.min(), np.median(values), values.max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="checkpoints")
    parser.add_argument("--videos", type=Path, nargs="+", required=True, help="video files, or folders of them")
    parser.add_argument("--engines", nargs="+", default=["torch", "openvino", "onnx"], help="default: %(default)s")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], help="default: %(default)s")
    parser.add_argument("--frames", type=int, default=32, metavar="N", help="frames of a video (default and most: 32)")
    parser.add_argument(
        "--timed",
        type=int,
        default=8,
        metavar="N",
        help="faces to time (default: 8); on a GPU, batches are padded to 32",
    )
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="turns to time (default: 5)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu); on a GPU only torch runs")
    args = parser.parse_args()
    videos = read_videos(find_videos(args.videos), args.frames)
    for path in args.models:
        measure(path, videos, args)


if __name__ == "__main__":
    main()
