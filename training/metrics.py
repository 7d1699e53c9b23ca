"""Metrics of a run: counters on the device during an epoch, and the metrics of a validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from dfdc import scoring
from dfdc.label_metrics import metrics
from training.records import Metrics


class EpochMeter:
    """Counters of an epoch over all ranks, kept on the device without synchronisation.

    To resume within an epoch, pass the result of `state()` as `state`.
    """

    _NAMES = (
        *("fake", "real", "fakes", "reals"),  # sums of the losses, and numbers of crops
        *("steps", "norm", "largest_norm"),  # completed steps, sum and maximum of their gradient norms
        *("skipped", "in_a_row", "most_in_a_row", "first_in_a_row"),  # skipped steps
        "broken",  # crops that could not be read
    )

    def __init__(self, device: str, state: dict[str, float] | None = None) -> None:
        start = dict.fromkeys(self._NAMES, 0.0) | {"first_in_a_row": -1.0} | (state or {})
        self._values = {name: torch.tensor(start[name], dtype=torch.float64, device=device) for name in self._NAMES}

    def add(
        self, step: int, sums: torch.Tensor, counts: torch.Tensor, norm: torch.Tensor, broken: torch.Tensor
    ) -> None:
        """Record a step.

        Args:
            step: its number within the epoch.
            sums, counts: `class_sums` and `class_counts` over all ranks, [2] each.
            norm: gradient norm, a scalar; not finite if the step was skipped.
            broken: number of unreadable crops over all ranks, a scalar.
        """
        skipped = ~torch.isfinite(norm)
        zero = torch.zeros((), dtype=torch.float64, device=norm.device)

        def taken(value: torch.Tensor) -> torch.Tensor:
            return torch.where(skipped, zero, value.detach().double())

        values = self._values
        for name, value in zip(("fake", "real", "fakes", "reals"), (*sums, *counts), strict=True):
            values[name] = values[name] + taken(value)
        values["steps"] = values["steps"] + ~skipped
        values["norm"] = values["norm"] + taken(norm)
        values["largest_norm"] = torch.maximum(values["largest_norm"], taken(norm))
        values["first_in_a_row"] = torch.where(skipped & (values["in_a_row"] == 0), step, values["first_in_a_row"])
        values["in_a_row"] = torch.where(skipped, values["in_a_row"] + 1, zero)
        values["most_in_a_row"] = torch.maximum(values["most_in_a_row"], values["in_a_row"])
        values["skipped"] = values["skipped"] + skipped
        values["broken"] = values["broken"] + broken

    def state(self) -> dict[str, float]:
        """All counters as plain numbers. Synchronises with the device once."""
        return dict(zip(self._NAMES, torch.stack([self._values[name] for name in self._NAMES]).tolist(), strict=True))


def epoch_means(state: dict[str, float]) -> dict[str, Any]:
    """Fields of an `EpochRecord` from `EpochMeter.state()`: losses of the classes present, norms, skipped items."""
    present = [name for name in ("fake", "real") if state[f"{name}s"]]
    means: dict[str, Any] = {f"train_{name}": state[name] / state[f"{name}s"] for name in present}
    if means:
        means["train_loss"] = sum(means.values()) / len(means)
    if state["steps"]:
        means |= {"gradient_norm": state["norm"] / state["steps"], "largest_gradient_norm": state["largest_norm"]}
    return means | {"skipped_steps": int(state["skipped"]), "broken_training_crops": int(state["broken"])}


def validation_metrics(table: pd.DataFrame, rows: np.ndarray, scores: np.ndarray) -> dict[str, Metrics]:
    """Compute metrics per frame and per video.

    Args:
        table: the held-out rows.
        rows: the scored row numbers, without repeats and without unreadable crops, [n].
        scores: probability of fake, [n].

    Returns:
        {"frame": ..., "video": ..., "video_confident": ...}, each from `dfdc.label_metrics.metrics`. A "video" score is
        the mean over its frames; a "video_confident" score uses the winners' `confident` rule.
    """
    scored = table.iloc[rows][["video", "label"]].assign(score=scores)
    grouped = scored.groupby("video", observed=True)
    videos = grouped.agg(label=("label", "first"), score=("score", "mean"))
    confident = [scoring.confident_score(frames.to_numpy()).score for _, frames in grouped["score"]]
    return {
        "frame": metrics(scored["label"].to_numpy(), scored["score"].to_numpy()),
        "video": metrics(videos["label"].to_numpy(), videos["score"].to_numpy()),
        "video_confident": metrics(videos["label"].to_numpy(), confident),
    }
