"""Going on with a run: what decides what it learns, and whether that is still the same, here and on all ranks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from dfdc.artifacts import sha256_of
from dfdc.command_line import UsageError, setting
from networks import checkpoint
from networks.checkpoint import Checkpoint
from networks.holdout import Holdout, common_holdout
from training.arguments import RunSettings
from training.config import TrainConfig, changes_asked, flatten
from training.distributed import gather_objects
from training.engine import Run
from training.saving import History, RunFiles

# Of the state in a `_last` file, and of what the trainer does with the same settings. 2: augmentation's draws are
# independent, batches_per_epoch counts optimizer steps, all flags are part of the state.
RECIPE = 2

Choices = dict[str, Any]  # see choices_of

# May be changed by who asks for it on the command line; the log says so.
_ON_REQUEST = ("optimizer.learning_rate", "epochs")
# Together they make the crops of a step; each may change if their product does not.
_STEP_CROPS = ("batch_size", "accumulate", "processes")


def choices_of(settings: RunSettings, config: TrainConfig, data: int, processes: int) -> Choices:
    """All that decides what a run learns, by the names that people know: `optimizer.type`, `--fold`.

    Args:
        data: checksum of folds.csv.
        processes: how many train together.
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
    """What a `_last` file holds beside the weights, under these names."""

    recipe: int  # RECIPE of who wrote it
    choices: Choices
    began_from: str | None  # SHA-256 of the checkpoint whose weights the run began with
    epoch: int  # of the next step
    step: int
    meter: dict[str, float]  # `EpochMeter.state()` of the epoch's steps so far; empty before its first
    optimizer: dict[str, Any]  # a state dict, as the next two are
    scaler: dict[str, Any]
    average: dict[str, torch.Tensor] | None  # None where none is kept
    computes_in: str  # see `computes_in`
    history: History

    def to_dict(self) -> dict[str, Any]:
        """Plain values and tensors, as they stand in the file."""
        return {**vars(self), "history": asdict(self.history)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: Path) -> State:
        """The other way round from `to_dict`.

        Raises:
            UsageError: another version of the trainer wrote them.
        """
        if values.get("recipe") != RECIPE:
            advice = f"Begin a new run by {setting('prefix')}; {setting('init_from')} {path} takes its weights"
            raise UsageError(
                f"{path} was written by another version of the trainer (recipe {values.get('recipe', 1)}, here "
                f"{RECIPE}), which trained otherwise. {advice}"
            )
        own = {field.name: values[field.name] for field in fields(cls)}
        own["history"] = History(**own["history"])
        return cls(**own)

    def restore(self, run: Run) -> None:
        """Put the optimizer's, the scaler's and the average's state back."""
        run.optimizer.load_state_dict(self.optimizer)
        if self.computes_in == computes_in(run.amp_type):  # another type has a scale of its own
            run.scaler.load_state_dict(self.scaler)
        if run.average and self.average:
            run.average.load_state_dict(self.average)


def computes_in(amp_type: torch.dtype | None) -> str:
    """The name of the type that a run computes in."""
    return str(amp_type or "float32").removeprefix("torch.")


def compare(
    now: Choices, then: Choices, asked: Collection[str], *, finished: bool = False
) -> tuple[list[str], list[str]]:
    """What is not as it was: faults that keep a run from going on, and changes for the log.

    Args:
        now, then: the choices of this start, and of the run that was saved. A key of the configuration that came
            since is missing in `then` and counts as its default (see config.py).
        asked: the configuration's keys that the command line gave.
        finished: the run has nothing left to learn, so that what may change on request does not matter.
    """
    then = {name: _plain(value) for name, value in (flatten(TrainConfig().model_dump()) | then).items()}
    faults, changes = [], []
    # With these a step also depends on how its crops are shared.
    by_share = bool(now["ohem_samples"]) or now["loss_normalization"] == "rank"
    product, before = (math.prod(values[name] for name in _STEP_CROPS) for values in (now, then))
    same_step = product == before and not by_share
    why = f"batch_size x accumulate x processes was {before} and must stay so"
    if by_share:
        why = "it must stay, as ohem_samples and loss_normalization depend on it"
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
            changes.append(f"{change}, as asked for")
        elif name in _ON_REQUEST:
            given = f"{setting('set')} {name}"
            advice = f"to go on as before: {given}={then[name]}; to change it: {given}={value}"
            faults.append(f"{change} ({advice})")
        else:
            faults.append(change)
    return faults, changes


