"""Names of files in messages, and numbers in words."""

from pathlib import Path

import pytest

from dfdc.text import number, percent, plural, printable, sentence, shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name-1.mp4", "plain name-1.mp4"),
        ("naïve café 影片 😀.mp4", "naïve café 影片 😀.mp4"),
        ("narrow\u202fspace\xa0.png", "narrow\u202fspace\xa0.png"),  # as macOS names screenshots
        ("\x1b[31mred\x07\x7f\x9b", r"\x1b[31mred\x07\x7f\x9b"),
        ("two\nlines\r\t\u2028\u2029\x85", r"two\nlines\r\t\u2028\u2029\x85"),
        ("a\u202egpj.exe\u2066\u200f", r"a\u202egpj.exe\u2066\u200f"),
        ("caf\udce9.mp4", r"caf\udce9.mp4"),
        ("", ""),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(name, shown):
    assert printable(name) == shown
    printable(name).encode()  # can be written
    if "\x00" not in name and name:
        assert printable(Path(name)) == shown
    assert printable(ValueError(name)) == shown


def test_a_long_text_loses_its_middle():
    assert shown("\x1b" + "a" * 1996) == r"\x1b" + "a" * 1996
    assert shown("\x1b" + "a" * 1996 + "b") == r"\x1b" + "a" * 996 + " ... " + "a" * 999 + "b"


def test_numbers_read_well():
    shares = [percent(*pair) for pair in ((0, 0), (0, 9), (9, 9), (1, 9999), (9998, 9999), (1, 3))]
    assert shares == ["0 %", "0 %", "100 %", "0.1 %", "99.9 %", "33.3 %"]
    assert number(119146) == "119,146"
    assert [plural(count, "crop") for count in (0, 1, 1000)] == ["0 crops", "1 crop", "1,000 crops"]
    assert [sentence(text) for text in ("", "a PNG", "Éa")] == ["", "A PNG", "Éa"]
