"""rejected.csv (dfdc/rejections.py)."""

import time
import unicodedata
from pathlib import Path

import pytest

from dfdc import layout
from dfdc.layout import DataError, Video
from dfdc.rejections import Rejection, Rejections, load_rejections

REAL = Video("real", Path("real.mp4"), "part_0", "REAL", None)
FAKE = Video("fake", Path("fake.mp4"), "part_0", "FAKE", "real")
OTHER = Video("other", Path("other.mp4"), "part_0", "FAKE", "real")


def load(root, text, header="video,frame,face,reason"):
    data = text if isinstance(text, bytes) else f"{header}\n{text}".encode()
    (root / layout.REJECTED_NAME).write_bytes(data)
    return load_rejections(root)


def faults(root, text, **options):
    """What is said of each line of a file that can't be used."""
    with pytest.raises(DataError) as error:
        load(root, text, **options)
    head, *lines = str(error.value).split("\n  ")
    assert str(root / "rejected.csv") in head
    assert "correct or remove it" in head
    return lines


def covered(rejections, video):
    return [(frame, face) for frame in (0, 10, 20) for face in (0, 1) if rejections.covers(video, frame, face)]


def test_without_a_file_nothing_is_rejected(tmp_path):
    rejections = load_rejections(tmp_path)
    assert rejections.rows == []
    assert rejections.whole(FAKE) is None
    assert covered(rejections, FAKE) == []


def test_empty_means_all_frames_and_all_faces(tmp_path):
    rejections = load(tmp_path, "real,10,1,\nfake,20,,hand\nother,,0,\n")
    assert covered(rejections, REAL) == [(10, 1)]
    assert covered(rejections, FAKE) == [(10, 1), (20, 0), (20, 1)]
    assert covered(rejections, OTHER) == [(0, 0), (10, 0), (10, 1), (20, 0)]
    assert [rejections.whole(video) for video in (REAL, FAKE, OTHER)] == [None] * 3
    assert rejections.rows == [
        Rejection("real", 10, 1, ""),
        Rejection("fake", 20, None, "hand"),
        Rejection("other", None, 0, ""),
    ]


def test_a_fake_goes_with_its_original_and_not_the_other_way_round(tmp_path):
    rejections = load(tmp_path, 'real.mp4,,,"dark, blurred"\n')
    assert rejections.whole(REAL) == "rejected in rejected.csv: dark, blurred"
    assert rejections.whole(FAKE) == "its original real is rejected in rejected.csv: dark, blurred"
    assert len(covered(rejections, REAL)) == len(covered(rejections, FAKE)) == 6
    rejections = load(tmp_path, "fake.mp4,,\n", header="video,frame,face")
    assert rejections.whole(FAKE) == "rejected in rejected.csv"
    assert len(covered(rejections, FAKE)) == 6
    for video in (REAL, OTHER):
        assert rejections.whole(video) is None
        assert covered(rejections, video) == []


def test_the_first_reason_given_for_a_video_is_told(tmp_path):
    rejections = load(tmp_path, "real,,,\nreal,,,first\nreal,,,second\nreal,0,0,third\n")
    assert rejections.whole(REAL) == "rejected in rejected.csv: first"


def test_names_with_and_without_suffix_and_in_either_unicode_form(tmp_path):
    decomposed = unicodedata.normalize("NFD", "café")
    text = f"a.mp4,,,\nb.MOV,,,\nc.d,,,\ne.d.mp4,,,\n{decomposed}.mp4,,,\n.mp4,,,\npart_0/a.mp4,,,\n"
    names = [row.video for row in load(tmp_path, text).rows]
    assert names == ["a", "b", "c.d", "e.d", unicodedata.normalize("NFC", "café"), ".mp4", "part_0/a"]


def test_what_spreadsheets_write_is_read(tmp_path):
    text = "video,frame,face,reason\r\n\r\nreal.mp4, 10 ,1,\r\n ,,,\r\nfake.mp4,20,0\r\n"
    rejections = load(tmp_path, b"\xef\xbb\xbf" + text.encode())
    assert rejections.rows == [Rejection("real", 10, 1), Rejection("fake", 20, 0)]
    for line_end in ("\n", "\r"):  # "\r" alone: old ones on a Mac
        assert load(tmp_path, text.replace("\r\n", line_end).encode()).rows == rejections.rows
    assert load(tmp_path, b"\n video , frame,face\n").rows == []


def test_all_faults_are_told_at_once_with_their_lines(tmp_path):
    text = (
        'a,10,0,\n,10,0,\n\n"b","x",0,"two\nlines"\nc,10,-1,\nd,10\ne,10,0,dark, blurred\nf,1.5,0,\ng,1234567890,0,\n'
    )
    said = [
        "line 3: the video name is missing",
        "line 5: frame 'x' is not a number; use a whole number of at least 0, or nothing for all",
        "line 7: face '-1' is not a number",
        "line 8: 2 values, expected 4; put a reason with commas in quotes",
        "line 9: 5 values, expected 4",
        "line 10: frame '1.5' is not a number",
        "line 11: frame '1234567890' is not a number",
    ]
    found = faults(tmp_path, text)
    assert len(found) == len(said)
    for line, start in zip(found, said, strict=True):
        assert line.startswith(start), line
    assert load(tmp_path, "a,123456789,0,\n").rows[0].frame == 123456789
    assert faults(tmp_path, "a,,,dark\n", header="video,frame,face")[0].startswith("line 2: 4 values, expected 3")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "line 1: expected the header video,frame,face, with or without reason, not ''"),
        (
            b"\n\nvideo;frame;face\n",
            "line 3: expected the header video,frame,face, with or without reason, not 'vid",
        ),
        (b"video,frame,face,why\n", "not 'video,frame,face,why'"),
        (b"video,face,frame\na,0,0\n", "not 'video,face,frame'"),
        (b"video,frame,face\na,0,0\n\xff,0,0\n", "line 3: not UTF-8 text; save it as CSV in UTF-8"),
        (b"\xef\xbb\xbfvideo,frame,face\n\xff,0,0\n", "line 2: not UTF-8 text"),
        (b"\n\xff", "line 2: not UTF-8 text"),
        (b'"video\n', "line 1: not CSV (unexpected end of data)"),
    ],
)
def test_what_is_no_such_file_is_named(tmp_path, data, said):
    (fault,) = faults(tmp_path, data)
    assert said in fault


def test_a_quote_that_nobody_closes_hides_no_lines(tmp_path):
    found = faults(tmp_path, 'a,x,0,\nb,0,0,"dark\nc,0,0,\nd,0,0,\n')
    assert [line.split(":")[0] for line in found] == ["line 2", "line 3"]
    assert "needs a quote at both ends" in found[1]


def test_a_file_that_can_t_be_opened_is_not_the_same_as_none(tmp_path):
    path = tmp_path / "rejected.csv"
    path.symlink_to(tmp_path / "away.csv")
    with pytest.raises(DataError, match=r"rejected\.csv is a dangling link"):
        load_rejections(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"rejected\.csv can't be read \(not a regular file but a folder\)"):
        load_rejections(tmp_path)


def test_asking_for_a_crop_takes_about_a_microsecond():
    rejections = Rejections([Rejection(f"v{number}", number, 0) for number in range(2000)])
    started = time.perf_counter()
    for frame in range(20_000):
        rejections.covers(FAKE, frame, 0)
    assert time.perf_counter() - started < 0.5  # a search through the rows would take 20 times as long
