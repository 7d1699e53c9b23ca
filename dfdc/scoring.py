"""Strategies that combine face scores into a video score, and the losses that evaluate scores.

`scores` are probabilities of the faces, [n], and `people` the person number of each face, [n]. The strategies raise
ValueError if there are no scores or one is not a probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dfdc.detector_settings import DETECT_THRESHOLDS

FAKE_ABOVE, REAL_BELOW = 0.8, 0.2  # face scores that the winners' rule treats as confidently fake or real
# Number of faces, as a fraction of those of the most frequent person, up to which a person is ignored, ...
PASSER_BY = 0.1
MAIN_PERSON = 0.4  # ... and from which a person has full weight
SURE_FACE = DETECT_THRESHOLDS[-1]  # detector score from which a detection is confident
_DRAWS = {"person-max": 1, "smooth": 3}  # 1: mean of a person's faces; 3: expected maximum of three draws
FAKE_WEIGHT = 1.4  # weight of the fakes in selection_loss; missed fakes cost most in the challenge


class VideoScore(NamedTuple):
    """A video's probability of being fake, and the rule that computed it from the face scores."""

    score: float
    rule: str


def confident_score(scores: Sequence[float] | np.ndarray) -> VideoScore:
    """The winners' rule, unchanged, including its absolute count that was tuned on 32 frames.

    If more than 11 and more than n // 2.5 scores exceed 0.8, their mean ("fake"). Otherwise, if more than 0.9 n scores
    are below 0.2, their mean ("real"). Otherwise the mean of all ("mean"). Source: confident_strategy of the DFDC
    winning solution.
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
    """The mean score of the most suspicious person; rare persons have less weight or none (`_most_suspicious`)."""
    score, person = _most_suspicious(checked_scores(scores), np.asarray(people), _DRAWS["person-max"])
    return VideoScore(score, f"person {person}")


def smooth_score(scores: Sequence[float] | np.ndarray, people: Sequence[int] | np.ndarray) -> VideoScore:
    """As `person_max_score`, but a person's high scores have more weight than the low ones.

    A person's score is the expected maximum of three faces drawn at random with replacement. One face of n changes it
    by at most 3 / n.
    """
    score, _ = _most_suspicious(checked_scores(scores), np.asarray(people), _DRAWS["smooth"])
    return VideoScore(score, "smooth")


def _most_suspicious(values: np.ndarray, numbers: np.ndarray, draws: int) -> tuple[float, int]:
    """The video score over all persons, and the number of the person with the largest share in it.

    A person's score s is the expected maximum of `draws` faces, drawn with replacement. Its weight c grows linearly
    from 0, at 1/10 of the faces of the most frequent person, to 1 at 4/10. The video score is the maximum of
    c s + (1 - c) d t over pairs of persons. Here d and t are the other person's weight and score. If the most
    suspicious person has weight 1, this person decides alone.

    Adding, removing or changing one face changes the result by at most 10/3 / n (draws = 1) or 7.5 / n (draws = 3).
    Here n is the number of faces of the most frequent person. The number of persons does not matter; for the proof
    see tests/test_scoring.py.
    """
    order = np.lexsort((values, numbers))
    persons, first, counts = np.unique(numbers[order], return_index=True, return_counts=True)
    size = np.repeat(counts, counts)
    below = (
        np.arange(len(values)) - np.repeat(first, counts)
    ) / size  # fraction of the person's faces that score lower
    chance = (below + 1 / size) ** draws - below**draws  # probability of being the maximum
    highest = np.add.reduceat(chance * values[order], first)
    weight = _weights(counts)
    part = weight * highest
    # The best other person: the one with the highest part, or for that person the second highest.
    ranked = np.argsort(part)[::-1]
    other = np.where(np.arange(len(persons)) == ranked[0], ranked[min(1, len(ranked) - 1)], ranked[0])
    scores = part + (1 - weight) * part[other]
    best = int(np.argmax(scores))
    rest = (1 - weight[best]) * weight[other[best]]
    named = best if weight[best] >= rest else other[best]
    # Rounding may move the sum slightly outside the range of the face scores.
    return float(np.clip(scores[best], values.min(), values.max())), int(persons[named])


def _weights(counts: np.ndarray) -> np.ndarray:
    """Weights of persons, 0..1, [persons], from their face counts relative to the largest count."""
    return np.clip((counts / counts.max() - PASSER_BY) / (MAIN_PERSON - PASSER_BY), 0, 1)


def person_weights(people: Sequence[int] | np.ndarray) -> dict[int, float]:
    """Person number -> weight in `person-max` and `smooth`, 0..1; `people` is the person number of each face, [n]."""
    persons, counts = np.unique(np.asarray(people), return_counts=True)
    return {int(person): float(weight) for person, weight in zip(persons, _weights(counts), strict=True)}


def deciding_person(strategy: str, scores: np.ndarray, people: np.ndarray) -> int | None:
    """The person with the largest share in the video score; None if the named `strategy` ignores persons."""
    draws = _DRAWS.get(strategy)
    return None if draws is None else _most_suspicious(checked_scores(scores), np.asarray(people), draws)[1]


def photo_score(scores: Sequence[float] | np.ndarray, detector_scores: Sequence[float] | np.ndarray) -> VideoScore:
    """The highest face score of an image; uncertain detections count only if there is no confident one.

    `detector_scores`: the detector's probability of a face, [n]; confident from SURE_FACE.
    """
    return VideoScore(float(checked_scores(scores)[faces_that_count(detector_scores)].max()), "photo")


def faces_that_count(detector_scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """Which faces of a photo count, bool [n]: the confident detections, or all if there are none."""
    sure = np.asarray(detector_scores, np.float64) >= SURE_FACE
    return sure if sure.any() else ~sure


Strategy = Callable[[np.ndarray, np.ndarray], VideoScore]  # (scores, people) -> score
# docs/scoring.md has a table of their results in five cases, which tests/test_scoring.py computes.
STRATEGIES: dict[str, Strategy] = {
    "confident": lambda scores, people: confident_score(scores),
    "mean": lambda scores, people: VideoScore(float(checked_scores(scores).mean()), "mean"),
    "person-max": person_max_score,
    "smooth": smooth_score,
}


def hinge(strategy: Strategy, scores: np.ndarray, people: np.ndarray) -> float:
    """The largest change of the video score if one face is removed or counted twice; 0 for a single face."""
    scores, people = checked_scores(scores), np.asarray(people)
    if len(scores) == 1:
        return 0.0
    score, every = strategy(scores, people).score, np.arange(len(scores))
    changed = [kept for face in _extremes(scores, people) for kept in (np.delete(every, face), np.append(every, face))]
    return max(abs(strategy(scores[kept], people[kept]).score - score) for kept in changed)


def _extremes(scores: np.ndarray, people: np.ndarray) -> set[int]:
    """Indices of the lowest and highest face of each person, and of each score band of the winners' rule."""
    # Every strategy increases with each score, and `confident` counts by band, so no other face changes more.
    bands = (scores >= REAL_BELOW).astype(int) + (scores > FAKE_ABOVE)
    found: set[int] = set()
    for groups in (people, bands):
        order = np.lexsort((scores, groups))
        ends = np.flatnonzero(np.diff(groups[order])) + 1
        found.update(order[[0, *ends]].tolist(), order[[*(ends - 1), len(order) - 1]].tolist())
    return found


def checked_scores(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """`scores` as float64 [n]; ValueError if there are none or one is not in 0..1."""
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
    """The loss that selects the best epoch: (fake_weight * fake + real) / 2, lower is better.

    Source: checkpoint selection of the DFDC winners, with their weight.

    Args:
        fake: mean log loss of the held-out fake videos, in nats, 0 or more.
        real: the same for the real videos.
        fake_weight: weight of the fakes' loss relative to the reals'.
    """
    return (fake_weight * fake + real) / 2
