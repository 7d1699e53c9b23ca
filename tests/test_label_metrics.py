"""Metrics of scores with labels (dfdc/label_metrics.py)."""

import numpy as np
import pytest
from sklearn import metrics as reference

from dfdc.label_metrics import metrics


def test_metrics_are_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    scores = np.clip(rng.normal(0.35 + 0.3 * labels, 0.2), 0, 1).round(2)
    found = metrics(labels, scores)
    clipped = np.clip(scores, 1e-15, 1 - 1e-15)
    assert found["log_loss"] == pytest.approx(reference.log_loss(labels, clipped))
    assert found["auc"] == pytest.approx(reference.roc_auc_score(labels, scores))
    assert found["average_precision"] == pytest.approx(reference.average_precision_score(labels, scores))
    assert found["accuracy"] == pytest.approx(np.mean((scores > 0.5) == labels))
    halves = [reference.log_loss(labels[labels == k], clipped[labels == k], labels=[0, 1]) for k in (0, 1)]
    assert found["log_loss_balanced"] == pytest.approx(np.mean(halves))
    assert (found["count"], found["fakes"], found["reals"]) == (200, labels.sum(), 200 - labels.sum())


@pytest.mark.parametrize(
    ("labels", "scores", "rate"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 0.0),
        ([0, 0, 1, 1], [0.8, 0.9, 0.1, 0.2], 1.0),
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], 0.5),
        ([0, 1], [0.5, 0.5], 0.5),
    ],
)
def test_equal_error_rate(labels, scores, rate):
    assert metrics(labels, scores)["equal_error_rate"] == pytest.approx(rate)


def test_t43_one_class_gives_the_metrics_that_exist():
    found = metrics([1, 1], [0.9, 0.6])
    assert "auc" not in found
    assert "log_loss_real" not in found
    assert found["log_loss_fake"] == pytest.approx(-(np.log(0.9) + np.log(0.6)) / 2)
    with pytest.raises(ValueError, match="equally many labels and scores"):
        metrics([], [])
