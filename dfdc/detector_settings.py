"""What the face detector is told: its thresholds by use, and how far a frame is resized first (without PyTorch)."""

from __future__ import annotations

# Thresholds of MTCNN's three stages by use, as in the winners' solution.
DETECT_THRESHOLDS = (0.85, 0.95, 0.95)  # boxes of real videos: only sure faces become training data
LANDMARK_THRESHOLDS = (0.65, 0.75, 0.75)  # five points in crops, which hold a face for certain
PREDICT_THRESHOLDS = (0.7, 0.8, 0.8)  # scoring: a missed face is worse than a doubtful one

# (longer side up to this many pixels, factor): what `--detector-scale auto` does, as the winners wrote it down.
SCALE_LIMITS = ((299, 2.0), (1000, 1.0), (None, 0.5))

MIN_FACE = 20  # pixels; a picture with a shorter side has no step in its pyramid
PYRAMID_FACTOR = 0.709  # from one step of the pyramid to the next
# Overlaps (IoU) over which the less sure box goes: in one step of the pyramid, between steps, after the second stage;
# at the end it is the shared part of the smaller box.
STEP_NMS, PYRAMID_NMS, SECOND_NMS, LAST_NMS = 0.5, 0.7, 0.7, 0.7
# All that decides which boxes come out, besides the thresholds; for the stamps of what is made from them.
DETECTOR_SETTINGS = {
    "weights": "facenet-pytorch 2.6.0",
    "smallest_face": MIN_FACE,
    "pyramid_factor": PYRAMID_FACTOR,
    "nms": [STEP_NMS, PYRAMID_NMS, SECOND_NMS, LAST_NMS],
}


def detector_scale(setting: str | float, width: int, height: int) -> float:
    """The factor by which a frame is resized before detection: `setting`, or for "auto" as SCALE_LIMITS has it."""
    if setting != "auto":
        return float(setting)
    longer = max(width, height)
    return next(factor for limit, factor in SCALE_LIMITS if limit is None or longer <= limit)
