"""What pages of verdicts say: bands, doubts and rules in words."""

from dataclasses import replace

import numpy as np
import pytest
from test_report import Page
from test_verdict_report import a_verdict

from prediction.conclusion import conclude
from prediction.pages import views
from prediction.pages.views import Made, Pictures
from prediction.verdict import Status, Verdict


def test_t7_faces_that_were_thrown_away_are_named(tmp_path):
    scores = np.full((32, 2), 0.1)
    scores[:3, 0] = 0.95
    verdict = a_verdict(tmp_path / "v.mp4", scores)
    sentence, total = views.thrown_away(verdict, "confident")
    assert verdict.models[0].score == pytest.approx(0.1)
    smooth = 0.1 + 0.85 * (1 - (29 / 32) ** 3)  # the highest of three faces drawn at random
    assert "a scored 3 of 32 faces above 0.8" in sentence
    assert "but the confident rule left them out. More than nine tenths of the faces are below 0.2, " in sentence
    assert "so the rule averages only those, to 0.10." in sentence
    assert f"The smooth strategy would result in {smooth:.2f}." in sentence
    assert f"with the smooth strategy it would be {(smooth + 0.1) / 2:.2f}" in total
    made = Made({"strategy": "confident"}, {}, {})
    text = Page(views.build_video(verdict, Pictures(), made).decode()).text
    assert sentence in text
    assert "The score leaves out faces that look clearly fake" in text
    assert views.thrown_away(verdict, "mean") == []
    assert views.thrown_away(a_verdict(tmp_path / "v.mp4", np.full((32, 2), 0.1)), "confident") == []


def test_words_of_scores_and_rules():
    assert [views.band(score).kind for score in (1, 0.7, 0.69, 0.3, 0.29, 0.0)] == ["fake"] * 2 + ["open"] * 2 + [
        "real"
    ] * 2
    scores = np.array([0.9] * 14 + [0.5] * 6)
    assert views.rule_in_words("fake", "confident", scores) == "fake: 14 of 20 are above 0.8; the mean of those"
    assert "person 3: the mean" in views.rule_in_words("person 3", "person-max", scores)


def test_a_score_on_the_edge_is_not_above_it(tmp_path):
    verdict = a_verdict(tmp_path / "v.mp4", [[0.8]] + [[0.1]] * 31, names=["a"])
    assert verdict.models[0].rule == "real"
    assert views.thrown_away(verdict, "confident") == []


def test_doubts_have_their_figures_where_there_are_grounds(tmp_path):
    verdict = a_verdict(tmp_path / "v.mp4", [[0.9, 0.1]] * 3)
    assert {"few faces", "checkpoints differ"} <= set(verdict.doubts)
    said = views.reasons_for_doubt(verdict, MADE)
    assert "Few frames show a face that decides the score: 3 of the 32 frames that were read." in said
    assert "The checkpoints disagree: from 0.10 to 0.90." in said
    assert "Only one checkpoint scored it, so no second opinion exists." not in said
    verdict.grounds = None
    assert "Few frames show a face that decides the score." in views.reasons_for_doubt(verdict, MADE)
    alone = a_verdict(tmp_path / "v.mp4", [[0.9]] * 3, names=["a"])
    assert "Only one checkpoint scored it, so no second opinion exists." in views.reasons_for_doubt(alone, MADE)


def test_what_weakens_every_verdict_comes_first(tmp_path):
    made = replace(MADE, warnings=["a was trained on 2 videos only"])
    verdict = a_verdict(tmp_path / "v.mp4", [[0.9, 0.9]] * 32)
    assert views.reasons_for_doubt(verdict, made)[0] == "a was trained on 2 videos only."
    verdict.doubts = []
    text = Page(views.build_video(verdict, Pictures(), made).decode()).text
    assert "a was trained on 2 videos only." in text
    assert "No doubts" not in text


def build(monkeypatch, make, *arguments):
    """The view model that goes to the template."""
    seen = []
    monkeypatch.setattr(views, "render", lambda template, page: seen.append(page) or b"")
    make(*arguments)
    return seen[0]


MADE = Made({"strategy": "confident"}, {}, {})


def test_a_person_has_a_course_and_passers_by_a_note(tmp_path, monkeypatch):
    people = [0] * 15 + [1] * 15 + [2]
    scores = [[0.9]] * 15 + [[0.6]] * 15 + [[0.3]]
    page = build(monkeypatch, views.build_video, a_verdict(tmp_path / "v", scores, people, ["a"]), Pictures(), MADE)
    assert [page.lead.card.person.person, *(card.person.person for card in page.persons)] == [0, 1]
    assert [chart.name for chart in page.courses.charts] == ["Person 0", "Person 1"]
    assert (page.courses.timed, page.courses.more) == (True, False)
    assert page.courses.legend == [("var(--m0)", "a")]
    (note,) = page.others
    assert note.startswith("Not shown: 1 seen in few frames only")
    assert note.endswith(", score 0.30.")
    more = a_verdict(tmp_path / "v", [*scores, [0.4]], [*people, 3], ["a"])
    assert views._others(more)[0].endswith(", score 0.30 to 0.40.")


def test_every_person_who_weighs_anything_is_shown(tmp_path):
    verdict = a_verdict(tmp_path / "v", [[0.9]] * 20 + [[0.6]] * 5, [0] * 20 + [1] * 5, ["a"])
    assert [0 < person.weight < 1 for person in verdict.persons].count(True) == 1
    assert len(views.main_persons(verdict)) == 2


