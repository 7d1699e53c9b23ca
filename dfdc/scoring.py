"""From frame scores to a video's score, and the losses that scores are judged by.

`scores` are one probability for each face, [n], and `people` the numbers of the persons whose faces these are, [n].
Where there are none, or one is no probability, the rules raise ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dfdc.detector_settings import DETECT_THRESHOLDS

FAKE_ABOVE, REAL_BELOW = 0.8, 0.2  # of a face, where the winners' rule takes it for surely fake or real
PASSER_BY = 0.1  # as a part of the faces of the person seen most: who has no more does not count
MAIN_PERSON = 0.4  # who has as many counts in full
SURE_FACE = DETECT_THRESHOLDS[-1]  # of the detector: from here on there is a face for certain
_DRAWS = {"person-max": 1, "smooth": 3}  # of a person's faces the mean, or the highest of three
FAKE_WEIGHT = 1.4  # of the fakes' loss in selection_loss: missed fakes cost most in the challenge


class VideoScore(NamedTuple):
    """A video's probability of being fake, and the rule that made it from the faces' scores."""

    score: float
    rule: str


def confident_score(scores: Sequence[float] | np.ndarray) -> VideoScore:
    """The winners' rule, to the letter, with its absolute count that was tuned on 32 frames.

    More than 11 and more than n // 2.5 scores above the threshold: their mean ("fake"); else more than 0.9 n
    below 0.2: their mean ("real"); else the mean of all ("mean"). Source: the DFDC winning solution's
    confident_strategy.
    """
    values = checked_scores(scores)
    count = len(values)
    sure_fake, sure_real = values > FAKE_ABOVE, values < REAL_BELOW
    if sure_fake.sum() > 11 and sure_fake.sum() > count // 2.5:
        return VideoScore(float(values[sure_fake].mean()), "fake")
    if sure_real.sum() > 0.9 * count:
        return VideoScore(float(values[sure_real].mean()), "real")
    return VideoScore(float(values.mean()), "mean")


def person_max_score(scores: Sequence[float] | np.ndarray, people: Sequence[int] | np.ndarray) -> VideoScore:
    """The most suspicious person's mean; who is seen seldom counts in part, passers-by do not (`_most_suspicious`)."""
    score, person = _most_suspicious(checked_scores(scores), np.asarray(people), _DRAWS["person-max"])
    return VideoScore(score, f"person {person}")


def smooth_score(scores: Sequence[float] | np.ndarray, people: Sequence[int] | np.ndarray) -> VideoScore:
    """As `person_max_score`, but a person's high scores weigh more than the low ones.

    Three faces of a person are drawn at random, with putting back; the person's score is the highest of the three, on
    average over all draws. A single face of n moves that by 3 / n at most.
    """
    score, _ = _most_suspicious(checked_scores(scores), np.asarray(people), _DRAWS["smooth"])
    return VideoScore(score, "smooth")


def _most_suspicious(values: np.ndarray, numbers: np.ndarray, draws: int) -> tuple[float, int]:
    """A score for all persons together, and the number of the person with the largest share in it.

    A person's score s is the mean of the highest of `draws` faces. Its weight c grows evenly from 0, for a tenth of
    the faces of the person seen most, to 1 for four tenths. The video's score is the highest c s + (1 - c) d t that
    two persons give, where d and t are the other one's weight and score: who counts in part leaves the rest to one
    other. With a weight of 1, the most suspicious person decides alone.

    One more face, one less or one other score changes this by at most 10/3 / n (draws = 1) or 7.5 / n (draws = 3), n
    being the faces of the person seen most, whatever the number of persons: tests/test_scoring.py says why.
    """
    order = np.lexsort((values, numbers))
    persons, first, counts = np.unique(numbers[order], return_index=True, return_counts=True)
    size = np.repeat(counts, counts)
    below = (np.arange(len(values)) - np.repeat(first, counts)) / size  # share of the person's faces that score less
    chance = (below + 1 / size) ** draws - below**draws  # of being the highest
    highest = np.add.reduceat(chance * values[order], first)
    weight = _weights(counts)
    part = weight * highest
    # The best other for each: the highest part, or for the person who has that, the second highest.
    ranked = np.argsort(part)[::-1]
    other = np.where(np.arange(len(persons)) == ranked[0], ranked[min(1, len(ranked) - 1)], ranked[0])
    scores = part + (1 - weight) * part[other]
    best = int(np.argmax(scores))
    rest = (1 - weight[best]) * weight[other[best]]
    named = best if weight[best] >= rest else other[best]
    # Sums of floats may pass the faces' own scores by a rounding.
    return float(np.clip(scores[best], values.min(), values.max())), int(persons[named])


