"""Self-test: does this machine reproduce golden scores that were stored on a trusted machine?

A small clip is drawn from scikit-image's portrait by integer arithmetic. It passes through every stage of scoring:
encoder, decoder, detector, crop, resize, normalisation, network. `<checkpoint>.golden.json` holds its boxes and scores
in fp32 on the CPU. A later run compares in fp32 on the CPU first. It then compares with the device, precision and
compilation that it scores videos with. The file also holds the checkpoint's SHA-256, to recognise other weights, and
the library versions, to name the cause of a difference.

The scores say nothing about the portrait: the clip only has to be the same everywhere.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import skimage.data
from scipy.special import logit

from dfdc import artifacts
from dfdc.command_line import UsageError, setting
from dfdc.devices import package_versions
from dfdc.faces import FaceDetector
from dfdc.text import plural, printable
from dfdc.video import write_video
from networks.engines import TITLES, choose_engine, open_ensemble
from networks.files import is_onnx, model_names, sha256
from networks.precision import choose_precision
from networks.spec import CheckpointError
from prediction.batches import Options, predict
from prediction.json_file import read_json_file
from prediction.progress import LIBRARIES, Results
from prediction.verdict import Verdict


class Bounds(NamedTuple):
    """The largest allowed differences of a score and its logit from the stored ones.

    A trained checkpoint is sure of most faces. A score near 0 or 1 hardly moves, but its logit does. A logit difference
    of 0.1 changes a score of 0.005 by 0.0005, and exceeds 0.005 only between scores of 0.05 and 0.95.
    """

    score: float
    logit: float


# fp32: rounding on another CPU differs far less; another library mostly differs more.
# The others: at least twice the largest difference from fp32 seen on real faces and on this clip (score and logit).
# bf16: 0.046 and 0.23 (B7 with random weights, scaled until its scores filled 0 to 1). Trained test_resnet: 0.014 and
# 0.06. fp16: 0.002 and 0.03 (test_vit).
BOUNDS = {"fp32": Bounds(0.005, 0.1), "fp16": Bounds(0.02, 0.2), "bf16": Bounds(0.1, 0.5)}
BOX_TOLERANCE = 1.0  # pixels of the clip
GPU_BOX_TOLERANCE = 2.0  # a GPU sums in another order; not measured
_SIDE = 1024  # pixels: the detector halves frames of this size, as in most videos
_FACE = 224, 120  # x, y in the portrait, near the middle of the face
_SATURATED = 0.001  # closer to 0 or 1, a difference of logits changes no verdict


@dataclass(frozen=True)
class GoldenFace:
    """A face of the clip: x1, y1, x2, y2 in pixels of its frame, and the probability of fake."""

    frame: int
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Clip:
    """SHA-256 of the clip's pixels, which must be the same everywhere, and of the encoded file."""

    pixels_sha256: str
    file_sha256: str


@dataclass(frozen=True)
class Golden:
    """The file beside a checkpoint; `libraries` has the version of each, `version` is that of this layout."""

    checkpoint_sha256: str
    clip: Clip
    libraries: dict[str, str]
    faces: list[GoldenFace]
    version: Literal[1] = 1


@dataclass(frozen=True)
class Way:
    """How the clip is scored: PyTorch device, precision (fp32, fp16 or bf16), compiled or not, and engine.

    The engine is that of checkpoints; ONNX files run in ONNX Runtime in every way.
    """

    device: str = "cpu"
    precision: str = "fp32"
    compiled: bool = False
    engine: str = "torch"

    def __str__(self) -> str:
        parts = [f"{self.precision} on {self.device}", *(["compiled"] if self.compiled else [])]
        return ", ".join(parts if self.engine == "torch" else [*parts, TITLES[self.engine]])


REFERENCE = Way()  # of the stored scores


