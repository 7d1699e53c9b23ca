"""The trainer as people call it: wrong use, train.sh (training/train_classifier.py)."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, run_script
from training_runs import (
    SCRIPT,
    arguments,
    train,
    write_config,
)

from dfdc.command_line import UserError

pytestmark = pytest.mark.slow


def test_t44_a_trailing_slash_is_the_same_place(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=1)
    train(crops_root, tmp_path, config, "--output-dir", f"{tmp_path}/weights/")
    with pytest.raises(UserError, match="already exists"):
        train(crops_root, tmp_path, config, "--output-dir", f"{tmp_path}/weights")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data-dir", "/absent"], "can't be read"),
        (["--fold", "7"], "has the folds 0, 1, 2"),
        (["--config", "/absent.json"], "/absent.json: can't be read"),
        (["--batch-size", "0"], "batch_size: a number over 0"),
        (["--set", "optimizr.type=SGD"], "did you mean optimizer"),
        (["--set", "epochs=3", "--epochs", "4"], "set the same key; give only one"),
        (["--validate-on", "celeb"], "--validate-on celeb: NAME=DATA_ROOT"),
        (["--validate-on", "a=/absent"], "/absent/folds.csv: can't be read"),
        (["--keep", "0"], "--keep 0: 1 or more"),
        (["--max-failed", "nan"], "--max-failed nan"),
        (["--max-failed", "2"], "--max-failed 2.0: a number from 0 to 1"),
        (["--init-from", "/absent"], "/absent: no such checkpoint"),
        (["--resume", "/absent"], "/absent: no such checkpoint"),
        (["--seed", "-1"], "--seed -1"),
        (["--augmentation-grid", "a.jpg"], "--augmentation-grid a.jpg: a file name ending in .png"),
        (["--set", "optimizer=Adam"], "not 'Adam'; keys: optimizer.type, optimizer.learning_rate"),
        (["--set", "lr=0.1"], "lr: unknown key; known keys are .*optimizer.learning_rate"),
        (["--test-every", "0"], "--test-every 0: 1 or more"),
        (["--save-every", "-1"], "--save-every -1.0: 0 or more"),
        (["--padding-part", "2"], "--padding-part 2: 3 or more"),
        (["--prefix", "a/b"], "--prefix a/b: it starts file names"),
        (["--devise", "cpu"], "--devise"),
        (["--device", "cuda:99"], "--device cuda:99"),
    ],
)
def test_wrong_use_exits_2_with_a_message_before_anything_is_written(crops_root, tmp_path, capsys, more, said):
    if more[0] == "--data-dir":  # once through the script as a user would
        done = run_script(SCRIPT, *arguments(crops_root, tmp_path, write_config(tmp_path)), *more)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    else:
        with pytest.raises((UserError, SystemExit)) as refusal:
            train(crops_root, tmp_path, write_config(tmp_path), *more)
        error = refusal.value
        assert (error.code if isinstance(error, SystemExit) else error.status) == 2
        assert re.search(said, f"--{error} {capsys.readouterr().err}")  # run_main puts the -- before a setting
    assert not (tmp_path / "weights").exists()


def run_train_sh(root, out, config, seeds, *flags, **options):
    environment = {**os.environ, "CONFIG": str(config), "SEEDS": seeds, "VENV": str(Path(sys.executable).parents[1])}
    environment |= {"OUTPUT_DIR": str(out / "weights"), "LOG_DIR": str(out / "logs")}
    command = [ROOT / "train.sh", root, "0", *flags]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options
    )


def test_t50_train_sh_repeats_no_finished_seed_and_stops_at_a_failed_one(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=1)
    process = run_train_sh(crops_root, tmp_path, config, "1 2", "--max-failed", "0.5")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out.count("epoch 0 fake")) == (0, 2), err
    starts = [json.loads(path.read_text().splitlines()[0]) for path in (tmp_path / "logs").glob("*.jsonl")]
    assert [start["arguments"]["max_failed"] for start in starts] == [0.5, 0.5]
    logs = {path: path.read_bytes() for path in (tmp_path / "logs").glob("*.log")}
    process = run_train_sh(crops_root, tmp_path, config, "2 -5 3")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert out.count("already finished") == 1
    assert {path: path.read_bytes() for path in logs} == logs
    assert "seed 3" not in out


@pytest.mark.parametrize("way", ["slurm", "endpoint"])
def test_train_sh_on_two_machines_is_one_run(crops_root, tmp_path, way, monkeypatch):
    """Two nodes of one process each, on the loopback; SLURM's variables and its scontrol are made up."""
    config = write_config(tmp_path, epochs=1)
    scontrol = tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text("#!/bin/sh\nprintf '127.0.0.1\\nanother\\n'\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if way == "slurm":
        common = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NNODES": "2", "SLURM_STEP_NUM_TASKS": "2"}
        common |= {"SLURM_JOB_NODELIST": "some", "MASTER_PORT": str(port)}
    else:
        common = {"NNODES": "2", "RDZV_ENDPOINT": f"127.0.0.1:{port}"}
    for name, value in common.items():
        monkeypatch.setenv(name, value)
    processes = []
    for rank in range(2):
        monkeypatch.setenv("SLURM_NODEID", str(rank))
        processes.append(run_train_sh(crops_root, tmp_path, config, "1 2" if way == "slurm" else "1"))
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    printed = "".join(out for out, _ in outputs)
    seeds = 2 if way == "slurm" else 1
    assert printed.count("2 x cpu") == printed.count("epoch 0 fake") == seeds  # of the first rank only
    assert len(list((tmp_path / "weights").glob("*_last"))) == seeds
    assert all(f"seed {seed}:" in out for out, _ in outputs for seed in range(1, seeds + 1))


def test_train_sh_passes_a_sigterm_on(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=200)
    process = run_train_sh(crops_root, tmp_path, config, "1 2")
    for line in process.stdout:
        if line.startswith("epoch 0"):
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "--resume auto continues from there" in err
