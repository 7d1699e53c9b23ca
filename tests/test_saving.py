"""Checkpoint files of a run (training/saving.py)."""

import math
import os
import shutil
from dataclasses import asdict

import pytest
import torch
from training_runs import epochs_of, log_text, path_of, read, same, train, weights, write_config

from dfdc.command_line import UsageError
from networks.checkpoint import read_checkpoint
from networks.model import build_network
from networks.spec import ModelSpec
from training import saving
from training.config import OptimizerConfig, TrainConfig
from training.engine import NotFiniteError
from training.saving import History, RunFiles, Saver

pytestmark = pytest.mark.slow

SPEC = ModelSpec("DeepFakeClassifier", "test_efficientnet", 32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network("DeepFakeClassifier", "test_efficientnet")


@pytest.fixture
def files(tmp_path):
    return RunFiles(tmp_path, tmp_path, "run")


def losses(fake, real):
    return {"log_loss_fake": fake, "log_loss_real": real, "log_loss_balanced": (fake + real) / 2}


def epochs_on_disk(files):
    return sorted(
        path.name.removeprefix("run_") for path in files.output_dir.iterdir() if path.name.split("_")[1].isdecimal()
    )


def test_all_stay_unless_told(network, files):
    saver = Saver(files, SPEC, None, History())
    for epoch in range(4):
        saver.epoch(epoch, network, losses(0.1, 0.1))
        saver.thin_out(epoch)
    assert epochs_on_disk(files) == ["0", "1", "2", "3"]


def test_the_newest_and_the_best_stay(network, files):
    saver = Saver(files, SPEC, 2, History())
    # By (1.4 fake + real) / 2: 1 and 3 are the best; by the balanced loss 0 would be.
    values = [(0.9, 0.1), (0.3, 0.9), (0.9, 0.9), (0.5, 0.6), (1.0, 0.8), (0.9, 0.8)]
    for epoch, (fake, real) in enumerate(values):
        saver.epoch(epoch, network, losses(fake, real))
        saver.epoch(epoch, network, losses(fake + 1, real), averaged=True)
        saver.thin_out(epoch)
        assert files.epoch(epoch).exists()
    assert epochs_on_disk(files) == ["1", "1_ema", "3", "3_ema", "4", "4_ema", "5", "5_ema"]
    assert files.best.exists()
    # The averaged weights count for an epoch, too, and the state that a run goes on with knows all that.
    again = Saver(files, SPEC, 1, History(**asdict(saver.history)))
    again.epoch(6, network, losses(2, 2))
    again.epoch(6, network, losses(0.0, 0.0), averaged=True)
    again.thin_out(6)
    assert epochs_on_disk(files) == ["6", "6_ema"]


def test_best_is_the_lowest_of_weights_and_averages_and_a_second_name(network, files):
    saver = Saver(files, SPEC, None, History())
    expected = []
    for epoch, (own, averaged) in enumerate([(0.5, 0.6), (0.6, 0.4), (0.4, 0.45), (0.9, 0.3)]):
        saver.epoch(epoch, network, losses(own, own))
        saver.epoch(epoch, network, losses(averaged, averaged), averaged=True)
        expected.append([path.name for path in files.output_dir.iterdir() if path.samefile(files.best)])
    assert [sorted(names) for names in expected] == [
        ["run_0", "run_best"],
        ["run_1_ema", "run_best"],
        ["run_1_ema", "run_best"],  # as good is not better
        ["run_3_ema", "run_best"],
    ]
    assert saver.history.best == 0.3
    assert read_checkpoint(files.best).bce_best == 0.3
    assert saver.history.losses == pytest.approx({0: 0.6, 1: 0.48, 2: 0.48, 3: 0.36})


def test_an_epoch_without_validation_is_never_the_best(network, files):
    saver = Saver(files, SPEC, None, History())
    saver.epoch(0, network, {})
    assert not files.best.exists()
    assert saver.history.losses == {}
    saver.epoch(1, network, {"log_loss": 0.7})  # a hold-out with one class
    assert files.best.samefile(files.epoch(1))
    assert saver.history.losses == {1: 0.7}
    assert saving.balanced_loss({}) == math.inf


def test_the_state_before_the_newest_stays_and_the_same_step_does_not_push_it_out(network, files):
    saver = Saver(files, SPEC, None, History())
    for steps, mark in ((5, 0), (10, 1), (10, 2), (15, 3)):
        saver.last(steps, mark, network, {}, {"mark": mark})
    assert (read_checkpoint(files.before).training["mark"], read_checkpoint(files.last).training["mark"]) == (2, 3)
    assert not files.before.samefile(files.last)
    other = Saver(files, SPEC, None, History(), steps=15)  # a resumed run
    other.last(15, 4, network, {}, {"mark": 4})
    assert read_checkpoint(files.before).training["mark"] == 2
    other.last(16, 5, network, {}, {"mark": 5})
    assert read_checkpoint(files.before).training["mark"] == 4


def test_t55_weights_that_are_not_finite_are_not_saved(files, network):
    saver = Saver(files, SPEC, None, History())
    saver.last(1, 0, network, {}, {})
    torch.manual_seed(0)
    broken = build_network("DeepFakeClassifier", "test_efficientnet")
    broken.encoder.bn1.running_var[0] = math.inf
    for save in (lambda: saver.last(2, 1, broken, {}, {}), lambda: saver.epoch(0, broken, {})):
        with pytest.raises(NotFiniteError, match=r"encoder\.bn1\.running_var of the network is not finite"):
            save()
    assert sorted(path.name for path in files.output_dir.iterdir()) == ["run_last"]


def test_a_disk_without_links_gets_a_copy(files, network, monkeypatch):
    def refuse(*_):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", refuse)
    saver = Saver(files, SPEC, None, History())
    saver.epoch(0, network, losses(1, 1))
    assert not files.best.samefile(files.epoch(0))
    assert files.best.read_bytes() == files.epoch(0).read_bytes()


def test_a_leftover_of_a_killed_run_is_not_written_through(tmp_path, monkeypatch):
    one, other, target = (tmp_path / name for name in ("one", "other", "target"))
    one.write_text("one")
    other.write_text("other")
    os.link(other, tmp_path / f".target.part-{os.getpid()}")
    for link in (os.link, None):
        monkeypatch.setattr(os, "link", link or (lambda *_: (_ for _ in ()).throw(OSError())))
        saving.link_or_copy(one, target)
        assert (target.read_text(), other.read_text()) == ("one", "other")


def test_what_the_disk_needs_is_what_is_written(crops_root, tmp_path):
    """The figure of the first lines against the files of a whole run."""
    for number, (keep, changes) in enumerate(
        [
            ([], {}),
            (["--keep", 1], {"ema_decay": 0.9}),
            ([], {"optimizer": {"type": "AdamW", "learning_rate": 0.001}, "ema_decay": 0.5}),
        ]
    ):
        out = tmp_path / str(number)
        config = write_config(out, epochs=4, **changes)
        train(crops_root, out, config, *keep, "--save-every", 1e-9)
        files = {path.stat().st_ino: path.stat().st_size for path in (out / "weights").iterdir()}
        torch.manual_seed(0)
        settings = TrainConfig(
            epochs=4,
            ema_decay=changes.get("ema_decay", 0.0),
            optimizer=OptimizerConfig(**changes.get("optimizer", {"type": "SGD"})),
        )
        copies = 1 if settings.optimizer.type == "SGD" else 2
        need = saving.disk_need(
            build_network("DeepFakeClassifier", "test_efficientnet"),
            4,
            keep[1] if keep else None,
            averaged=bool(settings.ema_decay),
            optimizer_copies=copies,
        )
        # With --keep the best epoch may be the newest: then less is taken.
        assert sum(files.values()) < 1.15 * need
        assert need < (1.02 if not keep else 2.1) * sum(files.values()) + 20_000


def test_too_little_room_is_said(files, network, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(1, 1, 1_000_000_000))
    config = TrainConfig(epochs=3000)
    said = saving.describe_disk(files, network, config, None)
    assert said.startswith("checkpoints of all 3000 epochs need ")
    assert said.endswith("GB, 1.0 GB are free; that is too little: keep N keeps fewer epochs")
    few = saving.describe_disk(files, network, config, 2)
    assert few.startswith("checkpoints of the newest 2 and the best 2 epochs need 0.0 GB, 1.0 GB are free")
    assert "too little" not in few
    b7 = TrainConfig()
    numel = 66_000_000  # EfficientNet-B7 has 63.8 million weights and 0.3 million statistics in timm
    monkeypatch.setattr(saving, "disk_need", lambda *a, **k: numel * 4 * (40 + 4))
    assert "all 40 epochs need 11.6 GB" in saving.describe_disk(files, network, b7, None)


def test_t58_a_checkpoint_carries_its_own_epochs_metrics(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=3, ema_decay=0.5)
    train(crops_root, tmp_path, config, "--test-every", 2)
    records = epochs_of(tmp_path)
    assert ["video" in record for record in records] == [False, True, True]
    assert read(tmp_path, "0").metrics == {}
    for epoch in (1, 2):
        assert read(tmp_path, str(epoch)).metrics == pytest.approx(records[epoch]["video"])
        assert read(tmp_path, f"{epoch}_ema").metrics == pytest.approx(records[epoch]["video_ema"])
    assert read(tmp_path).metrics == pytest.approx(records[2]["video"])
    assert f"epoch 2 average fake {records[2]['video_ema']['log_loss_fake']:.4f}" in log_text(tmp_path)
    losses_of = {name: read(tmp_path, name).metrics["log_loss_balanced"] for name in ("1", "1_ema", "2", "2_ema")}
    best = min(losses_of, key=losses_of.get)
    assert path_of(tmp_path, "best").samefile(path_of(tmp_path, best))
    assert same(weights(tmp_path, "best"), weights(tmp_path, best))


def test_two_trainers_never_share_a_run_or_a_log(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=1)
    train(crops_root, tmp_path, config)
    name = path_of(tmp_path, "last").name.removesuffix("_last")
    own, other = [tmp_path / "weights", tmp_path / "logs"], tmp_path / "other"
    before = {path: path.stat().st_mtime_ns for folder in own for path in folder.iterdir()}
    for held in (RunFiles(own[0], other, name), RunFiles(other, own[1], name)):
        said = rf"^{name}: another run is training it \(process \d+ on "
        with held.only_run(), pytest.raises(UsageError, match=said):
            train(crops_root, tmp_path, config, "--resume", "auto", "--epochs", 2)
        assert before == {path: path.stat().st_mtime_ns for folder in own for path in folder.iterdir()}
    train(crops_root, tmp_path, config, "--resume", "auto", "--epochs", 2)
    assert len(epochs_of(tmp_path)) == 2
