"""Parts of a face blacked out, so that the network does not rest its verdict on one of them.

After the winners' "cutout with a meaning": the eyes, the mouth or the nose by the five landmarks, half of the face,
or half of the picture. An occlusion never takes all changed pixels of a fake away, as it would then be a real
one with the wrong label: the same pixels are blacked out in the SSIM mask before that decides.
"""

from __future__ import annotations

import cv2
import numpy as np

from dfdc.imaging import shows_change
from training.config import OcclusionConfig

KINDS = tuple(OcclusionConfig.model_fields)
NEED_LANDMARKS = ("eyes", "mouth", "nose", "half_face")

# A face's outline, from the chin along the cheeks and over the forehead, in units of the distance between the
# eyes, with the middle of the eyes as origin and y towards the mouth; proportions of a mean adult face seen
# from the front (eyes half-way down the head, mouth at one eye distance below them).
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
    """Black out one thing, or nothing, in a picture and its mask alike.

    One draw decides which. Where it falls on a kind that needs landmarks and there are none, nothing happens; nor
    where no changed pixels of a fake would be left. (The winners drew another half of the picture there.)

    Args:
        picture: RGB uint8 [h, w, 3]; not written to.
        mask: uint8 [h, w], 255 * (1 - SSIM) for a fake; None for a real.
        landmarks: int [5, 2], x, y; None where there are none.

    Returns:
        the picture and the mask; the same objects where nothing happened.
    """
    kind = draw_kind(rng, shares)
    if kind is None or (landmarks is None and kind in NEED_LANDMARKS):
        return picture, mask
    visible = ~hidden_pixels(kind, picture.shape[0], picture.shape[1], landmarks, rng)
    if mask is not None:
        covered = mask * visible
        if shows_change(mask) and not shows_change(covered):
            return picture, mask  # what was forged would be gone
        mask = covered
    return picture * visible[..., None], mask


def draw_kind(rng: np.random.Generator, shares: OcclusionConfig) -> str | None:
    """One of KINDS with its share, or None with what is left."""
    limits = np.cumsum([getattr(shares, kind) for kind in KINDS])
    return (*KINDS, None)[np.searchsorted(limits, rng.random(), side="right")]


def hidden_pixels(
    kind: str, height: int, width: int, landmarks: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """bool [height, width]: what an occlusion of this kind, one of KINDS, blacks out.

    Args:
        landmarks: int [5, 2]: left eye, right eye, nose, left and right corner of the mouth; not None for
            NEED_LANDMARKS.
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
    """bool [height, width]: a line of 2 pixels from start to end (x, y), `grown` pixels wider to all sides.

    As the winners' binary_dilation by `grown` steps, each to the four neighbours, so that its ends are pointed.
    """
    line = np.zeros((height, width), np.uint8)
    cv2.line(line, start.astype(int).tolist(), end.astype(int).tolist(), 1, thickness=2)
    return cv2.dilate(line, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), iterations=int(grown)).astype(bool)


def face_outline(landmarks: np.ndarray) -> np.ndarray:
    """int32 [12, 2]: the outline of the face, the mean face laid onto eyes and mouth (least squares, affine)."""
    template = np.array([(-0.5, 0), (0.5, 0), (0, 0.6), (-0.4, 1.05), (0.4, 1.05), (0, 0)], np.float64)
    points = np.asarray(landmarks, np.float64)
    points = np.vstack([points, (points[0] + points[1]) / 2])
    system = np.hstack([template, np.ones((len(template), 1))])
    affine = np.linalg.lstsq(system, points)[0]
    outline = np.hstack([_OUTLINE, np.ones((len(_OUTLINE), 1), np.float32)]) @ affine
    return np.rint(outline).astype(np.int32)


def half_face(height: int, width: int, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool [height, width]: one side of the face's outline: left, right, above or below its centroid."""
    face = np.zeros((height, width), np.uint8)
    cv2.fillPoly(face, [face_outline(landmarks)], 1)
    moments = cv2.moments(face)
    area = moments["m00"] or 1.0  # 0 where the outline lies outside the picture
    left = np.arange(width) < int(moments["m10"] / area)
    upper = np.arange(height)[:, None] < int(moments["m01"] / area)
    return face.astype(bool) & (left, ~left, upper, ~upper)[rng.integers(4)]


def half_picture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """bool [height, width]: the left, right, upper or lower half, or two quadrants across from each other."""
    # Rows are counted by the height, columns by the width. (The winners' code took half the width for both.)
    left = np.broadcast_to(np.arange(width) < width // 2, (height, width))
    upper = np.broadcast_to(np.arange(height)[:, None] < height // 2, (height, width))
    return (left, ~left, upper, ~upper, left == upper, left != upper)[rng.integers(6)]


def random_half(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """bool [height, width]: one side of a line of any direction through the middle fifth of the picture."""
    angle = rng.uniform(0, 2 * np.pi)
    x, y = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.4, 0.6)
    rows, columns = np.mgrid[:height, :width]
    return (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle) > 0
