"""From frames to faces (prediction/reading.py), with a decoder and a detector that do as they are told."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from helpers import no_faces

from dfdc.faces import Faces
from dfdc.video import VideoError
from prediction import reading
from prediction.decoding import Opened


class Told:
    """In place of a Decoder and its Reading: yields the frames it was given."""

    def __init__(self, frames, *, lost=(), wanted=None, picture=False, frame_count=None, notes=()):
        self.given, self.lost = list(frames), list(lost)
        wanted = len(self.given) + len(self.lost) if wanted is None else wanted
        self.opened = Opened(picture, frame_count or 400, 25.0, wanted, list(notes))

    def read(self, path, wanted):
        assert wanted == 32
        return contextlib.nullcontext(self)

    def frames(self):
        yield from self.given


class Finds:
    """A detector that finds the same boxes in every frame, and notes what it was shown."""

    def __init__(self, *boxes, sure=0.99, at_once=3):
        self.boxes, self.sure, self.at_once, self.seen = np.float32(boxes).reshape(-1, 4), sure, at_once, []

    def batch_size(self, width, height, scale):
        return self.at_once

    def detect(self, pictures, scale):
        self.seen.append(([picture.shape[1::-1] for picture in pictures], scale))
        found = Faces(self.boxes, np.full(len(self.boxes), self.sure, np.float32), None)
        return [found if len(self.boxes) else no_faces() for _ in pictures]


def frames(count, width=200, height=100, first=0):
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return [(first + number, picture) for number in range(count)]


FACE = (20, 10, 60, 50)


def find(decoder, detector, scale="auto"):
    crops = []
    return reading.find_faces(Path("v.mp4"), "v", decoder, detector, scale, crops.append), crops


def test_faces_come_in_the_order_of_frames_with_crops_of_their_own():
    verdict, crops = find(Told(frames(32)), Finds(FACE))
    assert (verdict.status, verdict.reason, verdict.frames_read, verdict.frame_count) == ("ok", "", 32, 400)
    assert verdict.frames_per_second == 25.0
    assert (verdict.filename, verdict.path) == ("v", "v.mp4")
    assert [face.frame for face in verdict.faces] == list(range(32))
    assert len(crops) == len(verdict.faces)
    assert all(crop.shape == (63, 66, 3) and crop.base is None for crop in crops)
    assert {face.person for face in verdict.faces} == {0}
    assert verdict.faces[0].box == [20, 10, 60, 50]
    assert verdict.faces[0].detector == 0.99
    assert verdict.sizes == [[0, 200, 100]]


def test_frames_go_to_the_detector_in_batches_of_one_size_each_at_its_own_scale():
    detector = Finds(FACE)
    given = frames(4) + frames(5, 1200, 600, 4) + frames(1, 200, 100, 9)
    verdict, _ = find(Told(given), detector)
    assert [(sizes[0], len(sizes), scale) for sizes, scale in detector.seen] == [
        ((200, 100), 3, 2.0),
        ((200, 100), 1, 2.0),
        ((1200, 600), 3, 0.5),
        ((1200, 600), 2, 0.5),
        ((200, 100), 1, 2.0),
    ]
    assert verdict.sizes == [[0, 200, 100], [4, 1200, 600], [9, 200, 100]]
    assert (verdict.frames_read, len(verdict.faces)) == (10, 10)


def test_a_person_stays_one_where_the_size_changes():
    class Grows(Finds):
        def detect(self, pictures, scale):
            factor = pictures[0].shape[1] / 200
            self.boxes = np.float32([FACE]) * factor
            return super().detect(pictures, scale)

    small = frames(6)
    large = [(number + 6, np.repeat(np.repeat(picture, 3, 0), 3, 1)) for number, picture in small]
    verdict, _ = find(Told(small + large), Grows())
    assert {face.person for face in verdict.faces} == {0}
    assert verdict.faces[-1].box == [60, 30, 180, 150]


@pytest.mark.parametrize(
    ("read", "lost", "status"),
    [
        (32, 0, "ok"),
        (31, 0, "too short"),
        (31, 1, "partial"),
        (8, 24, "partial"),
        (7, 25, "damaged"),
        (8, 1, "partial"),
        (7, 1, "damaged"),
        (9, 28, "damaged"),
        (10, 30, "partial"),
        (1, 0, "too short"),
    ],
)
def test_the_status_says_how_much_could_be_read(read, lost, status):
    verdict, _ = find(Told(frames(read), lost=range(100, 100 + lost)), Finds(FACE))
    assert verdict.status == status
    assert verdict.frames_lost == list(range(100, 100 + lost))
    assert bool(verdict.faces) == (status != "damaged")
    lacks = f"{lost} of {read + lost} frames could not be decoded"
    expected = {
        "ok": "",
        "too short": f"only {read} frames; all were read",
        "partial": lacks,
        "damaged": f"{lacks}; only {read} frames could be read",
    }
    assert verdict.reason == expected[status]


def test_one_frame_of_a_damaged_video_is_singular():
    verdict, _ = find(Told(frames(1), lost=range(31)), Finds(FACE))
    assert verdict.reason == "31 of 32 frames could not be decoded; only 1 frame could be read"


def test_a_cut_ends_a_person_and_the_detectors_word_is_rounded():
    other = np.random.default_rng(9).integers(0, 60, (100, 200, 3), dtype=np.uint8)[:, ::-1]
    smooth = [np.kron(picture[::20, ::20], np.ones((20, 20, 1), np.uint8)) for picture in (frames(1)[0][1], other)]
    given = [(number, smooth[number >= 6]) for number in range(12)]
    verdict, _ = find(Told(given), Finds(FACE, sure=0.912345))
    assert [face.person for face in verdict.faces] == [0] * 6 + [1] * 6
    assert verdict.faces[0].detector == 0.9123


@pytest.mark.parametrize(("gap", "people"), [(50, {0}), (51, {0, 1})])
def test_a_short_video_lets_a_person_be_away_for_50_frames(gap, people):
    picture = frames(1)[0][1]
    given = [(number, picture) for number in (0, 1, 2, 3, 4, 4 + gap)]
    verdict, _ = find(Told(given, frame_count=100), Finds(FACE))
    assert {face.person for face in verdict.faces} == people


def test_no_face_is_said_of_what_was_looked_at():
    verdict, _ = find(Told(frames(5)), Finds())
    assert (verdict.status, verdict.reason) == ("no face", "no face detected in the 5 frames read")
    photo, _ = find(Told(frames(1), picture=True, frame_count=1), Finds())
    assert (photo.status, photo.reason) == ("no face", "no face detected in the photo")


def test_a_photo_is_never_too_short_and_keeps_its_notes():
    verdict, _ = find(Told(frames(1), picture=True, frame_count=1, notes=["so"]), Finds(FACE, (100, 20, 150, 80)))
    assert (verdict.status, verdict.picture, verdict.notes, verdict.frame_count) == ("ok", True, ["so"], 1)
    assert sorted(face.person for face in verdict.faces) == [0, 1]


PARTS_INSIDE = {
    (20, 10, 60, 50): 1.0,
    (-20, 10, 20, 50): 0.5,
    (180, 10, 220, 50): 0.5,
    (20, -10, 60, 30): 0.75,
    (20, 90, 60, 110): 0.5,
    (-10, -10, 30, 30): 0.5625,
    (0, 0, 200, 100): 1.0,
    (-10, 20, 20, 50): 0.6667,
    (-40, 10, -2, 48): 0.0,
    (20, -40, 58, -2): 0.0,
}


@pytest.mark.parametrize(("box", "inside"), PARTS_INSIDE.items())
def test_t68_the_part_of_a_face_within_the_frame(box, inside):
    verdict, _ = find(Told(frames(1)), Finds(box))
    assert verdict.faces[0].inside == inside


def test_t4_a_box_that_holds_no_picture_costs_that_crop_and_shifts_no_other():
    detector = Finds((500, 500, 600, 600), FACE, (5, 5, 5, 9), (100, 20, 150, 80))
    verdict, crops = find(Told(frames(3)), detector)
    assert len(crops) == len(verdict.faces) == 6
    assert [face.box[0] for face in verdict.faces] == [20, 100] * 3
    # Of a frame's faces the larger gets the lower number.
    assert [face.person for face in verdict.faces] == [1, 0] * 3


@pytest.mark.parametrize(("away", "people"), [(range(10, 13), {0}), (range(10, 20), {0, 1})])
def test_a_long_video_lets_a_person_be_away_for_longer_but_not_for_a_third_of_it(away, people):
    """In an hour 32 frames lie two minutes apart; somebody is unseen in some of them."""
    given = [(number * 3000, picture) for number, picture in frames(32)]

    class Away(Finds):
        count = 0

        def detect(self, pictures, scale):
            kept = []
            for item in super().detect(pictures, scale):
                kept.append(no_faces() if self.count in away else item)
                self.count += 1
            return kept

    verdict, _ = find(Told(given, frame_count=93_001), Away(FACE))
    assert len(verdict.faces) == 32 - len(away)
    assert {face.person for face in verdict.faces} == people


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (VideoError(Path("v"), "no picture stream"), "unreadable", "no picture stream"),
        (KeyError("a bug"), "error", "KeyError: 'a bug'"),
        (MemoryError("out of memory"), "out of memory", "MemoryError: out of memory"),
    ],
)
def test_t3_an_error_on_the_way_is_a_status_and_keeps_no_face(error, status, reason):
    class Breaks(Told):
        def frames(self):
            yield from self.given[:20]
            raise error

    verdict, crops = find(Breaks(frames(32)), Finds(FACE))
    assert (verdict.status, verdict.reason, verdict.faces) == (status, reason, [])
    assert len(crops) == 18  # what was handed out before; it is scored for nothing
