"""Configurations (training/config.py)."""

import json
from typing import get_args

import pytest
from helpers import ROOT

from networks.model import DROPOUT, NETWORKS
from training.config import ConfigError, TrainConfig, flatten, load_config, parse_changes


@pytest.fixture
def write(tmp_path):
    """Writes a configuration, bytes or an object, and returns its path."""

    def write_file(values, name="c.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(values if isinstance(values, bytes) else json.dumps(values).encode())
        return path

    return write_file


def fault_of(path, changes=None):
    with pytest.raises(ConfigError) as error:
        load_config(path, changes)
    return str(error.value)


# The winners' settings as they published them: configs and training script of the solution.
PUBLISHED = {
    "network": "DeepFakeClassifier",
    "pretrained": True,
    "drop_path": 0.2,
    "size": 380,
    "batches_per_epoch": 2500,
    "accumulate": 1,
    "label_smoothing": 0.01,
    "loss": "bce",
    "ohem_samples": 0,
    "ema_decay": 0.0,
    "optimizer.type": "SGD",
    "optimizer.learning_rate": 0.01,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": True,
    "optimizer.weight_decay": 0.0001,
    "optimizer.clip_grad_norm": 1.0,
    "schedule.type": "poly",
    "schedule.power": 0.9,
    "schedule.warmup_steps": 0,
    "occlusions.eyes": 0.35,
    "occlusions.mouth": 0.175,
    "occlusions.nose": 0.0875,
    "occlusions.half_face": 0.06,
    "occlusions.half_picture": 0.024,
    "occlusions.random_half": 0.0,
    "normalize.mean": (0.485, 0.456, 0.406),
    "normalize.std": (0.229, 0.224, 0.225),
}


@pytest.mark.parametrize(
    ("name", "encoder", "epochs", "batch_size"),
    [("b7", "tf_efficientnet_b7.ns_jft_in1k", 40, 12), ("b5", "tf_efficientnet_b5.ns_jft_in1k", 30, 20)],
)
def test_b7_and_b5_are_the_published_recipes(name, encoder, epochs, batch_size):
    found = flatten(load_config(ROOT / "configs" / f"{name}.json").model_dump())
    expected = PUBLISHED | {"encoder": encoder, "epochs": epochs, "batch_size": batch_size}
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.json")), ids=lambda path: path.name)
def test_all_configurations_load_and_are_what_they_say(path):
    said = flatten(json.loads(path.read_text()))
    said.pop("base", None)
    loaded = flatten(json.loads(json.dumps(load_config(path).model_dump())))  # tuples as lists
    assert {key: loaded[key] for key in said} == said


def test_every_key_comes_back_as_it_was_written(write):
    values = {
        "network": "DeepFakeClassifierSRM",
        "encoder": "resnet18",
        "pretrained": False,
        "drop_path": 0.1,
        "dropout": 0.3,
        "size": 32,
        "epochs": 1,
        "batches_per_epoch": 2,
        "batch_size": 3,
        "accumulate": 4,
        "precision": "fp32",
        "label_smoothing": 0.0,
        "loss": "focal",
        "loss_normalization": "rank",
        "ohem_samples": 5,
        "ema_decay": 0.99,
        "compile": "auto",
        "gradient_checkpointing": True,
        "occlusions": {
            "eyes": 0.5,
            "mouth": 0.1,
            "nose": 0.1,
            "half_face": 0.1,
            "half_picture": 0.1,
            "random_half": 0.1,
        },
        "optimizer": {
            "type": "RMSprop",
            "learning_rate": 2.0,
            "momentum": 0.0,
            "nesterov": False,
            "weight_decay": 0.0,
            "clip_grad_norm": 0.0,
        },
        "schedule": {
            "type": "multistep",
            "power": 2.5,
            "gamma": 1.0,
            "every_epochs": 0.5,
            "milestones": [2.0, 5.0, 5.0],
            "lowest": 0.01,
            "warmup_steps": 7,
        },
        "normalize": {"mean": [0.0, -0.5, 1.5], "std": [1.0, 2.0, 0.25]},
    }
    found = load_config(write(values)).model_dump()
    assert json.loads(json.dumps(found)) == values
    assert load_config(write(found)).model_dump() == found


def test_a_configuration_knows_the_networks_that_there_are():
    assert get_args(TrainConfig.model_fields["network"].annotation) == tuple(NETWORKS) == tuple(DROPOUT)


def test_numbers_have_the_type_of_their_key(write):
    config = load_config(write({"drop_path": 0, "schedule": {"milestones": [1, 2]}, "optimizer": {"momentum": 0}}))
    assert config.schedule.milestones == (1.0, 2.0)
    for value in (config.drop_path, config.optimizer.momentum, *config.schedule.milestones):
        assert isinstance(value, float)


def test_an_empty_file_is_all_defaults_and_dropout_may_be_null(write):
    assert load_config(write({})) == TrainConfig()
    assert TrainConfig().dropout is None
    assert load_config(write({"dropout": None})).dropout is None
    found = load_config(write({"dropout": 0}))
    assert (found.dropout, type(found.dropout)) == (0.0, float)


def test_t48_every_fault_is_told_at_once_with_the_right_key(write):
    path = write(
        {
            "encodr": "x",
            "size": "380",
            "batch_size": 0,
            "optimizer": {"type": "SDG", "learning_rat": 1, "momentum": True},
            "normalize": {"mean": [1, 2]},
            "schedule": 5,
            "label_smoothing": 0.5,
            "occlusions": {"eyes": 0.9, "mouth": 0.9, "nose": 0, "half_face": 0, "half_picture": 0},
            "zzz": 1,
        }
    )
    text = fault_of(path)
    assert text.splitlines()[0] == f"{path}: 11 faults:"
    assert len(text.splitlines()) == 12
    for said in (
        "encodr: unknown key; did you mean encoder?",
        "size: a whole number is expected, not '380'",
        "batch_size: a number over 0 is expected, not 0",
        "optimizer.type: one of SGD, Adam, AdamW, RMSprop is expected, not 'SDG'",
        "optimizer.learning_rat: unknown key; did you mean optimizer.learning_rate?",
        "optimizer.momentum: a number is expected, not True",
        "normalize.mean: three numbers over -1: red, green, blue is expected, not [1, 2]",
        "schedule: an object {...} is expected, not 5",
        "label_smoothing: 0 or more, and under 0.5",
        "occlusions: the shares add up to 1.8; at most 1 is expected",
        "zzz: unknown key; known keys are network, encoder, pretrained,",
    ):
        assert f"\n  {said}" in text
    assert "1 fault:\n" in fault_of(write({"zzz": 1}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (b"{", "not JSON"),
        (b"[1]", r"an object \{...\} is expected, not \[1\]"),
        (b'{"epochs": NaN}', "whole number"),
        (b"\xff\xfe{}", "not JSON"),
    ],
)
def test_files_that_are_no_configuration(write, values, said):
    with pytest.raises(ConfigError, match=said):
        load_config(write(values))


def test_absent_file_lists_what_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=r"absent\.json: can't be read .*b5\.json.*b7\.json"):
        load_config(tmp_path / "absent.json")


