"""Configurations (training/config.py)."""

import json

import pytest
from conftest import ROOT

from training.config import ConfigError, load_config


def write(tmp_path, values):
    path = tmp_path / "c.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def test_b7_is_the_published_recipe():
    config = load_config(ROOT / "configs" / "b7.json")
    assert (config.encoder, config.size, config.pretrained) == ("tf_efficientnet_b7.ns_jft_in1k", 380, True)
    optimizer = config.optimizer
    assert (optimizer.type, optimizer.momentum, optimizer.nesterov) == ("SGD", 0.9, True)
    assert (optimizer.weight_decay, optimizer.learning_rate, optimizer.clip_grad_norm) == (1e-4, 0.01, 1.0)
    assert (config.schedule.type, config.schedule.power) == ("poly", 0.9)
    assert (config.batch_size, config.batches_per_epoch, config.epochs) == (12, 2500, 40)
    assert config.label_smoothing == 0.01


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.json")), ids=lambda path: path.name)
def test_all_configurations_load(path):
    load_config(path)


def test_t48_every_fault_is_told_at_once_with_the_right_key(tmp_path):
    path = write(
        tmp_path,
        {
            "encodr": "x",
            "size": "380",
            "batch_size": 0,
            "optimizer": {"type": "SDG", "learning_rat": 1, "momentum": True},
            "normalize": {"mean": [1, 2]},
            "schedule": 5,
            "label_smoothing": 0.5,
        },
    )
    with pytest.raises(ConfigError) as error:
        load_config(path)
    text = str(error.value)
    for said in (
        "9 faults",
        "encodr: unknown key; did you mean encoder?",
        "size: a whole number is expected, not '380'",
        "batch_size: a number over 0 is expected, not 0",
        "optimizer.type: one of SGD, Adam, AdamW, RMSprop is expected, not 'SDG'",
        "optimizer.learning_rat: unknown key; did you mean optimizer.learning_rate?",
        "optimizer.momentum: a number is expected, not True",
        "normalize.mean: three numbers",
        "schedule: an object {...} is expected, not 5",
        "label_smoothing: 0 or more, and under 0.5",
    ):
        assert said in text


@pytest.mark.parametrize(
    ("values", "said"), [("{", "not JSON"), ("[1]", "an object"), ('{"epochs": NaN}', "whole number")]
)
def test_files_that_are_no_configuration(tmp_path, values, said):
    with pytest.raises(ConfigError, match=said):
        load_config(write(tmp_path, values))


def test_absent_file_lists_what_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=r"absent\.json: can't be read .*b7\.json"):
        load_config(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "values",
    [{"normalize": {"std": [0, 1, 1]}}, {"normalize": {"mean": [float("nan"), 0, 0]}}, {"epochs": None},
     {"optimizer": {"learning_rate": float("inf")}}, {"optimizer": {"learning_rate": 10**400}}, {"batch_size": 1.5}],
    ids=str,
)  # fmt: skip
def test_values_that_cant_work_are_refused(tmp_path, values):
    with pytest.raises(ConfigError, match="is expected"):
        load_config(write(tmp_path, values))
