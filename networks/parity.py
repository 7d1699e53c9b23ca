"""Compares two forms of a network on images of a face."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import expit


class Difference(NamedTuple):
    """How far the results of two forms of a network differ.

    Logits are compared too, because a very confident network has the same probability, 0 or 1, whatever went wrong.

    Attributes:
        probability: largest difference of a probability.
        logit: largest difference of a logit, divided by max(|logit|, 1).
    """

    probability: float
    logit: float

    def within(self, most: Difference) -> bool:
        """Whether both differences are at most those of `most`; False for NaN."""
        return self.probability <= most.probability and self.logit <= most.logit


def difference(original: np.ndarray, other: np.ndarray) -> Difference:
    """Compare the logits of two networks, float [n] each."""
    probability = np.abs(expit(original.astype(np.float64)) - expit(other.astype(np.float64))).max()
    logit = (np.abs(original - other) / np.maximum(np.abs(original), 1)).max()
    return Difference(float(probability), float(logit))


def in_two_batches(logits: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """Logits of `images`: the first image alone, the others as a batch, to test both."""
    return np.concatenate([logits(images[:1]), logits(images[1:])])
