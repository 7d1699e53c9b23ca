"""Render the face swaps of the demo dataset with several generators, without file access.

A swap blends another person's face into the frames of a scene. It leaves the artifacts of real face swaps: slightly
different colours, resampling, a blending edge, and jitter. demo_faces.py defines the coordinate spaces and units.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from demo_data.demo_faces import CANVAS, EYE_DISTANCE, EYES, Person, Scene, displacement, frames, sample

# name -> description. Training parts don't use the last one, so tests can measure detection of an unseen generator.
GENERATORS = {
    "autoencoder": "the whole face of another person at low resolution, with a checkerboard pattern, soft edge",
    "paste": "the inner face of another person as an unfiltered texture, half-matched colours, hard edge, more jitter",
    "lipsync": "the lower face of the same person, drawn again with another mouth movement at low resolution",
    "pyramid": "the whole face of another person at low resolution, blended per frequency band, without an edge",
}
HELD_OUT = "pyramid"


def swapped_frames(scene: Scene, donor: Person, generator: str, seed: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield the frames of `scene` with the face of the donor, each uint8 [h, w, 3].

    Pixels outside the blended region equal those of the original frame.
    """
    if generator not in GENERATORS:
        raise ValueError(f"unknown generator {generator!r}; choose from {', '.join(GENERATORS)}")
    rng = np.random.default_rng(seed)
    person = scene.person
    # Align the landmarks on the canvas by least squares: person -> donor.
    corners = np.hstack([person.points, np.ones((5, 1), np.float32)])
    align = np.linalg.lstsq(corners, donor.points, rcond=None)[0].T  # [2, 3]
    align[:, 2] += rng.uniform(-1.5, 1.5, 2)  # imperfect alignment
    mask = _face_mask(person.points, generator)
    tint = rng.choice([-1, 1]) * rng.uniform(12, 20) + rng.uniform(-12, 12, 3)
    matched = rng.uniform(0.5, 0.75) if generator == "paste" else rng.uniform(0.7, 0.95)
    pixels = rng.uniform(20, 28)  # resolution of the generator across the face
    checker = rng.uniform(6, 9)
    texel = rng.uniform(2.7, 3.5)  # canvas pixels
    wobble = {"paste": 1.3, "lipsync": 0.6}.get(generator, 0.9)
    phase = rng.uniform(0, 2 * np.pi, 2)
    drift = np.zeros(3)
    for index, (frame, where) in enumerate(frames(scene)):
        step = np.random.default_rng((*seed, 1, index)).standard_normal(3)
        drift = 0.6 * drift + 0.8 * wobble * step * (1, 1, 0.012)  # x and y in canvas pixels, and rotation
        weight = sample(mask, where, cv2.BORDER_CONSTANT)
        top, bottom, left, right = _region(weight, margin=12)
        there = where[top:bottom, left:right]
        if generator == "lipsync":
            talk = 0.09 * np.sin(2 * np.pi * np.array([2.1, 3.3]) * index / 25 + phase).sum()
            mouth = person.points[3:].mean(axis=0)
            chin = mouth + np.array([0, 0.3 * EYE_DISTANCE], np.float32)
            moves = [(chin, 0.45, (0, talk)), (mouth, 0.7, (0, 0.4 * talk))]
            there = there - displacement(there.reshape(-1, 2), moves).reshape(there.shape)
        cos, sin = np.cos(drift[2]), np.sin(drift[2])
        jitter = np.array([[cos, -sin], [sin, cos]])
        there = (there - EYES) @ jitter.T + EYES + drift[:2]
        if generator == "paste":
            there = (np.floor(there / texel) + 0.5) * texel
        there = (there @ align[:, :2].T + align[:, 2]).astype(np.float32)
        face = sample(donor.texture[..., :3], there, cv2.BORDER_REPLICATE)
        face = face.astype(np.float32)
        below = frame[top:bottom, left:right].astype(np.float32)
        weight = weight[top:bottom, left:right, None]
        face = _match_colours(face, below, weight, matched) + tint.astype(np.float32)
        if generator != "paste":
            ratio = pixels / (2 * EYE_DISTANCE * scene.rest.scale)  # a face is about two eyes wide
            face = _resample(face, ratio, checker)
        if generator == "pyramid":
            mixed = _blend_bands(face, below, weight)
            touched = np.clip(6 * weight, 0, 1)  # the low bands reach far; leave the rest of the frame unchanged
            mixed = below + touched * (mixed - below)
        else:
            mixed = below + weight * (face - below)
        out = frame.copy()
        out[top:bottom, left:right] = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
        yield out


