"""The runner for the CPU (dfdc/mtcnn_openvino.py): its networks are those of the runner with PyTorch."""

import numpy as np
import pytest
import torch

from dfdc.mtcnn_openvino import OpenVinoRunner
from dfdc.mtcnn_torch import TorchRunner


@pytest.fixture(scope="module")
def runners():
    return OpenVinoRunner(), TorchRunner("cpu")


def pictures(*shape):
    return np.random.default_rng(0).uniform(-1, 1, (*shape, 3)).astype(np.float32)


# Odd sides end in the middle of a pooling window; sides up to 128 are enlarged to a multiple of 16, or one less.
@pytest.mark.parametrize("size", [(12, 12), (13, 12), (15, 16), (17, 33), (47, 90), (127, 128), (130, 45), (131, 161)])
def test_every_place_of_the_proposal_network_is_pytorchs(runners, size):
    values = pictures(2, *size)
    ours = runners[0].propose(values, -np.inf)
    theirs = runners[1].propose(torch.from_numpy(values), -np.inf)
    assert ours == pytest.approx(theirs, abs=2e-5)
    assert len(ours) == 2 * np.prod([-((side - 2) // -2) - 4 for side in size])


def test_only_places_above_the_threshold_are_returned(runners):
    every, some = (runners[0].propose(pictures(1, 60, 80), least) for least in (-np.inf, -2.0))
    sure = every[:, 4] - every[:, 3] >= -2.0
    assert 0 < sure.sum() < len(every)
    assert np.array_equal(some, every[sure])


@pytest.mark.parametrize(("name", "side", "outputs"), [("rnet", 24, 6), ("onet", 48, 16)])
def test_the_other_networks_are_pytorchs(runners, name, side, outputs):
    values = pictures(5, side, side)
    ours = runners[0].judge(name, values)
    assert ours.shape == (5, outputs)
    assert ours == pytest.approx(runners[1].judge(name, torch.from_numpy(values)), abs=2e-5)
    runners[0].judge(name, values[::-1])
    assert ours == pytest.approx(runners[0].judge(name, values), abs=0)  # not overwritten by the next run


def test_an_array_in_another_order_gives_the_same(runners):
    """Its copy must live until the network has run."""
    values = pictures(64, 24, 24)
    assert runners[0].judge("rnet", np.asfortranarray(values)) == pytest.approx(runners[0].judge("rnet", values), abs=0)
