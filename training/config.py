"""The training configuration: the keys of the JSON files under configs/. An unknown key is an error.

A file may extend another one with `"base": "b7.json"`, a path relative to its own folder. `--set key.sub=value` on the
command line overrides a key. Values from all three sources are validated alike.

The default of a new key must keep the old behaviour, because older runs resume with that default.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from dfdc.command_line import UserError, setting
from dfdc.identity import regular
from dfdc.imaging import IMAGENET_MEAN, IMAGENET_STD
from training.arguments import RunSettings


class ConfigError(UserError, ValueError):
    """An invalid configuration; the message lists every fault."""


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    if list(values) != sorted(values):
        raise ValueError("not in rising order")
    return values


# Error messages show the description of a range as the expected value. config_table.py shows the title of a field.
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
    """The optimizer. `learning_rate` applies to the whole batch over all ranks, without any scaling."""

    type: Literal["SGD", "Adam", "AdamW", "RMSprop"] = Field(
        "SGD", title="optimizer; RMSprop synchronises with the GPU at each step"
    )
    learning_rate: Positive = Field(0.01, title="learning rate of a step; independent of the number of GPUs")
    momentum: Fraction = Field(0.9, title="momentum of SGD and RMSprop; Adam and AdamW use PyTorch's default betas")
    nesterov: bool = Field(True, title="uses Nesterov momentum (SGD only)")
    weight_decay: NotNegative = Field(1e-4, title="weight decay")
    clip_grad_norm: NotNegative = Field(1.0, title="maximum gradient norm; 0: no clipping")


class ScheduleConfig(_Settings):
    """The learning rate schedule over all steps of all epochs; see optim.learning_rate."""

    type: Literal["poly", "step", "multistep", "exponential", "linear", "cyclic", "constant", "cosine"] = Field(
        "poly", title="learning rate schedule"
    )
    power: Positive = Field(0.9, title="exponent of poly")
    gamma: float = Field(
        0.1, gt=0, le=1, title="decay factor of step, multistep and exponential", description="over 0, up to 1"
    )
    every_epochs: Positive = Field(10.0, title="epochs between the decays of step; cycle length of cyclic")
    milestones: Annotated[tuple[float, ...], AfterValidator(_rising), Field(description="rising epochs")] = Field(
        (), title="epochs at which multistep decays"
    )
    lowest: Fraction = Field(0.0, title="lowest rate of cyclic and linear, as a fraction of learning_rate")
    warmup_steps: Number = Field(0, title="number of warm-up steps, in which the rate rises to learning_rate")


class NormalizeConfig(_Settings):
    """Per-channel mean and standard deviation that normalise the image (0..1, RGB)."""

    mean: tuple[OverMinus1, OverMinus1, OverMinus1] = Field(
        IMAGENET_MEAN,
        title="mean subtracted from the image (0..1)",
        description="three numbers over -1: red, green, blue",
    )
    std: tuple[Over0, Over0, Over0] = Field(
        IMAGENET_STD,
        title="standard deviation that divides the result",
        description="three numbers over 0: red, green, blue",
    )


class OcclusionConfig(_Settings):
    """The share of training crops for each occlusion; a crop gets at most one. The defaults are the winners' shares.

    The first four need landmarks. They are never applied to a crop without landmarks.
    """

    eyes: Share = Field(0.35, title="share of the crops with both eyes blacked out; needs landmarks")
    mouth: Share = Field(0.175, title="share with the mouth blacked out; needs landmarks")
    nose: Share = Field(0.0875, title="share with the nose blacked out; needs landmarks")
    half_face: Share = Field(
        0.06, title="share with half of the face blacked out: left, right, upper or lower; needs landmarks"
    )
    half_picture: Share = Field(
        0.024, title="share with half of the crop blacked out: left, right, upper, lower, or two opposite quadrants"
    )
    random_half: Share = Field(0.0, title="share with one side of a random line near the centre blacked out")

    @model_validator(mode="after")
    def _check_total(self) -> OcclusionConfig:
        total = sum(self.model_dump().values())
        if total > 1 + 1e-9:
            raise ValueError(f"the shares add up to {total:g}; at most 1 is expected")
        return self


class TrainConfig(_Settings):
    """The settings of a run. The seed, the fold and the paths are command-line arguments."""

    network: Literal["DeepFakeClassifier", "DeepFakeClassifierGWAP", "DeepFakeClassifierSRM"] = Field(
        "DeepFakeClassifier",
        title="network; GWAP pools with learned weights, SRM reads the noise residual of the image",
    )
    encoder: str = Field("tf_efficientnet_b7.ns_jft_in1k", title="name of a timm encoder")
    pretrained: bool = Field(True, title="loads the pretrained weights of the encoder")
    drop_path: Fraction = Field(0.2, title="drop path rate of the encoder's blocks")
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        title="dropout before the last layer; null: the default of the network",
        description="0 or more, and under 1, or null",
    )
    size: int = Field(380, ge=32, le=2048, title="side length of the network's input", description="32 to 2048 pixels")
    epochs: Count = Field(40, title="number of epochs")
    batches_per_epoch: Count = Field(2500, title="maximum steps per epoch; fewer if the crops run out")
    batch_size: Count = Field(12, title="crops per GPU and batch")
    accumulate: Count = Field(1, title="batches per step; a step uses batch_size x accumulate x GPUs crops")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto",
        title="auto: bf16 on a GPU that supports it, fp16 on an older one, fp32 on a CPU; fp32 on a GPU uses TF32",
    )
    label_smoothing: float = Field(
        0.01,
        ge=0,
        lt=0.5,
        title="label smoothing: distance of the targets from 0 and 1",
        description="0 or more, and under 0.5",
    )
    loss: Literal["bce", "focal"] = Field("bce", title="binary cross entropy or focal loss")
    loss_normalization: Literal["global", "rank"] = Field(
        "global",
        title="divides the loss by the class counts of all processes; rank: of each process, as the winners did",
    )
    ohem_samples: Number = Field(0, title="number of hardest crops per class and batch that enter the loss; 0: all")
    ema_decay: Fraction = Field(0.0, title="decay of the moving average of the weights; 0: no average")
    compile: Literal["off", "on", "auto"] = Field(
        "off", title="uses torch.compile; auto: if it is faster on this machine"
    )
    gradient_checkpointing: bool = Field(
        False, title="recomputes the encoder's feature maps instead of storing them: less memory, more time"
    )
    occlusions: OcclusionConfig = OcclusionConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    normalize: NormalizeConfig = NormalizeConfig()


def load_config(path: Path, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """Read a configuration file.

    Args:
        path: a JSON file, which may name a `base`.
        changes: values of the command line by dotted key, e.g. {"optimizer.learning_rate": 0.005}.

    Raises:
        ConfigError: the file is missing or not JSON, or keys and values are invalid; the message lists all faults.
    """
    values = _read_values(Path(path), ())
    whose = f"{path} and the command line" if changes else str(path)
    for key, value in (changes or {}).items():
        if key == "base":
            raise ConfigError(f"base: this key is allowed only inside a file; name a file with {setting('config')}")
        values = _overlay(values, reduce(lambda inner, name: {name: inner}, reversed(key.split(".")), value))
    try:
        return TrainConfig.model_validate_json(json.dumps(values))  # in JSON mode, a list is accepted as a tuple
    except ValidationError as error:
        faults = list(dict.fromkeys(_fault(one, values) for one in error.errors()))
        raise ConfigError(f"{whose}: {len(faults)} fault{'s' * (len(faults) > 1)}:\n  " + "\n  ".join(faults)) from None


def parse_changes(texts: Sequence[str]) -> dict[str, Any]:
    """Parse `key.sub=value` texts into {dotted key: value}. A value that is not JSON is kept as text.

    Raises:
        ConfigError: a text has no `=` or no key, or a key is given twice.
    """
    changes: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(f"{text!r}: KEY=VALUE is expected, e.g. optimizer.learning_rate=0.005")
        if key in changes:
            raise ConfigError(f"{text!r}: {key} is given twice")
        try:
            changes[key] = json.loads(value)
        except (ValueError, RecursionError):
            changes[key] = value
    return changes


def changes_asked(settings: RunSettings) -> dict[str, Any]:
    """The configuration values given on the command line, by dotted key.

    Raises:
        ConfigError: a --set value is invalid, or a key is given twice.
    """
    changes = parse_changes(settings.set)
    short = {"epochs": settings.epochs, "batch_size": settings.batch_size, "label_smoothing": settings.label_smoothing}
    for name, value in short.items():
        if value is not None:
            if name in changes:
                twins = f"{setting(name)} and {setting('set')} {name}=..."
                raise ConfigError(f"{twins} set the same key; give only one of them")
            changes[name] = value
    return changes


def resolve_config(settings: RunSettings) -> TrainConfig:
    """The configuration file with the overrides of the command line, validated."""
    return load_config(settings.config, changes_asked(settings))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts into one with dotted keys."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _read_values(path: Path, seen: tuple[str, ...]) -> dict[str, Any]:
    """Read the JSON object of a file and merge it over its base."""
    real = os.path.realpath(path)
    if real in seen:
        raise ConfigError(f"{path}: its base refers back to it; remove the cycle")
    try:
        regular(path)
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(str(p) for p in sorted(Path("configs").glob("*.json")))
        whose = f" (the base of {seen[-1]})" if seen else ""
        raise ConfigError(
            f"{path}{whose}: can't be read ({error.strerror}). Available configurations: {known}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: an object {{...}} is expected, not {values!r}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str) or not base.isprintable():
        raise ConfigError(f"{path}: base: the name of a file is expected, not {base!r}")
    return _overlay(_read_values(path.parent / base, (*seen, real)), values)


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge `above` over `below`; nested objects are merged key by key."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _overlay(merged[name], value) if both else value
    return merged


# The expected value by pydantic's error type. For other types, the field's description states it.
_KINDS = {"bool_type": "true or false", "int_type": "a whole number", "float_type": "a number"}
_KINDS |= {"string_type": "a string", "tuple_type": "a list of numbers"}


def _fault(error: ErrorDetails, values: dict[str, Any]) -> str:
    """One line that describes a pydantic error in `values`."""
    if not error["loc"]:
        return error["msg"]  # an error of the whole input, e.g. invalid UTF-8
    *above, name = (part for part in error["loc"] if isinstance(part, str))  # list indices are omitted
    prefix = "".join(f"{part}." for part in above)
    kind: Any = reduce(lambda kind, part: kind.model_fields[part].annotation, above, TrainConfig)
    if error["type"] == "extra_forbidden":
        if close := difflib.get_close_matches(name, kind.model_fields):
            return f"{prefix}{name}: unknown key; did you mean {prefix}{close[0]}?"
        known = flatten(kind().model_dump()) if kind is TrainConfig else kind.model_fields
        return f"{prefix}{name}: unknown key; known keys are {', '.join(known)}"
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
