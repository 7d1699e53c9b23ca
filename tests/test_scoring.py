"""Scores and metrics (dfdc/scoring.py)."""

import numpy as np
import pytest
from sklearn import metrics as reference

from dfdc import scoring


def winners_rule(scores, t=0.8):
    """The published rule as its description says, for comparison."""
    n = len(scores)
    high = [s for s in scores if s > t]
    low = [s for s in scores if s < 0.2]
    if len(high) > n // 2.5 and len(high) > 11:
        return sum(high) / len(high)
    if len(low) > 0.9 * n:
        return sum(low) / len(low)
    return sum(scores) / n


def test_t8_confident_is_the_winners_rule_to_the_letter():
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 11, 12, 13, 28, 29, 30, 32, 64, 200):
        for fake in range(0, count + 1, max(1, count // 13)):
            scores = np.concatenate([rng.uniform(0.75, 1, fake), rng.uniform(0, 0.25, count - fake)])
            assert scoring.confident_score(scores).score == pytest.approx(winners_rule(scores.tolist()))


@pytest.mark.parametrize(
    ("scores", "rule"),
    [([0.9] * 13 + [0.1] * 18, "fake"), ([0.9] * 12 + [0.1] * 18, "mean"), ([0.9] * 11, "mean"), ([0.9] * 12, "fake"),
     ([0.1] * 30 + [0.9] * 2, "real"), ([0.1] * 29 + [0.9] * 3, "real"), ([0.1] * 28 + [0.9] * 4, "mean")],
)  # fmt: skip
def test_t7_the_rule_that_fired_is_told(scores, rule):
    assert scoring.confident_score(scores).rule == rule


def test_t7_three_fake_frames_of_32_are_dropped_by_the_winners_rule_and_that_shows():
    assert scoring.confident_score([0.1] * 29 + [0.99] * 3) == (pytest.approx(0.1), "real")


@pytest.mark.parametrize("value", [0.3, 0.95, 0.01])
def test_t2_one_face_is_enough(value):
    assert scoring.confident_score([value]).score == pytest.approx(value)
    assert scoring.confident_score(np.float32(value)).score == pytest.approx(value)


@pytest.mark.parametrize("scores", [[], [0.2, np.nan], [1.2], [-0.1]])
def test_t3_no_score_without_grounds(scores):
    with pytest.raises(ValueError, match="face scores"):
        scoring.confident_score(scores)


def test_metrics_are_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    scores = np.clip(rng.normal(0.35 + 0.3 * labels, 0.2), 0, 1).round(2)
    found = scoring.metrics(labels, scores)
    clipped = np.clip(scores, 1e-15, 1 - 1e-15)
    assert found["log_loss"] == pytest.approx(reference.log_loss(labels, clipped))
    assert found["auc"] == pytest.approx(reference.roc_auc_score(labels, scores))
    assert found["average_precision"] == pytest.approx(reference.average_precision_score(labels, scores))
    assert found["accuracy"] == pytest.approx(np.mean((scores > 0.5) == labels))
    halves = [reference.log_loss(labels[labels == k], clipped[labels == k], labels=[0, 1]) for k in (0, 1)]
    assert found["log_loss_balanced"] == pytest.approx(np.mean(halves))
    assert (found["count"], found["fakes"], found["reals"]) == (200, labels.sum(), 200 - labels.sum())


@pytest.mark.parametrize(
    ("fake", "real", "weight", "loss"),
    [(0.4, 0.2, 1.4, 0.38), (0.2, 0.5, 1.4, 0.39), (0.3, 0.7, 1, 0.5), (0.5, 0.25, 3, 0.875), (0, 0.5, 1.4, 0.25)],
)
def test_selection_loss_by_hand(fake, real, weight, loss):
    assert scoring.selection_loss(fake, real, weight) == pytest.approx(loss)
    if weight == 1.4:
        assert scoring.selection_loss(fake, real) == pytest.approx(loss), "the winners' weight of the fakes is 1.4"


@pytest.mark.parametrize(
    ("labels", "scores", "rate"),
    [([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 0.0), ([0, 0, 1, 1], [0.8, 0.9, 0.1, 0.2], 1.0),
     ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], 0.5), ([0, 1], [0.5, 0.5], 0.5)],
)  # fmt: skip
def test_equal_error_rate(labels, scores, rate):
    assert scoring.metrics(labels, scores)["equal_error_rate"] == pytest.approx(rate)


def test_t43_one_class_gives_the_metrics_that_exist():
    found = scoring.metrics([1, 1], [0.9, 0.6])
    assert "auc" not in found
    assert "log_loss_real" not in found
    assert found["log_loss_fake"] == pytest.approx(-(np.log(0.9) + np.log(0.6)) / 2)
    with pytest.raises(ValueError, match="as many labels as scores"):
        scoring.metrics([], [])


THREE_PEOPLE = np.r_[np.full(32, 0.9), np.full(64, 0.1)], np.repeat([0, 1, 2], 32)
FEW_FAKE_FACES = np.r_[np.full(3, 0.95), np.full(29, 0.1)], np.zeros(32, int)


@pytest.mark.parametrize(
    ("strategy", "three", "few"),
    [("confident", 0.367, 0.1), ("mean", 0.367, 0.18), ("person-max", 0.9, 0.18), ("smooth", 0.785, 0.306)],
)
def test_t6_t7_strategies_do_what_the_readme_says(strategy, three, few):
    rule = scoring.STRATEGIES[strategy]
    assert rule(*THREE_PEOPLE).score == pytest.approx(three, abs=1e-3)
    assert rule(*FEW_FAKE_FACES).score == pytest.approx(few, abs=1e-3)


@pytest.mark.parametrize("strategy", ["mean", "person-max", "smooth"])
def test_t8_strategies_but_confident_scale_with_the_number_of_faces(strategy):
    rule = scoring.STRATEGIES[strategy]
    for scores, people in (THREE_PEOPLE, FEW_FAKE_FACES):
        assert rule(np.tile(scores, 4), np.tile(people, 4)).score == pytest.approx(rule(scores, people).score)


def test_t7_smooth_has_no_cliff_and_passers_by_do_not_rule():
    scores = [
        scoring.smooth_score(np.r_[np.full(count, 0.95), np.full(32 - count, 0.1)], np.zeros(32)).score
        for count in range(33)
    ]
    assert max(np.diff(scores)) < 0.1
    assert min(np.diff(scores)) > 0
    people = np.r_[np.zeros(31, int), 1]
    assert scoring.person_max_score(np.r_[np.full(31, 0.1), 0.99], people).score == pytest.approx(0.1)
