"""Render the people and videos of the demo dataset as arrays, without file access. Swaps are in demo_swaps.py.

One portrait yields many "people". The code warps the geometry around the five landmarks (wider jaw, longer nose, ...),
tints skin, hair and clothes, and changes light and background. The head then moves smoothly in front of a background,
and a simulated camera adds exposure, blur and noise.

All functions are pure: the same portrait, seed and index produce the same pixels.

*Canvas* means [CANVAS, CANVAS] pixels in which all portraits have the same eye position and eye distance. People are
textures on the canvas. *Frame* means the [height, width] pixels of the video. Points are x, y in pixels. Images are RGB
uint8 [h, w, 3] unless stated otherwise. Lengths "in eyes" are multiples of the distance between the eyes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

CANVAS = 512
EYES = np.array([256.0, 176.0], np.float32)  # canvas point between the eyes
EYE_DISTANCE = 48.0  # canvas pixels; an MTCNN face box is then about 98 x 124 pixels
NECK = EYES[1] + 2.3 * EYE_DISTANCE  # canvas y; above it the head moves, below it the body

# The five MTCNN landmarks of scikit-image's portrait: left eye, right eye, nose, left and right mouth corner, as seen
# in the image. They are constants because the portrait never changes.
ASTRONAUT_POINTS = ((204.7, 101.7), (246.9, 103.6), (225.9, 128.8), (202.4, 139.9), (245.0, 141.3))

# width, height: landscape, square and portrait.
SIZES = ((480, 320), (416, 320), (384, 288), (384, 384), (320, 416), (352, 464))


class Portrait(NamedTuple):
    """An image aligned to the canvas, with masks for recolouring."""

    image: np.ndarray  # uint8 [CANVAS, CANVAS, 3]
    points: np.ndarray  # float32 [5, 2]
    matte: np.ndarray  # float32 [CANVAS, CANVAS], 1 = person, 0 = background
    skin: np.ndarray  # float32 [CANVAS, CANVAS], 0..1; also hair and clothes
    hair: np.ndarray
    clothes: np.ndarray


class Person(NamedTuple):
    """An artificial person: a texture that the renderer moves."""

    texture: np.ndarray  # uint8 [CANVAS, CANVAS, 4], RGB and matte (0..255)
    points: np.ndarray  # float32 [5, 2]


class Pose(NamedTuple):
    """Position of the head and expression of the face in one frame."""

    x: float  # frame pixels; the point between the eyes
    y: float
    angle: float  # radians, clockwise on the screen
    scale: float  # frame pixels per canvas pixel
    yaw: float  # in eyes; sideways shift of the middle of the face, about -0.15..0.15
    pitch: float
    mouth: float  # in eyes; distance between the lips
    brow: float


# --- portraits ----------------------------------------------------------------------------------------------
def make_portrait(image: np.ndarray, points: np.ndarray) -> Portrait:
    """Align an image to the canvas and segment person, skin, hair and clothes.

    image: uint8 [h, w, 3]; points: float [5, 2], the five MTCNN landmarks in pixels of the image.
    """
    points = np.asarray(points, np.float32)
    axis = points[1] - points[0]
    zoom = EYE_DISTANCE / max(float(np.hypot(*axis)), 1.0)
    if zoom < 0.5:  # avoids aliasing of large images
        small = cv2.resize(image, None, fx=2 * zoom, fy=2 * zoom, interpolation=cv2.INTER_AREA)
        points = points * (np.array(small.shape[1::-1], np.float32) / np.array(image.shape[1::-1], np.float32))
        image, axis = small, points[1] - points[0]
        zoom = EYE_DISTANCE / float(np.hypot(*axis))
    turn = -float(np.arctan2(axis[1], axis[0]))
    linear = zoom * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shift = EYES - linear @ ((points[0] + points[1]) / 2)
    matrix = np.hstack([linear, shift[:, None]])
    canvas = cv2.warpAffine(image, matrix, (CANVAS, CANVAS), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    points = (points @ linear.T + shift).astype(np.float32)
    matte = _matte(canvas, points)
    return Portrait(canvas, points, matte, *_regions(canvas, points, matte))


def _in_eyes(points: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y relative to the eyes, in eyes: of all pixels (each [CANVAS, CANVAS]) or of points [n, 2]."""
    if points is None:
        rows, columns = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32)
    else:
        columns, rows = points[:, 0], points[:, 1]
    return (columns - EYES[0]) / EYE_DISTANCE, (rows - EYES[1]) / EYE_DISTANCE


