"""Several processes (gloo on the CPU, and NCCL where there are two GPUs)."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import distributed_worker
import pytest
import torch
import torch.distributed as dist
import training_runs
from helpers import ROOT, make_crops
from training_runs import SCRIPT, arguments, epochs_of, log_text, train

from dfdc.command_line import SettingError
from dfdc.locks import only_one
from networks import checkpoint
from networks.model import build_network
from training import average_checkpoints, distributed, losses

pytestmark = pytest.mark.slow

WORKER = "tests/distributed_worker.py"

# test_convnext has no BatchNorm, so that two ranks are one large batch to the last gradient.
ENCODER = "test_convnext"


def write_config(folder, batch_size, **changes):
    """Five steps an epoch."""
    optimizer = {"type": "SGD", "learning_rate": 0.05, "clip_grad_norm": 0.0}
    settings = {"encoder": ENCODER, "drop_path": 0.0, "epochs": 2, "batches_per_epoch": 5, "optimizer": optimizer}
    return training_runs.write_config(folder, **{**settings, "batch_size": batch_size, **changes})


def torchrun(*arguments):
    """Start torchrun with one thread a process."""
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def finish(*processes):
    """Wait for all; return what they printed."""
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err
    return "".join(out for out, _ in outputs)


def two_nodes(*command, options=()):
    """Start torchrun twice, as on two machines with one process each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        torchrun(
            "--nnodes",
            2,
            "--node_rank",
            rank,
            "--nproc_per_node",
            1,
            "--master_addr",
            "127.0.0.1",
            "--master_port",
            port,
            *options,
            *command,
        )
        for rank in range(2)
    ]


def launch(root, out, processes, batch_size, **changes):
    """Train on the CPU, under torchrun if there are several processes; return the text it printed."""
    config = write_config(out, batch_size, **changes)
    if processes == 1:
        assert train(root, out, config) == 0
        return ""
    return finish(torchrun("--standalone", "--nproc_per_node", processes, SCRIPT, *arguments(root, out, config)))


def result(out):
    path = next((out / "weights").glob("*_last"))
    return checkpoint.read_checkpoint(path).state_dict, epochs_of(out)[-1]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
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
    launch(root, tmp_path / "accumulated", 1, 4, accumulate=2)
    assert_same_run(expected, result(tmp_path / "accumulated"))


@pytest.fixture(scope="module")
def fixed_steps(tmp_path_factory):
    """What tests/distributed_worker.py's "steps" saves, by one process, and by each of two."""
    place = tmp_path_factory.mktemp("steps")
    with mock.patch.dict(losses.CRITERIA):
        distributed_worker.steps(place / "one")
    finish(torchrun("--standalone", "--nproc_per_node", 2, WORKER, "steps", place / "two"))
    return [torch.load(place / name, weights_only=True) for name in ("one0", "two0", "two1")]


def test_gradients_do_not_depend_on_how_the_classes_fall_among_the_ranks(fixed_steps):
    one, two = (found["gradients"] for found in fixed_steps[:2])
    torch.manual_seed(0)
    start = build_network("DeepFakeClassifier", ENCODER).state_dict()
    changed = 0
    for name, value in start.items():
        assert torch.allclose(one[name], two[name], rtol=0, atol=1e-6), name
        changed += not torch.equal(one[name], value)
    assert changed > len(start) / 2


def test_t55_an_infinite_loss_on_one_rank_skips_the_step_on_all(fixed_steps):
    _, first, second = fixed_steps
    assert first["overflow"]["result"]["skipped_steps"] == second["overflow"]["result"]["skipped_steps"] == 1
    for name, value in first["overflow"]["weights"].items():
        assert torch.equal(value, second["overflow"]["weights"][name]), name
        assert torch.isfinite(value).all(), name
    for key in ("train_fake", "train_real", "gradient_norm"):
        assert first["overflow"]["result"][key] == second["overflow"]["result"][key] < 10


def test_t47_an_old_launchers_flag_and_environment(crops_root, tmp_path, monkeypatch):
    environment = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert train(crops_root, tmp_path, write_config(tmp_path, 4, epochs=1), "--local_rank", 0) == 0
    assert not dist.is_initialized()  # it was, and is no more


