"""folds.csv is read, and what is wrong with it is told (dfdc/folds.py)."""

import pytest

from dfdc import folds
from dfdc.command_line import UserError
from dfdc.folds import FoldsFileError, FoldsRow

HEADER = ",".join(folds.COLUMNS) + "\n"
ROWS = ["b,0_1.png,0,b,0,3\n", "a,10_0.png,1,b,10,2\n", "b,10_1.png,0,b,10,3\n", "b,0_0.png,0,b,0,3\n"]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "folds.csv"
    path.write_text(HEADER + "".join(ROWS))
    return path


@pytest.mark.parametrize("at_once", [1, 3, 4, 512])
def test_rows_come_in_the_order_of_the_file(path, monkeypatch, at_once):
    monkeypatch.setattr(folds, "READ_ROWS", at_once)
    same = {"original": "b", "fold": 3, "label": 0}
    rows = [FoldsRow("b", "1.png", **same), FoldsRow("a", "0.png", 1, "b", 2), FoldsRow("b", "0.png", **same)]
    assert folds.read_distinct(path) == rows
    assert folds.read_video_folds(path) == {"b": 3, "a": 2}
    pieces = list(folds.read_columns(path, ("fold", "file")))
    assert [text for _, files in pieces for text in files] == ["0_1.png", "10_0.png", "10_1.png", "0_0.png"]
    assert max(len(numbers) for numbers, _ in pieces) <= at_once


def test_only_the_columns_that_are_asked_for_must_be_there(path):
    path.write_text("fold,mine,video\n1,x,007\n-2,y,NA\n")
    assert folds.read_video_folds(path) == {"007": 1, "NA": -2}
    with pytest.raises(FoldsFileError, match="lacks the column label and original"):
        list(folds.read_columns(path, ("video", "label", "original")))
    with pytest.raises(FoldsFileError, match="its first line is not video,file,label,original,frame,fold"):
        folds.read_distinct(path)


def test_blank_lines_say_nothing(path):
    rows = folds.read_distinct(path)
    path.write_text(HEADER + "\n" + "\n\n".join(ROWS) + "\n\n")
    assert folds.read_distinct(path) == rows
    path.write_text(HEADER)
    assert folds.read_distinct(path) == []
    assert folds.read_video_folds(path) == {}


def test_commas_quotes_and_ends_of_lines_in_names_come_as_they_are(path):
    with path.open("w", newline="") as handle:
        handle.write(HEADER + '"a,""b""\r\nc",0_0.png,0,x,0,1\r\n')
    assert folds.read_video_folds(path) == {'a,"b"\r\nc': 1}


@pytest.mark.parametrize("at_once", [1, 2, 512])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("b,10,2", "b,10", "line 3 has 5 values, not 6"),
        ("b,10,2", "b,10,2,2", "line 3 has 7 values, not 6"),
        ("b,10,3\n", "b\n", "line 4 has 4 values, not 6"),
        ("b,10,3\nb", "b,10,3\n\nb,b", "line 6 has 7 values, not 6"),
        ("b,10,3\nb,0_0.png,0", "b,10,3\n\nb,0_0.png,2", "line 6: label '2' is neither 0 (real) nor 1 (fake)"),
        ("a,10_0.png,1", "a,10_0.png,", "line 3: label '' is neither"),
        ("b,10,2", "b,10,x", "line 3: fold 'x' is not a whole number"),
        ("b,10,2", "b,10,1.5", "line 3: fold '1.5' is not a whole number"),
        ("b,10,2", "b,ten,2", "line 3: frame 'ten' is not a whole number"),
        ("b,10,2", f"b,10,{10**18}", "line 3: fold '1000000000000000000' is not a whole number of up to 18 digits"),
        ("b,10,2", f"b,10,{'9' * 5000}", f"line 3: fold '{'9' * 5000}' is not a whole number of"),
        ("fold", "split", "it lacks the column fold"),
        (HEADER, "", "it lacks the column video and"),
        ("a,", '"' + "a" * 200_000, "it can't be read (field larger than"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(path, monkeypatch, old, new, said, at_once):
    monkeypatch.setattr(folds, "READ_ROWS", at_once)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        list(folds.read_columns(path))
    assert error.value.reason.startswith(said)
    assert str(error.value) == f"{path}: {error.value.reason}; preprocessing step 5 (generate_folds.py) writes it"


def test_bytes_that_are_no_text_and_a_file_that_is_not_there(path):
    path.write_bytes(HEADER.encode() + b"\xff,0_0.png,0,b,0,3\n")
    with pytest.raises(FoldsFileError, match="can't decode byte 0xff"):
        folds.read_distinct(path)
    with pytest.raises(FileNotFoundError):
        folds.read_distinct(path.with_name("absent.csv"))
