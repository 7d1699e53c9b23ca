"""Numbers of a run: means that stay on the device during an epoch, and the metrics of a validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from dfdc import scoring

if TYPE_CHECKING:
    import pandas as pd


class LossMeter:
    """Mean fake and real loss of an epoch, and the first step whose loss was not finite, without a synchronize."""

    def __init__(self, device: str) -> None:
        self.totals = torch.zeros(4, dtype=torch.float64, device=device)  # sums and counts of fakes and reals
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=device)

    def add(self, step: int, sums: torch.Tensor, counts: torch.Tensor) -> None:
        """Add one step's `class_sums` and `class_counts`."""
        bad = ~torch.isfinite(sums.detach()).all() & (self._bad_step < 0)
        self._bad_step = torch.where(bad, step, self._bad_step)
        self.totals += torch.cat([sums.detach(), counts]).double()

    def bad_step(self) -> int | None:
        """The first step with a non-finite loss, or None. Waits for the device."""
        step = int(self._bad_step.item())
        return None if step < 0 else step

    def means(self, totals: torch.Tensor) -> dict[str, float]:
        """train_fake, train_real and train_loss from totals that were summed over the ranks."""
        fake, real, fakes, reals = totals.tolist()
        result = {}
        if fakes:
            result["train_fake"] = fake / fakes
        if reals:
            result["train_real"] = real / reals
        if result:
            result["train_loss"] = sum(result.values()) / len(result)
        return result


def validation_metrics(table: pd.DataFrame, rows: np.ndarray, scores: np.ndarray) -> dict[str, dict[str, float]]:
    """Metrics per frame and per video.

    Args:
        table: the held-out rows.
        rows: row numbers that were scored, each at most once (broken crops are not), [n].
        scores: probability of fake, [n].

    Returns:
        {"frame": ..., "video": ..., "video_confident": ...} as `dfdc.scoring.metrics` gives them; a video's score
        is the mean of its frames', or what the winners' `confident` rule makes of them.
    """
    scored = table.iloc[rows][["video", "label"]].assign(score=scores)
    grouped = scored.groupby("video", observed=True)
    videos = grouped.agg(label=("label", "first"), score=("score", "mean"))
    confident = [scoring.confident_score(frames.to_numpy()).score for _, frames in grouped["score"]]
    return {
        "frame": scoring.metrics(scored["label"].to_numpy(), scored["score"].to_numpy()),
        "video": scoring.metrics(videos["label"].to_numpy(), videos["score"].to_numpy()),
        "video_confident": scoring.metrics(videos["label"].to_numpy(), confident),
    }
