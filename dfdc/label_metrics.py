"""Metrics of scores with known labels (scikit-learn)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from dfdc.scoring import log_loss


def metrics(labels: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray) -> dict[str, float | int]:
    """Metrics of `scores` for `labels`; metrics that need both classes are omitted if one is missing.

    Returns:
        count, reals, fakes, log_loss, log_loss_fake, log_loss_real, accuracy (at 0.5), and with both classes
        log_loss_balanced (mean of the two class losses), auc, average_precision, equal_error_rate.
    """
    y, p = np.asarray(labels).astype(int), np.asarray(scores, np.float64)
    if y.shape != p.shape or not len(y):
        raise ValueError(f"expected equally many labels and scores, at least one; got {y.size} and {p.size}")
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
        # The rate at which misses equal false alarms, interpolated between the two nearest points of the curve.
        gap = false_positive - (1 - true_positive)
        right = int(np.argmax(gap >= 0))
        left = max(right - 1, 0)
        span = gap[right] - gap[left]
        part = -gap[left] / span if span else 0.0
        result["equal_error_rate"] = float(false_positive[left] + part * (false_positive[right] - false_positive[left]))
    return result
