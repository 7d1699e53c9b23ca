"""Temperature scaling: one number that makes the ensemble's video scores as sure as they are right.

The logit of a score is divided by a temperature T before the sigmoid: over 1 where the scores were too sure, under 1
where they were not sure enough. The order of videos stays, and so do AUC and what lies above 0.5.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks (ICML), section 4.2, for two classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dfdc import artifacts
from dfdc.parallel import UsageError
from dfdc.scoring import log_loss
from prediction.verdict import Verdict

FEWEST_VIDEOS = 8  # with fewer, a single video decides on the temperature
# Where all videos are on the right side of 0.5, the log loss falls as long as T does: scores would become 0 and 1.
LOWEST, HIGHEST = 0.2, 20.0
_EDGE = 1e-7  # float32 holds no probability that is nearer to 1: nothing is known of logits beyond this


@dataclass(frozen=True)
class Fit:
    """A temperature, and what it does to the videos that it was fitted to.

    Attributes:
        bound: "lowest" or "highest" where the temperature is one of the bounds, else "".
        before, after: log loss.
    """

    temperature: float
    bound: str
    videos: int
    fakes: int
    before: float
    after: float


def check_enough(labels: Sequence[int]) -> None:
    """Whether a temperature can be fitted to videos with these labels.

    Raises:
        UsageError: too few, or all of one class.
    """
    fakes = int(sum(labels))
    reals = len(labels) - fakes
    if len(labels) < FEWEST_VIDEOS or not fakes or not reals:
        raise UsageError(
            f"--calibrate: a temperature takes {FEWEST_VIDEOS} or more videos with a label and a verdict, and both "
            f"classes among them; there are {reals} real and {fakes} fake. Give more labelled videos"
        )


def calibrate(scores: Sequence[float] | np.ndarray, temperature: float) -> np.ndarray:
    """sigmoid(logit(score) / temperature).

    Args:
        scores: probabilities of fake, [n].

    Returns:
        float64 [n].
    """
    return 1 / (1 + np.exp(-_logits(scores) / temperature))


def _logits(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    clipped = np.clip(np.asarray(scores, np.float64), _EDGE, 1 - _EDGE)
    return np.log(clipped / (1 - clipped))


def fit_temperature(labels: Sequence[int], scores: Sequence[float]) -> Fit:
    """The temperature between LOWEST and HIGHEST with the lowest log loss.

    Args:
        labels: 0 (real) or 1 (fake), [n].
        scores: probability of fake, [n].

    Raises:
        UsageError: too few videos, or all of one class.
    """
    from scipy.optimize import minimize_scalar

    check_enough(labels)
    signed = np.where(np.asarray(labels) == 1, 1, -1) * _logits(scores)

    def loss(log_temperature: float) -> float:
        # Not from probabilities, which are 1 for every logit over 37: the loss would be flat there.
        return float(np.logaddexp(0, -signed / math.exp(log_temperature)).mean())

    # The loss is convex in 1 / T, so that it has one lowest point, whatever the scale that is searched on.
    limits = math.log(LOWEST), math.log(HIGHEST)
    found = float(minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-6}).x)
    temperature, bound = math.exp(found), ""
    for name, limit, value in zip(("lowest", "highest"), limits, (LOWEST, HIGHEST), strict=True):
        if abs(found - limit) < 1e-4:  # the search comes near to a bound, and not onto it
            temperature, bound = value, name
    after = log_loss(labels, calibrate(scores, temperature))
    return Fit(temperature, bound, len(labels), int(sum(labels)), log_loss(labels, scores), after)


def fit_to_file(path: Path, labels: Sequence[int], scores: Sequence[float], settings: dict[str, Any]) -> None:
    """Fit a temperature, write it to `path` with what it holds for, and print what it does.

    Raises:
        UsageError: too few videos, or all of one class.
    """
    fit = fit_temperature(labels, scores)
    content = {
        "temperature": fit.temperature,
        "at_bound": fit.bound,
        "videos": fit.videos,
        "fakes": fit.fakes,
        "log_loss_before": fit.before,
        "log_loss_after": fit.after,
        "models": settings["models"],
        "strategy": settings["strategy"],
    }
    artifacts.write_json(path, content, indent=1)
    print(
        f"temperature {fit.temperature:.4f}, fitted to {fit.videos} videos ({fit.fakes} fake): their log loss goes "
        f"from {fit.before:.4f} to {fit.after:.4f}"
    )
    if fit.bound == "lowest":
        print(
            f"  {LOWEST} is the lowest that is tried: these videos are told apart so well that they do not say how "
            "sure is too sure. Fit to more videos, or to harder ones, before you rely on it"
        )
    elif fit.bound:
        print(f"  {HIGHEST} is the highest that is tried: the scores say little or the wrong thing about these videos")
    print(f"written: {path}; a later run applies it: --calibration {path}")


def read_temperature(path: Path, settings: dict[str, Any]) -> float:
    """The temperature in a file of `fit_to_file`.

    Args:
        settings: of this run: its models (with size and checksum) and strategy.

    Raises:
        UsageError: can't be read, or was fitted for other checkpoints or another strategy.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        temperature, strategy = float(content["temperature"]), content["strategy"]
        earlier = any("crc" in model for model in content["models"])
        fitted = {(model["size"], None if earlier else model["xxh3"]): model["name"] for model in content["models"]}
        if not LOWEST <= temperature <= HIGHEST:
            raise ValueError(f"temperature {temperature} is not in {LOWEST}..{HIGHEST}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"--calibration {path}: not a file that --calibrate wrote ({type(error).__name__}: {error})"
        ) from None
    if earlier:
        raise UsageError(
            f"--calibration {path}: an earlier version of this program wrote it, whose checksums do not tell every "
            "checkpoint from every other. Fit one again by --calibrate"
        )
    # By content: the mean does not change when a checkpoint is renamed or comes in another place.
    given = {(model["size"], model["xxh3"]): model["name"] for model in settings["models"]}
    if fitted.keys() != given.keys() or len(content["models"]) != len(settings["models"]):
        raise UsageError(
            f"--calibration {path}: was fitted for other checkpoints ({', '.join(fitted.values())}) than "
            f"{', '.join(given.values())}, or they were trained again since. Fit one for these by --calibrate"
        )
    if strategy != settings["strategy"]:
        raise UsageError(
            f"--calibration {path}: was fitted for --strategy {strategy}, not {settings['strategy']}; score with that, "
            "or fit one for this by --calibrate"
        )
    return temperature


def apply_temperature(verdicts: Sequence[Verdict], temperature: float) -> list[Verdict]:
    """Verdicts with calibrated scores; what they were stands in `score_uncalibrated`. Persons' and models' stay."""
    return [
        replace(v, score=float(calibrate([v.score], temperature)[0]), score_uncalibrated=v.score) if v.judged else v
        for v in verdicts
    ]
