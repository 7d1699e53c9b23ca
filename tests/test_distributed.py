"""Several processes (gloo on the CPU, and NCCL where there are two GPUs)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from training import checkpoint

# test_convnext has no BatchNorm, so that two ranks are one large batch to the last gradient.
ENCODER = "test_convnext"


def launch(root, out, processes, batch_size, **changes):
    """Train under torchrun on the CPU; return the text it printed."""
    config = out.with_suffix(".json")
    values = {
        **{"encoder": ENCODER, "pretrained": False, "drop_path": 0.0, "size": 32, "epochs": 1, "batches_per_epoch": 5},
        "optimizer": {"type": "SGD", "learning_rate": 0.05, "clip_grad_norm": 0.0},
        "batch_size": batch_size,
        **changes,
    }
    config.write_text(json.dumps(values))
    script = ["training/train_classifier.py", "--config", config, "--data-dir", root, "--output-dir", out / "weights",
              "--log-dir", out / "logs", "--prefix", "t_", "--device", "cpu", "--workers", 0]  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    command = [sys.executable] if processes == 1 else torchrun
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(part) for part in command + script],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def result(out):
    path = next((out / "weights").glob("*_last"))
    (log,) = (out / "logs").glob("*.jsonl")
    return checkpoint.read_checkpoint(path).state_dict, json.loads(log.read_text().splitlines()[-1])


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    from conftest import make_crops

    root = make_crops(tmp_path_factory.mktemp("ddp") / "root")
    out = root.parent / "one"
    launch(root, out, 1, 8)
    return root, *result(out)


def assert_same_run(expected, found):
    (weights, record), (other_weights, other_record) = expected, found
    for name, value in weights.items():
        assert torch.allclose(value, other_weights[name], atol=1e-6), name
    for kind in ("video", "frame"):
        assert record[kind] == pytest.approx(other_record[kind], abs=1e-5)
    for key in ("train_fake", "train_real", "step"):
        assert record[key] == pytest.approx(other_record[key], abs=1e-5)


def test_t42_two_ranks_are_one_with_twice_the_batch(one_process, tmp_path: Path):
    root, *expected = one_process
    printed = launch(root, tmp_path / "two", 2, 4)
    assert_same_run(expected, result(tmp_path / "two"))
    assert "2 x cpu" in printed
    assert "SyncBN needs GPUs" in printed
    assert printed.count("epoch 0 fake") == 1  # only global rank 0 speaks


def test_two_accumulated_batches_are_one_with_twice_the_batch(one_process, tmp_path):
    root, *expected = one_process
    launch(root, tmp_path / "accumulated", 1, 4, accumulate=2, batches_per_epoch=10)
    assert_same_run(expected, result(tmp_path / "accumulated"))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_syncbn_on_two_gpus(one_process, tmp_path):
    root, *_ = one_process
    out = tmp_path / "gpus"
    config = tmp_path / "c.json"
    config.write_text(
        json.dumps({"encoder": "test_efficientnet", "pretrained": False, "size": 32, "epochs": 1, "batch_size": 4})
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               "training/train_classifier.py", "--config", config, "--data-dir", root, "--output-dir", out,
               "--log-dir", out]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "SyncBN" in done.stdout