def test_one_frame_or_no_score_has_no_course(tmp_path, monkeypatch):
    one = a_verdict(tmp_path / "v", [[0.9]], names=["a"])
    for verdict in (one, Verdict("v", "no face")):
        assert build(monkeypatch, views.build_video, verdict, Pictures(), MADE).courses is None
    two = a_verdict(tmp_path / "v", [[0.9]] * 2, names=["a"])
    assert build(monkeypatch, views.build_video, two, Pictures(), MADE).courses is not None


RARE = [0] * 30 + [1, 2]
HALVES = [0] * 16 + [1] * 16


@pytest.mark.parametrize(
    ("strategy", "people", "scores", "title", "part"),
    [
        ("confident", [0] * 32, [0.5] * 32, "The person who decides", "No other person was detected."),
        ("smooth", [0] * 32, [0.5] * 32, "The person who decides", "No other person was detected."),
        (
            "confident",
            RARE,
            [0.49] * 30 + [0.73, 0.81],
            "The person seen most often",
            "2 more persons, seen in few frames, also count.",
        ),
        (
            "mean",
            [0] * 31 + [1],
            [0.49] * 31 + [0.8],
            "The person seen most often",
            "1 more person, seen in few frames, also counts.",
        ),
        (
            "person-max",
            RARE,
            [0.49] * 30 + [0.73, 0.81],
            "The person who decides",
            "2 more persons, seen in few frames, do not count.",
        ),
        (
            "smooth",
            [0] * 31 + [1],
            [0.49] * 31 + [0.8],
            "The person who decides",
            "1 more person, seen in few frames, does not count.",
        ),
        (
            "mean",
            [*HALVES, 2],
            [0.6] * 16 + [0.4] * 16 + [0.9],
            "The highest score of a person seen often",
            "All 3 persons count toward the video’s score, 1 of them seen in few frames.",
        ),
        (
            "person-max",
            HALVES,
            [0.6] * 16 + [0.4] * 16,
            "The person who decides",
            "Other persons have lower scores and don’t change the video’s score.",
        ),
        (
            "person-max",
            [*HALVES, 2],
            [0.6] * 16 + [0.4] * 16 + [0.9],
            "The person who decides",
            "Other persons don’t change the video’s score.",
        ),
        (
            "person-max",
            [0] * 20 + [1] * 6,
            [0.5] * 20 + [0.9] * 6,
            "The person who counts most",
            "Seen in fewer frames than another person, so the score counts by 67% only.",
        ),
        (
            "person-max",
            [0] * 20 + [1] * 3,
            [0.5] * 20 + [0.9] * 3,
            "The person with the highest score",
            "Person 0, seen in more frames, counts most.",
        ),
    ],
)
def test_who_decides(tmp_path, monkeypatch, strategy, people, scores, title, part):
    verdict = a_verdict(tmp_path / "v", [[score] for score in scores], people, ["a"], strategy)
    page = build(monkeypatch, views.build_video, verdict, Pictures(), Made({"strategy": strategy}, {}, {}))
    assert (page.lead.title, page.lead.part) == (title, part)


def test_an_unsure_face_of_an_image_does_not_count(tmp_path, monkeypatch):
    verdict = a_verdict(tmp_path / "v", [[0.5], [0.9]], [0, 1], ["a"])
    verdict.picture = True
    verdict.faces[1] = replace(verdict.faces[1], detector=0.75)
    conclude(verdict, ["a"], "confident")
    page = build(monkeypatch, views.build_video, verdict, Pictures(), MADE)
    assert page.lead.part == "1 more person, which the detector is not sure of, does not count."
    assert page.others == ["Not shown: 1 that the detector is not sure of, score 0.90."]


def test_settings_have_plain_names_and_units():
    settings = {
        "models": [],
        "frames": 32,
        "detector_scale": "auto",
        "margin_part": 3,
        "floors": {"faces": 8, "side": 50.0},
        "detector_thresholds": [0.7, 0.8, 0.8],
    }
    assert Made(settings, {}, {}).shown == [
        ("Frames searched for faces", "32"),
        ("Scale for face detection", "chosen by the frame size"),
        ("Margin around a face", "1/3 of its box on each side"),
        ("Doubt “few faces” below", "8 frames"),
        ("Doubt “small faces” below", "50 pixels"),
        ("Thresholds of the face detector’s three stages", "0.7, 0.8, 0.8"),
    ]
    assert Made({"detector_scale": 0.5}, {}, {}).shown == [("Scale for face detection", "frames resized by 0.5")]


def test_the_page_gives_the_ranges_of_scores_and_each_reason_once(tmp_path):
    text = Page(views.build_video(a_verdict(tmp_path / "v", [[0.5]] * 32, names=["a"]), Pictures(), MADE).decode()).text
    for span in ("0.9 to 1", "0.7 to 0.9", "0.3 to 0.7", "0.1 to 0.3", "0 to 0.1"):
        assert span in text
    assert "checkpoints can’t tell" not in text
    assert "predict_folder.py --report" in text  # prediction/results.py recognises pages by it
    text = Page(views.build_video(Verdict("v", Status.DAMAGED, reason="1 lost"), Pictures(), MADE).decode()).text
    assert text.count("1 lost") == 1
    assert text.count("oo few frames could be decoded") == 1
