"""Where a shot ends (dfdc/tracking.py)."""

import cv2
import numpy as np
import pytest
import skimage.data
from helpers import REAL_VIDEOS, needs_real_videos

from demo_data import demo_faces
from demo_data.demo_dataset import load_portraits
from dfdc.imaging import crop_face
from dfdc.tracking import ShotCuts, Tracker, look_of
from dfdc.video import VideoReader, write_video

SIZE = 320  # pixels a side of the generated frames


def face_box(where):
    """The face's box in a rendered frame, from the map of its pixels to the portrait: float [4]."""
    x, y = np.moveaxis((where - demo_faces.EYES) / demo_faces.EYE_DISTANCE, 2, 0)
    rows, columns = np.nonzero((np.abs(x) < 1) & (y > -0.9) & (y < 1.7))
    return np.array([columns.min(), rows.min(), columns.max(), rows.max()], float)


def render(portrait, seed, count):
    """Frames of a made-up person of a made-up scene and the boxes of the face: [(uint8 [SIZE, SIZE, 3], [4]), ...]."""
    person = demo_faces.make_person(portrait, np.random.default_rng(seed))
    scene = demo_faces.make_scene(person, count, (seed,))
    factor = np.tile([SIZE / scene.width, SIZE / scene.height], 2)
    return [
        (cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA), face_box(where) * factor)
        for frame, where in demo_faces.frames(scene)
    ]


@pytest.fixture(scope="module")
def shots():
    """24 frames of each of two people."""
    portrait = load_portraits(None)[0]
    return render(portrait, 1, 24), render(portrait, 2, 24)


def cuts_of(*frames):
    cuts = ShotCuts()
    return [cuts.is_cut(frame) for frame in frames]


@pytest.mark.slow
def test_t66_a_generated_video_with_two_people_and_two_cuts(shots, tmp_path):
    """A, B, A again: one number each, in a compressed video of which every fourth frame is read."""
    first, second = shots
    made = [*first[:12], *second[:12], *first[12:]]
    write_video(tmp_path / "cuts.mp4", (frame for frame, _ in made), crf=23)
    for looks, expected in ((True, [0] * 3 + [1] * 3 + [0] * 3), (False, [0] * 3 + [1] * 3 + [2] * 3)):
        tracker, cuts, numbers, ends = Tracker(), ShotCuts(), [], []
        with VideoReader(tmp_path / "cuts.mp4") as reader:
            for number, frame in reader.frames(stride=4):
                face = made[number][1]
                ends.append(cuts.is_cut(frame))
                own = look_of(crop_face(frame, face))[None] if looks else None
                numbers += tracker.update(number, face[None], own, ends[-1])
        assert numbers == expected
        assert [place for place, end in enumerate(ends) if end] == [3, 6]
    tracker = Tracker()
    merged = [tracker.update(number, made[number][1][None])[0] for number in range(0, 36, 4)]
    assert merged == [0] * 9, "by place alone all are one person: the cut is a hard one"


@pytest.mark.slow
def test_t66_a_dissolve_parts_two_people(shots):
    before, after = shots[0][:6], shots[1][:6]
    frames = [frame for frame, _ in before]
    frames += [cv2.addWeighted(before[-1][0], 1 - part, after[0][0], part, 0) for part in (0.25, 0.5, 0.75)]
    frames += [frame for frame, _ in after]
    boxes = [face for _, face in before] + [before[-1][1]] + [after[0][1]] * 2 + [face for _, face in after]
    tracker, cuts = Tracker(), ShotCuts()
    numbers = [
        tracker.update(10 * step, face[None], look_of(crop_face(frame, face))[None], cuts.is_cut(frame))[0]
        for step, (frame, face) in enumerate(zip(frames, boxes, strict=True))
    ]
    assert set(numbers[:6]) == {0}
    assert len(set(numbers[9:])) == 1
    assert numbers[9] != 0


def zoomed(frame, factor):
    side = int(SIZE / factor)
    start = (SIZE - side) // 2
    return frame[start : start + side, start : start + side]


