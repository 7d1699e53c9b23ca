"""The table of all configuration keys in docs/training.md (training/config_table.py)."""

import pytest

from training import config_table
from training.config import TrainConfig, flatten


def test_the_page_has_the_table_of_the_classes():
    page = config_table.PAGE.read_text(encoding="utf-8")
    assert config_table.with_table(page) == page, "run: python -m training.config_table"


def test_each_key_has_values_a_default_and_a_meaning():
    rows = list(config_table.rows(TrainConfig))
    assert [row[0].strip("`") for row in rows] == list(flatten(TrainConfig().model_dump()))
    assert all(all(row) for row in rows)
    known = {key.strip("`"): rest for key, *rest in rows}
    assert known["epochs"][:2] == ["whole number over 0", "`40`"]
    assert known["loss"][:2] == ["`bce`, `focal`", '`"bce"`']
    assert known["pretrained"][:2] == ["true or false", "`true`"]


def test_the_command_writes_between_the_markers_only(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{config_table.BEGIN}old\n{config_table.END}after\n")
    monkeypatch.setattr(config_table, "PAGE", page)
    config_table.main()
    assert page.read_text() == f"before\n{config_table.BEGIN}{config_table.table()}{config_table.END}after\n"


@pytest.mark.parametrize("text", ["", config_table.BEGIN, config_table.END])
def test_a_page_without_both_markers_is_an_error(text):
    with pytest.raises(ValueError, match="markers"):
        config_table.with_table(text)
