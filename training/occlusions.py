"""Black out parts of a face, so that the network does not depend on a single part.

The occlusions follow the winners' "cutout with a meaning". They cover the eyes, mouth or nose by the five landmarks,
half of the face, or half of the image. An occlusion never hides all changed pixels of a fake, because the label would
then be wrong. To check this, the same pixels are blacked out in the SSIM mask.
"""

from __future__ import annotations

import cv2
import numpy as np

from dfdc.imaging import shows_change
from training.config import OcclusionConfig

KINDS = tuple(OcclusionConfig.model_fields)
NEED_LANDMARKS = ("eyes", "mouth", "nose", "half_face")

# The outline of a face, from the chin along the cheeks and over the forehead. The unit is the distance between the
# eyes; the origin is the midpoint of the eyes, and y points towards the mouth. The proportions are those of a mean
# adult face seen from the front: eyes half-way down the head, mouth one eye distance below them.
_RIGHT_SIDE = [(0.5, 1.75), (0.9, 1.2), (1.05, 0.45), (1.0, -0.3), (0.7, -0.95)]
_LEFT_SIDE = [(-x, y) for x, y in reversed(_RIGHT_SIDE)]
_OUTLINE = np.array([(0.0, 1.95), *_RIGHT_SIDE, (0.0, -1.2), *_LEFT_SIDE], np.float32)


def occlude(
    picture: np.ndarray,
    mask: np.ndarray | None,
    landmarks: np.ndarray | None,
    rng: np.random.Generator,
    shares: OcclusionConfig,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Apply at most one random occlusion to both an image and its mask.

    The image stays unchanged if the drawn kind needs missing landmarks, or would hide all changes of a fake.
    (In the second case, the winners drew another half of the image.)

    Args:
        picture: RGB uint8 [h, w, 3]; not modified.
        mask: uint8 [h, w], 255 * (1 - SSIM) for a fake; None for a real.
        landmarks: int [5, 2], x, y; None if missing.

    Returns:
        the image and the mask; the same objects if nothing was occluded.
    """
    kind = draw_kind(rng, shares)
    if kind is None or (landmarks is None and kind in NEED_LANDMARKS):
        return picture, mask
    visible = ~hidden_pixels(kind, picture.shape[0], picture.shape[1], landmarks, rng)
    if mask is not None:
        covered = mask * visible
        if shows_change(mask) and not shows_change(covered):
            return picture, mask  # the occlusion would hide all changes
        mask = covered
    return picture * visible[..., None], mask


def draw_kind(rng: np.random.Generator, shares: OcclusionConfig) -> str | None:
    """Draw one of KINDS with the probability of its share, or None with the remaining probability."""
    limits = np.cumsum([getattr(shares, kind) for kind in KINDS])
    return (*KINDS, None)[np.searchsorted(limits, rng.random(), side="right")]


def hidden_pixels(
    kind: str, height: int, width: int, landmarks: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """bool [height, width]: the pixels that an occlusion of `kind`, one of KINDS, blacks out.

    Args:
        landmarks: int [5, 2]: left eye, right eye, nose, left and right corner of the mouth. The kinds of
            NEED_LANDMARKS require them.
    """
    if kind == "half_picture":
        return half_picture(height, width, rng)
    if kind == "random_half":
        return random_half(height, width, rng)
    assert landmarks is not None, kind
    if kind == "half_face":
        return half_face(height, width, landmarks, rng)
    left_eye, right_eye, nose, left_mouth, right_mouth = np.asarray(landmarks, np.float64)
    eye_distance = np.linalg.norm(right_eye - left_eye)
    if kind == "eyes":
        return stroke(height, width, left_eye, right_eye, eye_distance // 4)
    if kind == "nose":
        return stroke(height, width, nose, (left_eye + right_eye) / 2, eye_distance // 4)
    return stroke(height, width, left_mouth, right_mouth, np.linalg.norm(right_mouth - left_mouth) // 3)


def stroke(height: int, width: int, start: np.ndarray, end: np.ndarray, grown: float) -> np.ndarray:
    """bool [height, width]: a line from start to end (x, y), 2 pixels thick, dilated by `grown` pixels.

    Equals the winners' binary_dilation with `grown` iterations over the four neighbours, which gives pointed ends.
    """
    line = np.zeros((height, width), np.uint8)
    cv2.line(line, start.astype(int).tolist(), end.astype(int).tolist(), 1, thickness=2)
    return cv2.dilate(line, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), iterations=int(grown)).astype(bool)


def face_outline(landmarks: np.ndarray) -> np.ndarray:
    """int32 [12, 2]: the outline of the mean face, fitted to the landmarks by an affine least-squares transform."""
    template = np.array([(-0.5, 0), (0.5, 0), (0, 0.6), (-0.4, 1.05), (0.4, 1.05), (0, 0)], np.float64)
    points = np.asarray(landmarks, np.float64)
    points = np.vstack([points, (points[0] + points[1]) / 2])
    system = np.hstack([template, np.ones((len(template), 1))])
    affine = np.linalg.lstsq(system, points)[0]
    outline = np.hstack([_OUTLINE, np.ones((len(_OUTLINE), 1), np.float32)]) @ affine
    return np.rint(outline).astype(np.int32)


def half_face(height: int, width: int, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool [height, width]: a random half of the face's outline: left, right, above or below its centroid."""
    face = np.zeros((height, width), np.uint8)
    cv2.fillPoly(face, [face_outline(landmarks)], 1)
    moments = cv2.moments(face)
    area = moments["m00"] or 1.0  # 0 if the outline is outside the image
    left = np.arange(width) < int(moments["m10"] / area)
    upper = np.arange(height)[:, None] < int(moments["m01"] / area)
    return face.astype(bool) & (left, ~left, upper, ~upper)[rng.integers(4)]


def half_picture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """bool [height, width]: the left, right, upper or lower half, or two diagonally opposite quadrants."""
    # Half of the height for rows, half of the width for columns. (The winners' code used half of the width for both.)
    left = np.broadcast_to(np.arange(width) < width // 2, (height, width))
    upper = np.broadcast_to(np.arange(height)[:, None] < height // 2, (height, width))
    return (left, ~left, upper, ~upper, left == upper, left != upper)[rng.integers(6)]


def random_half(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """bool [height, width]: one side of a line in a random direction through the middle fifth of the image."""
    angle = rng.uniform(0, 2 * np.pi)
    x, y = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.4, 0.6)
    rows, columns = np.mgrid[:height, :width]
    return (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle) > 0
