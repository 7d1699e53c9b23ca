"""Scores over time, as a drawing."""

import re

import pytest

from dfdc.pages import render
from prediction.pages.chart import LineChart, _height, chart
from prediction.verdict import Face


def draw(folder, faces, rate):
    """The chart as it stands on a page."""
    template = folder / "chart.html.j2"
    template.write_text('{% from "macros.html.j2" import line_chart %}{{ line_chart(page) }}')
    return render(template, chart(faces, 49, rate, "Person 0")).decode()


@pytest.mark.parametrize(("rate", "unit"), [(25.0, "time (m:ss)"), (0.0, "frame")])
def test_the_chart_has_time_across(tmp_path, rate, unit):
    faces = [Face(number, 0, [0, 0, 9, 9], 1.0, scores=[0.5, 1.0]) for number in (0, 24, 48)]
    drawn = draw(tmp_path, faces, rate)
    assert f">{unit}</text>" in drawn
    assert drawn.count("<polyline") == 3
    marks = re.findall(r">([^<]+)</text>", drawn)[3:-1]
    assert marks == {25.0: ["0:00.0", "0:00.5", "0:01.0", "0:01.5"], 0.0: ["0", "10", "20", "30", "40"]}[rate]
    middle = (LineChart.left + LineChart.right) / 2
    assert f'cx="{middle:.1f}" cy="{_height(0.5):.1f}"' in drawn


def test_a_line_does_not_cross_a_gap(tmp_path):
    faces = [Face(number, 0, [0, 0, 9, 9], 1.0, scores=[0.5]) for number in (0, 1, 2, 30, 31, 45)]
    (line,) = chart(faces, 49, 25.0, "Person 0").lines
    assert [piece.count(",") for piece in line.pieces] == [3, 2]
    assert draw(tmp_path, faces, 25.0).count("<circle") == len(line.dots) == 6
