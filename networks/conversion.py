"""Converts checkpoints for another engine, checks the results and measures both: a child process of engines.py.

    python -m networks.conversion ENGINE PRECISION quiet|shown CHECKPOINT ...

PyTorch and the converter need gigabytes. In a separate process, they do not stay in the memory of the run, and a crash
of a converter does not end it. A failure is printed as its reason, with exit status 1.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino
import torch

from dfdc import artifacts
from dfdc.children import end_with_parent
from dfdc.command_line import reason_of
from dfdc.devices import available_cores, limit_threads
from dfdc.interrupts import Terminated, raise_on_signals
from dfdc.progress import progress_bar
from dfdc.text import plural
from networks import engine_cache
from networks.checkpoint import Checkpoint, describe, load_model
from networks.engine_cache import DifferenceError, Entry
from networks.ensemble import Ensemble, load_converted
from networks.files import sha256
from networks.sample_faces import sample_faces

_MEASURED_SECONDS = 1.0  # for both engines, in turn


def convert(path: Path, engine: str, precision: str) -> None:
    """Make the entry of a checkpoint complete: the converted network, its check and its speed in this precision.

    Raises:
        CheckpointError: the checkpoint is unusable, or can't be converted.
        Exception: an error of the converter.
    """
    folder = engine_cache.own_place_of(path, engine)
    with engine_cache.only_writer(folder):
        entry = engine_cache.read_entry(path, engine, folder)
        if entry is None:
            entry = _write(path, engine, folder)
        elif entry.is_complete(engine, precision):  # by a run that began earlier
            return
        try:
            load_converted(path, engine, precision, "cpu", 1, available_cores(), compared=None)
        except DifferenceError as error:
            engine_cache.add_refusal(folder, entry, precision, str(error))
            return
        engine_cache.add_seconds(folder, entry, measure(path, engine, precision))


def _write(path: Path, engine: str, folder: Path) -> Entry:
    network, checkpoint = load_model(path)
    images = sample_faces(checkpoint.spec.size)
    with torch.inference_mode():
        batches = torch.from_numpy(checkpoint.spec.normalize.to_input(images)).split(1)
        logits = [network(batch).item() for batch in batches]
    entry = Entry(
        path.name,
        sha256(path),
        engine_cache.versions_of(engine),
        describe(checkpoint),
        logits,
    )
    with artifacts.new_folder(folder) as temp:
        _to_openvino(network, checkpoint, temp) if engine == "openvino" else _to_onnx(network, checkpoint, temp)
        engine_cache.write_entry(temp, entry)
    engine_cache.remove_stale(path, folder, engine)
    return entry


def _to_openvino(network: torch.nn.Module, checkpoint: Checkpoint, folder: Path) -> None:
    size = checkpoint.spec.size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's tracer, about sizes that become constants: they are constant
        model = openvino.convert_model(network, example_input=torch.zeros(1, 3, size, size), input=[-1, 3, size, size])
    openvino.save_model(model, folder / engine_cache.FILES["openvino"], compress_to_fp16=False)


def _to_onnx(network: torch.nn.Module, checkpoint: Checkpoint, folder: Path) -> None:
    from networks.export import to_onnx  # here: a conversion for OpenVINO must not load ONNX Runtime

    (folder / engine_cache.FILES["onnx"]).write_bytes(to_onnx(network, checkpoint))


def measure(path: Path, engine: str, precision: str) -> dict[str, float]:
    """Seconds per face of PyTorch and of `engine`, by engine and precision: the best of several turns."""
    ensembles = {name: Ensemble([path], "cpu", precision, name) for name in ("torch", engine)}
    some = ensembles["torch"]
    crops: list[np.ndarray] = list(sample_faces(some.specs[0].size)[: some.threads])
    best = dict.fromkeys(ensembles, float("inf"))
    for ensemble in ensembles.values():
        ensemble.score(crops)  # the first time takes longer
    begun = time.perf_counter()
    while time.perf_counter() - begun < _MEASURED_SECONDS or float("inf") in best.values():
        for name, ensemble in ensembles.items():
            started = time.perf_counter()
            ensemble.score(crops)
            best[name] = min(best[name], (time.perf_counter() - started) / len(crops))
    for ensemble in ensembles.values():
        ensemble.close()
    return {f"{name} {precision}": seconds for name, seconds in best.items()}


def main(arguments: Sequence[str]) -> int:
    engine, precision, shown, *paths = arguments
    end_with_parent()
    limit_threads(available_cores())
    quiet = shown != "shown"
    new = [path for path in paths if engine_cache.read_entry(Path(path), engine) is None]
    if not quiet and new:
        what = f"converting {plural(len(new), 'checkpoint')} for {engine}; this is done once"
        print(f"{what}, and takes about half a minute for a B7", file=sys.stderr, flush=True)
    elif not quiet:
        print(f"measuring {engine} in {precision} on this machine", file=sys.stderr, flush=True)
    raise_on_signals()
    for path in progress_bar(paths, desc="converting" if new else "measuring", unit="checkpoint", disable=quiet):
        try:
            convert(Path(path), engine, precision)
        except Terminated:  # the parent was stopped, and says so
            return 1
        except Exception as error:  # a converter has error classes of several libraries; the parent tells the user
            lines = [line.strip() for line in reason_of(error).splitlines() if line.strip()]
            kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
            print(f"{Path(path).name}: {kind}{lines[0] if lines else 'no reason given'}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