def clip_frames() -> list[np.ndarray]:
    """Return four frames, RGB uint8 [1024, 1024, 3]: one face in three sizes, so that crops are enlarged and shrunk.

    Only integer arithmetic and pixel repetition are used: no library's resizing can change the clip.
    """
    portrait = skimage.data.astronaut().astype(np.int32)  # [512, 512, 3]
    double = portrait.repeat(2, 0).repeat(2, 1)
    # Bright on the left and dark on the right: another image of the same face.
    light = np.linspace(150, 90, _SIDE).astype(np.int32)[None, :, None]
    corner = np.full((_SIDE, _SIDE, 3), 96, np.int32)
    corner[300:812, 400:912] = portrait
    x, y = _FACE
    half = 128  # pixels of the portrait around the face, enlarged four times
    top, left = max(0, y - half), max(0, x - half)
    close = portrait[top : top + 2 * half, left : left + 2 * half].repeat(4, 0).repeat(4, 1)
    frames = [double, double[:, ::-1] * light // 128, corner, close]
    return [np.ascontiguousarray(np.clip(frame, 0, 255).astype(np.uint8)) for frame in frames]


def self_test(
    paths: Sequence[Path],
    *,
    store: bool = False,
    force: bool = False,
    device: str = "cpu",
    precision: str = "auto",
    compile_: bool = False,
    engine: str = "torch",
) -> int:
    """Compare each checkpoint's scores of the clip with the stored ones; print both, and the detector's boxes.

    Args:
        store: store the scores of checkpoints that have none, always in fp32 on the CPU.
        force: with `store`, of all checkpoints.
        device: a PyTorch device name.
        precision: one of `networks.precision.PRECISIONS`.
        compile_: whether to compile the networks.
        engine: one of `networks.engines.ENGINES`.

    Returns:
        exit status: 0 if all agree or were stored, 1 if one differs or has no stored scores.

    Raises:
        UsageError: a checkpoint or its stored scores can't be read, or it can't be scored with these settings.
    """
    precision = choose_precision(precision, device)
    engine = choose_engine(paths, engine, precision, device, shown=True).engine
    own = Way(device, precision, compile_, "torch" if all(map(is_onnx, paths)) else engine)
    golden = {path: None if store and force else read_golden(path) for path in paths}
    ways = [REFERENCE] if own == REFERENCE else [REFERENCE, own]
    failed = {way: _test(paths, golden, way, store and way == REFERENCE) for way in ways}
    if not store and not any(golden.values()):
        print(f"self-test: nothing was compared, because no scores are stored; {_advice('store them')}")
        return 1
    for way in ways:
        if failed[way]:
            share = f"{failed[way]} of {len(paths)} checkpoints"
            print(f"self-test FAILED for {share} in {way}: do not trust verdicts until the cause is known")
    if failed[own] and not failed[REFERENCE]:
        print(f"{REFERENCE} agrees with the stored scores, so the difference comes from {own}")
    if any(failed.values()):
        return 1
    shown = " and in ".join(map(str, ways))
    print(f"self-test passed: {plural(len(paths), 'checkpoint')}, in {shown}")
    return 0


def _test(paths: Sequence[Path], golden: dict[Path, Golden | None], way: Way, store: bool) -> int:
    """Score the clip, print, and compare with `golden` or add to it; return the number of failed checkpoints."""
    print(f"{way}:")
    libraries = package_versions((*LIBRARIES, "scikit-image"), "not installed under this name")
    checksums = {path: sha256(path) for path in paths}
    verdict, clip = score_clip(paths, way)
    if not verdict.status.scored:
        print(f"  the clip was not scored ({verdict.status}: {verdict.reason})")
        return len(paths)
    failed = 0
    for index, (path, name) in enumerate(zip(paths, map(printable, model_names(paths)), strict=True)):
        faces = [GoldenFace(face.frame, _corners(face.box), face.scores[index]) for face in verdict.faces]
        found = Golden(checksums[path], clip, libraries, faces)
        if golden[path] is None and store:
            artifacts.write_json(golden_path(path), asdict(found), indent=1)
            golden[path] = found
            print(f"{name}: stored in {printable(golden_path(path))}")
        print_faces(name, golden[path], found)
        bounds = BOUNDS["fp32" if is_onnx(path) else way.precision]  # ONNX Runtime always uses fp32
        problems = compare(golden[path], found, bounds, BOX_TOLERANCE if way.device == "cpu" else GPU_BOX_TOLERANCE)
        failed += bool(problems)
        print(f"  {'FAILED' if problems else 'ok'}{''.join(f': {problem}' for problem in problems)}")
        if all(min(face.score, 1 - face.score) < _SATURATED for face in faces):
            print("  note: this checkpoint is sure of every frame, so this tests the boxes more than the network")
    return failed


def score_clip(paths: Sequence[Path], way: Way = REFERENCE) -> tuple[Verdict, Clip]:
    """Score the clip like any video; return its verdict, and the SHA-256 of its pixels and its file.

    Raises:
        UsageError: a checkpoint can't be read, or can't be scored in this way.
    """
    try:
        ensemble = open_ensemble(paths, way.device, way.precision, way.engine)
        if way.compiled and ensemble.compilable:
            ensemble.compile(only_if_faster=False)
        detector = FaceDetector(ensemble.detector_thresholds, way.device)
    except (CheckpointError, ValueError, RuntimeError) as error:
        raise UsageError(printable(error)) from error
    frames = clip_frames()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "self-test.mp4"
        write_video(path, frames)
        try:
            (verdict,) = predict(ensemble, detector, Results({path.name: path}), Options(strategy="mean"))
        finally:
            ensemble.close()
        pixels = hashlib.sha256(b"".join(frame.tobytes() for frame in frames)).hexdigest()
        return verdict, Clip(pixels, artifacts.sha256_of(path))


def golden_path(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's golden scores: `<checkpoint>.golden.json`."""
    return checkpoint.with_name(f"{checkpoint.name}.golden.json")


def read_golden(checkpoint: Path) -> Golden | None:
    """Read the golden scores of a checkpoint; None if there are none.

    Raises:
        UsageError: the file can't be read.
    """
    path = golden_path(checkpoint)
    try:
        return read_json_file(path, Golden)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{printable(path)}: can't be read ({printable(error)}); copy it again from the source of the checkpoint, "
            f"or {_advice('store it again', force=True)}"
        ) from None


def compare(
    stored: Golden | None, found: Golden, bounds: Bounds = BOUNDS["fp32"], box_tolerance: float = BOX_TOLERANCE
) -> list[str]:
    """Return the faults of `found` as sentences; empty if there are none."""
    if stored is None:
        return [f"no golden scores are stored; {_advice('store them')}"]
    if stored.checkpoint_sha256 != found.checkpoint_sha256:
        fault = "the checkpoint has changed since its scores were stored"
        advice = f"if it was changed on purpose, {_advice('store them again', force=True)}"
        return [f"{fault}, so they say nothing about the libraries; {advice}"]
    if stored.clip.pixels_sha256 != found.clip.pixels_sha256:
        fault = "the clip is drawn differently (another version of scikit-image or of this test)"
        return [f"{fault}, so the scores can't be compared; {_advice('store them again', force=True)}"]
    problems = []
    before, after = ([face.frame for face in golden.faces] for golden in (stored, found))
    if before != after:
        problems.append(f"faces in frames {after}, stored: {before}")
    else:
        pairs = list(zip(stored.faces, found.faces, strict=True))
        moved = np.max([np.abs(np.subtract(a.box, b.box)).max() for a, b in pairs])  # Python's max may ignore nan
        if not moved <= box_tolerance:  # written so that nan fails
            problems.append(f"a box differs by {moved:.2f} pixels (at most {box_tolerance:g} is allowed)")
        off = np.max([abs(a.score - b.score) for a, b in pairs])
        if not off <= bounds.score:
            problems.append(f"a score differs by {off:.4f} (at most {bounds.score:g} is allowed)")
        elif not (off := np.max([abs(_logit(a) - _logit(b)) for a, b in pairs])) <= bounds.logit:
            problems.append(f"a score's logit differs by {off:.2f} (at most {bounds.logit:g} is allowed)")
    return [f"{'; '.join(problems)}; {_suspects(stored, found)}"] if problems else []


def _advice(doing: str, *, force: bool = False) -> str:
    settings = " and ".join(map(setting, ("store", "force") if force else ("store",)))
    return f"{doing} on a machine that you trust, with {settings}"


def _logit(face: GoldenFace) -> float:
    return float(logit(np.clip(face.score, _SATURATED, 1 - _SATURATED)))


def _suspects(stored: Golden, found: Golden) -> str:
    """Return what else differs, to help find the cause."""
    versions = ((name, old, found.libraries.get(name)) for name, old in stored.libraries.items())
    changed = [f"{name} {old} -> {new}" for name, old, new in versions if new != old]
    if stored.clip.file_sha256 != found.clip.file_sha256:
        changed.append("the encoder (its file differs)")
    if changed:
        return f"the checkpoint is the same; changed since: {', '.join(changed)}"
    return "the checkpoint and the library versions are the same; check this project's code and the machine"


def print_faces(name: str, stored: Golden | None, found: Golden) -> None:
    """Print the stored and the new scores and boxes, a line per face."""
    print(name)
    old = {} if stored is None else {(face.frame, index): _shown(face) for index, face in enumerate(stored.faces)}
    for index, face in enumerate(found.faces):
        (score, box), (old_score, old_box) = _shown(face), old.pop((face.frame, index), ("-", "-"))
        print(f"  frame {face.frame}: score {score}, stored {old_score}; box {box}, stored {old_box}")
    for (frame, _), (score, box) in old.items():
        print(f"  frame {frame}: no face detected, stored {score}; box {box}")


def _shown(face: GoldenFace) -> tuple[str, str]:
    return f"{face.score:.4f}", " ".join(f"{corner:.1f}" for corner in face.box)


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return x1, y1, x2, y2
