"""Checkpoints that score together (prediction/ensemble.py)."""

import shutil

import numpy as np
import pytest
import torch
from test_predict import make_checkpoint

from prediction.ensemble import Ensemble
from training.checkpoint import ModelSpec, save_checkpoint
from training.model import build_network


def test_t45_the_checkpoints_margin_is_used(tmp_path):
    from dfdc.imaging import tighten

    torch.manual_seed(0)
    network = build_network("DeepFakeClassifier", "test_efficientnet")
    for name, part in (("wide", 3), ("tight", 8)):
        spec = ModelSpec("DeepFakeClassifier", "test_efficientnet", 64, margin_part=part)
        save_checkpoint(tmp_path / name, network, spec, epoch=0, bce_best=1, metrics={})
    crop = np.random.default_rng(0).integers(0, 256, (100, 80, 3), dtype=np.uint8)
    wide, tight = Ensemble([tmp_path / "wide", tmp_path / "tight"], "cpu").score([crop])[:, 0]
    assert wide != tight
    only = Ensemble([tmp_path / "wide"], "cpu").score([np.ascontiguousarray(tighten(crop, 8))])[0, 0]
    assert tight == pytest.approx(only, abs=1e-6)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiling_is_once_for_checkpoints_of_a_kind_and_changes_no_score(tmp_path):
    for seed in (1, 2):
        make_checkpoint(tmp_path, f"m{seed}", "test_resnet", seed=seed)
    ensemble = Ensemble([tmp_path / "m1", tmp_path / "m2"], "cpu")
    crops = [np.random.default_rng(seed).integers(0, 256, (70, 60, 3), dtype=np.uint8) for seed in range(5)]
    plain = ensemble.score(crops)
    ensemble.compiled = True
    assert ensemble.score(crops) == pytest.approx(plain, abs=1e-4)
    assert len(ensemble._programs) == 1
    ensemble.close()


def test_precision_is_chosen_by_the_machine(monkeypatch):
    from prediction import ensemble

    for has, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(ensemble, "_cpu_has_bf16", lambda has=has: has)
        assert ensemble.choose_precision("auto", "cpu") == expected
    assert ensemble.choose_precision("auto", "cuda") == "fp16"
    with pytest.raises(ValueError, match="fp16 is for GPUs"):
        ensemble.choose_precision("fp16", "cpu")
