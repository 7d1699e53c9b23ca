"""What is written and said of a run (prediction/results.py)."""

import pytest
from scoring_runs import details

from prediction.results import Summary, print_summary, write_results
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
