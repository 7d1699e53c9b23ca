"""The configuration: what a JSON file under configs/ may say. Every key is read; an unknown one is an error."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfdc.imaging import IMAGENET_MEAN, IMAGENET_STD


class ConfigError(ValueError):
    """A configuration that can't be used; the message lists every fault."""


def _key(default: Any, check: Callable[[Any], bool] | None = None, wanted: str = "") -> Any:
    """A dataclass field with the range of its value."""
    return field(default=default, metadata={"check": check, "wanted": wanted})


def _positive(default: float | int) -> Any:
    return _key(default, lambda value: 0 < value < math.inf, "a number over 0")


def _not_negative(default: float | int) -> Any:
    return _key(default, lambda value: 0 <= value < math.inf, "0 or more")


def _fraction(default: float) -> Any:
    return _key(default, lambda value: 0 <= value < 1, "0 or more, and under 1")


def _one_of(default: str, *names: str) -> Any:
    return _key(default, lambda value: value in names, "one of " + ", ".join(names))


def _colour(default: tuple[float, ...], over: float) -> Any:
    def check(value: tuple[float, ...]) -> bool:
        return len(value) == 3 and all(over < number < math.inf for number in value)

    return _key(default, check, f"three numbers over {over:g}: red, green, blue")


@dataclass(frozen=True)
class OptimizerConfig:
    """`learning_rate` is of the whole batch over all ranks; it is not scaled by anything."""

    type: str = _one_of("SGD", "SGD", "Adam", "AdamW", "RMSprop")
    learning_rate: float = _positive(0.01)
    momentum: float = _fraction(0.9)  # SGD's and RMSprop's; Adam and AdamW keep PyTorch's betas
    nesterov: bool = _key(True)  # SGD's
    weight_decay: float = _not_negative(1e-4)
    clip_grad_norm: float = _not_negative(1.0)  # 0: no clipping


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate as a function of the step, over all steps of all epochs; see optim.learning_rate."""

    type: str = _one_of("poly", "poly", "step", "multistep", "exponential", "linear", "cyclic", "constant", "cosine")
    power: float = _positive(0.9)  # poly's
    gamma: float = _key(0.1, lambda value: 0 < value <= 1, "over 0, up to 1")  # step's, multistep's, exponential's
    every_epochs: float = _positive(10.0)  # step's; of cyclic, the length of a cycle
    milestones: tuple[float, ...] = _key((), lambda value: list(value) == sorted(value), "rising epochs")  # multistep's
    lowest: float = _fraction(0.0)  # cyclic's and linear's, as a part of learning_rate
    warmup_steps: int = _not_negative(0)


@dataclass(frozen=True)
class NormalizeConfig:
    """What the pictures (0..1) are normalised with, RGB."""

    mean: tuple[float, ...] = _colour(IMAGENET_MEAN, -1.0)
    std: tuple[float, ...] = _colour(IMAGENET_STD, 0.0)


@dataclass(frozen=True)
class TrainConfig:
    """A run's settings; the seed, the fold and the paths are command-line arguments."""

    network: str = _one_of(
        "DeepFakeClassifier", "DeepFakeClassifier", "DeepFakeClassifierGWAP", "DeepFakeClassifierSRM"
    )
    encoder: str = "tf_efficientnet_b7.ns_jft_in1k"  # any of timm's by name
    pretrained: bool = _key(True)
    drop_path: float = _fraction(0.2)
    dropout: float = _fraction(0.0)
    size: int = _key(380, lambda value: 32 <= value <= 2048, "32 to 2048 pixels")
    epochs: int = _positive(40)
    batches_per_epoch: int = _positive(2500)  # at most; fewer where the crops run out
    batch_size: int = _positive(12)  # per GPU
    accumulate: int = _positive(1)  # batches per optimizer step
    precision: str = _one_of("auto", "auto", "bf16", "fp16", "fp32")
    label_smoothing: float = _key(0.01, lambda value: 0 <= value < 0.5, "0 or more, and under 0.5")
    loss: str = _one_of("bce", "bce", "focal")
    loss_normalization: str = _one_of("global", "global", "rank")  # by class counts over all ranks, or each by its own
    ohem_samples: int = _not_negative(0)  # of each class in a batch only the hardest count; 0: all
    ema_decay: float = _fraction(0.0)  # of an average of the weights, validated beside them; 0: none
    compile: bool = _key(False)  # torch.compile
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    normalize: NormalizeConfig = field(default_factory=NormalizeConfig)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


def load_config(path: Path) -> TrainConfig:
    """Read a configuration file.

    Raises:
        ConfigError: not there, not JSON, or faults in its keys and values, all of them listed.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(str(p) for p in sorted(Path("configs").glob("*.json")))
        raise ConfigError(f"{path}: can't be read ({error.strerror}). Configurations here: {known}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    faults: list[str] = []
    config = _build(TrainConfig, values, "", faults)
    if faults:
        raise ConfigError(f"{path}: {len(faults)} fault{'s' * (len(faults) > 1)}:\n  " + "\n  ".join(faults))
    return config


def _build(kind: type, values: Any, prefix: str, faults: list[str]) -> Any:
    """An instance of the dataclass `kind` from JSON `values`; what is wrong is added to `faults`."""
    if not isinstance(values, dict):
        faults.append(f"{prefix.rstrip('.') or 'the file'}: an object {{...}} is expected, not {values!r}")
        return None
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    taken = {}
    for name, value in values.items():
        label = prefix + name
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean {prefix + close[0]}?" if close else f"known are {', '.join(fields)}"
            faults.append(f"{label}: unknown key; {hint}")
            continue
        if dataclasses.is_dataclass(hints[name]):
            taken[name] = _build(hints[name], value, label + ".", faults)
            continue
        value, fault = _convert(value, hints[name])
        check = fields[name].metadata.get("check")
        if fault is None and check and not check(value):
            fault = fields[name].metadata["wanted"]
        if fault:
            faults.append(f"{label}: {fault} is expected, not {value!r}")
        else:
            taken[name] = value
    return None if faults else kind(**taken)


def _convert(value: Any, hint: Any) -> tuple[Any, str | None]:
    """`value` as the type `hint`, and what was expected if it is not one."""
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**300:
        return float(value), None
    if hint is float:
        return value, None if isinstance(value, float) and value == value else "a number"
    if hint is int:
        return value, None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    if hint is bool:
        return value, None if isinstance(value, bool) else "true or false"
    if hint is str:
        return value, None if isinstance(value, str) else "a text"
    assert typing.get_origin(hint) is tuple and not isinstance(hint, types.UnionType), hint
    numbers = isinstance(value, list) and all(_convert(number, float)[1] is None for number in value)
    return (tuple(map(float, value)), None) if numbers else (value, "a list of numbers")
