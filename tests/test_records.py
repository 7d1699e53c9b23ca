"""The record of an epoch, as a line of the log (training/records.py)."""

import json

import pytest

from training.records import EpochRecord

RECORD = EpochRecord(epoch=2, step=36, seed=5, train_fake=0.5, video={"auc": 0.75}, sets={"a": {"broken_crops": 0}})


def test_a_line_has_what_the_epoch_had_in_the_order_of_the_fields():
    values = json.loads(RECORD.to_line())
    assert list(values)[:5] == ["event", "epoch", "step", "seed", "train_fake"]
    assert values["event"] == "epoch"
    assert list(values)[-3:] == ["video", "sets", "peak_memory_mib"]
    assert not {"train_real", "loss_scale", "video_ema"} & values.keys()
    assert EpochRecord.from_line(RECORD.to_line()) == RECORD


def test_lines_of_other_versions_and_about_other_things():
    assert EpochRecord.from_line('{"event": "start", "epoch": 3}') is None
    assert EpochRecord.from_line('{"event": "epoch", "epoch": 3, "of_tomorrow": 1}') == EpochRecord(epoch=3)
    for line in ('{"event": "epo', "[1]", '{"epoch": 3}', '{"event": "epoch"}'):
        with pytest.raises((ValueError, KeyError, TypeError)):
            EpochRecord.from_line(line)
