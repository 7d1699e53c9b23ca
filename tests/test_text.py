"""Names of files in messages (dfdc/text.py)."""

from pathlib import Path

import pytest

from dfdc.text import printable


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
