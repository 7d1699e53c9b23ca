"""Chooses the library that runs the networks: PyTorch, OpenVINO or ONNX Runtime.

On a CPU, OpenVINO needs a third less time than PyTorch, at the same precision and with the same scores. A checkpoint is
converted once, see engine_cache.py. This module loads no engine.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dfdc.children import start_module
from dfdc.command_line import SettingError, setting
from dfdc.text import printable
from networks import engine_cache
from networks.engine_cache import EngineError
from networks.ensemble import Ensemble
from networks.files import is_onnx, sha256
from networks.holdout import Holdout
from networks.precision import ENGINES, choose_precision
from networks.spec import CheckpointError, ModelSpec, read_description

TITLES = {"torch": "PyTorch", "openvino": "OpenVINO", "onnx": "ONNX Runtime"}
# Megabytes of checkpoints. Smaller networks take milliseconds per face, but their conversion takes ten seconds.
_WORTH_CONVERTING = 16.0
_WORTH_IT = 1.05  # smallest speed-up for which OpenVINO is used
_CHILD = "networks.conversion"
_PATIENCE = 5.0  # seconds for it to end; a converter may take longer until Python sees a signal


@dataclass(frozen=True)
class Choice:
    """The engine that was chosen, and a sentence that says why."""

    engine: str
    said: str


def choose_engine(paths: Sequence[Path], engine: str, precision: str, device: str, *, shown: bool = False) -> Choice:
    """Resolve `auto`, and convert checkpoints that the engine needs converted; ONNX files stay as they are.

    `auto` is OpenVINO on a CPU if it is installed, agrees with PyTorch and is faster, else PyTorch. Small networks stay
    with PyTorch.

    Args:
        engine: one of ENGINES.
        precision: one of networks.precision.PRECISIONS.
        device: a PyTorch device name.
        shown: whether to show the progress of conversions on stderr.

    Raises:
        CheckpointError: a checkpoint does not exist.
        SettingError: the engine is unknown, or can't be used with this device, precision or checkpoint.
    """
    if engine not in ENGINES:
        raise SettingError("engine", engine, f"unknown; choose {', '.join(ENGINES)}")
    some = [path for path in paths if not is_onnx(path)]
    if not some:
        return Choice("onnx", "ONNX Runtime runs ONNX files")
    for path in some:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such checkpoint")
    precision, on_gpu = choose_precision(precision, device), device.startswith("cuda")
    if engine == "auto" and not on_gpu:
        return _choose_for_cpu(some, precision, shown)
    if engine in ("auto", "torch"):
        return Choice("torch", "PyTorch")
    if on_gpu:
        raise SettingError("engine", engine, f"it is for CPUs; use torch or auto, or {setting('device')} cpu")
    if engine == "onnx" and precision != "fp32":
        raise SettingError("engine", engine, f"it computes in fp32; leave out {setting('precision')} {precision}")
    try:
        return Choice(engine, _said(engine, _prepare(some, engine, precision, shown)))
    except EngineError as error:
        raise SettingError("engine", engine, f"{error}; use auto or torch") from error


def open_ensemble(
    paths: Sequence[Path], device: str, precision: str, engine: str = "auto", *, shown: bool = False
) -> Ensemble:
    """Load checkpoints with the engine of `choose_engine`; if `auto` chose one that fails, with PyTorch.

    Raises:
        CheckpointError: a checkpoint is unusable.
        SettingError: see `choose_engine`.
    """
    choice = choose_engine(paths, engine, precision, device, shown=shown)
    try:
        ensemble = Ensemble(paths, device, precision, choice.engine)
    except EngineError as error:
        then = _drop_entry(error, choice.engine)
        if engine != "auto":
            raise SettingError("engine", engine, f"{error}; {then}; use auto or torch") from error
        choice = Choice("torch", f"PyTorch, because {error}; {then}")
        ensemble = Ensemble(paths, device, precision, choice.engine)
    ensemble.said = choice.said
    return ensemble


def _drop_entry(error: EngineError, engine: str) -> str:
    """Remove the converted network that failed; return what follows, for a message."""
    try:
        if error.checkpoint is not None:
            engine_cache.drop_entry(error.checkpoint, engine)
    except OSError as fault:  # for example an entry that another user wrote
        return f"the converted network can't be removed ({fault.strerror})"
    return "the next run converts it again"


def check_model(path: Path) -> tuple[ModelSpec, Holdout | None]:
    """Check that a checkpoint or ONNX file is usable, without keeping it in memory.

    Returns:
        its spec and its hold-out; the hold-out is None if unknown.

    Raises:
        CheckpointError: it is unusable.
    """
    # Imports here: the description of a converted checkpoint needs neither library.
    if is_onnx(path):
        from networks.onnx_model import OnnxModel

        model = OnnxModel(path, "cpu")
        return model.spec, model.holdout
    for engine in engine_cache.PACKAGES:
        entry = engine_cache.read_entry(path, engine) if path.is_file() else None
        if entry is not None:
            said = read_description(entry.description, path)
            return said["spec"], said["holdout"]
    from networks.checkpoint import read_checkpoint

    found = read_checkpoint(path, mapped=True)
    return found.spec, found.holdout


def _choose_for_cpu(paths: Sequence[Path], precision: str, shown: bool) -> Choice:
    if sum(path.stat().st_size for path in paths) < _WORTH_CONVERTING * 1e6:
        return Choice("torch", "PyTorch; so small a network is not worth converting")
    try:
        ratio = _prepare(paths, "openvino", precision, shown)
    except EngineError as error:
        return Choice("torch", f"PyTorch, because {error}")
    said = _said("openvino", ratio)
    return Choice("openvino", said) if ratio >= _WORTH_IT else Choice("torch", f"PyTorch, faster here than {said}")


def _said(engine: str, ratio: float) -> str:
    return f"{TITLES[engine]}, {ratio:.2f} times as fast as PyTorch here"


def _prepare(paths: Sequence[Path], engine: str, precision: str, shown: bool) -> float:
    """Convert the checkpoints that have no entry; return how many times as fast as PyTorch they are.

    Raises:
        EngineError: the engine can't run all of them here.
    """
    if find_spec(engine_cache.PACKAGES[engine]) is None:
        raise EngineError(f"{TITLES[engine]} is not installed (./setup.sh installs it)")
    with ThreadPoolExecutor() as pool:
        list(pool.map(sha256, paths))  # known from now on; in turn, two B7 would take half a second
    todo = [path for path in paths if not _known(path, engine, precision)]
    if todo:
        _convert(todo, engine, precision, shown)
    theirs = ours = 0.0
    for path in paths:
        entry = engine_cache.read_entry(path, engine)
        if entry is not None and (reason := entry.refused_here(precision)) is not None:
            raise EngineError(f"{printable(path.name)} was converted, but {reason}")
        seconds = None if entry is None else entry.seconds_here(engine, precision)
        if seconds is None:  # another run has just removed it
            raise EngineError(f"the converted network of {printable(path.name)} is missing")
        theirs, ours = theirs + seconds[0], ours + seconds[1]
    return theirs / ours


def _known(path: Path, engine: str, precision: str) -> bool:
    entry = engine_cache.read_entry(path, engine)
    return entry is not None and entry.is_complete(engine, precision)


def _convert(paths: Sequence[Path], engine: str, precision: str, shown: bool) -> None:
    arguments = [engine, precision, "shown" if shown else "quiet", *(path.absolute() for path in paths)]
    errors = None if shown else subprocess.DEVNULL
    with start_module(_CHILD, arguments, stdout=subprocess.PIPE, stderr=errors, text=True) as child:
        try:
            said = child.stdout.read() if child.stdout else ""  # not communicate, which would close its stdin
        except BaseException:
            child.terminate()  # kindly: for the lock of a killed child, other machines and containers wait for minutes
            try:
                child.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()
            raise
    if child.returncode:
        lines = said.strip().splitlines()
        reason = lines[-1] if lines else f"the conversion ended with exit code {child.returncode}"
        raise EngineError(f"{TITLES[engine]} can't convert it ({printable(reason)})")
