"""Face scores combined into a verdict, its counts and its doubts (prediction/conclusion.py, prediction/verdict.py)."""

from dataclasses import asdict

import numpy as np
import pytest

from prediction.conclusion import DOUBTS, Floors, conclude
from prediction.verdict import Face, Thumbnail, Verdict


def face(frame=0, person=0, score=0.5, side=100.0, detector=0.999, inside=1.0, other=None):
    scores = [score] if other is None else [score, other]
    return Face(frame, person, [10.0, 20.0, 10 + side, 20 + side], detector, inside, scores)


def concluded(faces, strategy="confident", floors=None, **more):
    verdict = Verdict("v.mp4", "ok", faces=list(faces), frames_read=32, sizes=[[0, 640, 480]], **more)
    conclude(verdict, [f"m{index}" for index in range(len(verdict.faces[0].scores))], strategy, floors)
    return verdict


def test_a_clear_case_has_no_doubt_and_its_counts():
    verdict = concluded(face(frame, 0, 0.9, other=0.7) for frame in range(32))
    assert verdict.score == pytest.approx(0.8)
    assert verdict.doubts == []
    assert asdict(verdict.grounds) == {
        "faces": 32,
        "frames": 32,
        "persons": 1,
        "side": 100.0,
        "small": 0,
        "cut": 0,
        "unsure": 0,
        "one_face": 0.0,
        "left_out": 0,
        "if_joined": None,
    }
    assert [(model.name, model.score, model.rule) for model in verdict.models] == [
        ("m0", pytest.approx(0.9), "fake"),
        ("m1", pytest.approx(0.7), "mean"),
    ]


def test_three_checkpoints_are_averaged_not_their_median():
    verdict = concluded([Face(0, 0, [0, 0, 90, 90], 1.0, 1.0, [0.1, 0.2, 0.9])], "mean")
    assert verdict.score == pytest.approx(0.4)


def test_persons_have_their_own_scores_weights_sizes_and_the_best_thumbnail():
    faces = [face(frame, 0, 0.1, side=80) for frame in range(20)]
    faces += [face(frame, 1, 0.9, side=60 + frame) for frame in range(10)]
    faces += [face(5, 2, 0.3, side=500, detector=0.81)]
    verdict = concluded(faces, "person-max")
    assert [person.person for person in verdict.persons] == [1, 2, 0]
    suspect, lone, main = verdict.persons
    assert (suspect.faces, suspect.frames, suspect.weight, suspect.side) == (10, 10, 1.0, 64.5)
    assert suspect.score == pytest.approx(0.9)
    assert suspect.thumbnail == Thumbnail(9, [10.0, 20.0, 79.0, 89.0])
    assert (lone.faces, lone.weight, lone.score) == (1, 0.0, pytest.approx(0.3))
    assert (main.faces, main.weight, main.score) == (20, 1.0, pytest.approx(0.1))
    assert (verdict.grounds.faces, verdict.grounds.persons, verdict.grounds.frames) == (10, 1, 10)
    every = concluded(faces, "mean")
    assert (every.grounds.faces, every.grounds.persons, every.grounds.unsure) == (30, 2, 0)
    assert (every.grounds.left_out, every.grounds.if_joined) == (1, pytest.approx(every.score, abs=1e-4))


def test_weights_are_rounded_to_four_digits():
    verdict = concluded([face(frame) for frame in range(20)] + [face(frame, 1) for frame in range(3)])
    assert [person.weight for person in verdict.persons] == [1.0, 0.1667]  # (3 / 20 - 0.1) / 0.3


def test_a_thumbnail_is_a_sure_face_before_a_large_one():
    verdict = concluded([face(0, side=100, detector=1.0), face(1, side=110, detector=0.8)])
    assert verdict.persons[0].thumbnail.frame == 0
    verdict = concluded([face(0, side=100, detector=1.0), face(1, side=113, detector=0.8)])
    assert verdict.persons[0].thumbnail.frame == 1
    assert verdict.persons[0].side == verdict.grounds.side == 106.5


