"""Golden scores: would this machine's software still give the scores that were known to be right?

A small clip, drawn from scikit-image's portrait by integer arithmetic, goes the whole way of a video: encoder, decoder,
detector, crop, resize, normalisation, network. `<checkpoint>.golden.json`, stored once on a machine that is trusted,
has the boxes and scores of fp32 on the CPU; a later run compares, first in the same way and then in the way in which it
scores videos: on its device, in its precision, compiled or not. The file also has the checkpoint's SHA-256, so that
other weights are not taken for another library, and the libraries' versions, so that the one to blame can be named.

The scores say nothing of the portrait: the clip is there to be the same everywhere.
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
from networks.checkpoint import CheckpointError
from networks.ensemble import Ensemble
from networks.files import model_names
from networks.onnx_model import is_onnx
from networks.precision import choose_precision
from prediction.batches import Options, predict
from prediction.json_file import read_json_file
from prediction.progress import LIBRARIES, Results
from prediction.verdict import Verdict


class Bounds(NamedTuple):
    """How far a score and its logit may be from the stored ones.

    A trained checkpoint is sure of most faces, and a score near 0 or 1 hardly moves: its logit does. 0.1 is 0.0005 at
    a score of 0.005, and more than 0.005 only between 0.05 and 0.95.
    """

    score: float
    logit: float


# fp32: what another CPU's rounding does is far smaller; what another library does to a face is mostly larger.
# The others: at least twice the largest difference from fp32 that was seen on real faces and on this clip. bf16: 0.046
# of a score and 0.23 of a logit (B7 whose random weights were scaled until its scores filled 0 to 1); trained
# test_resnet: 0.014 and 0.06. fp16: 0.002 and 0.03 (test_vit).
BOUNDS = {"fp32": Bounds(0.005, 0.1), "fp16": Bounds(0.02, 0.2), "bf16": Bounds(0.1, 0.5)}
BOX_TOLERANCE = 1.0  # pixels of the clip
GPU_BOX_TOLERANCE = 2.0  # a GPU adds up in another order; not measured
_SIDE = 1024  # pixels: large enough for the detector to work on half-size frames, as on most videos
_FACE = 224, 120  # x, y in the portrait, near the middle of the face
_SATURATED = 0.001  # nearer to 0 or 1, a difference of logits changes no verdict


@dataclass(frozen=True)
class GoldenFace:
    """A face of the clip: x1, y1, x2, y2 in pixels of its frame, and the probability of fake."""

    frame: int
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Clip:
    """The clip: of its pixels, which must be the same everywhere, and of the file that the encoder made of them."""

    pixels_sha256: str
    file_sha256: str


@dataclass(frozen=True)
class Golden:
    """What lies beside a checkpoint, `libraries` with the version of each; `version` is of this layout."""

    checkpoint_sha256: str
    clip: Clip
    libraries: dict[str, str]
    faces: list[GoldenFace]
    version: Literal[1] = 1


@dataclass(frozen=True)
class Way:
    """How the clip is scored: on a PyTorch device, in fp32, fp16 or bf16, compiled or not."""

    device: str = "cpu"
    precision: str = "fp32"
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.precision} on {self.device}{', compiled' if self.compiled else ''}"


REFERENCE = Way()  # in which scores are stored


def clip_frames() -> list[np.ndarray]:
    """Four frames, RGB uint8 [1024, 1024, 3]: one face in three sizes, so that it is enlarged and shrunk for networks.

    Only integers are computed with, and pixels repeated: no library's resizing can change the clip.
    """
    portrait = skimage.data.astronaut().astype(np.int32)  # [512, 512, 3]
    double = portrait.repeat(2, 0).repeat(2, 1)
    # Light from the left and a little dark at the bottom: another picture, with the same face.
    light = np.linspace(150, 90, _SIDE).astype(np.int32)[None, :, None]
    corner = np.full((_SIDE, _SIDE, 3), 96, np.int32)
    corner[300:812, 400:912] = portrait
    x, y = _FACE
    half = 128  # pixels of the portrait around the face, four times as large
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
) -> int:
    """Compare each checkpoint's scores of the clip with its stored ones; print both, and the detector's boxes.

    Args:
        store: store the scores of checkpoints that have none yet, in fp32 on the CPU whatever follows.
        force: with `store`, of all.
        device: a PyTorch device name.
        precision: of `networks.ensemble.PRECISIONS`.
        compile_: whether the networks are compiled.

    Returns:
        exit status: 0 if all agree (or were stored), 1 if one differs or has none.

    Raises:
        UsageError: a checkpoint or what is stored beside it can't be read, or it can't be scored in that way.
    """
    own = Way(device, choose_precision(precision, device), compile_)
    golden = {path: None if store and force else read_golden(path) for path in paths}
    ways = [REFERENCE] if own == REFERENCE else [REFERENCE, own]
    failed = {way: _test(paths, golden, way, store and way == REFERENCE) for way in ways}
    if not store and not any(golden.values()):
        print(f"self-test: nothing was compared, as no scores are stored; {_advice('store them')}")
        return 1
    for way in ways:
        if failed[way]:
            share = f"{failed[way]} of {len(paths)} checkpoints"
            print(f"self-test FAILED for {share} in {way}: do not trust verdicts before it is explained")
    if failed[own] and not failed[REFERENCE]:
        print(f"{REFERENCE} agrees with what is stored, so that the difference comes from {own}")
    if any(failed.values()):
        return 1
    shown = " and in ".join(map(str, ways))
    print(f"self-test passed: {plural(len(paths), 'checkpoint')}, in {shown}")
    return 0


def _test(paths: Sequence[Path], golden: dict[Path, Golden | None], way: Way, store: bool) -> int:
    """Score the clip in one way, print, compare with `golden` or add to it; return how many checkpoints failed."""
    print(f"{way}:")
    libraries = package_versions((*LIBRARIES, "scikit-image"), "not installed under this name")
    checksums = {path: artifacts.sha256_of(path) for path in paths}
    verdict, clip = score_clip(paths, way)
    if not verdict.status.scored:
        print(f"  the clip got no scores ({verdict.status}: {verdict.reason})")
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
        bounds = BOUNDS["fp32" if is_onnx(path) else way.precision]  # ONNX Runtime's, whatever is asked for
        problems = compare(golden[path], found, bounds, BOX_TOLERANCE if way.device == "cpu" else GPU_BOX_TOLERANCE)
        failed += bool(problems)
        print(f"  {'FAILED' if problems else 'ok'}{''.join(f': {problem}' for problem in problems)}")
        if all(min(face.score, 1 - face.score) < _SATURATED for face in faces):
            print("  note: this checkpoint is sure of every frame; this tests the boxes more than it")
    return failed


def score_clip(paths: Sequence[Path], way: Way = REFERENCE) -> tuple[Verdict, Clip]:
    """The clip's verdict, by the way that every video goes; and the SHA-256 of its pixels and of its file.

    Raises:
        UsageError: a checkpoint can't be read, or not be scored in that way.
    """
    try:
        ensemble = Ensemble(paths, way.device, way.precision)
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
    """Where the golden scores of a checkpoint lie: `<checkpoint>.golden.json`."""
    return checkpoint.with_name(f"{checkpoint.name}.golden.json")


def read_golden(checkpoint: Path) -> Golden | None:
    """What is stored beside a checkpoint; None if nothing is.

    Raises:
        UsageError: it is broken.
    """
    path = golden_path(checkpoint)
    try:
        return read_json_file(path, Golden)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{printable(path)}: is broken ({printable(error)}); fetch it again from where the checkpoint came from, "
            f"or {_advice('store it anew', force=True)}"
        ) from None


def compare(
    stored: Golden | None, found: Golden, bounds: Bounds = BOUNDS["fp32"], box_tolerance: float = BOX_TOLERANCE
) -> list[str]:
    """What is wrong with `found`, in sentences; empty if nothing is."""
    if stored is None:
        return [f"no golden scores are stored; {_advice('store them')}"]
    if stored.checkpoint_sha256 != found.checkpoint_sha256:
        fault = "the checkpoint is another file than the one that the scores were stored for"
        advice = f"if it was changed on purpose, {_advice('store them anew', force=True)}"
        return [f"{fault}, so that they say nothing of the libraries; {advice}"]
    if stored.clip.pixels_sha256 != found.clip.pixels_sha256:
        fault = "the clip is drawn differently (other scikit-image or another version of this test)"
        return [f"{fault}, so that the scores can't be compared; {_advice('store them anew', force=True)}"]
    problems = []
    before, after = ([face.frame for face in golden.faces] for golden in (stored, found))
    if before != after:
        problems.append(f"faces in frames {after}, stored were {before}")
    else:
        pairs = list(zip(stored.faces, found.faces, strict=True))
        moved = np.max([np.abs(np.subtract(a.box, b.box)).max() for a, b in pairs])  # Python's max may pass over nan
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
    """What else is different, for a reader who looks for the reason."""
    versions = ((name, old, found.libraries.get(name)) for name, old in stored.libraries.items())
    changed = [f"{name} {old} -> {new}" for name, old, new in versions if new != old]
    if stored.clip.file_sha256 != found.clip.file_sha256:
        changed.append("the encoder, which wrote other bytes")
    if changed:
        return f"the checkpoint is the same; changed since: {', '.join(changed)}"
    return "the checkpoint and the versions of the libraries are the same: look at this project's code and the machine"


def print_faces(name: str, stored: Golden | None, found: Golden) -> None:
    """Stored and found scores and boxes, a line for each face."""
    print(name)
    old = {} if stored is None else {(face.frame, index): _shown(face) for index, face in enumerate(stored.faces)}
    for index, face in enumerate(found.faces):
        (score, box), (old_score, old_box) = _shown(face), old.pop((face.frame, index), ("-", "-"))
        print(f"  frame {face.frame}: score {score}, stored {old_score}; box {box}, stored {old_box}")
    for (frame, _), (score, box) in old.items():
        print(f"  frame {frame}: no such face, stored {score}; box {box}")


def _shown(face: GoldenFace) -> tuple[str, str]:
    return f"{face.score:.4f}", " ".join(f"{corner:.1f}" for corner in face.box)


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return x1, y1, x2, y2