LIMITS = {  # key -> (values that are taken, values that are not)
    "optimizer.type": (["SGD", "Adam", "AdamW", "RMSprop"], ["sgd"]),
    "optimizer.learning_rate": ([1e-9, 5, 5.0], [0, -1, float("inf"), float("nan"), 10**400, "1", None]),
    "optimizer.momentum": ([0, 0.999], [1, -0.1, True]),
    "optimizer.weight_decay": ([0, 3], [-1e-9, float("inf")]),
    "optimizer.clip_grad_norm": ([0, 3], [-1]),
    "optimizer.nesterov": ([True, False], [1, 0, "true", None]),
    "schedule.power": ([0.1, 2], [0]),
    "schedule.gamma": ([0.001, 1], [0, 1.001]),
    "schedule.every_epochs": ([0.5, 100_000], [0]),
    "schedule.milestones": ([[], [1], [1, 1.5, 3]], [[2, 1], 3, ["1"], [True], "12", [float("nan")]]),
    "schedule.lowest": ([0, 0.5], [1, -0.1]),
    "schedule.warmup_steps": ([0, 10], [-1, 0.5]),
    "schedule.type": (
        ["poly", "step", "multistep", "exponential", "linear", "cyclic", "constant", "cosine"],
        ["Poly", "", None],
    ),
    "network": (["DeepFakeClassifier", "DeepFakeClassifierGWAP", "DeepFakeClassifierSRM"], ["GWAP"]),
    "pretrained": ([True, False], [None, "false"]),
    "encoder": (["anything"], [5, None]),
    "drop_path": ([0, 0.99], [1]),
    "dropout": ([None, 0, 0.99], [1, -0.1, "0.5", True]),
    "size": ([32, 2048], [31, 2049, 380.0]),
    "epochs": ([1], [0, 1.5, True, None]),
    "batches_per_epoch": ([1], [0]),
    "batch_size": ([1], [0, 1.5]),
    "accumulate": ([1], [0]),
    "precision": (["auto", "bf16", "fp16", "fp32"], ["fp64"]),
    "label_smoothing": ([0, 0.49], [0.5, -0.01]),
    "loss": (["bce", "focal"], ["mse"]),
    "loss_normalization": (["global", "rank"], ["none"]),
    "ohem_samples": ([0, 1], [-1]),
    "ema_decay": ([0, 0.9999], [1, -0.1]),
    "compile": (["off", "on", "auto"], [True, False, "yes"]),
    "gradient_checkpointing": ([True], [1]),
    "normalize.mean": ([[0, 0, 0], [-0.99, 1, 3]], [[-1, 0, 0], [0, 0], [0, 0, 0, 0], [0, 0, float("inf")], 0.5]),
    "normalize.std": ([[0.1, 1, 2]], [[0, 1, 1], [1, 1, -1], [1, 1, float("inf")]]),
}


