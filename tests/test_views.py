"""What pages of verdicts say: bands, doubts and rules in words."""

import numpy as np
import pytest
from test_report import Page
from test_verdict_report import a_verdict

from prediction.pages import views
from prediction.pages.views import Made, Pictures


def test_t7_faces_that_were_thrown_away_are_named(tmp_path):
    scores = np.full((32, 2), 0.1)
    scores[:3, 0] = 0.95
    verdict = a_verdict(tmp_path / "v.mp4", scores)
    sentence, total = views.thrown_away(verdict, "confident")
    assert verdict.models[0].score == pytest.approx(0.1)
    smooth = 0.1 + 0.85 * (1 - (29 / 32) ** 3)  # the highest of three faces drawn at random
    assert "a scored 3 of 32 faces above 0.8" in sentence
    assert "threw them away: more than nine tenths are below 0.2, and it averages only those, to 0.10." in sentence
    assert f"With the smooth strategy it would be {smooth:.2f}." in sentence
    assert f"would get {(smooth + 0.1) / 2:.2f}" in total
    made = Made({"strategy": "confident"}, {}, {})
    text = Page(views.build_video(verdict, Pictures(), made).decode()).text
    assert sentence in text
    assert "surely fake were left out" in text
    assert views.thrown_away(verdict, "mean") == []
    assert views.thrown_away(a_verdict(tmp_path / "v.mp4", np.full((32, 2), 0.1)), "confident") == []


def test_words_of_scores_and_rules():
    assert [views.band(score).kind for score in (1, 0.7, 0.69, 0.3, 0.29, 0.0)] == ["fake"] * 2 + ["open"] * 2 + [
        "real"
    ] * 2
    scores = np.array([0.9] * 14 + [0.5] * 6)
    assert views.rule_in_words("fake", "confident", scores) == "fake: 14 of 20 are above 0.8; the mean of those"
    assert "person 3: the mean" in views.rule_in_words("person 3", "person-max", scores)
