"""Reading JSON files into dataclasses (prediction/json_file.py)."""

from dataclasses import dataclass

import pytest

from prediction.json_file import read_json_file


@dataclass(frozen=True)
class Part:
    number: int


@dataclass(frozen=True)
class Whole:
    name: str
    parts: list[Part]
    more: str = ""


def test_what_it_holds_is_a_dataclass_and_other_keys_are_passed_over(tmp_path):
    (tmp_path / "f").write_text('{"name": "caf\\udce9", "parts": [{"number": 3, "unit": "m"}], "later": 1}')
    assert read_json_file(tmp_path / "f", Whole) == Whole("caf\udce9", [Part(3)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("[]", "the file: Input should be a dictionary"),
        ('{"name": 3, "parts": [{"number": "x"}]}', r"name: Input should be a valid string; parts\.0\.number: "),
        ('{"name": "a"}', "parts: Field required"),
        ("[" * 100_000, "nested too deep"),
        (b"\xff", "codec can't decode"),
    ],
)
def test_every_fault_is_named(tmp_path, text, said):
    (tmp_path / "f").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=said):
        read_json_file(tmp_path / "f", Whole)


def test_no_file_is_an_error_of_its_own(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json_file(tmp_path / "absent", Whole)
