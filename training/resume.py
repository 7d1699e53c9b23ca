"""Resuming a run: check that everything that affects training is unchanged, and the same on all ranks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from pydantic import InstanceOf, TypeAdapter, ValidationError

from dfdc.artifacts import sha256_of
from dfdc.command_line import UsageError, setting
from dfdc.text import list_wrong
from networks import checkpoint
from networks.checkpoint import Checkpoint
from networks.holdout import Holdout, common_holdout
from training.arguments import RunSettings
from training.config import TrainConfig, changes_asked, flatten
from training.distributed import gather_objects
from training.engine import Run
from training.saving import History, RunFiles

# Version of the state in a `_last` file, and of the training behaviour under the same settings. Version 2: random
# numbers of augmentations are independent, batches_per_epoch counts optimizer steps, and the state has all flags.
RECIPE = 2

Choices = dict[str, Any]  # see choices_of

# Keys that the command line may change at a resume. The change is logged.
_ON_REQUEST = ("optimizer.learning_rate", "epochs")
# Their product is the number of crops per step. Each may change if the product does not.
_STEP_CROPS = ("batch_size", "accumulate", "processes")


def choices_of(settings: RunSettings, config: TrainConfig, data: int, processes: int) -> Choices:
    """Everything that affects training, by user-facing name, e.g. `optimizer.type` or `--fold`.

    Args:
        data: checksum of folds.csv.
        processes: number of training processes.
    """
    flags = {
        "seed": settings.seed,
        "--fold": settings.fold,
        "folds.csv (checksum)": data,
        "--crops-dir": settings.crops_dir,
        "--padding-part": settings.padding_part,
        "--no-hardcore": settings.no_hardcore,
        "--only-changed-frames": settings.only_changed_frames,
        "--no-oversample": settings.no_oversample,
        "--freeze-epochs": settings.freeze_epochs,
        "processes": processes,
    }
    return {name: _plain(value) for name, value in (flatten(config.model_dump()) | flags).items()}


@dataclass(frozen=True)
class State:
    """The contents of a `_last` file besides the weights, under these names."""

    recipe: int  # RECIPE of the trainer that wrote it
    choices: Choices
    began_from: str | None  # SHA-256 of the checkpoint that the run started from
    epoch: int  # epoch of the next step
    step: int
    meter: dict[str, float]  # `EpochMeter.state()` of the epoch so far; empty before its first step
    optimizer: dict[str, Any]  # a state dict; so are the next two
    scaler: dict[str, Any]
    average: dict[str, InstanceOf[torch.Tensor]] | None  # None without ema_decay
    computes_in: str  # see `computes_in`
    history: History

    def to_dict(self) -> dict[str, Any]:
        """Plain values and tensors, as stored in the file."""
        return {**vars(self), "history": asdict(self.history)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: Path) -> State:
        """The inverse of `to_dict`.

        Raises:
            UsageError: an incompatible version of the trainer wrote the state, or it is corrupt.
        """
        if not isinstance(values, dict):
            raise UsageError(f"{path}: its training state is a {type(values).__name__}, not a dictionary")
        if values.get("recipe") != RECIPE:
            advice = (
                f"Start a new run with another {setting('prefix')}; {setting('init_from')} {path} loads its weights"
            )
            raise UsageError(
                f"{path} was written by another version of the trainer (recipe {values.get('recipe', 1)}, expected "
                f"{RECIPE}) and can't be resumed. {advice}"
            )
        try:
            _STATES.validate_python(values)
        except ValidationError as error:
            raise UsageError(f"{path}: its training state is corrupt ({list_wrong(error)})") from None
        own = {field.name: values[field.name] for field in fields(cls)}
        own["history"] = History(**own["history"])
        return cls(**own)

    def restore(self, run: Run) -> None:
        """Restore the state of the optimizer, the scaler and the average.

        Raises:
            UsageError: they do not fit the run: the file is corrupt.
        """
        try:
            run.optimizer.load_state_dict(self.optimizer)
            if self.computes_in == computes_in(run.amp_type):  # the scale depends on the type
                run.scaler.load_state_dict(self.scaler)
            if run.average and self.average:
                run.average.load_state_dict(self.average)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # PyTorch raises all of them
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"  # PyTorch's have several lines
            what = f"the state of the optimizer, the scaler or the average is corrupt ({reason})"
            raise UsageError(f"{what}. Start a new run with another {setting('prefix')}") from None


_STATES = TypeAdapter(State)  # only to check the values


def computes_in(amp_type: torch.dtype | None) -> str:
    """The name of the number type that a run computes in."""
    return str(amp_type or "float32").removeprefix("torch.")


def compare(
    now: Choices, then: Choices, asked: Collection[str], *, finished: bool = False
) -> tuple[list[str], list[str]]:
    """Compare the choices of a resume with the saved ones: returns faults that prevent it, and changes for the log.

    Args:
        now: the choices of this start.
        then: the saved choices. A newer configuration key is missing there and counts as its default (see config.py).
        asked: the configuration keys given on the command line.
        finished: the run has no epochs left, so the keys that may change on request are ignored.
    """
    then = {name: _plain(value) for name, value in (flatten(TrainConfig().model_dump()) | then).items()}
    faults, changes = [], []
    # With these settings, a step also depends on how its crops are split.
    by_share = bool(now["ohem_samples"]) or now["loss_normalization"] == "rank"
    product, before = (math.prod(values[name] for name in _STEP_CROPS) for values in (now, then))
    same_step = product == before and not by_share
    why = f"batch_size x accumulate x processes must stay {before}"
    if by_share:
        why = "it can't change, because ohem_samples or loss_normalization depends on it"
    for name, value in now.items():
        if name not in then or value == then[name]:
            continue
        change = f"{_shown(name)} {then[name]} -> {value}"
        if name in _STEP_CROPS and same_step:
            changes.append(change)
        elif name in _STEP_CROPS:
            faults.append(f"{change} ({why})")
        elif name in _ON_REQUEST and finished:
            continue
        elif name in _ON_REQUEST and name in asked:
            changes.append(f"{change}, as requested")
        elif name in _ON_REQUEST:
            given = f"{setting('set')} {name}"
            advice = f"to keep it: {given}={then[name]}; to change it: {given}={value}"
            faults.append(f"{change} ({advice})")
        else:
            faults.append(change)
    return faults, changes


def _shown(name: str) -> str:
    """A name of `choices_of` for a message: a flag becomes its setting. (Checkpoints store the flag.)"""
    return setting(name[2:].replace("-", "_")) if name.startswith("--") else name


def _plain(value: Any) -> Any:
    """Convert a tuple to a list, the form in which a checkpoint returns it."""
    return list(value) if isinstance(value, tuple) else value


def find_start(settings: RunSettings, config: TrainConfig, files: RunFiles) -> Checkpoint | None:
    """The checkpoint to resume or to start from; None for pretrained or random weights.

    Precedence: 1. the run's own `_last`, 2. --init-from, 3. pretrained weights, 4. random weights.
    """
    another = f"another {setting('prefix')} or {setting('output_dir')} (train.sh: OUTPUT_DIR)"
    if files.last.exists():
        if settings.resume != "auto" and not settings.init_from:
            advice = f"Resume it with {setting('resume')} auto, or choose {another}"
            raise UsageError(f"{files.last} already exists, from a run of this name. {advice}")
        try:
            found = checkpoint.read_checkpoint(files.last)
        except checkpoint.CheckpointError as error:
            if files.before.exists():
                raise UsageError(
                    f"{error}. To resume from the previous state: mv {files.before} {files.last}"
                ) from None
            advice = f"To start from an epoch's weights, use another {setting('prefix')} with {setting('init_from')}"
            raise UsageError(f"{error}. {advice}") from None
        if found.training is None:
            raise UsageError(f"{files.last} does not contain the state of a run; choose {another}")
    elif leftovers := files.leftovers():
        raise UsageError(
            f"{leftovers[0]} exists, from a run of this name, but {files.last.name} is missing: it can't be resumed. "
            f"Choose {another} for a new run; {setting('init_from')} {leftovers[-1]} loads its weights"
            + (f". To resume from the previous state: mv {files.before} {files.last}" if files.before.exists() else "")
        )
    elif settings.init_from:
        found = checkpoint.read_checkpoint(settings.init_from)
    else:
        return None
    held, said = (f"{one.network} with {one.encoder}" for one in (found.spec, config))
    if held != said:
        raise UsageError(f"{found.path} contains {held}, but the configuration names {said}")
    return found


def check_state(settings: RunSettings, state: State, path: Path, choices: Choices, computes_now: str) -> list[str]:
    """The changes since the run was saved to `path`, for the log.

    Raises:
        UsageError: `state` can't be resumed, or --init-from is not the file that the run started from.
    """
    finished = state.epoch >= choices["epochs"]
    faults, changes = compare(choices, state.choices, changes_asked(settings), finished=finished)
    if computes_now != state.computes_in:
        changes.append(f"computes in {state.computes_in} -> {computes_now}")
    start = settings.init_from
    if start and start.exists() and sha256_of(start) != state.began_from:
        faults.append(f"{setting('init_from')}: the run did not start from {start}")
    if faults:
        raise UsageError(
            f"{path} belongs to a run with other settings:\n  " + "\n  ".join(faults) + "\n"
            f"Resume with the same settings, or start a new run with another {setting('prefix')} (train.sh: OUTPUT_DIR)"
        )
    return changes


def find_holdout(own: Holdout, start: Checkpoint | None, state: State | None) -> Holdout | None:
    """The videos that neither the run nor the weights it started from were trained on; None if unknown.

    A resumed run keeps its hold-out, `own`.
    """
    if start is None or (state and state.began_from is None):
        return own
    return start.holdout if state else common_holdout([own, start.holdout])


def agree_on_start(
    settings: RunSettings, state: State | None, choices: Choices, computes_now: str, digests_of_others: dict[str, int]
) -> None:
    """Call `agree` on everything that affects training; `digests_of_others`: see `loading.Data`."""
    values = {
        "epoch": state.epoch if state else 0,
        "step": state.step if state else 0,
        "computes in": computes_now,
        "code": source_digest(),
        "--test-every": settings.test_every,
        "--max-failed": settings.max_failed,
        "--validate-on": digests_of_others,
    }
    agree(values | choices)


def agree(values: dict[str, Any]) -> None:
    """Check that all ranks have the same `values`, by user-facing name, before any other communication.

    Raises:
        UsageError: on every rank, if a value differs; the message lists the differing values and their ranks.
    """
    ranks = gather_objects(values)
    lines = []
    for name in {name: None for rank in ranks for name in rank}:
        found = [rank.get(name) for rank in ranks]
        if any(value != found[0] for value in found):
            by_value: dict[str, list[str]] = {}
            for rank, value in enumerate(found):
                by_value.setdefault(repr(value), []).append(str(rank))
            lines.append(f"{_shown(name)}: " + ", ".join(f"{v} (rank {', '.join(who)})" for v, who in by_value.items()))
    if lines:
        raise UsageError(
            "the processes of this run differ, so it can't start:\n  " + "\n  ".join(lines) + "\n"
            "All machines need the same code, configuration and flags, and DATA_ROOT and "
            f"{setting('output_dir')} must be the same folders on all of them"
        )


def source_digest() -> str:
    """A digest of the training code, to detect machines with different versions."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for folder in ("dfdc", "networks", "training") for path in (root / folder).glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
