"""Temperature scaling: one number that makes the ensemble's video scores as sure as they are right.

The logit of a score is divided by a temperature T before the sigmoid: over 1 where the scores were too sure, under 1
where they were not sure enough. The order of videos stays, and so do AUC and what lies above 0.5. Scores of exactly 0
or 1 stay what they are; float32 rounds logits over 17 to 1, so that such videos had one score before as well.

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
from dfdc.command_line import UsageError
from dfdc.scoring import log_loss
from dfdc.text import printable
from prediction.progress import SCORING_VERSION
from prediction.verdict import Verdict

FEWEST_VIDEOS = 8  # with fewer, a single video decides on the temperature
# Where all videos are on the right side of 0.5, the log loss falls as long as T does: scores would become 0 and 1.
LOWEST, HIGHEST = 0.2, 20.0
# T < 1 moves scores nearer to 1 than float64 can tell apart: 1 - score shrinks by no more than this. Of scores that
# differ by 1e-9 or more, as those of float32 do, none become one.
_LEAST_SHRINKING = 1e-7


@dataclass(frozen=True)
class Fit:
    """A temperature, and what it does to the videos that it was fitted to.

    Attributes:
        bound: "lowest" or "highest" where the temperature is one of the bounds, else "".
        before, after: log loss, both with scores clipped to 1e-15, as everywhere.
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
    """sigmoid(logit(score) / temperature), with larger scores for larger ones; at 1, the scores themselves.

    Args:
        scores: probabilities of fake, [n]; 0 and 1 stay.

    Returns:
        float64 [n].
    """
    from scipy.special import expit, logit

    scores = np.asarray(scores, np.float64)
    if temperature == 1:
        return scores.copy()
    return np.minimum(expit(logit(scores) / temperature), 1 - _LEAST_SHRINKING * (1 - scores))


def fit_temperature(labels: Sequence[int], scores: Sequence[float]) -> Fit:
    """The temperature between LOWEST and HIGHEST with the lowest log loss.

    Args:
        labels: 0 (real) or 1 (fake), [n].
        scores: probability of fake, [n].

    Raises:
        UsageError: too few videos, or all of one class.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logit

    check_enough(labels)
    # Of a score of 0 or 1 it is known that float32 can't tell it from that: its logit is taken to be the nearest.
    zero, one = np.float32([0, 1])
    nearest = logit(np.float64([np.nextafter(zero, one), np.nextafter(one, zero)]))
    signed = np.where(np.asarray(labels) == 1, 1, -1) * np.clip(logit(np.asarray(scores, np.float64)), *nearest)

    def loss(log_temperature: float) -> float:
        # Without the clip of log_loss, which would reward being sure where a video can't cost more than it does.
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
        "scoring": SCORING_VERSION,
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
    print(f"written: {printable(path)}; a later run applies it: --calibration {printable(path)}")


def read_temperature(path: Path, settings: dict[str, Any]) -> float:
    """The temperature in a file of `fit_to_file`.

    Args:
        settings: of this run: its models (with size and checksum) and strategy.

    Raises:
        UsageError: can't be read, or was fitted for other checkpoints, another strategy or another SCORING_VERSION.
    """
    place = f"--calibration {printable(path)}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        temperature, strategy = float(content["temperature"]), content["strategy"]
        version = content.get("scoring")
        fitted = {(model["size"], model.get("xxh3")): model["name"] for model in content["models"]}
        if not LOWEST <= temperature <= HIGHEST:
            raise ValueError(f"temperature {temperature} is not in {LOWEST}..{HIGHEST}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = printable(f"{type(error).__name__}: {error}")
        raise UsageError(f"{place}: not a file that --calibrate wrote ({said})") from None
    if version != SCORING_VERSION:
        raise UsageError(
            f"{place}: was fitted to scores of {'an earlier' if version is None else 'another'} version of this "
            "program, which may be others. Fit one again by --calibrate"
        )
    # By content: the mean does not change when a checkpoint is renamed or comes in another place.
    given = {(model["size"], model["xxh3"]): model["name"] for model in settings["models"]}
    if fitted.keys() != given.keys() or len(content["models"]) != len(settings["models"]):
        old, new = (printable(", ".join(map(str, models.values()))) for models in (fitted, given))
        raise UsageError(
            f"{place}: was fitted for other checkpoints ({old}) than {new}, or they were trained again since. Fit one "
            "for these by --calibrate"
        )
    if strategy != settings["strategy"]:
        raise UsageError(
            f"{place}: was fitted for --strategy {printable(strategy)}, not {settings['strategy']}; score with that, "
            "or fit one for this by --calibrate"
        )
    return temperature


def apply_temperature(verdicts: Sequence[Verdict], temperature: float) -> list[Verdict]:
    """Verdicts with calibrated scores; what they were stands in `score_uncalibrated`. Persons' and models' stay."""
    return [
        replace(v, score=float(calibrate([v.score], temperature)[0]), score_uncalibrated=v.score) if v.judged else v
        for v in verdicts
    ]
