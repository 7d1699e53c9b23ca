"""A stand-in for the face detector."""

import numpy as np

from dfdc.faces import Faces


def faces_of(*boxes, score=0.97, points=None):
    count = len(boxes)
    landmarks = np.zeros((count, 5, 2), np.float32) if points is None else np.array([points] * count, np.float32)
    return Faces(np.array(boxes, np.float32).reshape(-1, 4), np.full(count, score, np.float32), landmarks)


class Detector:
    """Finds what `answer` says, picture by picture; keeps what it was asked."""

    def __init__(self, answer, batch=3):
        self.answer, self.batch, self.calls, self.sizes = answer, batch, [], []

    def batch_size(self, width, height, scale=1.0):
        self.sizes.append((width, height, scale))
        return self.batch

    def detect(self, pictures, scale=1.0, smallest=0.0):
        self.calls.append((len(pictures), scale, smallest))
        return [self.answer(picture) for picture in pictures]
