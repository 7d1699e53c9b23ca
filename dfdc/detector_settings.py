"""Settings of the face detector: thresholds by use, and the scale of a frame before detection. Needs no PyTorch."""

from __future__ import annotations

# Thresholds of MTCNN's three stages by use, as in the winners' solution.
DETECT_THRESHOLDS = (0.85, 0.95, 0.95)  # boxes of real videos: only confident detections become training data
LANDMARK_THRESHOLDS = (0.65, 0.75, 0.75)  # five points in crops, which are known to contain a face
PREDICT_THRESHOLDS = (0.7, 0.8, 0.8)  # scoring: a missed face is worse than an uncertain detection

# (maximum longer side in pixels, factor): the rule of `--detector-scale auto`, from the winners' solution.
SCALE_LIMITS = ((299, 2.0), (1000, 1.0), (None, 0.5))

MIN_FACE = 20  # pixels; an image with a shorter side has no pyramid level
PYRAMID_FACTOR = 0.709  # scale between adjacent pyramid levels
# NMS thresholds: within a pyramid level, across levels, after the second stage, and at the end. The first three are
# IoU; the last is intersection over the area of the smaller box.
STEP_NMS, PYRAMID_NMS, SECOND_NMS, LAST_NMS = 0.5, 0.7, 0.7, 0.7
# Everything besides the thresholds that affects the boxes; stored in the stamps of artifacts made from them.
DETECTOR_SETTINGS = {
    "weights": "facenet-pytorch 2.6.0",
    "smallest_face": MIN_FACE,
    "pyramid_factor": PYRAMID_FACTOR,
    "nms": [STEP_NMS, PYRAMID_NMS, SECOND_NMS, LAST_NMS],
}


def detector_scale(setting: str | float, width: int, height: int) -> float:
    """The factor by which a frame is resized before detection: `setting`, or for "auto" by SCALE_LIMITS."""
    if setting != "auto":
        return float(setting)
    longer = max(width, height)
    return next(factor for limit, factor in SCALE_LIMITS if limit is None or longer <= limit)
