"""What is written and said of a run (prediction/results.py)."""

import pytest
from scoring_runs import details

from prediction.results import (
    Confusion,
    Held,
    HeldOut,
    LabelCounts,
    Metrics,
    Summary,
    plain,
    print_summary,
    write_results,
)
from prediction.settings import Floors, RunSettings
from prediction.verdict import Status, Verdict

SETTINGS = RunSettings([], 32, "auto", 3, "mean", Floors(), "fp32", (0.7, 0.8, 0.8))


def test_a_name_with_an_end_of_line_stays_one_row(tmp_path):
    names = ["a\rb.mp4", "a\nb.mp4", 'a",b.mp4', "\udce9.mp4"]
    verdicts = [Verdict(name, "ok", score=0.1 + 0.2, doubts=["few faces", "partial"]) for name in names]
    write_results(tmp_path / "o.csv", verdicts, SETTINGS, Summary({}, {}))
    end = "0.30000000000000004,ok,few faces; partial,0,0\n"
    assert (tmp_path / "o.csv").read_bytes().decode().split("\n", 1)[1] == (
        '"a\rb.mp4","0.30000000000000004","ok","few faces; partial","0","0"\n'
        f'"a\nb.mp4",{end}"a"",b.mp4",{end}\\udce9.mp4,{end}'
    )
    assert details(tmp_path / "o.csv")["videos"][3]["filename"] == "\udce9.mp4"
    assert (tmp_path / "o.json").read_text().startswith('{\n "version"')


@pytest.mark.parametrize(("count", "shown"), [(50, True), (51, False)])
def test_of_many_videos_only_those_with_a_fault_are_listed(count, shown, capsys, tmp_path):
    verdicts = [Verdict(f"{number}.mp4", "ok", score=0.5) for number in range(count - 1)]
    verdicts += [Verdict("part.mp4", "partial", "lost frames", score=0.25)]
    summary = Summary({Status.OK: count - 1, Status.PARTIAL: 1}, {"partial": 3, "few faces": 1})
    print_summary(tmp_path / "o.csv", verdicts, summary)
    said = capsys.readouterr().out
    assert ("0.5000 0.mp4" in said) == shown
    assert "  partial: part.mp4: lost frames\n" in said
    assert said.index("  ok ") < said.index("  partial        1  scored")
    assert "doubts: 3 partial, 1 few faces" in said
    assert "labelled" not in said
    assert "learned" not in said


def test_what_is_not_known_is_absent_and_what_labels_say_is_printed(capsys, tmp_path):
    metrics = Metrics(
        count=3,
        reals=0,
        fakes=3,
        log_loss=0.25,
        accuracy=1.0,
        expected_calibration_error=0,
        confusion=Confusion(0, 0, 0, 3),
    )
    held_out = HeldOut(2, [Held("a", 2, "sha", 7), Held("b", "unknown")])
    summary = Summary({Status.OK: 3}, {}, held_out, LabelCounts(3, 0, 0), metrics)
    written = plain(summary)
    assert written.keys() == {"statuses", "doubts", "held_out", "labels", "metrics"}
    assert written["held_out"]["by"][1] == {"name": "b", "fold": "unknown"}
    assert "auc" not in written["metrics"]
    print_summary(tmp_path / "o.csv", [Verdict("v", "ok", score=0.5, doubts=["few faces", "partial"])], summary)
    said = capsys.readouterr().out
    assert said.startswith("  0.5000 v  (few faces, partial)\n")
    assert "on 3 labelled videos (3 fake): log loss 0.2500, accuracy 1.0000\n" in said
    assert "  (unknown whether these videos were in the training sets of b)\n" in said
    assert "doubts:" not in said
