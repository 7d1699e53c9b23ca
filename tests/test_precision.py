"""In which precision networks compute (networks/precision.py)."""

import pytest

from networks import precision


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        ("auto", "cpu", "fp32"),  # even where the processor has bf16
        ("fp32", "cpu", "fp32"),
        ("bf16", "cpu", "bf16"),
        ("auto", "cuda", "fp16"),
        ("auto", "cuda:1", "fp16"),
        ("fp32", "cuda", "fp32"),
        ("bf16", "cuda", "bf16"),
        ("fp16", "cuda:1", "fp16"),
    ],
)
def test_precision_is_chosen_by_the_device(name, device, expected):
    assert precision.choose_precision(name, device) == expected


def test_what_a_device_has_not_is_refused():
    with pytest.raises(ValueError, match="fp16 is for GPUs"):
        precision.choose_precision("fp16", "cpu")
    for device in ("cpu", "cuda"):
        with pytest.raises(ValueError, match=r"unknown; choose auto, fp32, bf16, fp16$"):
            precision.choose_precision("fp8", device)
