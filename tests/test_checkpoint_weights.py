"""Weights of checkpoints: other types, values that no network computes with (networks/checkpoint.py)."""

import pytest
import torch
from test_checkpoint import exported, tiny

from networks import checkpoint
from networks.spec import CheckpointError


def stored_as(tmp_path, form, change):
    """A tiny network with its weights changed, in a file of each form; and what they are."""
    from safetensors.torch import save_file

    path, found = exported(tmp_path, f"{form}.safetensors")
    weights = {name: change(name, value) for name, value in found.state_dict.items()}
    if form == "safetensors":
        save_file(weights, path, metadata=checkpoint.describe(found))
        return path, weights
    content = checkpoint.read_file(tmp_path / "made_from") | {
        "state_dict": {f"module.{name}": value for name, value in weights.items()}
    }
    torch.save(content, tmp_path / form, _use_new_zipfile_serialization=form != "legacy")
    return tmp_path / form, weights


def half(dtype):
    return lambda name, value: value.to(dtype) if value.is_floating_point() else value


@pytest.mark.slow
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_floating_type_become_the_networks_own(tmp_path, dtype, form, mapped):
    path, weights = stored_as(tmp_path, form, half(dtype))
    loaded, _ = checkpoint.load_model(path, mapped=mapped)
    own = tiny().state_dict()
    for name, value in loaded.state_dict().items():
        assert value.dtype == own[name].dtype, name
        assert torch.equal(value, weights[name].to(own[name].dtype)), name
    with torch.inference_mode():
        assert torch.isfinite(loaded(torch.zeros(1, 3, 96, 96))).all()


def change_one(wanted, change):
    return lambda name, value: change(value.clone()) if name == wanted else value


def put(value):
    def change(weights):
        weights.view(-1)[-1] = value
        return weights

    return change


@pytest.mark.slow
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("form", ["zip", "safetensors"])
@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("fc.weight", lambda w: (w * 99).to(torch.int8), "fc.weight is torch.int8, expected a floating-point type"),
        ("fc.bias", lambda w: w > 0, "fc.bias is torch.bool, expected a floating-point type"),
        ("fc.bias", lambda w: w.to(torch.complex64), "fc.bias is torch.complex64, expected a floating-point type"),
        ("fc.weight", put(float("nan")), r"1 of the \d+ values of fc.weight are not finite \(nan or inf\)"),
        ("encoder.bn1.running_var", put(float("inf")), r"1 of the \d+ values of encoder.bn1.running_var are not"),
        ("fc.bias", lambda w: w.double() * 0 - 1e39, "1 of the 1 values of fc.bias"),  # more than float32 holds
    ],
)
def test_what_no_network_computes_with_is_named(tmp_path, name, change, said, form, mapped):
    if form == "safetensors" and "complex" in said:
        pytest.skip("safetensors have no complex numbers here")
    path, _ = stored_as(tmp_path, form, change_one(name, change))
    with pytest.raises(CheckpointError, match=said) as error:
        checkpoint.load_model(path, mapped=mapped)
    assert str(path) in str(error.value)


def test_weights_that_are_no_tensors_are_named(tmp_path):
    path, _ = stored_as(tmp_path, "zip", lambda name, value: [1.0] if name == "fc.bias" else value)
    with pytest.raises(CheckpointError, match=r"fc\.bias is list, expected a floating-point type"):
        checkpoint.load_model(path)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_weight_too_few_or_too_many_is_named(tmp_path, mapped):
    path, _ = stored_as(tmp_path, "zip", lambda name, value: value)
    content = checkpoint.read_file(path)
    weights = content["state_dict"]
    torch.save(content | {"state_dict": {**weights, "more.weight": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match=r"does not fit .*more\.weight"):
        checkpoint.load_model(path, mapped=mapped)
    torch.save(content | {"state_dict": {k: v for k, v in weights.items() if k != "module.fc.bias"}}, path)
    with pytest.raises(CheckpointError, match=r"does not fit .*fc\.bias"):
        checkpoint.load_model(path, mapped=mapped)