def _matte(canvas: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Separate the person from the background: float32 [CANVAS, CANVAS], 0..1."""
    x, y = _in_eyes()
    mouth = float(points[3:, 1].mean() - EYES[1]) / EYE_DISTANCE
    chin = mouth + 0.95
    head = (x / 2.0) ** 2 + ((y - 0.1) / 2.25) ** 2 < 1
    shoulders = (y > chin) & (np.abs(x) < 1.2 + 1.5 * (y - chin))
    guess = np.full((CANVAS, CANVAS), cv2.GC_BGD, np.uint8)
    guess[(np.abs(x) < 2.6) & (y > -2.6) | (y > chin)] = cv2.GC_PR_BGD
    guess[head | shoulders] = cv2.GC_PR_FGD
    guess[(x / 0.9) ** 2 + ((y - 0.5) / 1.3) ** 2 < 1] = cv2.GC_FGD
    guess[(np.abs(x) < 0.6 + 0.7 * (y - chin)) & (y > chin)] = cv2.GC_FGD
    cv2.setRNGSeed(0)  # GrabCut uses k-means with random centres
    work = cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR)
    cv2.grabCut(work, guess, (0, 0, 0, 0), np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(guess, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    inside[np.abs(x) > 3.5] = 0  # wider than shoulders: not part of the person
    inside = cv2.morphologyEx(inside, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    _, label, *_ = cv2.connectedComponentsWithStats(inside)
    inside = (label == label[int(EYES[1] + 0.5 * EYE_DISTANCE), int(EYES[0])]).astype(np.uint8)
    inside = cv2.morphologyEx(inside, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    # Shrink by a pixel or two: the outermost pixels contain the colour of the old background.
    inside = cv2.erode(inside, np.ones((3, 3), np.uint8))
    return cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 1.5)


def _regions(canvas: np.ndarray, points: np.ndarray, matte: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return soft masks of skin, hair and clothes, each float32 [CANVAS, CANVAS], 0..1."""
    x, y = _in_eyes()
    mouth = float(points[3:, 1].mean() - EYES[1]) / EYE_DISTANCE
    lab = cv2.cvtColor(canvas, cv2.COLOR_RGB2LAB).astype(np.float32)
    face = (x / 0.85) ** 2 + ((y - 0.5) / 1.15) ** 2 < 1
    middle = np.median(lab[face], axis=0)
    distance = np.sqrt((((lab - middle) / (55, 11, 11)) ** 2).sum(axis=2))
    near_head = np.clip(4 - 4 * np.sqrt((x / 1.5) ** 2 + ((y - 0.55) / 2.1) ** 2), 0, 1)
    skin = np.clip(2.2 - distance, 0, 1) * near_head
    # Lips, brows and shadows inside the face also count as skin.
    skin = np.maximum(skin, np.clip(3 - 3 * np.sqrt((x / 0.9) ** 2 + ((y - 0.55) / 1.3) ** 2), 0, 1))
    skin = cv2.GaussianBlur((skin * matte).astype(np.float32), (0, 0), 2.0)
    below = np.clip((y - mouth - 0.9) * 4, 0, 1)
    rest = np.clip(matte - skin, 0, 1)
    hair, clothes = rest * (1 - below), rest * below
    return skin, hair.astype(np.float32), clothes.astype(np.float32)


# --- people -------------------------------------------------------------------------------------------------
def make_person(portrait: Portrait, rng: np.random.Generator) -> Person:
    """Create a person from a portrait by varying face geometry, tones, light and fine skin texture."""
    points = portrait.points
    nose, mouth = points[2], points[3:].mean(axis=0)
    across, down = np.array([[EYE_DISTANCE, 0], [0, EYE_DISTANCE]], np.float32)
    # centre, reach in eyes, displacement in eyes; pairs move symmetrically
    spread, jaw, cheek, nose_w, nose_l, mouth_w, mouth_y, chin, brow, crown = rng.uniform(-1, 1, 10)
    moves = [
        (points[0], 0.5, (-0.07 * spread, 0.05 * brow)),
        (points[1], 0.5, (0.07 * spread, 0.05 * brow)),
        (mouth - 1.0 * across, 0.7, (-0.2 * jaw, 0)),
        (mouth + 1.0 * across, 0.7, (0.2 * jaw, 0)),
        (nose - 1.1 * across, 0.6, (-0.17 * cheek, 0)),
        (nose + 1.1 * across, 0.6, (0.17 * cheek, 0)),
        (nose - 0.3 * across, 0.3, (-0.09 * nose_w, 0)),
        (nose + 0.3 * across, 0.3, (0.09 * nose_w, 0)),
        (nose, 0.4, (0, 0.1 * nose_l)),
        (points[3], 0.35, (-0.1 * mouth_w, 0.08 * mouth_y)),
        (points[4], 0.35, (0.1 * mouth_w, 0.08 * mouth_y)),
        (mouth + 0.8 * down, 0.6, (0, 0.2 * chin)),
        (EYES - 1.5 * down, 1.0, (0, -0.25 * crown)),
    ]
    grid = np.mgrid[0:CANVAS, 0:CANVAS][::-1].astype(np.float32)  # x, y
    source = grid - displacement(grid.reshape(2, -1).T, moves).T.reshape(2, CANVAS, CANVAS)
    image = _recolour(portrait, rng)
    rgba = np.dstack([image, portrait.matte * 255])
    rgba = cv2.remap(rgba, source[0], source[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    moved = points.copy()
    for _ in range(8):  # the map goes from new to old, so the new position of a point is a fixed point
        moved = points + displacement(moved, moves)

    # Pores and single hairs: finer than the resolution of the portrait, and the first detail that a swap loses.
    grain = rng.standard_normal((CANVAS, CANVAS), np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), 0.8) * 2.8 + cv2.GaussianBlur(grain[::-1], (0, 0), 2.0) * 2.5
    rgba[..., :3] *= 1 + rng.uniform(0.018, 0.04) * grain[..., None]
    if rng.random() < 0.5:
        rgba, moved = rgba[:, ::-1], moved[[1, 0, 2, 4, 3]]
        moved[:, 0] = CANVAS - 1 - moved[:, 0]
    rgba[..., :3] *= _shading(rng)
    return Person(np.ascontiguousarray(np.clip(rgba, 0, 255).astype(np.uint8)), moved.astype(np.float32))


def displacement(points: np.ndarray, moves: list) -> np.ndarray:
    """Return the displacement in pixels, float32 [n, 2], of points float32 [n, 2]: a sum of Gaussian bumps."""
    total = np.zeros_like(points, dtype=np.float32)
    for centre, reach, (dx, dy) in moves:
        offset = (points - np.asarray(centre, np.float32)) / np.float32(reach * EYE_DISTANCE)
        bump = np.exp(-0.5 * (offset**2).sum(axis=1))
        total[:, 0] += np.float32(dx * EYE_DISTANCE) * bump
        total[:, 1] += np.float32(dy * EYE_DISTANCE) * bump
    return total


def _recolour(portrait: Portrait, rng: np.random.Generator) -> np.ndarray:
    """Return the portrait with other skin, hair and clothes colours: float32 [CANVAS, CANVAS, 3], about 0..255."""
    image = portrait.image.astype(np.float32) / 255
    depth = rng.beta(1.2, 1.6)  # 0 pale .. 1 dark
    tone = np.array([1.0, 1 - 0.10 * depth, 1 - 0.22 * depth]) * _cast(rng, 0.05)
    skin = image ** (1 + 0.75 * depth) * (1 - 0.28 * depth) * tone
    hair = image ** rng.uniform(0.9, 1.9) * rng.uniform(0.45, 1.1) * _cast(rng, 0.2)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # hue 0..360, the others 0..1
    hsv[..., 0] = (hsv[..., 0] + rng.uniform(0, 360)) % 360
    hsv[..., 1] *= rng.uniform(0.15, 0.9)
    clothes = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * rng.uniform(0.5, 1.05)
    out = image
    for mask, colour in ((portrait.clothes, clothes), (portrait.hair, hair), (portrait.skin, skin)):
        out = out + mask[..., None] * (colour - image)
    return (out * 255).astype(np.float32)


def _cast(rng: np.random.Generator, strength: float) -> np.ndarray:
    """Return gains of R, G, B around 1; they vary strongly from blue to orange and weakly from green to pink."""
    warm, pink = rng.uniform(-strength, strength), rng.uniform(-strength, strength) / 4
    return np.array([1 + warm + pink, 1 - pink, 1 - warm + pink])


def _shading(rng: np.random.Generator) -> np.ndarray:
    """Return the gain of side light on head and body, float32 [CANVAS, CANVAS, 3], around 1."""
    x, y = _in_eyes()
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.32)
    side = np.tanh(x / 1.3) * np.cos(angle) + 0.6 * np.tanh((y - 0.5) / 1.6) * np.sin(angle)
    colour = _cast(rng, 0.35)  # coloured light
    return (1 + strength * side[..., None] * colour).astype(np.float32)


# --- the recording ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Scene:
    """One recorded video: person, background, motion and camera. `frames` renders it."""

    person: Person
    width: int
    height: int
    count: int
    crf: int  # H.264 constant rate factor
    background: np.ndarray  # uint8 [height + 2 * MARGIN, width + 2 * MARGIN, 3]
    light: np.ndarray  # float32 [height, width, 3], gain
    noise: np.ndarray  # float32 [2 * height, 2 * width, 3], mean 0; each frame uses a random window
    blur: float  # pixels; negative: sharpening, as in phones
    waves: np.ndarray  # float64 [8, 3, 3]: three waves per pose value; amplitude, cycles per second, phase
    rest: Pose
    seed: tuple[int, ...]

    MARGIN = 24  # pixels of background for camera shake


def make_scene(person: Person, count: int, seed: tuple[int, ...]) -> Scene:
    """Choose background, motion and camera of a recording with `count` frames."""
    rng = np.random.default_rng(seed)
    width, height = SIZES[rng.integers(len(SIZES))]
    scale = rng.uniform(0.7, 0.9)
    rest = Pose(
        x=width * rng.uniform(0.42, 0.58),
        y=height * rng.uniform(0.33, 0.42),
        angle=rng.uniform(-0.07, 0.07),
        scale=scale,
        yaw=rng.uniform(-0.06, 0.06),
        pitch=rng.uniform(-0.05, 0.05),
        mouth=0.03,
        brow=0.0,
    )
    swing = np.array([0.05 * width, 0.03 * height, 0.09, 0.05 * scale, 0.11, 0.07, 0.06, 0.05])
    pace = np.array([0.25, 0.3, 0.3, 0.2, 0.35, 0.35, 1.6, 0.5])
    waves = np.empty((8, 3, 3))
    waves[..., 0] = swing[:, None] * rng.uniform(0.3, 1.0, (8, 3)) / np.array([1.5, 2.5, 4.0])
    waves[..., 1] = pace[:, None] * rng.uniform(0.7, 1.4, (8, 3)) * np.array([1.0, 1.9, 3.1])
    waves[..., 2] = rng.uniform(0, 2 * np.pi, (8, 3))
    return Scene(
        person=person,
        width=width,
        height=height,
        count=count,
        crf=int(rng.integers(18, 26)),
        background=_background(height + 2 * Scene.MARGIN, width + 2 * Scene.MARGIN, rng),
        light=_light(height, width, rng),
        noise=_noise(height, width, rng),
        blur=float(rng.choice([-0.5, 0.0, 0.0, 0.5, 0.8, 1.1])),
        waves=waves,
        rest=rest,
        seed=seed,
    )


def pose_at(scene: Scene, index: int, fps: float = 25.0) -> Pose:
    """Return the pose in frame `index`."""
    size, pace, phase = np.moveaxis(scene.waves, 2, 0)
    offset = (size * np.sin(2 * np.pi * pace * index / fps + phase)).sum(axis=1)
    return Pose(*(float(a + b) for a, b in zip(scene.rest, offset, strict=True)))


def frames(scene: Scene) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield each frame, uint8 [h, w, 3], and the canvas point of each pixel, float32 [h, w, 2]."""
    h, w, margin = scene.height, scene.width, scene.MARGIN
    for index in range(scene.count):
        rng = np.random.default_rng((*scene.seed, 1, index))
        where = pose_map(pose_at(scene, index), scene.rest, scene.person.points, h, w)
        layer = sample(scene.person.texture, where, cv2.BORDER_REPLICATE)
        shake = 0.6 * margin * np.sin(index / 25 * np.array([1.1, 1.7]) + scene.waves[:2, 0, 2])
        shift = np.array([[1, 0, margin + shake[0]], [0, 1, margin + 0.4 * shake[1]]], np.float32)
        behind = cv2.warpAffine(scene.background, shift, (w, h), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        alpha = layer[..., 3].astype(np.float32) * (1 / 255)
        frame = cv2.blendLinear(np.ascontiguousarray(layer[..., :3]), behind, alpha, 1 - alpha)
        frame = frame.astype(np.float32)
        frame *= scene.light
        if scene.blur:
            soft = cv2.GaussianBlur(frame, (0, 0), abs(scene.blur) if scene.blur > 0 else 1.0)
            frame = soft if scene.blur > 0 else cv2.addWeighted(frame, 1 - scene.blur, soft, scene.blur, 0)
        top, left = int(rng.integers(h)), int(rng.integers(w))
        frame += scene.noise[top : top + h, left : left + w]
        yield np.clip(frame + 0.5, 0, 255).astype(np.uint8), where


def sample(picture: np.ndarray, where: np.ndarray, border: int) -> np.ndarray:
    """Sample an image [h, w] or [h, w, c] at points `where`, float32 [rows, columns, 2]; `border`: cv2.BORDER_*."""
    x, y = cv2.split(where)
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=border)


def pose_map(pose: Pose, rest: Pose, points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the canvas point of each frame pixel, float32 [height, width, 2].

    The head follows the pose, the body follows it less, and the neck interpolates. The map is smooth, so only every 4th
    pixel is computed.
    """
    step = 4
    rows, columns = -(-height // step), -(-width // step)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32) * step + (step - 1) / 2
    head = _unpose(x, y, pose.x, pose.y, pose.angle, pose.scale)
    lag = 0.35
    mean_x, mean_y = rest.x + lag * (pose.x - rest.x), rest.y + lag * (pose.y - rest.y)
    body = _unpose(x, y, mean_x, mean_y, 0.2 * pose.angle, rest.scale + lag * (pose.scale - rest.scale))
    weight = 1 / (1 + np.exp((head[..., 1:] - NECK) / 16))
    where = (weight * head + (1 - weight) * body).astype(np.float32)

    mouth, down = points[3:].mean(axis=0), np.array([0, EYE_DISTANCE], np.float32)
    local = [
        ((points[2] + EYES) / 2, 0.9, (pose.yaw, pose.pitch)),  # turn: the nose moves more than the ears
        (mouth + 0.45 * down, 0.42, (0, pose.mouth)),  # lower lip and chin
        (mouth - 0.2 * down, 0.3, (0, -0.4 * pose.mouth)),
        (points[0] - 0.4 * down, 0.35, (0, pose.brow)),
        (points[1] - 0.4 * down, 0.35, (0, pose.brow)),
    ]
    where -= displacement(where.reshape(-1, 2), local).reshape(where.shape)
    full = cv2.resize(where, (columns * step, rows * step), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(full[:height, :width])


def _unpose(x: np.ndarray, y: np.ndarray, x0: float, y0: float, angle: float, scale: float) -> np.ndarray:
    """Map frame pixels to canvas points [..., 2], for a head with its eyes at x0, y0."""
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    dx, dy = x - x0, y - y0
    return np.stack([EYES[0] + cos * dx + sin * dy, EYES[1] - sin * dx + cos * dy], axis=-1)


def _clouds(height: int, width: int, cell: int, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random field, float32 [height, width], about -1..1, with features of about `cell` pixels."""
    coarse = rng.uniform(-1, 1, (height // cell + 3, width // cell + 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _background(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return a blurred wall, curtain, shelf, night lights or garden: uint8 [height, width, 3]."""
    base = rng.uniform(40, 210) * rng.uniform(0.8, 1.2, 3)
    picture = np.ones((height, width, 3), np.float32) * base
    picture += 18 * _clouds(height, width, 150, rng)[..., None] + 6 * _clouds(height, width, 40, rng)[..., None]
    kind = rng.choice(["wall", "curtain", "shelf", "lights", "garden"])
    if kind == "curtain":
        fold = np.sin(np.arange(width) * 2 * np.pi / rng.uniform(24, 70) + 2 * _clouds(height, width, 200, rng))
        picture *= 1 + rng.uniform(0.1, 0.3) * fold[..., None]
    elif kind == "shelf":
        tall = int(rng.integers(70, 120))
        for top in range(-20, height, tall):
            left = 0
            while left < width:
                wide = int(rng.integers(8, 26))
                high = int(rng.integers(tall // 2, tall - 12))
                colour = rng.uniform(30, 180) * (1 + 0.6 * (rng.uniform(0.5, 1.3, 3) - 1))
                picture[max(top + tall - high - 6, 0) : max(top + tall - 6, 0), left : left + wide] = colour
                left += wide + int(rng.integers(1, 4))
    elif kind == "lights":
        picture *= 0.4
        for _ in range(int(rng.integers(25, 60))):
            glow = np.zeros((height, width), np.float32)
            at = (int(rng.integers(width)), int(rng.integers(height)))
            cv2.circle(glow, at, int(rng.integers(5, 22)), 1.0, -1, cv2.LINE_AA)
            picture += glow[..., None] * rng.uniform(15, 80) * rng.uniform(0.4, 1.3, 3)
    elif kind == "garden":
        leaves = sum(_clouds(height, width, cell, rng) / n for n, cell in ((1, 60), (1.5, 25), (2, 10), (3, 5)))
        green = np.array([70, 110, 50]) * rng.uniform(0.7, 1.3, 3)
        sky = np.array([170, 195, 220]) * rng.uniform(0.8, 1.1)
        edge = 1 / (1 + np.exp((np.arange(height)[:, None] - height * rng.uniform(0.0, 0.4)) / 12 + 2 * leaves))
        picture = (green * (1 + 0.5 * leaves[..., None])) * (1 - edge[..., None]) + sky * edge[..., None]
    if kind == "wall" and rng.random() < 0.7:  # a picture frame or a window
        x0, y0 = int(rng.integers(-60, width - 60)), int(rng.integers(-40, height // 2))
        x1, y1 = x0 + int(rng.integers(60, 200)), y0 + int(rng.integers(60, 200))
        cv2.rectangle(picture, (x0, y0), (x1, y1), tuple(base * rng.uniform(0.4, 1.2)), -1)
        cv2.rectangle(picture, (x0, y0), (x1, y1), tuple(base * 0.5), int(rng.integers(3, 8)))
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), rng.uniform(0.8, 4.0))
    return np.clip(picture, 0, 255).astype(np.uint8)


def _light(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return the gain of exposure, white balance, light gradient and vignetting: float32 [height, width, 3]."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    slope = 1 + rng.uniform(0, 0.18) * (x * np.cos(angle) + y * np.sin(angle))
    vignette = 1 - rng.uniform(0, 0.25) * (x**2 + y**2) / 2
    return (rng.uniform(0.8, 1.15) * (slope * vignette)[..., None] * _cast(rng, 0.16)).astype(np.float32)


def _noise(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return sensor noise, float32 [2 * height, 2 * width, 3]."""
    strength = rng.choice([0.8, 2.0, 3.5, 5.5]) * rng.uniform(0.8, 1.2)
    grey = rng.standard_normal((2 * height, 2 * width, 1), np.float32)
    colour = rng.standard_normal((2 * height, 2 * width, 3), np.float32)
    noise = strength * (0.8 * grey + 0.5 * colour)
    if rng.random() < 0.5:  # denoising in cameras leaves coarser grain
        noise = 1.6 * cv2.GaussianBlur(noise, (0, 0), 0.8)
    return noise
