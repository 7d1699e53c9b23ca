"""Images of a face, to compare two forms of a network.

A network may amplify rounding a thousand times on patterns that it was not trained on. Two sound forms of it then
differ there, but not on faces. Hence these images are cut and resized like the faces of a video. All show one person:
the astronaut that scikit-image ships.
"""

from __future__ import annotations

import cv2
import numpy as np
import skimage.data

from dfdc.imaging import MARGIN_PART, crop_face, fit

_BOX = np.array([181, 62, 268, 172])  # x1, y1, x2, y2 in pixels of the portrait, as MTCNN detects it


def sample_faces(size: int) -> np.ndarray:
    """Crops of one face, which differ in margin, light, sharpness and resolution; two have an altered face.

    Args:
        size: side in pixels.

    Returns:
        RGB uint8 [13, size, size, 3], the same at each call.
    """
    portrait = skimage.data.astronaut()  # [512, 512, 3]
    mirrored, width = np.ascontiguousarray(portrait[:, ::-1]), portrait.shape[1]
    x1, y1, x2, y2 = _BOX
    mirrored_box = np.array([width - x2, y1, width - x1, y2])
    side_light = np.linspace(160, 40, width).astype(int)[:, None]
    soft = cv2.blur(portrait, (5, 5))
    # Like fakes: the inner face is coarse, or comes from the mirrored image.
    rows, left, right = slice(y1 + 25, y2 - 10), x1 + 12, x2 - 12
    coarse, swapped = portrait.copy(), portrait.copy()
    coarse[rows, left:right] = _shrink(portrait, 4).repeat(4, 0).repeat(4, 1)[rows, left:right]
    swapped[rows, left:right] = mirrored[rows, width - right : width - left]
    views = [  # frame, box of the face, N of the margin 1/N
        (portrait, _BOX, MARGIN_PART),
        (mirrored, mirrored_box, MARGIN_PART),
        (portrait, _BOX, 2),
        (portrait, _BOX, 8),
        (portrait[y1:], _BOX - [0, y1, 0, y1], MARGIN_PART),  # at the edge of the frame, so the crop is less tall
        (_light(portrait, 40), _BOX, MARGIN_PART),
        (_light(portrait, 140), _BOX, MARGIN_PART),
        (_light(mirrored, side_light), mirrored_box, MARGIN_PART),
        (_shrink(portrait, 2), _BOX / 2, MARGIN_PART),
        (_shrink(soft, 4), _BOX / 4, MARGIN_PART),
        (soft, _BOX, MARGIN_PART),
        (coarse, _BOX, MARGIN_PART),
        (swapped, _BOX, MARGIN_PART),
    ]
    crops = [crop_face(frame, box.tolist(), part) for frame, box, part in views]
    return np.stack([fit(crop, size) for crop in crops if crop is not None])


def _light(picture: np.ndarray, parts: int | np.ndarray) -> np.ndarray:
    """Multiply by `parts` / 100, clipped to 0..255."""
    return np.clip(picture.astype(int) * parts // 100, 0, 255).astype(np.uint8)


def _shrink(picture: np.ndarray, times: int) -> np.ndarray:
    """The means of `times` x `times` pixels, rounded down."""
    height, width = picture.shape[0] // times, picture.shape[1] // times
    blocks = picture[: height * times, : width * times].reshape(height, times, width, times, 3)
    return (blocks.sum((1, 3)) // times**2).astype(np.uint8)
