"""The verdict on a video (prediction/verdict.py)."""

import json
import pickle
import re

import pytest
from helpers import ROOT
from test_conclusion import concluded, face

from prediction import Status
from prediction.verdict import Face, Verdict


def test_a_status_is_its_text_everywhere():
    for status in Status:
        assert status == status.value == str(status) == f"{status}"
        assert f"{status:<14}|" == f"{status.value:<14}|"
        assert json.dumps({status: [status]}, indent=1) == json.dumps({status.value: [status.value]}, indent=1)
        assert pickle.loads(pickle.dumps(status)) is status
        assert Verdict("v", status.value).status is status


def test_statuses_are_those_of_the_documentation():
    section = (ROOT / "docs/scoring.md").read_text().split("## Statuses")[1].split("##")[0]
    rows = re.findall(r"^\| ([a-z ]+) \| (yes|no) \| (.*) \|$", section, re.MULTILINE)
    assert [name for name, *_ in rows] == [status.value for status in Status]
    for name, scored, text in rows:
        status = Status(name)
        assert status.scored == (scored == "yes")
        assert status.passing == ("retried on the next run" in text) == ("retried on the next run" in status.meaning)
        assert not (status.scored and status.passing)


def test_no_verdict_keeps_no_faces():
    verdict = concluded([face(frame) for frame in range(7)])
    verdict.score_uncalibrated = 0.4
    verdict.fail(KeyError("bug"), "while scoring: ")
    assert (verdict.status, verdict.reason) == ("error", "while scoring: KeyError: 'bug'")
    assert not verdict.judged
    assert (verdict.score_uncalibrated, verdict.grounds) == (None, None)
    assert verdict.doubts == verdict.models == verdict.persons == verdict.faces == []
    verdict.fail(MemoryError("out of memory"))
    assert (verdict.status, verdict.reason) == ("out of memory", "MemoryError: out of memory")


def test_a_box_that_is_turned_inside_out_has_no_side():
    assert face(side=-5).side == 0
    assert Face(0, 0, [0, 0, -5, 10], 1.0).side == Face(0, 0, [0, 0, 10, -5], 1.0).side == 0
    assert Face(0, 0, [0, 0, 40, 10], 1.0).side == pytest.approx(20)
