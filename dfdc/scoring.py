"""From frame scores to a video's score, and from scores and labels to metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

FAKE_WEIGHT = 1.4  # of the fakes' loss in selection_loss: missed fakes cost most in the challenge


class VideoScore(NamedTuple):
    """A video's probability of being fake, and the rule that made it from the faces' scores."""

    score: float
    rule: str


def confident_score(scores: Sequence[float] | np.ndarray, threshold: float = 0.8) -> VideoScore:
    """The winners' rule, to the letter, with its absolute count that was tuned on 32 frames.

    More than 11 and more than n // 2.5 scores above the threshold: their mean ("fake"); else more than 0.9 n
    below 0.2: their mean ("real"); else the mean of all ("mean"). Source: the DFDC winning solution's
    confident_strategy.

    Args:
        scores: one probability per face, [n], n >= 1.

    Raises:
        ValueError: no scores, or one that is not a probability.
    """
    values = checked_scores(scores)
    count = len(values)
    sure_fake, sure_real = values > threshold, values < 0.2
    if sure_fake.sum() > 11 and sure_fake.sum() > count // 2.5:
        return VideoScore(float(values[sure_fake].mean()), "fake")
    if sure_real.sum() > 0.9 * count:
        return VideoScore(float(values[sure_real].mean()), "real")
    return VideoScore(float(values.mean()), "mean")


def mean_score(scores: Sequence[float] | np.ndarray) -> VideoScore:
    """The mean of all faces' scores."""
    return VideoScore(float(checked_scores(scores).mean()), "mean")


def person_max_score(scores: Sequence[float] | np.ndarray, people: Sequence[int] | np.ndarray) -> VideoScore:
    """The mean of each person's scores, and of those the highest.

    Persons with less than a tenth of the faces that the most seen one has do not count: passers-by, and what the
    detector took for a face.
    """
    values, numbers = checked_scores(scores), np.asarray(people)
    counts = {person: int((numbers == person).sum()) for person in np.unique(numbers)}
    seen = [person for person, count in counts.items() if 10 * count >= max(counts.values())]
    means = {person: float(values[numbers == person].mean()) for person in seen}
    highest = max(seen, key=lambda person: means[person])
    return VideoScore(means[highest], f"person {highest}")


def smooth_score(scores: Sequence[float] | np.ndarray, people: Sequence[int] | np.ndarray) -> VideoScore:
    """A rule without a cliff: high scores weigh more than low ones, of a person's faces and of persons.

    The quadratic mean of each person's scores; of these the power mean of order 8, each person weighted by how many
    faces there are. One more face changes little, and twice as many of each kind change nothing.
    """
    values, numbers = checked_scores(scores), np.asarray(people)
    persons, counts = np.unique(numbers, return_counts=True)
    quadratic = np.array([np.sqrt(np.mean(values[numbers == person] ** 2)) for person in persons])
    return VideoScore(float(np.average(quadratic**8, weights=counts) ** (1 / 8)), "smooth")


Strategy = Callable[[np.ndarray, np.ndarray], VideoScore]
# What each gives for one person of three whose 32 faces score 0.9 where the others' score 0.1, and for 3 faces of 0.95
# among 29 of 0.1, is in the README, and tested.
STRATEGIES: dict[str, Strategy] = {
    "confident": lambda scores, people: confident_score(scores),
    "mean": lambda scores, people: mean_score(scores),
    "person-max": person_max_score,
    "smooth": smooth_score,
}


def checked_scores(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """`scores` as float64 [n]; ValueError where there are none or one is not in 0..1."""
    values = np.asarray(scores, np.float64).reshape(-1)
    if not len(values):
        raise ValueError("there are no face scores to combine")
    wrong = values[~((values >= 0) & (values <= 1))]
    if len(wrong):
        raise ValueError(f"face scores must be probabilities in 0..1, not {wrong[0]}")
    return values


def log_loss(labels: np.ndarray, scores: np.ndarray, eps: float = 1e-15) -> float:
    """Mean binary cross entropy, scores clipped to [eps, 1 - eps]; nan without any.

    Args:
        labels: 0 (real) or 1 (fake), [n].
        scores: probability of fake, [n].
    """
    labels, scores = np.asarray(labels, np.float64), np.clip(np.asarray(scores, np.float64), eps, 1 - eps)
    if not len(labels):
        return float("nan")
    return float(-np.mean(labels * np.log(scores) + (1 - labels) * np.log(1 - scores)))


def selection_loss(fake: float, real: float, fake_weight: float = FAKE_WEIGHT) -> float:
    """The number by which epochs are chosen: (fake_weight * fake + real) / 2, lower is better.

    Source: the DFDC winners' choice of checkpoints, with their weight.

    Args:
        fake: mean log loss of the held-out fake videos, in nats, 0 or more.
        real: the same of the real videos.
        fake_weight: how much the loss of the fakes counts beside that of the reals.
    """
    return (fake_weight * fake + real) / 2


def metrics(labels: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray) -> dict[str, float | int]:
    """What can be said of `scores` given `labels`; what needs both classes is left out where one is missing.

    Returns:
        count, reals, fakes, log_loss, log_loss_fake, log_loss_real, accuracy (at 0.5), and with both classes
        log_loss_balanced (mean of the two classes'), auc, average_precision, equal_error_rate.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    y, p = np.asarray(labels).astype(int), np.asarray(scores, np.float64)
    if y.shape != p.shape or not len(y):
        raise ValueError(f"as many labels as scores are needed, and at least one; got {y.size} and {p.size}")
    result: dict[str, float | int] = {"count": len(y), "reals": int((y == 0).sum()), "fakes": int((y == 1).sum())}
    result["log_loss"] = log_loss(y, p)
    result["accuracy"] = float(np.mean((p > 0.5) == y))
    if result["fakes"]:
        result["log_loss_fake"] = log_loss(y[y == 1], p[y == 1])
    if result["reals"]:
        result["log_loss_real"] = log_loss(y[y == 0], p[y == 0])
    if result["fakes"] and result["reals"]:
        result["log_loss_balanced"] = (result["log_loss_fake"] + result["log_loss_real"]) / 2
        result["auc"] = float(roc_auc_score(y, p))
        result["average_precision"] = float(average_precision_score(y, p))
        false_positive, true_positive, _ = roc_curve(y, p)
        # The rate where misses equal false alarms, on the line between the two nearest points of the curve.
        gap = false_positive - (1 - true_positive)
        right = int(np.argmax(gap >= 0))
        left = max(right - 1, 0)
        span = gap[right] - gap[left]
        part = -gap[left] / span if span else 0.0
        result["equal_error_rate"] = float(false_positive[left] + part * (false_positive[right] - false_positive[left]))
    return result
