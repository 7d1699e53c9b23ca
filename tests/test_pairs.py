"""The pairs of crops on the page of preprocessing: which are shown, and what is drawn on them."""

import numpy as np

from dfdc import layout
from preprocessing.pages import pairs


def test_the_dots_lie_on_the_landmarks_and_the_mask_is_lit_where_it_changed():
    grey = np.full((448, 336, 3), 90, np.uint8)
    points = np.array([(100, 150), (220, 150), (160, 220), (110, 300), (210, 300)], np.int16)
    drawn = pairs._with_points(grey, points)
    assert drawn.shape == (224, 168, 3)
    for x, y in points // 2:
        assert np.abs(drawn[y, x].astype(int) - pairs._GOLD).max() < 8
    assert (drawn[5, 5] == 90).all()
    mask = np.zeros((448, 336), np.uint8)
    mask[200:300, 100:200] = 255
    lit = pairs._with_mask(grey, mask)
    assert lit[125, 75].min() > 150
    assert lit[125, 75, 0] > 240  # pale yellow
    assert len(set(lit[20, 20].tolist())) == 1  # grey


def test_pairs_are_spread_evenly():
    for count in (1, 2, 5, 64, 100):
        order = pairs.spread(range(count))
        assert sorted(order) == list(range(count))
    for start in (4, 8, 16):
        halves = [index < 50 for index in pairs.spread(range(100))[:start]]
        assert abs(sum(halves) - start / 2) <= start / 4
    videos = {
        f"{part}_{index}": layout.Video(f"{part}_{index}", None, f"p{part}", layout.FAKE, "r")
        for part in range(3)
        for index in range(9)
    }
    first = list(pairs._spread_fakes(videos.values()))[:6]
    assert [video.part for video in first] == ["p0", "p2", "p1"] * 2
    assert [video.id[-1] for video in first] == ["0"] * 3 + ["8"] * 3
