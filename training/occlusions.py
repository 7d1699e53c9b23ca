"""Parts of a face blacked out, so that the network does not rest its verdict on one of them.

After the winners' "cutout with a meaning": an eye, the nose or the mouth by the five landmarks, half of the face,
or half of the picture. An occlusion never takes all changed pixels of a fake away, as it would then be a real
one with the wrong label: the same pixels are blacked out in the SSIM mask before that decides.
"""

from __future__ import annotations

import cv2
import numpy as np

from dfdc.imaging import shows_change

# How often each happens to a crop. One crop has one at most: the last two happen where neither of the first two did.
PART_PROBABILITY = 0.3  # eyes, nose or mouth
HALF_FACE_PROBABILITY = 0.2  # half of the face's outline, cut through the nose
HALF_PICTURE_PROBABILITY = 0.1  # left, right, upper, lower half or a quadrant
RANDOM_HALF_PROBABILITY = 0.1  # all on one side of a random line through the middle of the face

# A face's outline, from the chin along the cheeks and over the forehead, in units of the distance between the
# eyes, with the middle of the eyes as origin and y towards the mouth; proportions of a mean adult face seen
# from the front (eyes half-way down the head, mouth at one eye distance below them).
_OUTLINE = np.array(
    [(0.0, 1.95), (0.5, 1.75), (0.9, 1.2), (1.05, 0.45), (1.0, -0.3), (0.7, -0.95), (0.0, -1.2),
     (-0.7, -0.95), (-1.0, -0.3), (-1.05, 0.45), (-0.9, 1.2), (-0.5, 1.75)], np.float32)  # fmt: skip


def occlude(
    picture: np.ndarray, mask: np.ndarray | None, landmarks: np.ndarray | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """Black out something, or nothing, in a picture and its mask alike.

    Args:
        picture: RGB uint8 [h, w, 3]; not written to.
        mask: uint8 [h, w], 255 * (1 - SSIM) for a fake; None for a real.
        landmarks: int [5, 2], x, y; None where there are none.
        rng: decides.

    Returns:
        the picture and the mask; the same objects where nothing was blacked out.
    """
    height, width = picture.shape[:2]
    roll, half = rng.random(), rng.random()
    hidden = None
    if landmarks is not None and roll < PART_PROBABILITY:
        hidden = face_part(height, width, landmarks, rng)
    elif landmarks is not None and roll < PART_PROBABILITY + HALF_FACE_PROBABILITY:
        hidden = half_face(height, width, landmarks, rng)
    elif half < HALF_PICTURE_PROBABILITY:
        hidden = half_picture(height, width, rng)
    elif half < HALF_PICTURE_PROBABILITY + RANDOM_HALF_PROBABILITY:
        hidden = random_half(height, width, rng)
    if hidden is None:
        return picture, mask
    visible = ~hidden
    if mask is not None:
        covered = mask * visible
        if shows_change(mask) and not shows_change(covered):
            return picture, mask  # what was forged would be gone
        mask = covered
    return picture * visible[..., None], mask


def face_part(height: int, width: int, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool [height, width]: both eyes, the nose or the mouth, as thick strokes along the landmarks."""
    left_eye, right_eye, nose, left_mouth, right_mouth = np.asarray(landmarks, np.float64)
    unit = max(2.0, float(np.linalg.norm(right_eye - left_eye)))
    middle = (left_eye + right_eye) / 2
    strokes = (
        ((left_eye, right_eye), 0.55),
        ((middle + (nose - middle) * 0.35, nose), 0.6),
        ((left_mouth, right_mouth), 0.5),
    )
    (start, end), thickness = strokes[rng.integers(len(strokes))]
    hidden = np.zeros((height, width), np.uint8)
    points = [tuple(round(float(value)) for value in point) for point in (start, end)]
    cv2.line(hidden, points[0], points[1], 1, max(1, int(unit * thickness * rng.uniform(0.8, 1.2))))
    return hidden.astype(bool)


def face_outline(landmarks: np.ndarray) -> np.ndarray:
    """int32 [12, 2]: the outline of the face, the mean face laid onto eyes and mouth (least squares, affine)."""
    template = np.array([(-0.5, 0), (0.5, 0), (0, 0.6), (-0.4, 1.05), (0.4, 1.05), (0, 0)], np.float64)
    points = np.asarray(landmarks, np.float64)
    points = np.vstack([points, (points[0] + points[1]) / 2])
    system = np.hstack([template, np.ones((len(template), 1))])
    affine = np.linalg.lstsq(system, points, rcond=None)[0]
    outline = np.hstack([_OUTLINE, np.ones((len(_OUTLINE), 1), np.float32)]) @ affine
    return np.rint(outline).astype(np.int32)


def half_face(height: int, width: int, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool [height, width]: one side of the face's outline: left, right, above or below the nose."""
    outline = cv2.convexHull(face_outline(landmarks))
    hidden = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(hidden, outline, 1)
    nose = np.asarray(landmarks, np.float64)[2]
    rows, columns = np.mgrid[:height, :width]  # rows run over the height, columns over the width
    side = (columns < nose[0], columns >= nose[0], rows < nose[1], rows >= nose[1])[rng.integers(4)]
    return hidden.astype(bool) & side


def half_picture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """bool [height, width]: a half (left, right, upper, lower) or a quadrant of the picture."""
    top, left = (0, height // 2)[rng.integers(2)], (0, width // 2)[rng.integers(2)]
    rows, columns = slice(top, top + (height + 1) // 2), slice(left, left + (width + 1) // 2)
    shape = rng.integers(3)
    hidden = np.zeros((height, width), bool)
    hidden[rows if shape != 1 else slice(None), columns if shape != 0 else slice(None)] = True
    return hidden


def random_half(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """bool [height, width]: one side of a line of any direction through the middle fifth of the picture."""
    angle = rng.uniform(0, 2 * np.pi)
    x, y = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.4, 0.6)
    rows, columns = np.mgrid[:height, :width]
    return (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle) > 0
