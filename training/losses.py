"""The loss of a batch: computed separately for fake and real, then averaged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def bce(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of each sample: logits, targets [n] -> [n]."""
    return binary_cross_entropy_with_logits(logits, targets, reduction="none")


def focal(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Focal loss of each sample with the winners' gamma of 3: logits, targets [n] -> [n].

    Lin et al. 2017 (ICCV), equation 4, with p_t = exp(-binary cross entropy), also for smoothed targets.
    """
    entropy = bce(logits, targets)
    return (1 - torch.exp(-entropy)) ** 3 * entropy


CRITERIA: dict[str, Criterion] = {"bce": bce, "focal": focal}


def class_sums(
    logits: torch.Tensor,
    labels: torch.Tensor,
    valid: torch.Tensor,
    criterion: Criterion,
    smoothing: float,
    hardest: int = 0,
) -> torch.Tensor:
    """Sum of the losses of fakes and of reals: tensor [2], in this order.

    Args:
        logits: [n], of any type; the loss is computed in float32.
        labels: [n], 0.0 or 1.0.
        valid: bool [n]; the loss of other samples is 0.
        smoothing: targets are clamped to [smoothing, 1 - smoothing], as the winners did.
        hardest: use only this many samples of each class, those with the largest loss; 0: all. (Online hard example
            mining, Shrivastava et al. 2016, CVPR.)
    """
    losses = criterion(logits.float(), labels.clamp(smoothing, 1 - smoothing)) * valid
    sums = []
    for members in (labels * valid, (1 - labels) * valid):
        own = losses * members
        if 0 < hardest < len(own):
            own = own.topk(hardest).values  # others are 0, so a smaller class keeps all of its losses
        sums.append(own.sum())
    return torch.stack(sums)


def class_counts(labels: torch.Tensor, valid: torch.Tensor, hardest: int = 0) -> torch.Tensor:
    """Number of fakes and reals that enter `class_sums`: float tensor [2]."""
    counts = torch.stack([(valid * labels).sum(), (valid * (1 - labels)).sum()])
    return counts.clamp(max=hardest) if hardest else counts


def combine(sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Mean of the two classes' mean losses, a scalar.

    If a class is missing, the result is the full mean of the other, not half of it. If both are missing, the result is
    a 0 with gradients, so that no rank waits for another's backward pass.

    Args:
        sums: [2] from `class_sums`, of this rank's part of the batch.
        counts: [2] of the whole batch, over all ranks and accumulated parts; the result does not depend on the split.
    """
    present = (counts > 0).sum().clamp(min=1)
    return (sums / counts.clamp(min=1)).sum() / present


def spread_not_finite(loss: torch.Tensor) -> torch.Tensor:
    """Turn all gradients of `loss` into NaN if it is not finite; the gradient reduction spreads them to all ranks.

    An infinite loss can have finite gradients: that of binary cross entropy is at most 1.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan)
