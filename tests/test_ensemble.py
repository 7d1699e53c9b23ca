"""Checkpoints that score together (networks/ensemble.py)."""

import shutil
import time

import numpy as np
import pytest
import torch
from scoring_runs import make_checkpoint

from networks.checkpoint import save_checkpoint
from networks.ensemble import Ensemble, common_thresholds
from networks.model import build_network
from networks.spec import ModelSpec


@pytest.mark.slow
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


@pytest.mark.slow
def test_t45_the_checkpoints_detector_thresholds_are_used_and_must_agree(tmp_path):
    network = build_network("DeepFakeClassifier", "test_efficientnet")
    for name, thresholds in (("usual", (0.7, 0.8, 0.8)), ("strict", (0.8, 0.9, 0.95))):
        spec = ModelSpec("DeepFakeClassifier", "test_efficientnet", 64, detector_thresholds=thresholds)
        save_checkpoint(tmp_path / name, network, spec, epoch=0, bce_best=1, metrics={})
    assert Ensemble([tmp_path / "strict"], "cpu").detector_thresholds == (0.8, 0.9, 0.95)
    specs = Ensemble([tmp_path / "usual", tmp_path / "strict"], "cpu").specs
    with pytest.raises(ValueError, match=r"different face detector thresholds.*strict: \(0.8, 0.9, 0.95\)"):
        common_thresholds(specs, ["usual", "strict"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "form"),
    [
        ("test_efficientnet", "zip"),
        ("test_efficientnet", "legacy"),  # the winners'
        ("test_vit", "zip"),
        ("swin_tiny_patch4_window7_224", "zip"),  # has tables that no checkpoint stores
    ],
)
def test_networks_are_loaded_with_every_weight_and_keep_nothing_of_the_file(tmp_path, encoder, form):
    from networks.checkpoint import load_model

    torch.manual_seed(3)
    network = build_network("DeepFakeClassifier", encoder).eval()
    side = network.encoder.default_cfg["input_size"][1]
    spec = ModelSpec("DeepFakeClassifier", encoder, side)
    save_checkpoint(tmp_path / "m", network, spec, epoch=0, bce_best=1, metrics={})
    if form == "legacy":
        torch.save(torch.load(tmp_path / "m"), tmp_path / "m", _use_new_zipfile_serialization=False)
    crop = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    ensemble = Ensemble([tmp_path / "m"], "cpu")
    expected = torch.sigmoid(network(ensemble.models[0].normalized(crop[None])))[0, 0].item()
    plain = load_model(tmp_path / "m")[0].state_dict()
    with (tmp_path / "m").open("r+b") as handle:  # what is left of the file is not what the network has
        handle.write(bytes((tmp_path / "m").stat().st_size))
    assert ensemble.score([crop])[0, 0] == pytest.approx(expected, abs=1e-5)
    for name, value in ensemble.models[0].network.state_dict().items():
        assert torch.equal(value, plain[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_checkpoint_in_half_precision_scores_as_its_numbers_do_in_float32(tmp_path, dtype):
    from networks.checkpoint import read_file

    make_checkpoint(tmp_path, "m", seed=1)
    content = read_file(tmp_path / "m")
    weights = content["state_dict"]
    rounded = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
    torch.save(content | {"state_dict": rounded}, tmp_path / "half")
    exact = {name: value.to(weights[name].dtype) for name, value in rounded.items()}
    torch.save(content | {"state_dict": exact}, tmp_path / "float")
    crops = [np.random.default_rng(0).integers(0, 256, (70, 60, 3), dtype=np.uint8)]
    for precision in ("fp32", "bf16"):
        ensemble = Ensemble([tmp_path / "half", tmp_path / "float"], "cpu", precision)
        half, full = ensemble.score(crops)[:, 0]
        ensemble.close()
        assert half == full


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiling_is_once_for_checkpoints_of_a_kind_and_changes_no_score(tmp_path):
    for seed in (1, 2):
        make_checkpoint(tmp_path, f"m{seed}", "test_resnet", seed=seed)
    ensemble = Ensemble([tmp_path / "m1", tmp_path / "m2"], "cpu")
    crops = [np.random.default_rng(seed).integers(0, 256, (70, 60, 3), dtype=np.uint8) for seed in range(5)]
    plain = ensemble.score(crops)
    ensemble.compiled = True
    assert ensemble.score(crops) == pytest.approx(plain, abs=1e-4)
    assert len(ensemble._programs._by_kind) == 1
    ensemble.close()


@pytest.mark.slow
def test_compiling_is_kept_only_where_it_is_faster_and_may_fail(tmp_path, monkeypatch):
    make_checkpoint(tmp_path, "m")
    ensemble = Ensemble([tmp_path / "m"], "cpu")
    slow = {True: 0.0, False: 0.02}

    def score(crops):
        time.sleep(slow[ensemble.compiled])

    monkeypatch.setattr(ensemble, "score", score)
    assert "times as fast" in ensemble.compile(only_if_faster=True)
    assert ensemble.compiled
    slow[True] = 0.05
    assert "brings no speed-up" in ensemble.compile(only_if_faster=True)
    assert not ensemble.compiled
    assert ensemble.compile(only_if_faster=False) == "compiled"
    assert ensemble.compiled

    def fails(crops):
        raise OSError("no C++ compiler\nand more")

    monkeypatch.setattr(ensemble, "score", fails)
    assert ensemble.compile(only_if_faster=True).endswith("(OSError: no C++ compiler); continuing without")
    assert not ensemble.compiled
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler"):
        ensemble.compile(only_if_faster=False)
