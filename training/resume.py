"""Going on with a run: what decides what it learns, and whether that is still the same, here and on all ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from dfdc.command_line import UsageError
from training.config import TrainConfig, flatten
from training.distributed import gather_objects

# Of the state in a `_last` file, and of what the trainer does with the same settings. 2: augmentation's draws are
# independent, batches_per_epoch counts optimizer steps, all flags are part of the state.
RECIPE = 2

# May be changed by who asks for it on the command line; the log says so.
_ON_REQUEST = ("optimizer.learning_rate", "epochs")
# Together they make the crops of a step; each may change if their product does not.
_STEP_CROPS = ("batch_size", "accumulate", "processes")


@dataclass(frozen=True)
class Choices:
    """All that decides what a run learns.

    Attributes:
        data: checksum of folds.csv.
        processes: how many train together.
    """

    config: TrainConfig
    seed: int
    fold: int
    data: int
    crops_dir: str
    padding_part: int
    occlusions: bool
    only_changed_frames: bool
    oversample: bool
    freeze_epochs: int
    processes: int

    def flat(self) -> dict[str, Any]:
        """By name as a person knows them: a configuration's keys with dots, the flags with dashes."""
        flags = {
            "seed": self.seed,
            "--fold": self.fold,
            "folds.csv (checksum)": self.data,
            "--crops-dir": self.crops_dir,
            "--padding-part": self.padding_part,
            "--no-hardcore": not self.occlusions,
            "--only-changed-frames": self.only_changed_frames,
            "--no-oversample": not self.oversample,
            "--freeze-epochs": self.freeze_epochs,
            "processes": self.processes,
        }
        return {name: _plain(value) for name, value in (flatten(self.config.to_dict()) | flags).items()}


def compare(
    now: dict[str, Any], then: dict[str, Any], asked: Collection[str], *, finished: bool = False
) -> tuple[list[str], list[str]]:
    """What is not as it was: faults that keep a run from going on, and changes for the log.

    Args:
        now, then: `Choices.flat()` of this start, and of the run that was saved. A key of the configuration that came
            since is missing in `then` and counts as its default (see config.py).
        asked: the configuration's keys that the command line gave.
        finished: the run has nothing left to learn, so that what may change on request does not matter.
    """
    then = flatten(TrainConfig().to_dict()) | then
    then = {name: _plain(value) for name, value in then.items()}
    faults, changes = [], []
    # With these a step also depends on how its crops are shared.
    by_share = bool(now["ohem_samples"]) or now["loss_normalization"] == "rank"
    same_step = _product(now) == _product(then) and not by_share
    why = f"batch_size x accumulate x processes was {_product(then)} and must stay so"
    if by_share:
        why = "it must stay, as ohem_samples and loss_normalization depend on it"
    for name, value in now.items():
        if name not in then or value == then[name]:
            continue
        change = f"{name} {then[name]} -> {value}"
        if name in _STEP_CROPS and same_step:
            changes.append(change)
        elif name in _STEP_CROPS:
            faults.append(f"{change} ({why})")
        elif name in _ON_REQUEST and finished:
            continue
        elif name in _ON_REQUEST and name in asked:
            changes.append(f"{change}, as asked for")
        elif name in _ON_REQUEST:
            faults.append(
                f"{change} (to go on as before: --set {name}={then[name]}; to change it: --set {name}={value})"
            )
        else:
            faults.append(change)
    return faults, changes


def _product(values: dict[str, Any]) -> int:
    return reduce(lambda product, name: product * values[name], _STEP_CROPS, 1)


def _plain(value: Any) -> Any:
    """Tuples as lists: a checkpoint gives them back so."""
    return list(value) if isinstance(value, tuple) else value


def agree(values: dict[str, Any]) -> None:
    """Make sure that all ranks are about to do the same, before they exchange anything else.

    Args:
        values: what must be the same on all of them, by a name for people.

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
            lines.append(f"{name}: " + ", ".join(f"{v} (rank {', '.join(who)})" for v, who in by_value.items()))
    if lines:
        raise UsageError(
            "the processes of this run differ, so it does not begin:\n  " + "\n  ".join(lines) + "\n"
            "All machines need the same code, configuration and flags, and DATA_ROOT and --output-dir must be the same "
            "folders on all of them"
        )


def source_digest() -> str:
    """Of the code that trains, so that two machines with two versions of it notice."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted([*(root / "training").glob("*.py"), *(root / "dfdc").glob("*.py")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