def test_sizes_are_rounded_to_a_tenth_of_a_pixel():
    verdict = concluded([face(0, side=70.123), face(1, side=70.156)])
    assert verdict.persons[0].side == verdict.grounds.side == 70.1


@pytest.mark.parametrize(
    ("faces", "doubt"),
    [
        ([face(frame) for frame in range(7)], "few faces"),
        ([face(frame, side=49) for frame in range(32)], "small faces"),
        ([face(frame, inside=0.89) for frame in range(32)], "cut faces"),
        ([face(frame, detector=0.94) for frame in range(32)], "unsure faces"),
    ],
)
def test_t68_each_doubt_by_itself_and_not_at_its_limit(faces, doubt):
    assert concluded(faces).doubts == [doubt]
    edge = {"side": 50, "inside": 0.9, "detector": 0.95}
    assert concluded([face(frame, **edge) for frame in range(8)]).doubts == []
    if len(faces) == 32:
        half = [*faces[:16], *(face(frame) for frame in range(16, 32))]
        assert concluded(half).doubts == []
        assert concluded([*half, faces[0]]).doubts == [doubt]


def test_t68_one_face_in_32_frames_and_four_of_a_passer_by_are_few():
    assert concluded([face(3)]).doubts == ["few faces"]
    assert concluded([face(3)]).grounds.frames == 1
    assert "few faces" in concluded([face(frame, side=30) for frame in range(4)]).doubts


def test_t68_doubts_are_of_the_faces_that_decide_and_not_of_most():
    small = [face(0, person, 0.05, side=200) for person in range(9)] + [face(0, 9, 0.97, side=15)]
    assert concluded(small, picture=True).doubts == ["small faces"]
    cut = [face(0, 0, 0.05), face(0, 1, 0.97, inside=0.4)]
    assert concluded(cut, picture=True).doubts == ["cut faces"]
    both = [face(0, 0, 0.05, side=20, other=0.9), face(0, 1, 0.97, other=0.1)]  # each checkpoint has its own
    assert concluded(both, picture=True).grounds.faces == 2
    assert concluded(both, picture=True).grounds.small == 1
    unsure = [face(0, 0, 0.3, detector=0.8), face(0, 1, 0.2, detector=0.9)]
    assert concluded(unsure, picture=True).doubts == ["unsure faces"]
    main = [face(frame, 0, 0.05, side=200) for frame in range(32)]
    tiny = [face(frame, 1, 0.95, side=17) for frame in range(13)]
    for strategy in ("person-max", "smooth"):
        verdict = concluded(main + tiny, strategy)
        assert verdict.score == pytest.approx(0.95)
        assert verdict.doubts == ["small faces", "persons differ"]
        assert verdict.grounds.faces == 13


def test_persons_and_checkpoints_that_differ_are_doubts():
    def pair(first, second):
        return [face(f, 0, first) for f in range(16)] + [face(f, 1, second) for f in range(16)]

    assert concluded(pair(0.2, 0.55), "mean").doubts == ["persons differ"]
    assert concluded(pair(0.2, 0.49), "mean").doubts == []
    assert concluded([*pair(0.2, 0.3), face(3, 2, 0.99)], "mean").doubts == []  # a passer-by
    assert concluded([face(f, 0, 0.2, other=0.55) for f in range(9)], "mean").doubts == ["checkpoints differ"]
    assert concluded([face(f, 0, 0.2, other=0.49) for f in range(9)], "mean").doubts == []


def test_a_face_of_a_photo_that_does_not_count_has_no_weight():
    verdict = concluded([face(0, 0, 0.3), face(0, 1, 0.9, detector=0.9)], picture=True)
    assert {person.person: person.weight for person in verdict.persons} == {0: 1.0, 1: 0.0}
    assert verdict.score == pytest.approx(0.3)