def _shown(name: str) -> str:
    """A name of `choices_of` in a message; there flags stand for the settings, as checkpoints hold those names."""
    return setting(name[2:].replace("-", "_")) if name.startswith("--") else name


def _plain(value: Any) -> Any:
    """Tuples as lists: a checkpoint gives them back so."""
    return list(value) if isinstance(value, tuple) else value


def find_start(settings: RunSettings, config: TrainConfig, files: RunFiles) -> Checkpoint | None:
    """The checkpoint that this start goes on from, or begins with; None for pretrained or random weights.

    Start-up precedence: 1. the run's own `_last`, 2. --init-from, 3. pretrained, 4. scratch.
    """
    another = f"another {setting('prefix')} or {setting('output_dir')} (train.sh: OUTPUT_DIR)"
    if files.last.exists():
        if settings.resume != "auto" and not settings.init_from:
            advice = f"Go on with it by {setting('resume')} auto, or choose {another}"
            raise UsageError(f"{files.last} is there already, from a run of this name. {advice}")
        try:
            found = checkpoint.read_checkpoint(files.last)
        except checkpoint.CheckpointError as error:
            if files.before.exists():
                raise UsageError(f"{error}. The one before it goes on by: mv {files.before} {files.last}") from None
            advice = f"Another {setting('prefix')} with {setting('init_from')} begins with an epoch's weights"
            raise UsageError(f"{error}. {advice}") from None
        if found.training is None:
            raise UsageError(f"{files.last} is no state of a run; choose {another}")
    elif leftovers := files.leftovers():
        raise UsageError(
            f"{leftovers[0]} is there, from a run of this name, but {files.last.name} is not, so that it can't go on. "
            f"A{another[1:]} begins a new run; {setting('init_from')} {leftovers[-1]} with its weights"
            + (f". Or go on from the state before: mv {files.before} {files.last}" if files.before.exists() else "")
        )
    elif settings.init_from:
        found = checkpoint.read_checkpoint(settings.init_from)
    else:
        return None
    held, said = (f"{one.network} with {one.encoder}" for one in (found.spec, config))
    if held != said:
        raise UsageError(f"{found.path} holds {held}, but the configuration says {said}")
    return found


def check_state(settings: RunSettings, state: State, path: Path, choices: Choices, computes_now: str) -> list[str]:
    """Changes since the run was saved to `path`, for the log.

    Raises:
        UsageError: it can't go on from `state`, or --init-from names another file than it began from.
    """
    finished = state.epoch >= choices["epochs"]
    faults, changes = compare(choices, state.choices, changes_asked(settings), finished=finished)
    if computes_now != state.computes_in:
        changes.append(f"computes in {state.computes_in} -> {computes_now}")
    start = settings.init_from
    if start and start.exists() and sha256_of(start) != state.began_from:
        faults.append(f"{setting('init_from')}: the run did not begin with {start}")
    if faults:
        raise UsageError(
            f"{path} is of another run:\n  " + "\n  ".join(faults) + "\n"
            f"Resume with the same, or begin a new run by another {setting('prefix')} (train.sh: OUTPUT_DIR)"
        )
    return changes


def find_holdout(own: Holdout, start: Checkpoint | None, state: State | None) -> Holdout | None:
    """What the run's weights never learned from, those that it began with included; None where that is not known.

    A resumed run holds out the same as before, `own`.
    """
    if start is None or (state and state.began_from is None):
        return own
    return start.holdout if state else common_holdout([own, start.holdout])


def agree_on_start(
    settings: RunSettings, state: State | None, choices: Choices, computes_now: str, digests_of_others: dict[str, int]
) -> None:
    """`agree` on all that the ranks are about to do; `digests_of_others`: see `loading.Data`."""
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
    """Make sure that all ranks have the same `values`, by names for people, before they exchange anything else.

    Raises:
        UsageError: on every rank, if they differ; the message names what differs, and whose is what.
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
            "the processes of this run differ, so it does not begin:\n  " + "\n  ".join(lines) + "\n"
            "All machines need the same code, configuration and flags, and DATA_ROOT and "
            f"{setting('output_dir')} must be the same folders on all of them"
        )


def source_digest() -> str:
    """Of the code that trains, so that two machines with two versions of it notice."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for folder in ("dfdc", "networks", "training") for path in (root / folder).glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
