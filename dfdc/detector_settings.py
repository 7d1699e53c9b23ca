"""What the face detector is told: its thresholds by use, and how far a frame is resized first (without PyTorch)."""

from __future__ import annotations

# Thresholds of MTCNN's three stages by use, as in the winners' solution.
DETECT_THRESHOLDS = (0.85, 0.95, 0.95)  # boxes of real videos: only sure faces become training data
LANDMARK_THRESHOLDS = (0.65, 0.75, 0.75)  # five points in crops, which hold a face for certain
PREDICT_THRESHOLDS = (0.7, 0.8, 0.8)  # scoring: a missed face is worse than a doubtful one

# (longer side up to this many pixels, factor): what `--detector-scale auto` does, as the winners wrote it down.
SCALE_LIMITS = ((299, 2.0), (1000, 1.0), (None, 0.5))


def detector_scale(setting: str | float, width: int, height: int) -> float:
    """The factor by which a frame is resized before detection: `setting`, or for "auto" as SCALE_LIMITS has it."""
    if setting != "auto":
        return float(setting)
    longer = max(width, height)
    return next(factor for limit, factor in SCALE_LIMITS if limit is None or longer <= limit)
