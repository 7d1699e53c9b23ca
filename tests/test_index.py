"""The index of a report (prediction/pages/index.py)."""

import re
from dataclasses import replace

import pytest
from test_report import Page
from test_verdict_report import a_verdict

from prediction.pages import index
from prediction.pages.index import build_index
from prediction.pages.views import Made
from prediction.verdict import Verdict

MADE = Made({"strategy": "confident"}, {"a": "0" * 64}, {})


def verdicts_of(tmp_path, scores):
    return [a_verdict(tmp_path / f"v{number}", [[score]] * 32, names=["a"]) for number, score in enumerate(scores)]


def pages_of(verdicts):
    return {verdict.filename: f"videos/{verdict.filename}.html" for verdict in verdicts}


def rows(text):
    """The name of each video of a page, in order."""
    return re.findall(r'<a href="videos/[^"]+">([^<]+)</a>', text)


def links(text):
    return re.findall(r'href="([^"]+)"', text)


def test_the_most_suspicious_come_first_in_groups(tmp_path):
    verdicts = [Verdict("none", "damaged", reason="a reason")]
    for name, score in (("real", 0.05), ("open", 0.5), ("fake", 0.95), ("also", 0.95)):
        verdicts.append(a_verdict(tmp_path / name, [[score]] * 32, names=["a"]))
    text = build_index(verdicts, pages_of(verdicts), {"fake": b"jpeg"}, MADE)["index.html"].decode()
    assert rows(text) == ["also", "fake", "open", "real", "none"]
    page = Page(text)
    assert page.alts == ["a face in fake"]
    assert [row[0] for row in page.rows if len(row) == 1] == [
        "Signs of a fake 2 videos",
        "No clear answer 1 video",
        "Few or no signs 1 video",
        "No verdict 1 video",
    ]
    assert "damaged: a reason" in page.text
    assert "ok;" not in page.text  # beside a score, it would read as a verdict
    assert "small faces" in page.text
    assert 'class="none">No verdict' not in text  # the class of placeholders, which are small and centred
    assert "Pages" not in text
    assert [link for link in links(text) if "#" in link] == [f"index.html#{kind}" for kind in index.KINDS]


def test_a_single_video_has_no_counts_or_groups(tmp_path):
    verdicts = verdicts_of(tmp_path, [0.9])
    text = build_index(verdicts, pages_of(verdicts), {}, MADE)["index.html"].decode()
    assert rows(text) == ["v0"]
    assert "tiles five" not in text
    assert 'class="group"' not in text
    assert "Scored by 1 checkpoint (a trained network)" in Page(text).text


def test_what_weakens_every_verdict_is_at_the_top_of_each_page(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "PAGE_ROWS", 1)
    verdicts = verdicts_of(tmp_path, [0.9, 0.1])
    for warnings in ([], ["a was trained on 2 videos only", "b <too>"]):
        built = build_index(verdicts, pages_of(verdicts), {}, replace(MADE, warnings=warnings))
        for data in built.values():
            cards = re.findall('<div class="card warn">(.*)</div>', data.decode().partition('class="tiles')[0])
            assert cards == (["<p>a was trained on 2 videos only.</p><p>b &lt;too&gt;.</p>"] if warnings else [])
        assert len(built) == 2


def test_no_video_has_a_page():
    assert list(build_index([], {}, {}, MADE)) == ["index.html"]


@pytest.mark.parametrize(("count", "pages"), [(4, 1), (5, 2), (40, 10)])
def test_many_videos_have_pages_whose_links_lead_somewhere(tmp_path, monkeypatch, count, pages):
    monkeypatch.setattr(index, "PAGE_ROWS", 4)
    verdicts = verdicts_of(tmp_path, [number / count for number in range(count)])
    built = build_index(verdicts, pages_of(verdicts), {}, MADE)
    assert list(built) == ["index.html", *(f"index-page-{number}.html" for number in range(2, pages + 1))]
    texts = {name: data.decode() for name, data in built.items()}
    assert [name for text in texts.values() for name in rows(text)] == [v.filename for v in reversed(verdicts)]
    for text in texts.values():
        ids = re.findall(r' id="([^"]+)"', text)
        assert len(ids) == len(set(ids))
        Page(text)
        for link in links(text):
            file, _, anchor = link.partition("#")
            assert file in texts or file in pages_of(verdicts).values()
            assert not anchor or f'id="{anchor}"' in texts[file]
    if pages > 1:
        first, last = texts["index.html"], texts[f"index-page-{pages}.html"]
        assert 'rel="prev"' not in first
        assert 'rel="next" href="index-page-2.html"' in first
        assert 'rel="next"' not in last
        assert f"Videos 1 to 4 of {count}" in first
        assert f"{4 * pages - 3} to {count} of {count}" in last
    if pages == 10:
        shown = re.findall(r'<(?:a href="index[^"]*"|b aria-current="page")>(\d+)<', texts["index-page-5.html"])
        assert shown == ["1", "3", "4", "5", "6", "7", "10"] * 2  # above and below the table
        assert texts["index-page-5.html"].count("<span>…</span>") == 4