@pytest.mark.parametrize("key", LIMITS)
def test_a_key_takes_what_can_work_and_refuses_the_rest(write, key):
    path = write({})
    taken, refused = LIMITS[key]
    for value in taken:
        found = flatten(load_config(path, {key: value}).model_dump())[key]
        assert found == (tuple(value) if isinstance(value, list) else value)
    for value in refused:
        text = fault_of(path, {key: value})
        assert f"\n  {key}: " in text
        assert "is expected, not" in text


def test_the_limits_of_every_key_are_tested():
    keys = set(flatten(TrainConfig().model_dump()))
    assert {key for key in keys if not key.startswith("occlusions.")} == set(LIMITS)


def test_shares_of_occlusions_may_add_up_to_all_and_no_more(write):
    halves = {"eyes": 0.5, "mouth": 0.5, "nose": 0, "half_face": 0, "half_picture": 0, "random_half": 0}
    tenths = {"eyes": 0.1, "mouth": 0.1, "nose": 0.2, "half_face": 0.3, "half_picture": 0.2, "random_half": 0.1}
    for shares in (halves, tenths, halves | {"mouth": 0}, halves | {"eyes": 1, "mouth": 0}):
        found = load_config(write({"occlusions": shares})).occlusions
        assert {name: getattr(found, name) for name in shares} == shares
    assert "\n  occlusions: the shares add up to 1.01; " in fault_of(write({"occlusions": halves | {"nose": 0.01}}))
    assert "\n  occlusions: the shares add up to 1.3035; " in fault_of(write({"occlusions": {"random_half": 0.607}}))
    for share in (-0.1, 1.1, "0.1"):
        for name in halves:
            assert f"\n  occlusions.{name}: " in fault_of(write({"occlusions": {name: share}}))


