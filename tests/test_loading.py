"""Loaders, named validation sets (training/loading.py)."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from helpers import ROOT, make_crops
from training_runs import epochs_of, log_text, train, write_config

from dfdc.command_line import SettingError, UsageError, UserError
from training import dataset, loading
from training.arguments import parse_arguments
from training.config import resolve_config
from training.distributed import Ranks
from training.engine import TrainingError

USE_OPENCV_THEN_LOAD = """
import sys
import cv2, numpy as np
cv2.setNumThreads(4)
for _ in range(3):  # so that its threads exist before the loaders are forked
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 0)
from training import arguments, config, loading
from training.distributed import Ranks
args = arguments.parse_arguments("", sys.argv[1:])
data = loading.prepare_data(args, config.resolve_config(args), Ranks())
for loader in (data.loader, data.held_out.loader):
    print(tuple(next(iter(loader))["image"].shape))
data.close()
"""


@pytest.mark.slow
def test_loaders_start_after_this_process_used_opencvs_threads(crops_root, tmp_path):
    config = write_config(tmp_path)
    command = [sys.executable, "-c", USE_OPENCV_THEN_LOAD, "--data-dir", crops_root, "--config", config]
    done = subprocess.run(
        [*map(str, command), "--workers", "1"], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["(4, 32, 32, 3)", "(8, 32, 32, 3)"]


@pytest.mark.slow
def test_an_error_ends_the_loaders_at_once(crops_root, tmp_path):
    """One with a traceback, which holds the loaders: the exit would wait for them."""
    code = """
import sys, time
from training import engine, train_classifier
engine.losses.combine = lambda *_: print(time.time(), flush=True) or 1 / 0
train_classifier.main(sys.argv[1:])
"""
    config = write_config(tmp_path)
    command = [sys.executable, "-c", code, "--data-dir", crops_root, "--config", config, "--workers", "2"]
    command += ["--output-dir", tmp_path / "weights", "--log-dir", tmp_path / "logs", "--device", "cpu"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    ended = time.time()
    assert done.returncode == 1
    assert ended - float(done.stdout.split()[-1]) < 25  # from the error on: the start takes its time on a busy machine
    assert "ZeroDivisionError" in done.stderr.strip().splitlines()[-1]


def prepared(root, tmp_path, *more, ranks=None, **changes):
    config = write_config(tmp_path, **changes)
    given = ["--data-dir", root, "--config", config, "--workers", 0, *more]
    args = parse_arguments("", [str(value) for value in given])
    return loading.prepare_data(args, resolve_config(args), ranks or Ranks())


@pytest.mark.slow
def test_a_loader_outlives_a_sigterm_but_not_for_ever(monkeypatch):
    code = """
