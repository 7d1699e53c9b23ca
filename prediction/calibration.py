"""Temperature scaling: one number that calibrates the ensemble's video scores.

The logit of a score is divided by a temperature T before the sigmoid. T is above 1 for overconfident scores, below 1
for underconfident ones. The ranking, the AUC and the side of 0.5 do not change. Scores of exactly 0 or 1 do not change.
float32 rounds the sigmoid of logits over 17 to 1, so these videos were already tied.

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
from scipy.special import expit, logit

from dfdc import artifacts
from dfdc.command_line import SettingError, UsageError, setting
from dfdc.scoring import log_loss
from dfdc.text import printable
from networks.files import ModelFile
from prediction.json_file import read_json_file
from prediction.progress import SCORING_VERSION
from prediction.verdict import Verdict

FEWEST_VIDEOS = 8  # with fewer, a single video determines the temperature
# If all videos are on the right side of 0.5, the log loss keeps falling with T: scores would become 0 and 1.
LOWEST, HIGHEST = 0.2, 20.0
# T < 1 moves scores closer to 1 than float64 can resolve, so 1 - score shrinks to no less than this share. Scores that
# differ by 1e-9 or more, as float32 scores do, stay different.
_LEAST_SHRINKING = 1e-7


@dataclass(frozen=True)
class Fit:
    """A temperature, and its effect on the videos that it was fitted to.

    Attributes:
        at_bound: "lowest" or "highest" if the temperature is at a bound, else "".
        log_loss_before, log_loss_after: log loss, with scores clipped to 1e-15 as everywhere.
    """

    temperature: Annotated[float, Field(ge=LOWEST, le=HIGHEST)]
    at_bound: Literal["lowest", "highest", ""] = ""
    videos: int = 0
    fakes: int = 0
    log_loss_before: float = 0.0
    log_loss_after: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TemperatureFile(Fit):
    """The file that --calibrate writes: a temperature, and the settings that it is valid for.

    Attributes:
        version: version of this layout.
        scoring: the SCORING_VERSION; None in a file of an earlier version.
    """

    models: list[ModelFile]
    strategy: str
    scoring: int | None = None
    version: Literal[1] = 1


def check_enough(labels: Sequence[int]) -> None:
    """Check that a temperature can be fitted to videos with these labels.

    Raises:
        UsageError: too few labels, or all of one class.
    """
    fakes = int(sum(labels))
    reals = len(labels) - fakes
    if len(labels) < FEWEST_VIDEOS or not fakes or not reals:
        needed = f"fitting needs at least {FEWEST_VIDEOS} labelled videos with a verdict, of both classes"
        there = f"there are {reals} real and {fakes} fake"
        raise UsageError(f"{setting('calibrate')}: {needed}; {there}. Add labelled videos")


def calibrate(scores: Sequence[float] | np.ndarray, temperature: float) -> np.ndarray:
    """Return sigmoid(logit(score) / temperature). The order is kept; a temperature of 1 changes nothing.

    Args:
        scores: probabilities of fake, [n]; 0 and 1 do not change.

    Returns:
        float64 [n].
    """
    scores = np.asarray(scores, np.float64)
    if temperature == 1:
        return scores.copy()
    return np.minimum(expit(logit(scores) / temperature), 1 - _LEAST_SHRINKING * (1 - scores))


def fit_temperature(labels: Sequence[int], scores: Sequence[float]) -> Fit:
    """Return the temperature between LOWEST and HIGHEST with the lowest log loss.

    Args:
        labels: 0 (real) or 1 (fake), [n].
        scores: probability of fake, [n].

    Raises:
        UsageError: too few videos, or all of one class.
    """
    from scipy.optimize import minimize_scalar  # here: importing it takes a fifth of a second

    check_enough(labels)
    # float32 rounded scores of 0 and 1 to these values: use the logit of the nearest other float32 number.
    zero, one = np.float32(0), np.float32(1)
    nearest = logit(np.array([np.nextafter(zero, one), np.nextafter(one, zero)], np.float64))
    signed = np.where(np.asarray(labels) == 1, 1, -1) * np.clip(logit(np.asarray(scores, np.float64)), *nearest)

    def loss(log_temperature: float) -> float:
        # Without the clip of log_loss, which would reward overconfidence once a video has its maximum loss.
        return float(np.logaddexp(0, -signed / math.exp(log_temperature)).mean())

    # The loss is convex in 1 / T, so it has one minimum on any scale of the search.
    limits = math.log(LOWEST), math.log(HIGHEST)
    found = float(minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-6}).x)
    temperature, bound = math.exp(found), ""
    near = [abs(found - limit) < 1e-4 for limit in limits]  # the search approaches a bound without reaching it
    if any(near):
        temperature, bound = (LOWEST, "lowest") if near[0] else (HIGHEST, "highest")
    before, after = (log_loss(np.asarray(labels), calibrate(scores, by)) for by in (1.0, temperature))
    return Fit(temperature, bound, len(labels), int(sum(labels)), before, after)


def fit_to_file(
    path: Path, labels: Sequence[int], scores: Sequence[float], models: list[ModelFile], strategy: str
) -> None:
    """Fit a temperature, write it to `path` with the settings that it is valid for, and print its effect.

    Raises:
        UsageError: too few videos, or all of one class.
    """
    fit = fit_temperature(labels, scores)
    held = TemperatureFile(**asdict(fit), models=models, strategy=strategy, scoring=SCORING_VERSION)
    artifacts.write_json(path, asdict(held), indent=1)
    print(
        f"temperature {fit.temperature:.4f}, fitted to {fit.videos} videos ({fit.fakes} fake): their log loss changes "
        f"from {fit.log_loss_before:.4f} to {fit.log_loss_after:.4f}"
    )
    if fit.at_bound == "lowest":
        advice = "Fit to more or harder videos before you rely on it"
        told = "the classes separate perfectly here, so the temperature is not identifiable"
        print(f"  {LOWEST} is the lower bound: {told}. {advice}")
    elif fit.at_bound:
        print(f"  {HIGHEST} is the upper bound: the scores are uninformative or wrong for these videos")
    print(f"written: {printable(path)}; apply it with {setting('calibration')} {printable(path)}")


def read_temperature(path: Path, models: Sequence[ModelFile], strategy: str) -> float:
    """Read the temperature from a file of `fit_to_file`.

    Args:
        models, strategy: of this run.

    Raises:
        SettingError: the file can't be read, or its checkpoints, strategy or SCORING_VERSION are not those of this run.
    """
    place, calibrate = printable(path), setting("calibrate")
    try:
        held = read_json_file(path, TemperatureFile)
    except (OSError, ValueError) as error:
        advice = f"not a file written by {calibrate} ({printable(error)}); fit one with {calibrate}"
        raise SettingError("calibration", place, advice) from None
    if held.scoring != SCORING_VERSION:
        version = f"{'an earlier' if held.scoring is None else 'another'} version of this program, which may differ"
        advice = f"was fitted to scores of {version}. Fit again with {calibrate}"
        raise SettingError("calibration", place, advice)
    # By content: neither the names nor the order of checkpoints change the mean.
    fitted, given = (sorted((model.size, model.xxh3) for model in some) for some in (held.models, models))
    if fitted != given:
        old, new = (printable(", ".join(model.name for model in some)) for some in (held.models, models))
        other = f"other checkpoints ({old}) than {new}, or they were retrained since"
        raise SettingError("calibration", place, f"was fitted for {other}. Fit one for these with {calibrate}")
    if held.strategy != strategy:
        other = f"{setting('strategy')} {printable(held.strategy)}, not {strategy}"
        advice = f"was fitted for {other}; score with that, or fit one for this with {calibrate}"
        raise SettingError("calibration", place, advice)
    return held.temperature


def apply_temperature(verdicts: Sequence[Verdict], temperature: float) -> list[Verdict]:
    """Return verdicts with calibrated scores; `score_uncalibrated` keeps the original. No other score changes."""
    scores = [None if v.score is None else float(calibrate([v.score], temperature)[0]) for v in verdicts]
    return [replace(v, score=new, score_uncalibrated=v.score) for v, new in zip(verdicts, scores, strict=True)]
