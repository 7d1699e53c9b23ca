"""The configuration: what a JSON file under configs/ may say. Every key is read; an unknown one is an error.

A file may begin from another one, `"base": "b7.json"` (a path from its own folder), and `--set key.sub=value` on the
command line changes a key of either. All three are checked alike.

A key that comes later must have the old behaviour as its default: a run that was saved before it came goes on so.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
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


def _share(default: float) -> Any:
    return _key(default, lambda value: 0 <= value <= 1, "0 to 1")


def _one_of(default: str, *names: str) -> Any:
    return _key(default, lambda value: value in names, "one of " + ", ".join(names))


def _optional_fraction() -> Any:
    return _key(None, lambda value: value is None or 0 <= value < 1, "0 or more, and under 1, or null")


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
class OcclusionConfig:
    """In which share of the training crops what is blacked out; one thing in a crop at most. The winners' shares.

    The first four need landmarks, so that they never happen to a crop without them.
    """

    eyes: float = _share(0.35)
    mouth: float = _share(0.175)
    nose: float = _share(0.0875)
    half_face: float = _share(0.06)  # of the face's outline: left, right, above or below its middle
    half_picture: float = _share(0.024)  # left, right, upper, lower, or two quadrants across from each other
    random_half: float = _share(0.0)  # all on one side of a random line through the middle

    def fault(self) -> str | None:
        """What is wrong with the keys together, if anything."""
        total = sum(dataclasses.astuple(self))
        return None if total <= 1 + 1e-9 else f"the shares add up to {total:g}, but to 1 at most is expected"


@dataclass(frozen=True)
class TrainConfig:
    """A run's settings; the seed, the fold and the paths are command-line arguments."""

    network: str = _one_of(
        "DeepFakeClassifier", "DeepFakeClassifier", "DeepFakeClassifierGWAP", "DeepFakeClassifierSRM"
    )
    encoder: str = "tf_efficientnet_b7.ns_jft_in1k"  # any of timm's by name
    pretrained: bool = _key(True)
    drop_path: float = _fraction(0.2)
    dropout: float | None = _optional_fraction()  # before the last layer; null: the network's own, see model.DROPOUT
    size: int = _key(380, lambda value: 32 <= value <= 2048, "32 to 2048 pixels")
    epochs: int = _positive(40)
    batches_per_epoch: int = _positive(2500)  # optimizer steps, at most; fewer where the crops run out
    batch_size: int = _positive(12)  # crops that a GPU takes at once
    accumulate: int = _positive(1)  # how often it does so in a step, which sees batch_size * accumulate * GPUs crops
    precision: str = _one_of("auto", "auto", "bf16", "fp16", "fp32")
    label_smoothing: float = _key(0.01, lambda value: 0 <= value < 0.5, "0 or more, and under 0.5")
    loss: str = _one_of("bce", "bce", "focal")
    loss_normalization: str = _one_of("global", "global", "rank")  # by class counts over all ranks, or each by its own
    ohem_samples: int = _not_negative(0)  # of each class in a batch only the hardest count; 0: all
    ema_decay: float = _fraction(0.0)  # of an average of the weights, validated beside them; 0: none
    compile: str = _one_of("off", "off", "on", "auto")  # torch.compile; auto: if it is faster on this machine
    gradient_checkpointing: bool = _key(False)  # computes the encoder's maps again instead of keeping them: less memory
    occlusions: OcclusionConfig = field(default_factory=OcclusionConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    normalize: NormalizeConfig = field(default_factory=NormalizeConfig)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)


def load_config(path: Path, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """Read a configuration file.

    Args:
        path: a JSON file, which may name a `base`.
        changes: values of the command line by dotted key, such as {"optimizer.learning_rate": 0.005}.

    Raises:
        ConfigError: not there, not JSON, or faults in its keys and values, all of them listed.
    """
    values = _read_values(Path(path), ())
    whose = f"{path} and the command line" if changes else str(path)
    for key, value in (changes or {}).items():
        if key == "base":
            raise ConfigError("base: it belongs into a file; --config names the file")
        values = _overlay(values, reduce(lambda inner, name: {name: inner}, reversed(key.split(".")), value))
    faults: list[str] = []
    config = _build(TrainConfig, values, "", faults)
    if faults:
        raise ConfigError(f"{whose}: {len(faults)} fault{'s' * (len(faults) > 1)}:\n  " + "\n  ".join(faults))
    return config


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """`key.sub=value` texts of the command line as {dotted key: value}; a value is JSON, or else a text.

    Raises:
        ConfigError: one has no `=`, no key, or a key is given twice.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"{text!r}: KEY=VALUE is expected, such as optimizer.learning_rate=0.005")
        if key in changes:
            raise ConfigError(f"{text!r}: {key} is given twice")
        try:
            changes[key] = json.loads(value)
        except ValueError:
            changes[key] = value
    return changes


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _read_values(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The JSON object of a file, laid over that of its base."""
    if path.resolve() in seen:
        raise ConfigError(f"{path}: its base leads back to itself")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(str(p) for p in sorted(Path("configs").glob("*.json")))
        whose = f" (the base of {seen[-1]})" if seen else ""
        raise ConfigError(f"{path}{whose}: can't be read ({error.strerror}). Configurations here: {known}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: an object {{...}} is expected, not {values!r}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: the name of a file is expected, not {base!r}")
    return _overlay(_read_values(path.parent / base, (*seen, path.resolve())), values)


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, objects key by key."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _overlay(merged[name], value) if both else value
    return merged


def _build(kind: type, values: Any, prefix: str, faults: list[str]) -> Any:
    """An instance of the dataclass `kind` from JSON `values`; what is wrong is added to `faults`."""
    if not isinstance(values, dict):
        keys = ", ".join(prefix + item.name for item in dataclasses.fields(kind))
        faults.append(
            f"{prefix.rstrip('.') or 'the file'}: an object {{...}} is expected, not {values!r}; keys: {keys}"
        )
        return None
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    before = len(faults)
    taken = {}
    for name, value in values.items():
        label = prefix + name
        if name not in fields:
            close = difflib.get_close_matches(name, fields)
            hint = (
                f"did you mean {prefix + close[0]}?"
                if close
                else f"known are {', '.join(flatten(kind().to_dict()) if kind is TrainConfig else fields)}"
            )
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
    if len(faults) > before:
        return None
    built = kind(**taken)
    fault = built.fault() if hasattr(built, "fault") else None
    if fault:
        faults.append(f"{prefix.rstrip('.')}: {fault}")
    return built


def _convert(value: Any, hint: Any) -> tuple[Any, str | None]:
    """`value` as the type `hint`, and what was expected if it is not one."""
    if isinstance(hint, types.UnionType):  # a number, or null for the default of something else
        return (None, None) if value is None else _convert(value, typing.get_args(hint)[0])
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
    assert typing.get_origin(hint) is tuple, hint
    numbers = isinstance(value, list) and all(_convert(number, float)[1] is None for number in value)
    return (tuple(map(float, value)), None) if numbers else (value, "a list of numbers")