# A base


def test_a_file_is_laid_over_its_base_key_by_key(write):
    write(
        {
            "epochs": 3,
            "size": 64,
            "optimizer": {"type": "Adam", "learning_rate": 0.5, "weight_decay": 0.25},
            "schedule": {"type": "step"},
        },
        "bottom.json",
    )
    write({"base": "bottom.json", "size": 96, "optimizer": {"learning_rate": 0.75}}, "middle.json")
    top = load_config(write({"base": "middle.json", "batch_size": 5, "optimizer": {"clip_grad_norm": 2}}))
    assert (top.epochs, top.size, top.batch_size, top.schedule.type) == (3, 96, 5, "step")
    optimizer = top.optimizer
    assert (optimizer.type, optimizer.learning_rate, optimizer.weight_decay) == ("Adam", 0.75, 0.25)
    assert optimizer.clip_grad_norm == 2
    assert optimizer.momentum == 0.9  # in none of the files


def test_a_base_is_found_from_its_own_folder(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write({"epochs": 3}, "one/bottom.json")
    write({"base": "../one/bottom.json", "size": 96}, "two/middle.json")
    for base in ("two/middle.json", str(tmp_path / "two" / "middle.json")):
        config = load_config(write({"base": base}))
        assert (config.epochs, config.size) == (3, 96)
    assert load_config(write({"base": None, "epochs": 7})).epochs == 7


@pytest.mark.parametrize("chain", [["c.json"], ["b.json", "c.json"], ["sub/../b.json", "sub/b2.json", "../c.json"]])
def test_a_base_that_leads_back_is_refused(write, tmp_path, chain):
    (tmp_path / "sub").mkdir()
    path = tmp_path / "c.json"
    for base in chain:
        path.write_text(json.dumps({"base": base}))
        path = path.parent / base
    assert "c.json: its base refers back to it" in fault_of(tmp_path / "c.json")


def test_an_absent_base_is_told_with_the_file_that_names_it(write, tmp_path):
    path = write({"base": "absent.json"})
    assert fault_of(path).startswith(f"{tmp_path / 'absent.json'} (the base of {path.resolve()}): can't be read")


@pytest.mark.parametrize("base", [5, True, ["b7.json"], {"a": 1}])
def test_a_base_that_is_no_text_is_refused(write, base):
    assert f"base: the name of a file is expected, not {base!r}" in fault_of(write({"base": base}))


def test_a_broken_base_and_its_faults_are_told(write, tmp_path):
    path = write({"base": "bottom.json", "size": 1})
    write({"epochs": 0}, "bottom.json")
    text = fault_of(path)
    assert "2 faults" in text
    assert "epochs: a number over 0" in text
    write(b"{", "bottom.json")
    assert fault_of(path).startswith(f"{tmp_path / 'bottom.json'}: not JSON")
    write([], "bottom.json")
    assert fault_of(path).startswith(f"{tmp_path / 'bottom.json'}: an object")


def test_what_lies_over_a_base_may_also_be_wrong_in_kind(write):
    write({"optimizer": {"type": "Adam"}, "size": 64}, "bottom.json")
    assert "\n  optimizer: an object {...} is expected, not 5" in fault_of(
        write({"base": "bottom.json", "optimizer": 5})
    )
    assert "\n  size: a whole number is expected, not {'x': 1}" in fault_of(
        write({"base": "bottom.json", "size": {"x": 1}})
    )


# Changes on the command line


def test_changes_are_json_values_or_texts():
    texts = [
        "epochs=3",
        "optimizer.learning_rate=5e-3",
        "pretrained=false",
        "dropout=null",
        "loss=focal",
        'encoder="a b"',
        "schedule.milestones=[1, 2]",
        "a.b.c=x=y",
        "empty=",
        "network= x",
    ]
    assert parse_changes(texts) == {
        "epochs": 3,
        "optimizer.learning_rate": 0.005,
        "pretrained": False,
        "dropout": None,
        "loss": "focal",
        "encoder": "a b",
        "schedule.milestones": [1, 2],
        "a.b.c": "x=y",
        "empty": "",
        "network": " x",
    }
    assert parse_changes([]) == {}


@pytest.mark.parametrize("text", ["epochs", "=3", "a.=3", ".a=3", "a..b=3", "", "="])
def test_changes_without_a_key_or_a_value_are_refused(text):
    with pytest.raises(ConfigError) as error:
        parse_changes([text])
    assert str(error.value).startswith(f"{text!r}: KEY=VALUE is expected")


def test_a_key_that_is_changed_twice_is_refused():
    with pytest.raises(ConfigError, match="'epochs=4': epochs is given twice"):
        parse_changes(["epochs=3", "size=64", "epochs=4"])


def test_changes_are_laid_over_the_file_and_its_base(write):
    write({"epochs": 3, "optimizer": {"type": "Adam", "learning_rate": 0.5}}, "bottom.json")
    path = write({"base": "bottom.json", "dropout": 0.5, "epochs": 4})
    texts = ["epochs=5", "optimizer.learning_rate=0.25", "dropout=null", "schedule.type=step", "compile=on"]
    config = load_config(path, parse_changes(texts))
    assert (config.epochs, config.dropout, config.schedule.type, config.compile) == (5, None, "step", "on")
    assert (config.optimizer.type, config.optimizer.learning_rate) == ("Adam", 0.25)
    assert load_config(path).epochs == 4


def test_faults_of_changes_are_told_with_those_of_the_file(write):
    path = write({"size": 1})
    text = fault_of(path, parse_changes(["optimizer.learning_rat=1", "optimzer.type=SGD", "epoch=3", "batch_size=x"]))
    assert "5 faults" in text
    for said in (
        "size: 32 to 2048 pixels is expected, not 1",
        "optimizer.learning_rat: unknown key; did you mean optimizer.learning_rate?",
        "optimzer: unknown key; did you mean optimizer?",
        "epoch: unknown key; did you mean epochs?",
        "batch_size: a whole number is expected, not 'x'",
    ):
        assert f"\n  {said}" in text


def test_a_change_below_something_that_is_no_object_is_refused(write):
    path = write({"encoder": "resnet18", "optimizer": None})
    assert "\n  encoder: a string is expected, not {'name': 1}" in fault_of(path, {"encoder.name": 1})
    assert "\n  optimizer.type: one of SGD, Adam, AdamW, RMSprop is expected, not {'x': 1}" in fault_of(
        path, {"optimizer.type.x": 1}
    )
    assert "\n  size: a whole number is expected, not {'x': 1}" in fault_of(write({}), {"size.x": 1})


def test_a_change_of_an_object_leaves_its_other_keys(write):
    path = write({"optimizer": {"momentum": 0.5, "weight_decay": 0.1}})
    given = parse_changes(["optimizer.learning_rate=0.5", 'optimizer={"momentum": 0.6}'])
    optimizer = load_config(path, given).optimizer
    assert (optimizer.learning_rate, optimizer.momentum, optimizer.weight_decay) == (0.5, 0.6, 0.1)


def test_a_base_is_for_files(write):
    assert (
        fault_of(write({}), {"base": "b7.json"})
        == "base: this key is allowed only inside a file; name a file with config"
    )
    assert "and the command line: 1 fault:" in fault_of(write({}), {"size": 1})


def test_flatten_joins_keys_with_dots():
    assert flatten({"a": 1, "b": {"c": (2, 3), "d": {"e": None}}}) == {"a": 1, "b.c": (2, 3), "b.d.e": None}
    assert flatten({}) == {}


def test_a_text_in_a_list_of_numbers_is_a_fault_of_the_list(write):
    said = fault_of(write({"normalize": {"mean": [0.5, "x", 0.5]}}))
    assert said.endswith("1 fault:\n  normalize.mean: a list of numbers is expected, not [0.5, 'x', 0.5]")