def test_t66_a_montage_of_single_faces_rests_on_few():
    scores = np.random.default_rng(2).random(32)
    verdict = concluded((face(number, number, score) for number, score in enumerate(scores)), "person-max")
    assert verdict.score == pytest.approx(scores.max())
    assert "few faces" in verdict.doubts
    assert verdict.grounds.frames == 1


def test_t66_a_person_whose_track_breaks_up_is_left_out_with_a_doubt():
    main = [face(frame, 0, 0.05) for frame in range(20)]
    broken = [face(20 + number, 1 + number, 0.95) for number in range(12)]
    for strategy in ("person-max", "smooth"):
        verdict = concluded(main + broken, strategy)
        assert verdict.score == pytest.approx(0.05)
        assert verdict.doubts == ["faces left out"]
        assert (verdict.grounds.left_out, verdict.grounds.if_joined) == (12, pytest.approx(0.95))
        lone = concluded([*main, *broken[:1]], strategy)
        assert (lone.doubts, lone.grounds.left_out) == ([], 1)
    assert concluded([face(frame, 0, 0.05) for frame in range(30)] + broken[:3], "smooth").doubts == []


def test_a_crowd_is_concluded_in_seconds():
    """100 people in 32 frames: one face left out or counted twice is tried for a few of them only."""
    rng = np.random.default_rng(1)
    people = range(100)
    verdict = concluded((face(f, person, rng.random()) for f in range(32) for person in people), "smooth")
    assert verdict.grounds.one_face < 0.1


def test_floors_can_be_set():
    faces = [face(frame, side=40) for frame in range(9)]
    assert concluded(faces).doubts == ["small faces"]
    assert concluded(faces, floors=Floors(10, 40)).doubts == ["few faces"]
    assert concluded(faces, floors=Floors(9, 40)).doubts == []
    assert concluded(faces, floors=Floors(9, 40.1)).grounds.small == 9


def test_a_verdict_at_a_cliff_of_the_winners_rule_says_so():
    faces = [face(frame, score=0.9) for frame in range(12)] + [face(frame, score=0.1) for frame in range(12, 28)]
    verdict = concluded(faces)
    assert verdict.score == pytest.approx(0.9)
    assert verdict.doubts == ["one face decides"]
    assert verdict.grounds.one_face == round(0.9 - (11 * 0.9 + 16 * 0.1) / 27, 4)
    assert "one face decides" not in concluded(faces, "mean").doubts


def test_status_sizes_and_notes_are_doubts():
    verdict = Verdict("v", "partial", faces=[face(frame) for frame in range(9)], sizes=[[0, 9, 9], [5, 8, 9]])
    verdict.notes = ["an animation; only its first picture is judged"]
    conclude(verdict, ["m"], "mean")
    assert verdict.doubts == ["partial", "sizes differ", "unusual pictures"]


def test_a_photo_has_the_rule_of_its_own_and_is_not_few():
    group = [face(0, person, 0.95 if person == 4 else 0.1) for person in range(10)]
    for strategy in ("confident", "mean", "person-max", "smooth"):
        verdict = concluded(group, strategy, picture=True)
        assert verdict.score == pytest.approx(0.95)
        assert verdict.models[0].rule == "photo"
        assert verdict.persons[0].person == 4
        assert verdict.grounds.one_face == 0
        assert verdict.doubts == []
    assert concluded(group).score == pytest.approx(0.185)
    doubtful = concluded([face(0, 0, 0.1), face(0, 1, 0.99, detector=0.85)], picture=True)
    assert doubtful.score == pytest.approx(0.1)


def test_no_score_without_probabilities():
    with pytest.raises(ValueError, match="face scores"):
        concluded([face(0, score=float("nan"))])


def test_every_doubt_has_words():
    assert all(text and not text.endswith(".") for text in DOUBTS.values())
    assert np.unique(list(DOUBTS)).size == len(DOUBTS)
