"""Temperature scaling: one number that makes the ensemble's video scores as sure as they are right.

The logit of a score is divided by a temperature T before the sigmoid: over 1 where the scores were too sure, under 1
where they were not sure enough. The order of videos stays, and so do AUC and what lies above 0.5. Scores of exactly 0
or 1 stay what they are; float32 rounds logits over 17 to 1, so that such videos had one score before as well.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks (ICML), section 4.2, for two classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from dfdc import artifacts
from dfdc.command_line import SettingError, UsageError, setting
from dfdc.scoring import log_loss
from dfdc.text import printable
from networks.files import ModelFile
from prediction.json_file import read_json_file
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
        at_bound: "lowest" or "highest" where the temperature is one of the bounds, else "".
        log_loss_before, log_loss_after: both with scores clipped to 1e-15, as everywhere.
    """

    temperature: Annotated[float, Field(ge=LOWEST, le=HIGHEST)]
    at_bound: Literal["lowest", "highest", ""] = ""
    videos: int = 0
    fakes: int = 0
    log_loss_before: float = 0.0
    log_loss_after: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TemperatureFile(Fit):
    """What --calibrate writes, and what its temperature holds for.

    Attributes:
        version: of this layout.
        scoring: the SCORING_VERSION; None in a file of an earlier version.
    """

    models: list[ModelFile]
    strategy: str
    scoring: int | None = None
    version: Literal[1] = 1


def check_enough(labels: Sequence[int]) -> None:
    """Whether a temperature can be fitted to videos with these labels.

    Raises:
        UsageError: too few, or all of one class.
    """
    fakes = int(sum(labels))
    reals = len(labels) - fakes
    if len(labels) < FEWEST_VIDEOS or not fakes or not reals:
        needed = f"a temperature takes {FEWEST_VIDEOS} or more videos with a label and a verdict, and both classes"
        there = f"there are {reals} real and {fakes} fake"
        raise UsageError(f"{setting('calibrate')}: {needed} among them; {there}. Give more labelled videos")


def calibrate(scores: Sequence[float] | np.ndarray, temperature: float) -> np.ndarray:
    """sigmoid(logit(score) / temperature), with larger scores for larger ones; at 1, the scores themselves.

    Args:
        scores: probabilities of fake, [n]; 0 and 1 stay.

    Returns:
        float64 [n].
    """
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
    check_enough(labels)
    # Of a score of 0 or 1 it is known that float32 can't tell it from that: its logit is taken to be the nearest.
    zero, one = np.float32(0), np.float32(1)
    nearest = logit(np.array([np.nextafter(zero, one), np.nextafter(one, zero)], np.float64))
    signed = np.where(np.asarray(labels) == 1, 1, -1) * np.clip(logit(np.asarray(scores, np.float64)), *nearest)

    def loss(log_temperature: float) -> float:
        # Without the clip of log_loss, which would reward being sure where a video can't cost more than it does.
        return float(np.logaddexp(0, -signed / math.exp(log_temperature)).mean())

    # The loss is convex in 1 / T, so that it has one lowest point, whatever the scale that is searched on.
    limits = math.log(LOWEST), math.log(HIGHEST)
    found = float(minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-6}).x)
    temperature, bound = math.exp(found), ""
    near = [abs(found - limit) < 1e-4 for limit in limits]  # the search comes near to a bound, and not onto it
    if any(near):
        temperature, bound = (LOWEST, "lowest") if near[0] else (HIGHEST, "highest")
    before, after = (log_loss(np.asarray(labels), calibrate(scores, by)) for by in (1.0, temperature))
    return Fit(temperature, bound, len(labels), int(sum(labels)), before, after)


def fit_to_file(
    path: Path, labels: Sequence[int], scores: Sequence[float], models: list[ModelFile], strategy: str
) -> None:
    """Fit a temperature, write it to `path` with what it holds for, and print what it does.

    Raises:
        UsageError: too few videos, or all of one class.
    """
    fit = fit_temperature(labels, scores)
    held = TemperatureFile(**asdict(fit), models=models, strategy=strategy, scoring=SCORING_VERSION)
    artifacts.write_json(path, asdict(held), indent=1)
    print(
        f"temperature {fit.temperature:.4f}, fitted to {fit.videos} videos ({fit.fakes} fake): their log loss goes "
        f"from {fit.log_loss_before:.4f} to {fit.log_loss_after:.4f}"
    )
    if fit.at_bound == "lowest":
        advice = "Fit to more videos, or to harder ones, before you rely on it"
        told = "these videos are told apart so well that they do not say how sure is too sure"
        print(f"  {LOWEST} is the lowest that is tried: {told}. {advice}")
    elif fit.at_bound:
        print(f"  {HIGHEST} is the highest that is tried: the scores say little or the wrong thing about these videos")
    print(f"written: {printable(path)}; a later run applies it: {setting('calibration')} {printable(path)}")


def read_temperature(path: Path, models: Sequence[ModelFile], strategy: str) -> float:
    """The temperature in a file of `fit_to_file`.

    Args:
        models, strategy: of this run.

    Raises:
        SettingError: can't be read, or was fitted for other checkpoints, another strategy or another SCORING_VERSION.
    """
    place, calibrate = printable(path), setting("calibrate")
    try:
        held = read_json_file(path, TemperatureFile)
    except (OSError, ValueError) as error:
        advice = f"not a file that {calibrate} wrote ({printable(error)}); fit one by it"
        raise SettingError("calibration", place, advice) from None
    if held.scoring != SCORING_VERSION:
        version = f"{'an earlier' if held.scoring is None else 'another'} version of this program, which may be others"
        advice = f"was fitted to scores of {version}. Fit one again by {calibrate}"
        raise SettingError("calibration", place, advice)
    # By content: the mean does not change when a checkpoint is renamed or comes in another place.
    fitted, given = (sorted((model.size, model.xxh3) for model in some) for some in (held.models, models))
    if fitted != given:
        old, new = (printable(", ".join(model.name for model in some)) for some in (held.models, models))
        other = f"other checkpoints ({old}) than {new}, or they were trained again since"
        raise SettingError("calibration", place, f"was fitted for {other}. Fit one for these by {calibrate}")
    if held.strategy != strategy:
        other = f"{setting('strategy')} {printable(held.strategy)}, not {strategy}"
        advice = f"was fitted for {other}; score with that, or fit one for this by {calibrate}"
        raise SettingError("calibration", place, advice)
    return held.temperature


def apply_temperature(verdicts: Sequence[Verdict], temperature: float) -> list[Verdict]:
    """Verdicts with calibrated scores; what they were stands in `score_uncalibrated`. Persons' and models' stay."""
    scores = [None if v.score is None else float(calibrate([v.score], temperature)[0]) for v in verdicts]
    return [replace(v, score=new, score_uncalibrated=v.score) for v, new in zip(verdicts, scores, strict=True)]