import os, signal, time, torch
from training import loading
loading._GRACE = 1
torch.set_num_threads(2)
loading.start_loader_worker(0)
os.kill(os.getpid(), signal.SIGTERM)
print(torch.get_num_threads(), flush=True)
time.sleep(60)
"""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGALRM, "1\n")
    assert time.monotonic() - begun > 1


@pytest.mark.slow
def test_a_sigterm_to_the_whole_group_saves_the_step_in_progress(crops_root, tmp_path):
    """As batch systems send it: the loaders get it, too."""
    config = write_config(tmp_path, epochs=500)
    command = [sys.executable, "training/train_classifier.py", "--config", config, "--data-dir", crops_root]
    command += ["--output-dir", tmp_path / "weights", "--log-dir", tmp_path / "logs", "--device", "cpu"]
    process = subprocess.Popen(
        [*map(str, command), "--workers", "2", "--save-every", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if line.startswith("epoch 1"):
            break
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "--resume auto continues from there" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_loader_that_is_killed_ends_the_run_with_a_message(crops_root, tmp_path, monkeypatch):
    main, original = os.getpid(), dataset.CropDataset.__getitem__

    def dies(self, row):
        return original(self, row) if os.getpid() == main else os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(dataset.CropDataset, "__getitem__", dies)
    with pytest.raises(TrainingError, match=r"a loader process ended .*--workers, and --resume auto") as raised:
        train(crops_root, tmp_path, write_config(tmp_path), "--workers", 1)
    assert raised.value.status == 1


def test_rows_and_ranks(crops_root, tmp_path):
    whole = prepared(crops_root, tmp_path)
    assert (len(whole.held_out.table), whole.steps_per_epoch) == (12, 12)
    shares = [prepared(crops_root, tmp_path, ranks=Ranks(rank=r, world_size=2)) for r in range(2)]
    rows = [np.concatenate([batch["row"] for batch in share.held_out.loader]) for share in shares]
    assert sorted(np.concatenate(rows).tolist()) == list(range(12))
    assert [share.steps_per_epoch for share in shares] == [6, 6]
    assert shares[0].summary
    assert not shares[1].summary  # only the main process looks through the stamps of all fakes
    assert whole.digest == shares[1].digest
    gpu = prepared(crops_root, tmp_path, ranks=Ranks(device="cuda:0"))
    assert [loader.pin_memory for loader in (whole.loader, gpu.loader, gpu.held_out.loader)] == [False, True, True]
    assert (gpu.loader.batch_sampler.batches, gpu.held_out.loader.batch_size) == (12, 8)
    more = prepared(crops_root, tmp_path, accumulate=2, batches_per_epoch=3)
    assert (more.steps_per_epoch, more.sampler.batches) == (3, 6)


def test_only_the_main_rank_looks_at_the_disk(crops_root, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(dataset, "check_crops", lambda *args: calls.append("check"))
    monkeypatch.setattr(dataset, "unchanged_share", lambda *args: calls.append("stamps") or (3, 12))
    data = prepared(crops_root, tmp_path, "--validate-on", f"x={crops_root}")
    assert calls == ["check", "check", "check", "stamps"]
    assert data.summary == (
        "48 crops to train on (24 real), 12 to validate on, 36 of set x; set x contains training videos; "
        "3 of 12 fake crops (25.0%) show no change"
    )
    calls.clear()
    prepared(crops_root, tmp_path, "--validate-on", f"x={crops_root}", ranks=Ranks(rank=1, world_size=2))
    assert calls == []


def test_the_cores_are_shared_among_the_ranks_of_a_machine(monkeypatch):
    monkeypatch.setattr(loading, "available_cores", lambda: 12)
    counts = []
    for local in ("1", "4", "24"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        counts.append(loading.loading_options(-1, on_gpu=False)["num_workers"])
    assert counts == [12, 3, 1]
    monkeypatch.setattr(loading, "available_cores", lambda: 200)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert loading.loading_options(-1, on_gpu=False)["num_workers"] == 16
    on_gpu, alone = loading.loading_options(2, on_gpu=True), loading.loading_options(0, on_gpu=False)
    assert (on_gpu["pin_memory"], on_gpu["persistent_workers"]) == (True, True)
    assert (alone["pin_memory"], alone["persistent_workers"]) == (False, False)


@pytest.mark.slow
def test_loaders_need_room_for_their_sockets(tmp_path, monkeypatch):
    """They would hang without a message."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 80)))
    with pytest.raises(UserError, match=r"^TMPDIR: .* too many for the sockets"):
        loading.loading_options(1, on_gpu=False)
    assert loading.loading_options(0, on_gpu=False)["num_workers"] == 0


def test_further_sets_are_validated_logged_and_named(crops_root, tmp_path):
    other = make_crops(tmp_path / "other", families=3, frames=2)
    more = ("--validate-on", f"other={other}", "--validate-on", f"fold1={other}:1")
    assert train(crops_root, tmp_path, write_config(tmp_path), *more) == 0
    for record in epochs_of(tmp_path):
        assert list(record["sets"]) == ["other", "fold1"]
        assert [found["video"]["count"] for found in record["sets"].values()] == [6, 2]
        assert [found["frame"]["count"] for found in record["sets"].values()] == [6, 2]
        for name, found in record["sets"].items():
            line = f"epoch {record['epoch']} on {name} fake {found['video']['log_loss_fake']:.4f} real "
            assert line in log_text(tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (path for path in (tmp_path / "logs").iterdir() if path.is_dir())
    board = EventAccumulator(str(folder)).Reload()
    tags = set(board.Tags()["scalars"])
    assert {"sets/other/video/auc", "sets/fold1/video/log_loss", "video/auc", "run/train_loss"} <= tags
    values = [event.value for event in board.Scalars("sets/other/video/auc")]
    assert values == pytest.approx([record["sets"]["other"]["video"]["auc"] for record in epochs_of(tmp_path)])
    started = time.monotonic()
    with pytest.raises(UsageError, match="the same name is given twice"):
        train(crops_root, tmp_path / "twice", write_config(tmp_path), *more[:2], *more[:2])
    with pytest.raises(SettingError, match=r"^validate_on x=.*:9: .*folds\.csv has no fold 9"):
        train(crops_root, tmp_path / "fold", write_config(tmp_path), "--validate-on", f"x={other}:9")
    assert time.monotonic() > started
