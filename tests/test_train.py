"""The trainer as a whole (training/train_classifier.py)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run_script
from training_runs import (
    SCRIPT,
    arguments,
    epochs_of,
    log_text,
    path_of,
    records,
    same,
    terminate_at,
    train,
    weights,
    write_config,
)

from dfdc import layout
from networks import checkpoint
from training import train_classifier

pytestmark = pytest.mark.slow


def test_a_run_leaves_checkpoints_and_logs(crops_root, tmp_path, capsys):
    config = write_config(tmp_path)
    assert train(crops_root, tmp_path, config) == 0
    names = sorted(
        path.name.removeprefix("t_DeepFakeClassifier_test_efficientnet_0") for path in (tmp_path / "weights").iterdir()
    )
    assert names == ["_0", "_1", "_before", "_best", "_config.json", "_last"]
    logs = {
        path.name.removeprefix("t_DeepFakeClassifier_test_efficientnet_0") for path in (tmp_path / "logs").iterdir()
    }
    assert logs == {".log", ".jsonl", "_wrong.png", ""}  # the last is TensorBoard's
    assert list((tmp_path / "logs").glob("*_0/events.out.tfevents.*"))
    light, full = ((tmp_path / "weights" / f"t_DeepFakeClassifier_test_efficientnet_0_{n}") for n in ("1", "last"))
    assert checkpoint.read_checkpoint(light).training is None
    assert checkpoint.read_checkpoint(full).training["epoch"] == 2
    start, *epochs = records(tmp_path)
    assert start["config"]["encoder"] == "test_efficientnet"
    assert {"torch", "timm", "revision"} <= start["versions"].keys()
    assert [(record["epoch"], record["step"], record["seed"]) for record in epochs] == [(0, 12, 777), (1, 24, 777)]
    assert {"auc", "average_precision", "equal_error_rate", "accuracy", "log_loss_balanced"} <= epochs[1][
        "video"
    ].keys()
    assert {"frame", "video", "video_confident", "train_fake", "train_real", "learning_rate", "data_wait"} <= epochs[
        1
    ].keys()
    assert epochs[1]["video"]["count"] == 4  # two families of fold 0
    assert epochs[1]["frame"]["count"] == 12  # every second of six frames
    text = next((tmp_path / "logs").glob("*.log")).read_text().splitlines()
    assert text[2].startswith("epoch 0 fake 0.")
    assert "checkpoints of all 2 epochs take" in text[1]
    assert "PyTorch fused SGD" in text[0]
    assert train(crops_root, tmp_path, config, "--resume", "auto") == 0
    assert "finished already" in capsys.readouterr().out


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


def test_t37_killed_in_the_middle_of_an_epoch_and_resumed_gives_the_same_weights(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=3)
    train(crops_root, tmp_path / "whole", config)
    out = tmp_path / "killed"
    command = [sys.executable, SCRIPT, *map(str, arguments(crops_root, out, config, "--resume", "auto"))]
    last = out / "weights" / "t_DeepFakeClassifier_test_efficientnet_0_last"
    for _ in range(20):
        process = subprocess.Popen([*command, "--save-every", "0.000001"], cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            state = checkpoint.read_checkpoint(last).training if last.exists() else None
            if state and state["step"] and state["epoch"] >= 1:
                process.send_signal(signal.SIGKILL)
            time.sleep(0.002)
        if process.returncode == -signal.SIGKILL:
            break
    assert process.returncode == -signal.SIGKILL, "the run was never caught within an epoch"
    state = checkpoint.read_checkpoint(last).training
    assert train(crops_root, out, config, "--resume", "auto") == 0
    assert same(weights(tmp_path / "whole"), weights(out)), f"resumed at epoch {state['epoch']}, step {state['step']}"
    whole, resumed = records(tmp_path / "whole")[-1], records(out)[-1]
    for key in ("video", "train_fake", "train_real", "learning_rate"):
        assert whole[key] == resumed[key]


def test_sigterm_saves_the_state_and_exits(crops_root, tmp_path, monkeypatch, capsys):
    config = write_config(tmp_path, epochs=2)
    train(crops_root, tmp_path / "whole", config)
    terminate_at(monkeypatch, 3)
    assert train(crops_root, tmp_path / "stopped", config) == 128 + signal.SIGTERM
    assert "--resume auto goes on" in capsys.readouterr().err
    monkeypatch.undo()
    assert checkpoint.read_checkpoint(
        tmp_path / "stopped" / "weights" / "t_DeepFakeClassifier_test_efficientnet_0_last"
    ).training["step"] == 4  # fmt: skip
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
    from networks.model import build_network

    start = build_network("DeepFakeClassifier", "test_efficientnet", drop_path=0.2).state_dict()
    for name in start:
        assert torch.equal(first[name], start[name]) == name.startswith("encoder."), name
    assert not torch.equal(second["encoder.conv_stem.weight"], start["encoder.conv_stem.weight"])


def test_t43_a_hold_out_with_one_class_trains_on(crops_root, tmp_path):
    path = crops_root / layout.FOLDS_NAME
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not (line.startswith("real") and line.endswith(",0"))) + "\n")
    assert train(crops_root, tmp_path, write_config(tmp_path, epochs=1)) == 0
    record = records(tmp_path)[-1]
    assert "auc" not in record["video"]
    assert record["video"]["log_loss_fake"] > 0
    assert "real - |" in next((tmp_path / "logs").glob("*.log")).read_text()


def test_t39_fewer_crops_than_a_batch_is_an_error(crops_root, tmp_path):
    config = write_config(tmp_path, batch_size=500)
    with pytest.raises(train_classifier.UsageError, match="48 crops, fewer than one step takes"):
        train(crops_root, tmp_path, config)


def test_t59_broken_crops_are_counted_by_name_and_too_many_are_a_failure(crops_root, tmp_path, capsys):
    for video in ("real0", "fake1"):
        (layout.crops_path(crops_root, video) / "0_0.png").write_bytes(b"broken")
    config = write_config(tmp_path, epochs=1)
    assert train(crops_root, tmp_path, config) == 1
    assert "validation: 1 of 12 crops could not be read" in capsys.readouterr().err
    assert not path_of(tmp_path, "best").exists()
    assert train(crops_root, tmp_path / "more", config, "--max-failed", 0.1) == 0
    out = capsys.readouterr().out
    assert "1 crops could not be read and were left out" in out
    assert "fake1/0_0.png is not a readable picture" in out
    assert "validation: 1 crops could not be read" in out
    (record,) = epochs_of(tmp_path / "more")
    assert (record["broken_training_crops"], record["broken_held_out_crops"]) == (1, 1)
    assert record["frame"]["count"] == 11
    assert "1 crops unreadable" in log_text(tmp_path / "more")


def test_t59_a_run_whose_crops_cant_be_read_fails_and_has_no_best(crops_root, tmp_path, capsys):
    for path in (crops_root / "crops").glob("*[12345]/*.png"):
        path.write_bytes(b"broken")
    assert train(crops_root, tmp_path, write_config(tmp_path)) == 1
    assert "crops of epoch 0 could not be read" in capsys.readouterr().err
    assert not list((tmp_path / "weights").glob("*_best"))


def test_t44_a_trailing_slash_is_the_same_place(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=1)
    train(crops_root, tmp_path, config, "--output-dir", f"{tmp_path}/weights/")
    with pytest.raises(train_classifier.UsageError, match="is there already"):
        train(crops_root, tmp_path, config, "--output-dir", f"{tmp_path}/weights")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data-dir", "/absent"], "can't be read"),
        (["--fold", "7"], "has the folds 0, 1, 2"),
        (["--config", "/absent.json"], "/absent.json: can't be read"),
        (["--batch-size", "0"], "batch_size: a number over 0"),
        (["--set", "optimizr.type=SGD"], "did you mean optimizer"),
        (["--set", "epochs=3", "--epochs", "4"], "are the same; give one"),
        (["--validate-on", "celeb"], "--validate-on celeb: NAME=DATA_ROOT"),
        (["--validate-on", "a=/absent"], "/absent/folds.csv: can't be read"),
        (["--keep", "0"], "--keep 0: 1 or more"),
        (["--max-failed", "nan"], "--max-failed nan"),
        (["--max-failed", "2"], "--max-failed 2.0: 1 at most"),
        (["--init-from", "/absent"], "there is no checkpoint /absent"),
        (["--resume", "/absent"], "there is no checkpoint /absent"),
        (["--seed", "-1"], "--seed -1"),
        (["--augmentation-grid", "a.jpg"], "--augmentation-grid a.jpg: a name that ends in .png"),
        (["--set", "optimizer=Adam"], "not 'Adam'; keys: optimizer.type, optimizer.learning_rate"),
        (["--set", "lr=0.1"], "lr: unknown key; known are .*optimizer.learning_rate"),
        (["--test-every", "0"], "--test-every 0: 1 or more"),
        (["--save-every", "-1"], "--save-every -1.0: 0 or more"),
        (["--padding-part", "2"], "--padding-part 2: 3 or more"),
        (["--prefix", "a/b"], "--prefix a/b: it begins file names"),
        (["--devise", "cpu"], "--devise"),
        (["--device", "cuda:99"], "--device cuda:99"),
    ],
)
def test_wrong_use_exits_2_with_a_message_before_anything_is_written(crops_root, tmp_path, more, said):
    if more[0] in ("--data-dir", "--devise", "--config"):  # once through the script as a user would
        done = run_script(SCRIPT, *arguments(crops_root, tmp_path, write_config(tmp_path)), *more)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    else:
        with pytest.raises(train_classifier.UsageError, match=said):
            train(crops_root, tmp_path, write_config(tmp_path), *more)
    assert not (tmp_path / "weights").exists()


def test_augmentation_grid_is_drawn(crops_root, tmp_path):
    grid = tmp_path / "deep" / "grid.png"
    assert train(crops_root, tmp_path, write_config(tmp_path), "--augmentation-grid", grid) == 0
    assert grid.stat().st_size > 10_000
    assert not (tmp_path / "weights").exists()


def test_validation_is_not_trainings(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=3)
    train(crops_root, tmp_path, config, "--test-every", 2)
    epochs = [record for record in records(tmp_path) if record["event"] == "epoch"]
    assert ["video" in record for record in epochs] == [False, True, True]


def run_train_sh(root, out, config, seeds, *flags, **options):
    environment = {**os.environ, "CONFIG": str(config), "SEEDS": seeds, "OUTPUT_DIR": str(out / "weights"),
                   "LOG_DIR": str(out / "logs"), "VENV": str(Path(sys.executable).parents[1])}  # fmt: skip
    command = [ROOT / "train.sh", root, "0", *flags]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def test_t50_train_sh_repeats_no_finished_seed_and_stops_at_a_failed_one(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=1)
    out, err = run_train_sh(crops_root, tmp_path, config, "1 2", "--max-failed", "0.5").communicate(timeout=300)
    assert out.count("epoch 0 fake") == 2, err
    starts = [json.loads(path.read_text().splitlines()[0]) for path in (tmp_path / "logs").glob("*.jsonl")]
    assert [start["arguments"]["max_failed"] for start in starts] == [0.5, 0.5]
    logs = {path: path.read_bytes() for path in (tmp_path / "logs").glob("*.log")}
    process = run_train_sh(crops_root, tmp_path, config, "1 2")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0
    assert out.count("finished already") == 2
    assert {path: path.read_bytes() for path in logs} == logs
    process = run_train_sh(crops_root, tmp_path, config, "-5 3")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "seed 3" not in out


def test_train_sh_passes_a_sigterm_on(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=200)
    process = run_train_sh(crops_root, tmp_path, config, "1 2")
    for line in process.stdout:
        if line.startswith("epoch 0"):
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "--resume auto goes on from there" in err


def test_only_the_main_process_writes(crops_root, tmp_path, monkeypatch, capsys):
    from training import distributed

    monkeypatch.setattr(distributed.Ranks, "is_main", property(lambda self: False))
    config = write_config(tmp_path, epochs=1, ema_decay=0.5)
    assert train(crops_root, tmp_path, config, "--save-every", 1e-9) == 0
    assert not (tmp_path / "weights").exists()
    assert not (tmp_path / "logs").exists()
    assert capsys.readouterr().out == ""


def test_one_process_of_a_machine_fetches_before_the_others_look(monkeypatch):
    from networks import model
    from training import arguments, distributed

    args = arguments.parse_arguments("", ["--data-dir", "x"])
    config = arguments.load_config(ROOT / "configs" / "demo.json", {"pretrained": True})
    done = []
    monkeypatch.setattr(distributed, "barrier", lambda: done.append("wait"))
    monkeypatch.setattr(model, "load_pretrained", lambda *_: done.append("fetch") or "fetched")
    for local_rank, expected in ((0, ["fetch", "wait"]), (1, ["wait", "fetch"])):
        done.clear()
        ranks = distributed.Ranks(rank=local_rank, local_rank=local_rank)
        train_classifier.prepare_network(args, config, ranks, None)
        assert done == expected


def test_a_state_is_saved_when_it_is_time(crops_root, tmp_path, monkeypatch):
    from training import engine, saving

    clock, saved = [0.0], []
    monkeypatch.setattr(train_classifier.time, "monotonic", lambda: clock[0])
    kept_seed, kept_save = engine.seed_step, saving.Saver.last
    monkeypatch.setattr(engine, "seed_step", lambda *a: clock.__setitem__(0, clock[0] + 4 * 60) or kept_seed(*a))
    monkeypatch.setattr(saving.Saver, "last", lambda self, steps, *a: saved.append(steps) or kept_save(self, steps, *a))
    config = write_config(tmp_path, epochs=1)
    for number, (minutes, expected) in enumerate([(10, [3, 6, 9, 12, 12]), (15, [4, 8, 12, 12]), (0, [12, 12])]):
        saved.clear()
        train(crops_root, tmp_path / str(number), config, "--save-every", minutes)
        assert saved == expected  # after the last step, and with the epoch's metrics, in any case
