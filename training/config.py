"""The configuration: what a JSON file under configs/ may say. Every key is read; an unknown one is an error.

A file may begin from another one, `"base": "b7.json"` (a path from its own folder), and `--set key.sub=value` on the
command line changes a key of either. All three are checked alike.

A key that comes later must have the old behaviour as its default: a run that was saved before it came goes on so.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from dfdc.command_line import UserError, setting
from dfdc.imaging import IMAGENET_MEAN, IMAGENET_STD
from training.arguments import RunSettings


class ConfigError(UserError, ValueError):
    """A configuration that can't be used; the message lists every fault."""


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    if list(values) != sorted(values):
        raise ValueError("not in order")
    return values


# The description of a range is what a message says was expected.
Positive = Annotated[float, Field(gt=0, description="a number over 0")]
Count = Annotated[int, Field(gt=0, description="a number over 0")]
NotNegative = Annotated[float, Field(ge=0, description="0 or more")]
Number = Annotated[int, Field(ge=0, description="0 or more")]
Fraction = Annotated[float, Field(ge=0, lt=1, description="0 or more, and under 1")]
Share = Annotated[float, Field(ge=0, le=1, description="0 to 1")]
Over0 = Annotated[float, Field(gt=0)]
OverMinus1 = Annotated[float, Field(gt=-1)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class OptimizerConfig(_Settings):
    """`learning_rate` is of the whole batch over all ranks; it is not scaled by anything."""

    type: Literal["SGD", "Adam", "AdamW", "RMSprop"] = "SGD"
    learning_rate: Positive = 0.01
    momentum: Fraction = 0.9  # SGD's and RMSprop's; Adam and AdamW keep PyTorch's betas
    nesterov: bool = True  # SGD's
    weight_decay: NotNegative = 1e-4
    clip_grad_norm: NotNegative = 1.0  # 0: no clipping


class ScheduleConfig(_Settings):
    """The learning rate as a function of the step, over all steps of all epochs; see optim.learning_rate."""

    type: Literal["poly", "step", "multistep", "exponential", "linear", "cyclic", "constant", "cosine"] = "poly"
    power: Positive = 0.9  # poly's
    gamma: float = Field(0.1, gt=0, le=1, description="over 0, up to 1")  # step's, multistep's, exponential's
    every_epochs: Positive = 10.0  # step's; of cyclic, the length of a cycle
    milestones: Annotated[tuple[float, ...], AfterValidator(_rising), Field(description="rising epochs")] = ()
    lowest: Fraction = 0.0  # cyclic's and linear's, as a part of learning_rate
    warmup_steps: Number = 0


class NormalizeConfig(_Settings):
    """What the pictures (0..1) are normalised with, RGB."""

    mean: tuple[OverMinus1, OverMinus1, OverMinus1] = Field(
        IMAGENET_MEAN, description="three numbers over -1: red, green, blue"
    )
    std: tuple[Over0, Over0, Over0] = Field(IMAGENET_STD, description="three numbers over 0: red, green, blue")


class OcclusionConfig(_Settings):
    """In which share of the training crops what is blacked out; one thing in a crop at most. The winners' shares.

    The first four need landmarks, so that they never happen to a crop without them.
    """

    eyes: Share = 0.35
    mouth: Share = 0.175
    nose: Share = 0.0875
    half_face: Share = 0.06  # of the face's outline: left, right, above or below its middle
    half_picture: Share = 0.024  # left, right, upper, lower, or two quadrants across from each other
    random_half: Share = 0.0  # all on one side of a random line through the middle

    @model_validator(mode="after")
    def _check_total(self) -> OcclusionConfig:
        total = sum(self.model_dump().values())
        if total > 1 + 1e-9:
            raise ValueError(f"the shares add up to {total:g}, but to 1 at most is expected")
        return self


class TrainConfig(_Settings):
    """A run's settings; the seed, the fold and the paths are command-line arguments."""

    network: Literal["DeepFakeClassifier", "DeepFakeClassifierGWAP", "DeepFakeClassifierSRM"] = "DeepFakeClassifier"
    encoder: str = "tf_efficientnet_b7.ns_jft_in1k"  # any of timm's by name
    pretrained: bool = True
    drop_path: Fraction = 0.2
    # null: model.DROPOUT
    dropout: float | None = Field(None, ge=0, lt=1, description="0 or more, and under 1, or null")
    size: int = Field(380, ge=32, le=2048, description="32 to 2048 pixels")
    epochs: Count = 40
    batches_per_epoch: Count = 2500  # optimizer steps, at most; fewer where the crops run out
    batch_size: Count = 12  # crops that a GPU takes at once
    accumulate: Count = 1  # how often it does so in a step, which sees batch_size * accumulate * GPUs crops
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    label_smoothing: float = Field(0.01, ge=0, lt=0.5, description="0 or more, and under 0.5")
    loss: Literal["bce", "focal"] = "bce"
    loss_normalization: Literal["global", "rank"] = "global"  # by class counts over all ranks, or each by its own
    ohem_samples: Number = 0  # of each class in a batch only the hardest count; 0: all
    ema_decay: Fraction = 0.0  # of an average of the weights, validated beside them; 0: none
    compile: Literal["off", "on", "auto"] = "off"  # torch.compile; auto: if it is faster on this machine
    gradient_checkpointing: bool = False  # computes the encoder's maps again instead of keeping them: less memory
    occlusions: OcclusionConfig = OcclusionConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    normalize: NormalizeConfig = NormalizeConfig()


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
            raise ConfigError(f"base: it belongs into a file; {setting('config')} names the file")
        values = _overlay(values, reduce(lambda inner, name: {name: inner}, reversed(key.split(".")), value))
    try:
        return TrainConfig.model_validate_json(json.dumps(values))  # of JSON, a list may be a tuple
    except ValidationError as error:
        faults = list(dict.fromkeys(_fault(one, values) for one in error.errors()))
        raise ConfigError(f"{whose}: {len(faults)} fault{'s' * (len(faults) > 1)}:\n  " + "\n  ".join(faults)) from None


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


def changes_asked(settings: RunSettings) -> dict[str, Any]:
    """What the command line says of the configuration, by dotted key.

    Raises:
        ConfigError: a text of --set that is none, or a key that is given twice.
    """
    changes = parse_changes(settings.set)
    short = {"epochs": settings.epochs, "batch_size": settings.batch_size, "label_smoothing": settings.label_smoothing}
    for name, value in short.items():
        if value is not None:
            if name in changes:
                twins = f"{setting(name)} and {setting('set')} {name}=..."
                raise ConfigError(f"{twins} are the same; give one of them")
            changes[name] = value
    return changes


def resolve_config(settings: RunSettings) -> TrainConfig:
    """The configuration file with the command line's changes, checked as a whole."""
    return load_config(settings.config, changes_asked(settings))


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


# What was expected, by pydantic's name of the fault; of all others the description of the field says it.
_KINDS = {"bool_type": "true or false", "int_type": "a whole number", "float_type": "a number"}
_KINDS |= {"string_type": "a text", "tuple_type": "a list of numbers"}


def _fault(error: ErrorDetails, values: dict[str, Any]) -> str:
    """A fault that pydantic found in `values`, as a line for a person."""
    if not error["loc"]:
        return error["msg"]  # of all together: a text that is no UTF-8
    *above, name = (part for part in error["loc"] if isinstance(part, str))  # the place in a list is left out
    prefix = "".join(f"{part}." for part in above)
    kind: Any = reduce(lambda kind, part: kind.model_fields[part].annotation, above, TrainConfig)
    if error["type"] == "extra_forbidden":
        if close := difflib.get_close_matches(name, kind.model_fields):
            return f"{prefix}{name}: unknown key; did you mean {prefix}{close[0]}?"
        known = flatten(kind().model_dump()) if kind is TrainConfig else kind.model_fields
        return f"{prefix}{name}: unknown key; known are {', '.join(known)}"
    field = kind.model_fields[name]
    value = reduce(lambda inner, part: inner[part], [*above, name], values)
    if error["type"] == "model_type":
        keys = ", ".join(f"{name}.{key}" for key in field.annotation.model_fields)
        return f"{name}: an object {{...}} is expected, not {value!r}; keys: {keys}"
    if error["type"] == "value_error" and not field.description:
        return f"{name}: {error['ctx']['error']}"
    in_a_list = not isinstance(error["loc"][-1], str)
    wanted = _KINDS.get("tuple_type" if in_a_list and error["type"] in _KINDS else error["type"]) or field.description
    if error["type"] == "literal_error":
        wanted = f"one of {', '.join(get_args(field.annotation))}"
    return f"{prefix}{name}: {wanted} is expected, not {value!r}"
