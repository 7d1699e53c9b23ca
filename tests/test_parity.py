"""How far two forms of a network differ (networks/parity.py)."""

import numpy as np
import pytest

from networks.parity import Difference, difference, in_two_batches


def logits(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("original", "other", "probability", "logit"),
    [
        (logits(0, 2), logits(0, 2), 0, 0),
        (logits(0, 2), logits(0.5, 2), 1 / (1 + np.exp(-0.5)) - 0.5, 0.5),
        (logits(0.25, 0), logits(0, 0), 1 / (1 + np.exp(-0.25)) - 0.5, 0.25),  # not relative below 1
        (logits(1000, 0), logits(900, 0), 0, 0.1),  # the probability is 1 whatever went wrong
        (logits(-1000, 0), logits(-900, 0), 0, 0.1),
        (logits(50, 0), logits(-50, 0), 1, 2),
        (logits(1, 0, 4), logits(0.75, 0.125, 2), 1 / (1 + np.exp(-4)) - 1 / (1 + np.exp(-2)), 0.5),
    ],
)
def test_the_largest_differences_of_both_kinds(original, other, probability, logit):
    found = difference(original, other)
    assert found == pytest.approx((probability, logit), abs=1e-7)
    assert (type(found.probability), type(found.logit)) == (float, float)


@pytest.mark.parametrize(
    ("found", "within"),
    [
        ((0.1, 0.2), True),
        ((0, 0), True),
        ((0.11, 0.2), False),
        ((0.1, 0.21), False),
        ((float("nan"), 0), False),
        ((0, float("nan")), False),
    ],
)
def test_both_have_their_bound_and_nan_is_never_within(found, within):
    assert Difference(*found).within(Difference(0.1, 0.2)) is within


def test_a_network_that_gives_nan_differs():
    found = difference(logits(0, 1), logits(0, float("nan")))
    assert not found.within(Difference(1, float("inf")))


def test_one_image_is_alone_and_the_others_are_a_batch():
    seen, images = [], np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)

    def network(batch):
        seen.append(len(batch))
        return batch[:, 0, 0, 0].astype(np.float32)

    assert in_two_batches(network, images).tolist() == [0, 1, 2, 3, 4]
    assert seen == [1, 4]