def _face_mask(points: np.ndarray, generator: str) -> np.ndarray:
    """Return the blending mask of a generator: float32 [CANVAS, CANVAS], 0..1, exactly 0 away from the face."""
    down = points[3:].mean(axis=0) - EYES
    right = np.array([EYE_DISTANCE, 0], np.float32)
    # Right half of the outline: x in eye distances, y in eye-to-mouth distances. Brow, temple, cheek, jaw, chin.
    half = [(0.45, -0.5), (0.82, -0.4), (0.92, 0.1), (0.9, 0.6), (0.78, 1.1), (0.5, 1.5), (0.15, 1.7)]
    soft = 4.0  # canvas pixels
    if generator == "paste":
        half, soft = [(0.4, -0.42), (0.74, -0.36), (0.82, 0.1), (0.78, 0.7), (0.62, 1.25), (0.25, 1.5)], 1.0
    elif generator == "lipsync":
        half, soft = [(0.12, 0.5), (0.5, 0.42), (0.8, 0.7), (0.78, 1.1), (0.55, 1.5), (0.15, 1.72)], 3.5
    outline = np.array([(x, y) for x, y in half] + [(-x, y) for x, y in half[::-1]], np.float32)
    polygon = EYES + outline[:, :1] * right + outline[:, 1:] * down
    mask = np.zeros((CANVAS, CANVAS), np.float32)
    cv2.fillPoly(mask, [np.round(polygon * 16).astype(np.int32)], 1.0, cv2.LINE_8, 4)
    mask = cv2.GaussianBlur(mask, (0, 0), soft)
    return np.clip(1.04 * mask - 0.02, 0, 1)


def _region(weight: np.ndarray, margin: int) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right of the area with weight [h, w] above 0, plus a margin, within the frame."""
    rows, columns = np.flatnonzero(weight.any(axis=1)), np.flatnonzero(weight.any(axis=0))
    h, w = weight.shape
    top, left = (max(int(found[0]) - margin, 0) for found in (rows, columns))
    return top, min(int(rows[-1]) + margin, h), left, min(int(columns[-1]) + margin, w)


def _match_colours(face: np.ndarray, below: np.ndarray, weight: np.ndarray, amount: float) -> np.ndarray:
    """Move mean and spread of each channel of `face` [h, w, 3] towards those of `below`, where weight is high."""
    inside = weight[..., 0] > 0.5
    mean, spread = face[inside].mean(axis=0), face[inside].std(axis=0) + 1e-3
    mean_to, spread_to = below[inside].mean(axis=0), below[inside].std(axis=0)
    gain = 1 + amount * (spread_to / spread - 1)
    return (face - mean) * gain + mean + amount * (mean_to - mean)


def _resample(face: np.ndarray, ratio: float, checker: float) -> np.ndarray:
    """Reduce `face` to `ratio` times its resolution and back; add a checkerboard of amplitude `checker` (0..255)."""
    h, w = face.shape[:2]
    small = cv2.resize(face, (max(int(w * ratio), 4), max(int(h * ratio), 4)), interpolation=cv2.INTER_AREA)
    # Transposed convolutions leave such a checkerboard.
    rows, columns = np.indices(small.shape[:2])
    small += (checker * (1 - 2 * ((rows + columns) % 2)))[..., None].astype(np.float32)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)


def _blend_bands(face: np.ndarray, below: np.ndarray, weight: np.ndarray, levels: int = 3) -> np.ndarray:
    """Blend each frequency band with its own mask softness (a full-size Laplacian stack)."""
    mixed = np.zeros_like(below)
    for level in range(levels):
        sigma = 2.0 ** (level + 1)
        face_soft, below_soft = cv2.GaussianBlur(face, (0, 0), sigma), cv2.GaussianBlur(below, (0, 0), sigma)
        part = weight if level == 0 else cv2.GaussianBlur(weight, (0, 0), sigma)[..., None]
        mixed += part * (face - face_soft) + (1 - part) * (below - below_soft)
        face, below = face_soft, below_soft
    part = cv2.GaussianBlur(weight, (0, 0), 2.0 ** (levels + 1))[..., None]
    return mixed + part * face + (1 - part) * below
