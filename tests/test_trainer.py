"""The trainer as a whole (training/trainer.py)."""

import signal

import pytest
import torch
from helpers import ROOT, run_script
from training_runs import (
    arguments,
    epochs_of,
    log_text,
    path_of,
    read,
    records,
    same,
    terminate_at,
    train,
    weights,
    write_config,
)

from dfdc import layout
from dfdc.command_line import UserError
from networks import model
from networks.model import build_network
from training import distributed, engine, saving, trainer
from training.arguments import parse_arguments
from training.config import TrainConfig, load_config
from training.distributed import Ranks
from training.engine import TrainingError

pytestmark = pytest.mark.slow


def test_t36_seeds_are_different_runs_and_one_seed_is_one_run(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=1)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(crops_root, tmp_path / name, config, "--seed", seed)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert same(a, b)
    assert not any(torch.equal(a[name], c[name]) for name in a if name.endswith("conv_stem.weight"))


def test_it_learns(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=8, optimizer={"type": "AdamW", "learning_rate": 0.005}, drop_path=0.0)
    train(crops_root, tmp_path, config, "--no-hardcore")
    *_, last = records(tmp_path)
    assert last["video"]["auc"] == 1.0
    assert last["train_loss"] < 0.5


KILLED_AT_STEP_17 = """
import os, signal, sys
from training import engine, train_classifier
original = engine.seed_step

def seed_step(seed, step, rank):
    if step == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    original(seed, step, rank)

engine.seed_step = seed_step
train_classifier.main(sys.argv[1:])
"""


def test_t37_killed_in_the_middle_of_an_epoch_and_resumed_gives_the_same_weights(crops_root, tmp_path):
    config = write_config(tmp_path)
    train(crops_root, tmp_path / "whole", config)
    out = tmp_path / "killed"
    done = run_script("-c", KILLED_AT_STEP_17, *arguments(crops_root, out, config, "--save-every", "0.000001"))
    assert done.returncode == -signal.SIGKILL, done.stderr
    state = read(out).training
    assert (state["epoch"], state["step"]) == (1, 5)  # of twelve
    assert train(crops_root, out, config, "--resume", "auto") == 0
    assert same(weights(tmp_path / "whole"), weights(out))
    whole, resumed = records(tmp_path / "whole")[-1], records(out)[-1]
    for key in ("video", "train_fake", "train_real", "learning_rate"):
        assert whole[key] == resumed[key]


def test_sigterm_saves_the_state_and_exits(crops_root, tmp_path, monkeypatch, capsys):
    config = write_config(tmp_path, epochs=2)
    train(crops_root, tmp_path / "whole", config)
    terminate_at(monkeypatch, 3)
    assert train(crops_root, tmp_path / "stopped", config) == 128 + signal.SIGTERM
    assert "--resume auto continues" in capsys.readouterr().err
    monkeypatch.undo()
    assert read(tmp_path / "stopped").training["step"] == 4
    train(crops_root, tmp_path / "stopped", config, "--resume", "auto")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


def test_an_average_of_the_weights_is_validated_saved_and_resumed(crops_root, tmp_path, monkeypatch):
    config = write_config(tmp_path, ema_decay=0.9)
    train(crops_root, tmp_path / "whole", config)
    record = records(tmp_path / "whole")[-1]
    assert record["video_ema"]["count"] == record["video"]["count"]
    raw, average = weights(tmp_path / "whole", "1"), weights(tmp_path / "whole", "1_ema")
    assert not same(raw, average)
    terminate_at(monkeypatch, 15)
    train(crops_root, tmp_path / "stopped", config)
    monkeypatch.undo()
    train(crops_root, tmp_path / "stopped", config, "--resume", "auto")
    assert same(weights(tmp_path / "stopped", "1_ema"), average)


CYCLIC = {"type": "cyclic", "every_epochs": 1}


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"loss": "focal", "ohem_samples": 2}, []),
        ({"loss_normalization": "rank", "accumulate": 2}, []),
        ({"network": "DeepFakeClassifierSRM"}, ["--only-changed-frames"]),
        ({"precision": "bf16"}, ["--padding-part", "5"]),
        ({"network": "DeepFakeClassifierGWAP"}, ["--no-oversample"]),
        ({"optimizer": {"type": "RMSprop", "learning_rate": 0.001}, "schedule": CYCLIC}, []),
    ],
)
def test_every_choice_trains(crops_root, tmp_path, changes, more):
    assert train(crops_root, tmp_path, write_config(tmp_path, epochs=1, **changes), *more) == 0
    assert records(tmp_path)[-1]["train_loss"] < 3


def test_freeze_epochs_trains_only_the_last_layer(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=2)
    train(crops_root, tmp_path, config, "--freeze-epochs", 1)
    first, second = weights(tmp_path, "0"), weights(tmp_path, "1")
    torch.manual_seed(777)
    start = build_network("DeepFakeClassifier", "test_efficientnet", drop_path=0.2).state_dict()
    for name in start:
        assert torch.equal(first[name], start[name]) == name.startswith("encoder."), name
    assert not torch.equal(second["encoder.conv_stem.weight"], start["encoder.conv_stem.weight"])


