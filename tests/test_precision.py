"""In which precision networks compute (networks/precision.py)."""

import pytest

from networks import precision


def test_precision_is_chosen_by_the_machine(monkeypatch):
    for has, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(precision, "_cpu_has_bf16", lambda has=has: has)
        assert precision.choose_precision("auto", "cpu") == expected
    assert precision.choose_precision("auto", "cuda") == "fp16"
    with pytest.raises(ValueError, match="fp16 is for GPUs"):
        precision.choose_precision("fp16", "cpu")


def test_bf16_is_chosen_where_the_processor_has_it(tmp_path, monkeypatch):
    said = tmp_path / "cpuinfo"
    path = precision.Path
    monkeypatch.setattr(precision, "Path", lambda name: said if name == "/proc/cpuinfo" else path(name))
    for flags, expected in (("fpu avx512_bf16", "bf16"), ("fpu amx_bf16", "bf16"), ("fpu avx512f", "fp32")):
        said.write_text(flags)
        assert precision.choose_precision("auto", "cpu") == expected
    said.unlink()
    assert precision.choose_precision("auto", "cpu") == "fp32"
    assert precision.choose_precision("bf16", "cpu") == "bf16"
    assert precision.choose_precision("fp16", "cuda:1") == "fp16"
    assert precision.choose_precision("fp32", "cuda") == "fp32"
