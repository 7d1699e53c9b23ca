"""The mean of some checkpoints of a run (training/soup.py)."""

import numpy as np
import pytest
import torch
from training_runs import epochs_of, path_of, read, train, weights, write_config

from dfdc import layout
from dfdc.command_line import UserError
from networks.checkpoint import load_model, read_checkpoint, read_file
from training import average_checkpoints
from training.engine import TrainingError
from training.saving import balanced_loss

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from helpers import make_crops

    place = tmp_path_factory.mktemp("soup")
    root = make_crops(place / "root")
    train(root, place, write_config(place, epochs=3, ema_decay=0.5, size=48), "--padding-part", 4, "--fold", 0)
    return root, place


def soup(run, *names, out=None, more=()):
    root, place = run
    paths = [path_of(place, name) for name in names]
    output = [] if out is None else ["--output", out]
    given = [*paths, "--data-dir", root, "--workers", 0, "--device", "cpu", *output, *more]
    return average_checkpoints.main([str(value) for value in given])


def test_weights_are_the_mean_and_the_metrics_their_own(run, tmp_path, capsys):
    out = tmp_path / "soup"
    assert soup(run, "0", "2", "1_ema", out=out) == 0
    mean = read_checkpoint(out)
    parts = [weights(run[1], name) for name in ("0", "2", "1_ema")]
    for name, value in mean.state_dict.items():
        if value.is_floating_point():
            expected = np.mean([part[name].numpy().astype(np.float64) for part in parts], axis=0)
            assert np.allclose(value.numpy(), expected, rtol=1e-6, atol=1e-7), name
            assert value.dtype == parts[0][name].dtype
        else:
            assert torch.equal(value, parts[2][name])
    assert (mean.spec, mean.epoch) == (read(run[1], "2").spec, 2)
    assert mean.training is None
    assert mean.bce_best == balanced_loss(mean.metrics)
    assert read_file(out)["average_of"] == [path_of(run[1], name).name for name in ("0", "2", "1_ema")]
    assert load_model(out)[0] is not None
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"written: {out}"
    assert printed[1].split()[-2:] == [f"{read(run[1], '0').metrics[key]:.4f}" for key in ("log_loss_balanced", "auc")]
    assert printed[-2].split()[-2:] == [f"{mean.metrics[key]:.4f}" for key in ("log_loss_balanced", "auc")]


@pytest.mark.parametrize(("name", "kind"), [("2", "video"), ("2_ema", "video_ema")])
def test_the_mean_of_equals_scores_as_training_said(run, tmp_path, name, kind):
    """Two names of one checkpoint: the validation must give what the epoch's record says."""
    place = run[1]
    twin = path_of(place, "7")
    twin.write_bytes(path_of(place, name).read_bytes())
    try:
        assert soup(run, name, "7", out=tmp_path / "same") == 0
    finally:
        twin.unlink()
    (record,) = (r for r in epochs_of(place) if r["epoch"] == 2)
    assert record["video"]["log_loss"] != record["video_ema"]["log_loss"]
    assert read_checkpoint(tmp_path / "same").metrics == pytest.approx(record[kind], rel=1e-5)


def test_it_is_put_beside_the_first_and_replaces_nothing(run):
    assert soup(run, "0", "1") == 0
    made = path_of(run[1], "soup")
    assert made.exists()
    with pytest.raises(UserError, match="already exists; name another file with output"):
        soup(run, "1", "2")
    made.unlink()


def test_what_has_no_mean_is_refused(run, tmp_path):
    root, place = run
    with pytest.raises(UserError, match="give two or more"):
        soup(run, "0")
    with pytest.raises(UserError, match="given twice"):
        soup(run, "0", "0")
    with pytest.raises(UserError, match="_best: the checkpoint of an epoch is expected"):
        soup(run, "0", "best")
    with pytest.raises(UserError, match="no such checkpoint"):
        soup(run, "0", "9")
    with pytest.raises(UserError, match="device tpu"):
        soup(run, "0", "1", more=["--device", "tpu"])
    with pytest.raises(UserError, match=r"fold 8: .* has the folds"):
        soup(run, "0", "1", out=tmp_path / "x", more=["--fold", 8])
    other = path_of(place, "1").with_name("other_1")
    other.write_bytes(path_of(place, "1").read_bytes())
    given = [path_of(place, "0"), other, "--data-dir", root]
    with pytest.raises(
        UserError, match=r"the checkpoints are of 2 runs \(other, t_Deep.*\); give checkpoints of one run"
    ):
        average_checkpoints.main([str(value) for value in given])
    other.unlink()
    content = torch.load(path_of(place, "1"), weights_only=True)
    content["model"]["margin_part"] = 3
    odd = path_of(place, "8")
    torch.save(content, odd)
    with pytest.raises(UserError, match=r"_8 has the specification .*margin_part=3"):
        soup(run, "0", "8")
    content["model"]["margin_part"] = 4
    for bias in ({}, {"fc.bias": torch.zeros(2)}, {"fc.bias": "text"}):
        content["state_dict"].pop("fc.bias", None)
        content["state_dict"] |= bias
        torch.save(content, odd)
        with pytest.raises(UserError, match=r"_8.*fc\.bias"):
            soup(run, "0", "8")
    odd.unlink()


def test_held_out_crops_that_cant_be_read_are_a_failure(run, tmp_path):
    root, _ = run
    path = layout.crops_path(root, "real0") / "0_0.png"
    kept = path.read_bytes()
    path.write_bytes(b"broken")
    try:
        with pytest.raises(TrainingError, match="1 of 12 crops could not be read"):
            soup(run, "0", "1", out=tmp_path / "x")
        assert not (tmp_path / "x").exists()
        assert soup(run, "0", "1", out=tmp_path / "x", more=["--max-failed", 0.2]) == 0
    finally:
        path.write_bytes(kept)