def test_t39_fewer_crops_than_a_batch_is_an_error(crops_root, tmp_path):
    config = write_config(tmp_path, batch_size=500)
    with pytest.raises(UserError, match="48 crops, fewer than one step needs"):
        train(crops_root, tmp_path, config)


def test_t59_broken_crops_are_counted_by_name_and_too_many_are_a_failure(crops_root, tmp_path, capsys):
    for video in ("real0", "fake1"):
        (layout.crops_path(crops_root, video) / "0_0.png").write_bytes(b"broken")
    config = write_config(tmp_path, epochs=1)
    with pytest.raises(TrainingError, match="validation: 1 of 12 crops could not be read"):
        train(crops_root, tmp_path, config)
    assert not path_of(tmp_path, "best").exists()
    assert train(crops_root, tmp_path / "more", config, "--max-failed", 0.1) == 0
    out = capsys.readouterr().out
    assert "1 crops could not be read and were skipped" in out
    assert "fake1/0_0.png is not a readable image" in out
    assert "validation: 1 crops could not be read" in out
    (record,) = epochs_of(tmp_path / "more")
    assert (record["broken_training_crops"], record["broken_held_out_crops"]) == (1, 1)
    assert record["frame"]["count"] == 11
    assert "1 crops unreadable" in log_text(tmp_path / "more")


def test_t59_a_run_whose_crops_cant_be_read_fails_and_has_no_best(crops_root, tmp_path):
    for path in (crops_root / "crops").glob("*[12345]/*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(TrainingError, match="crops of epoch 0 could not be read") as failure:
        train(crops_root, tmp_path, write_config(tmp_path))
    assert failure.value.status == 1
    assert not list((tmp_path / "weights").glob("*_best"))


def test_augmentation_grid_is_drawn(crops_root, tmp_path):
    grid = tmp_path / "deep" / "grid.png"
    assert train(crops_root, tmp_path, write_config(tmp_path), "--augmentation-grid", grid) == 0
    assert grid.stat().st_size > 10_000
    assert not (tmp_path / "weights").exists()


def test_only_the_main_process_writes(crops_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(distributed.Ranks, "is_main", property(lambda self: False))
    config = write_config(tmp_path, epochs=1, ema_decay=0.5)
    assert train(crops_root, tmp_path, config, "--save-every", 1e-9) == 0
    assert not (tmp_path / "weights").exists()
    assert not (tmp_path / "logs").exists()
    assert capsys.readouterr().out == ""


def test_one_process_of_a_machine_fetches_before_the_others_look(monkeypatch):
    args = parse_arguments("", ["--data-dir", "x"])
    config = load_config(ROOT / "configs" / "demo.json", {"pretrained": True})
    done = []
    monkeypatch.setattr(distributed, "barrier", lambda: done.append("wait"))
    monkeypatch.setattr(model, "load_pretrained", lambda *_: done.append("fetch") or "fetched")
    for local_rank, expected in ((0, ["fetch", "wait"]), (1, ["wait", "fetch"])):
        done.clear()
        ranks = distributed.Ranks(rank=local_rank, local_rank=local_rank)
        trainer.prepare_network(args, config, ranks, None)
        assert done == expected


def test_a_state_is_saved_when_it_is_time(crops_root, tmp_path, monkeypatch):
    clock, saved = [0.0], []
    monkeypatch.setattr(trainer.time, "monotonic", lambda: clock[0])
    kept_seed, kept_save = engine.seed_step, saving.Saver.last
    monkeypatch.setattr(engine, "seed_step", lambda *a: clock.__setitem__(0, clock[0] + 4 * 60) or kept_seed(*a))
    monkeypatch.setattr(saving.Saver, "last", lambda self, steps, *a: saved.append(steps) or kept_save(self, steps, *a))
    config = write_config(tmp_path, epochs=1)
    for number, (minutes, expected) in enumerate([(10, [3, 6, 9, 12, 12]), (15, [4, 8, 12, 12]), (0, [12, 12])]):
        saved.clear()
        train(crops_root, tmp_path / str(number), config, "--save-every", minutes)
        assert saved == expected  # after the last step, and with the epoch's metrics, in any case


@pytest.mark.parametrize(
    ("world", "device", "kind"),
    [(2, "cuda:0", "SyncBatchNormAct"), (1, "cuda:0", "BatchNormAct2d"), (2, "cpu", "BatchNormAct2d")],
)
def test_batch_norm_is_synchronised_on_several_gpus(monkeypatch, tmp_path, world, device, kind):
    moved = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *where, **how: moved.append((where, how)) or module)
    args = parse_arguments("", ["--data-dir", "x"])
    config = TrainConfig(encoder="test_efficientnet", pretrained=False)
    ranks = Ranks(world_size=world, device=device)
    network, origin = trainer.prepare_network(args, config, ranks, None)
    assert {type(module).__name__ for module in network.modules() if "BatchNorm" in type(module).__name__} == {kind}
    assert moved == [((device,), {}), ((), {"memory_format": torch.channels_last})]
    assert ("SyncBN" in origin) is (world == 2)
    assert ("BatchNorm per process" in origin) is (world == 2 and device == "cpu")