def test_a_process_without_a_gpu_of_its_own_says_what_to_do(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    said = r"^device cuda: process 1 of this machine has no GPU \(1 available\); start fewer processes .*, or use cpu$"
    with pytest.raises(SettingError, match=said):
        distributed.start("cuda")


@pytest.mark.parametrize("nodes", [1, 2])
def test_t47_a_killed_rank_is_restarted_and_goes_on_from_the_last_checkpoint(one_process, tmp_path, nodes):
    root, *expected = one_process
    config = write_config(tmp_path, 4)
    out, marker = tmp_path / "killed", tmp_path / "died"
    command = [WORKER, "die-once", marker, *arguments(root, out, config, "--resume", "auto")]
    options = ["--max_restarts", 1]
    if nodes == 1:
        finish(torchrun("--standalone", "--nproc_per_node", 2, *options, *command))
    else:
        finish(*two_nodes(*command, options=options))
    assert marker.exists()
    assert_same_run(expected, result(out))
    assert "from epoch 1, step 0" in log_text(out)


def test_t58_the_metrics_of_several_processes_are_those_of_the_file(one_process, tmp_path):
    """With batch norm, which has statistics of its own in each process here; and with an average of the weights."""
    root, *_ = one_process
    out = tmp_path / "two"
    launch(root, out, 2, 2, encoder="test_efficientnet", ema_decay=0.5, epochs=1)
    for name in ("0", "0_ema"):
        (path,) = (out / "weights").glob(f"*_0_{name}")
        twin = path.with_name(path.name.replace("_0_0", "_0_1"))
        twin.write_bytes(path.read_bytes())
        soup = tmp_path / f"soup{name}"
        given = [path, twin, "--data-dir", root, "--workers", 0, "--device", "cpu", "--output", soup]
        assert average_checkpoints.main([str(part) for part in given]) == 0
        found, stored = (checkpoint.read_checkpoint(p).metrics for p in (soup, path))
        assert found == pytest.approx(stored, rel=1e-5), name


@pytest.mark.parametrize("nodes", [1, 2])
def test_t56_ranks_that_differ_do_not_begin(crops_root, tmp_path, nodes):
    config = write_config(tmp_path, 4, epochs=1)
    assert train(crops_root, tmp_path, config) == 0
    more = arguments(crops_root, tmp_path, config, "--epochs", 2, "--resume", "auto")
    if nodes == 1:
        processes = [torchrun("--standalone", "--nproc_per_node", 2, WORKER, "differ", *more)]
    else:
        processes = two_nodes(WORKER, "differ", *more)
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert all(process.returncode != 0 for process in processes)
    assert all("the processes of this run differ" in err for err in errors)
    err = errors[0]
    assert "the processes of this run differ, so it can't start" in err
    assert "epoch: 1 (rank 0), 0 (rank 1)" in err
    assert "seed: 777 (rank 0), 6 (rank 1)" in err
    assert "--test-every: 1 (rank 0), 2 (rank 1)" in err
    assert "--max-failed: 0.05 (rank 0), 0.5 (rank 1)" in err
    assert "--validate-on: {} (rank 0), {'x': " in err
    assert not (tmp_path / "weights2").exists()


def test_all_ranks_end_with_the_message_that_names_the_run_at_work(crops_root, tmp_path):
    config = write_config(tmp_path, 4, epochs=1)
    lock = tmp_path / f"weights/.t_DeepFakeClassifier_{ENCODER}_0.lock"
    with only_one(lock, None):
        process = torchrun("--standalone", "--nproc_per_node", 2, SCRIPT, *arguments(crops_root, tmp_path, config))
        _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    said = f"another run is training it (process {os.getpid()} on "
    assert said in err
    own, _, of_torchrun = err.partition("torch/distributed/elastic")
    assert said in own
    assert "Traceback" not in own
    assert "Connection closed" not in of_torchrun
    assert not lock.parent.exists()  # it was new for the lock, and no rank has put anything into it


def test_a_stop_on_one_rank_saves_and_all_leave_together(one_process, tmp_path):
    """DDP x accumulation x a stop within an epoch x a resume, in two launches: as one process with the whole batch."""
    root, *expected = one_process
    out = tmp_path / "stopped"
    config = write_config(tmp_path, 2, accumulate=2)
    again = arguments(root, out, config, "--resume", "auto")
    options = ["--standalone", "--nproc_per_node", 2]
    printed = finish(torchrun(*options, WORKER, "stop-at", 2, *again))
    left = {
        words[1]: (float(words[4]), words[6]) for words in map(str.split, printed.splitlines()) if words[0] == "rank"
    }
    assert {status for _, status in left.values()} == {"143"}
    assert abs(left["0"][0] - left["1"][0]) < 0.8  # though rank 0 saved for a second
    (last,) = (out / "weights").glob("*_last")
    assert checkpoint.read_checkpoint(last).training["step"] == 3
    finish(torchrun(*options, SCRIPT, *again))
    assert_same_run(expected, result(out))


def test_t47_a_prefix_is_agreed_on_in_spite_of_what_the_dead_left():
    """As after a node joined, which counts no restart: the agents' store holds what the group before it left."""
    store = dist.HashStore()
    store.set("hello/1", "left by a dead rank 1")
    store.set("hello/2", "left by a dead rank 2")
    found = {}

    def take_part(rank, after):
        time.sleep(after)
        found[rank] = distributed.agree_on_prefix(store, rank, 3)

    threads = [threading.Thread(target=take_part, args=(rank, after)) for rank, after in ((0, 0), (1, 0.2), (2, 0.4))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 3
    assert len(set(found.values())) == 1
    assert distributed.agree_on_prefix(store, 0, 1) != found[0]
    with pytest.raises(TimeoutError, match=r"only 1 of 4 processes joined within 0\.2 s"):
        distributed.agree_on_prefix(store, 0, 4, timeout=0.2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_syncbn_on_two_gpus(one_process, tmp_path):
    root, *_ = one_process
    out = tmp_path / "gpus"
    config = tmp_path / "c.json"
    config.write_text(
        json.dumps({"encoder": "test_efficientnet", "pretrained": False, "size": 32, "epochs": 1, "batch_size": 4})
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "training/train_classifier.py",
        "--config",
        config,
        "--data-dir",
        root,
        "--output-dir",
        out,
        "--log-dir",
        out,
    ]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "SyncBN" in done.stdout
