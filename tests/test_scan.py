"""What the page of preprocessing counts."""

from test_report import write_ledger

from dfdc import layout
from preprocessing.pages import scan


def test_similar_reasons_are_one_line(tmp_path):
    rows = {(f"v{i}", "skipped"): f"its original o{i} is not on disk" for i in range(50)}
    rows |= {(f"w{i}", "failed"): f"{tmp_path}/part/w {i}.mp4 is not a video" for i in range(3)}
    rows |= {("z", "failed"): "the file has zero bytes"}
    rows |= {(f"m{i}", "incomplete"): f"{i} of 9 masks show no change; {i} boxes hold no picture" for i in range(2, 5)}
    path = write_ledger(tmp_path, "extract_crops", rows)
    ledger = scan.read_ledger(path, layout.Dataset(tmp_path, []))
    lines = [(reason.outcome, reason.group.count, reason.text) for reason in ledger.reasons]
    assert lines == [
        ("failed", 3, "DATA_ROOT/part/w … is not a video"),
        ("failed", 1, "the file has zero bytes"),
        ("skipped", 50, "its original … is not on disk"),
        ("incomplete", 3, "… boxes hold no picture"),
        ("incomplete", 3, "… of 9 masks show no change"),
    ]
    assert ledger.reasons[2].group.examples == ["v0", "v1", "v10"]
    assert ledger.outcomes == {"skipped": 50, "failed": 4, "incomplete": 3}


def test_reasons_without_end_are_counted_together(tmp_path):
    path = write_ledger(tmp_path, "extract_crops", {(f"v{i}", "failed"): f"w{i} " * 3 for i in range(300)})
    ledger = scan.read_ledger(path, layout.Dataset(tmp_path, []))
    assert len(ledger.reasons) == scan.MAX_REASONS + 1
    assert sum(reason.group.count for reason in ledger.reasons) == 300
    assert max(ledger.reasons, key=lambda reason: reason.group.count).text == "other reasons"


def test_shares_of_frames_are_binned():
    bins = [scan._coverage_bin(*pair) for pair in ((0, 0), (0, 8), (1, 8), (2, 8), (4, 8), (7, 8), (8, 8))]
    assert [scan.COVERAGE[index] for index in bins] == ["none", "none", "< 25%", "25–49%", "50–74%", "75–99%", "all"]
