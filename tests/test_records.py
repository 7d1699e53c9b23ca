"""The lines of a run's log, written and read (training/records.py)."""

import json

import pytest

from dfdc.command_line import SettingError
from training.records import EpochRecord, SetRecord, StartRecord, read_epochs

RECORD = EpochRecord(
    epoch=2, step=36, seed=5, train_fake=0.5, video={"auc": 0.75}, sets={"a": SetRecord(video={"auc": 1.0})}
)
START = StartRecord(time="2020-01-01T00:00:00+0000", config={"epochs": 3}, arguments={}, versions={})


def write_lines(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_line_has_what_the_epoch_had_in_the_order_of_the_fields():
    values = json.loads(RECORD.to_line())
    assert list(values)[:5] == ["event", "epoch", "step", "seed", "train_fake"]
    assert values["event"] == "epoch"
    assert list(values)[-3:] == ["video", "sets", "peak_memory_mib"]
    assert not {"train_real", "loss_scale", "video_ema"} & values.keys()


def test_a_start_says_its_version():
    values = json.loads(START.to_line())
    assert list(values) == ["event", "version", "time", "config", "arguments", "versions"]
    assert (values["event"], values["version"]) == ("start", 1)


def test_what_was_written_is_read_by_either_name(tmp_path):
    path = write_lines(tmp_path / "a.b_0.jsonl", START.to_line(), RECORD.to_line(), RECORD.to_line())
    assert read_epochs(path) == read_epochs(tmp_path / "a.b_0.log") == [RECORD, RECORD]


def test_lines_of_other_versions_are_read(tmp_path):
    path = write_lines(tmp_path / "run.jsonl", '{"event": "epoch", "epoch": 3, "of_tomorrow": 1}')
    assert read_epochs(path) == [EpochRecord(epoch=3)]


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "epo',
        "[1]",
        "{}",
        "epoch 3 fake 0.2000 real 0.5000 | bce 0.4000",
        '{"event": "epoch"}',
        '{"event": "start", "epoch": 3}',
        '{"event": "epoch", "epoch": "3"}',
        '{"event": "epoch", "epoch": true}',
        '{"event": "epoch", "epoch": 4, "sets": {"a": {}}}',
        '{"event": "epoch", "epoch": 1, "video": {"log_loss_fake": "0.5"}}',
    ],
)
def test_lines_that_are_cut_or_no_epochs_are_passed_over(tmp_path, line):
    assert read_epochs(write_lines(tmp_path / "run.jsonl", RECORD.to_line(), line)) == [RECORD]


def test_bytes_that_are_no_text_do_not_matter(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"\xff\xfe broken\n" + RECORD.to_line().encode())
    assert read_epochs(path) == [RECORD]


@pytest.mark.parametrize("name", ["run.log", "run.jsonl"])
def test_lines_that_are_missing_are_named_with_who_writes_them(tmp_path, name):
    (tmp_path / "run.log").write_text("lines for people")
    with pytest.raises(SettingError, match=rf"log_file \S*{name}: \S*run\.jsonl can't be read .*training writes it"):
        read_epochs(tmp_path / name)