def _weights(counts: np.ndarray) -> np.ndarray:
    """How much persons with so many faces count, 0..1, [persons]: how often they are seen beside the one seen most."""
    return np.clip((counts / counts.max() - PASSER_BY) / (MAIN_PERSON - PASSER_BY), 0, 1)


def person_weights(people: Sequence[int] | np.ndarray) -> dict[int, float]:
    """Person number -> how much the person counts for `person-max` and `smooth`, 0..1; of each face's number, [n]."""
    persons, counts = np.unique(np.asarray(people), return_counts=True)
    return {int(person): float(weight) for person, weight in zip(persons, _weights(counts), strict=True)}


def deciding_person(strategy: str, scores: np.ndarray, people: np.ndarray) -> int | None:
    """The person with the largest share in a video's score; None for a `strategy` (by name) that asks all faces."""
    draws = _DRAWS.get(strategy)
    return None if draws is None else _most_suspicious(checked_scores(scores), np.asarray(people), draws)[1]


def photo_score(scores: Sequence[float] | np.ndarray, detector_scores: Sequence[float] | np.ndarray) -> VideoScore:
    """The most suspicious face of a picture; doubtful detections count only where none is sure.

    `detector_scores`: the detector's probability that it is a face, [n]; sure from SURE_FACE on.
    """
    return VideoScore(float(checked_scores(scores)[faces_that_count(detector_scores)].max()), "photo")


def faces_that_count(detector_scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """Which faces of a photo count, bool [n]: those that the detector is sure of, or all where it is sure of none."""
    sure = np.asarray(detector_scores, np.float64) >= SURE_FACE
    return sure if sure.any() else ~sure


Strategy = Callable[[np.ndarray, np.ndarray], VideoScore]  # of scores and people
# What each gives in five cases is in the table of docs/scoring.md, which tests/test_scoring.py computes.
STRATEGIES: dict[str, Strategy] = {
    "confident": lambda scores, people: confident_score(scores),
    "mean": lambda scores, people: VideoScore(float(checked_scores(scores).mean()), "mean"),
    "person-max": person_max_score,
    "smooth": smooth_score,
}


def hinge(strategy: Strategy, scores: np.ndarray, people: np.ndarray) -> float:
    """The most by which a video's score changes if one of its faces is left out, or counted twice; 0 for one face."""
    scores, people = checked_scores(scores), np.asarray(people)
    if len(scores) == 1:
        return 0.0
    score, every = strategy(scores, people).score, np.arange(len(scores))
    changed = [kept for face in _extremes(scores, people) for kept in (np.delete(every, face), np.append(every, face))]
    return max(abs(strategy(scores[kept], people[kept]).score - score) for kept in changed)


def _extremes(scores: np.ndarray, people: np.ndarray) -> set[int]:
    """Indices of the lowest and the highest face of each person, and of each band of the winners' rule."""
    # Every strategy grows with each score, and `confident` counts by bands: no other face makes a larger difference.
    bands = (scores >= REAL_BELOW).astype(int) + (scores > FAKE_ABOVE)
    found: set[int] = set()
    for groups in (people, bands):
        order = np.lexsort((scores, groups))
        ends = np.flatnonzero(np.diff(groups[order])) + 1
        found.update(order[[0, *ends]].tolist(), order[[*(ends - 1), len(order) - 1]].tolist())
    return found


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
    """Mean binary cross entropy for labels 0 (real) and 1 (fake), [n], scores clipped to eps..1 - eps; nan for none."""
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