STILL = {
    "darker": lambda frame: (frame * 0.4).astype(np.uint8),
    "brighter": lambda frame: np.clip(frame * 1.5, 0, 255).astype(np.uint8),
    "nearly black": lambda frame: (frame * 0.1).astype(np.uint8),
    "gamma": lambda frame: (255 * (frame / 255) ** 2).astype(np.uint8),
    "warm light": lambda frame: np.clip(frame * [1.2, 1, 0.8], 0, 255).astype(np.uint8),
    "blurred": lambda frame: cv2.GaussianBlur(frame, (0, 0), 5),
    "small": lambda frame: cv2.resize(frame, (80, 80), interpolation=cv2.INTER_AREA),
    "large": lambda frame: cv2.resize(frame, (1280, 1280)),
    "zoom": lambda frame: zoomed(frame, 1.3),
    "mirrored": lambda frame: frame[:, ::-1],
    "half hidden": lambda frame: np.where(np.arange(SIZE)[:, None] < SIZE // 3, 60, frame).astype(np.uint8),
}


@pytest.mark.parametrize("change", STILL.values(), ids=STILL)
def test_t66_light_zoom_and_what_passes_by_are_no_cut(shots, change):
    for shot in shots:
        frame = shot[0][0]
        assert cuts_of(frame, change(frame), frame) == [False] * 3
    assert cuts_of(*(change(shot[0][0]) for shot in shots)) == [False, True], "the cut is still one"


def test_a_pan_is_no_cut():
    """A window moves over a wide picture by a third of its width each time."""
    wide = skimage.data.astronaut()
    windows = [wide[100:400, left : left + 300] for left in range(0, 212, 100)]
    assert cuts_of(*windows) == [False] * 3


def test_a_cut_is_told_once_and_the_shot_before_is_forgotten(shots):
    (a, _), (b, _) = shots[0][0], shots[1][0]
    assert cuts_of(a, a, b, b, b, a, b, b) == [False, False, True, False, False, True, True, False]


def test_frames_of_one_colour_are_passed_over(shots):
    (a, _), (b, _) = shots[0][0], shots[1][0]
    black, grey = np.zeros_like(a), np.full((48, 64, 3), 128, np.uint8)
    haze, veil = (  # a gradient with a deviation of 2 and of 6 grey levels
        np.broadcast_to(np.linspace(210, 210 + span, SIZE)[:, None, None], a.shape).astype(np.uint8) for span in (8, 21)
    )
    assert cuts_of(black, grey, black, a, black, a, grey, b, haze) == [False] * 7 + [True, False]
    assert cuts_of(a, haze, veil) == [False, False, True]


def test_fine_stripes_are_one_colour(shots):
    """Stripes a little wider than what becomes one pixel: sampled instead of averaged they would show a moiré."""
    stripes = 200 + 50 * np.sin(2 * np.pi * np.arange(SIZE) / 5.2)
    assert cuts_of(shots[0][0][0], np.tile(stripes[:, None], (SIZE, 1, 3)).astype(np.uint8)) == [False, False]


@pytest.mark.parametrize(("between", "seen"), [(0, True), (1, True), (3, True), (20, False)])
def test_dissolves_over_a_few_sampled_frames_are_seen(shots, between, seen):
    (a, _), (b, _) = shots[0][0], shots[1][0]
    mixed = [cv2.addWeighted(a, 1 - part, b, part, 0) for part in np.linspace(0, 1, between + 2)]
    assert cuts_of(*mixed).count(True) == seen


@pytest.mark.slow
@needs_real_videos
def test_t66_real_videos_are_one_shot_and_their_joins_are_cuts():
    """d20 tilts, s20 zooms out, in yhffcuhhjy the light jumps."""
    shots = []
    for name in ("faces/d20", "faces/s20", "dfdc_mini/dfdc_train_part_10/yhffcuhhjy"):
        with VideoReader(REAL_VIDEOS / f"{name}.mp4") as reader:
            frames = [
                frame for _, frame in reader.frames(np.linspace(0, reader.frame_count - 1, 32).astype(int).tolist())
            ]
        assert len(frames) == 32
        assert not any(cuts_of(*frames)), name
        shots.append(frames)
    for first in shots:
        for second in shots:
            if first is not second:
                assert cuts_of(*first[14:16], *second[16:18]) == [False, False, True, False]


def test_colours_are_compared_after_the_brightness_was_evened_out_whatever_one_lamp_does():
    """A room at half the light, with a white lamp in one corner: nearly the same colours."""
    rng = np.random.default_rng(8)
    room = cv2.resize(rng.integers(20, 200, (6, 8, 3), dtype=np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    cuts, seen = ShotCuts(), []
    for light in (1.0, 0.5):
        frame = (room * light).astype(np.uint8)
        frame[:20, :20] = 255
        cuts.is_cut(frame)
        seen.append(cuts._last[-1][0])
        # Against NumPy: the 95th percentile of the brightest colour becomes 220, and what is brighter stays white.
        small = cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
        brightest = np.sort(small.max(axis=2).ravel())
        place = 0.95 * (brightest.size - 1)
        bright = np.interp(place, np.arange(brightest.size), brightest)
        even = np.clip(small * (220 / bright), 0, 255).astype(np.uint8)
        assert (even == 255).all(axis=2).any()
        counts, _ = np.histogramdd(
            cv2.cvtColor(even, cv2.COLOR_RGB2LAB).reshape(-1, 3), bins=(8, 16, 16), range=[(0, 256)] * 3
        )
        assert seen[-1] == pytest.approx(np.sqrt(counts.ravel() / counts.sum()), abs=0.02)  # of one pixel: 0.016
    assert float(seen[0] @ seen[1]) > 0.9
