"""preprocess_data.sh and its steps on a Ray cluster: the artifacts are those of one machine, whatever dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import step_commands
from helpers import ROOT, copy_dataset

from dfdc import layout
from dfdc.ledger import read_run

pytest.importorskip("ray", reason="Ray is not installed: requirements-cluster.txt has it")

from clusters import wait_until

pytestmark = pytest.mark.slow


def contents(root, folders=("bboxes", "crops", "landmarks", "diffs")):
    """Bytes of all artifacts. Of a stamp, all but `listing`, which has the times of the files."""
    found = {}
    for path in (file for folder in folders for file in (root / folder).rglob("*") if file.is_file()):
        data = path.read_bytes()
        if path.name == ".stamp.json":
            data = json.loads(data)
            del data["listing"]
        found[str(path.relative_to(root))] = data
    return found


def crops_made(root):
    return len(list((root / "crops").glob("[!.]*")))


@pytest.fixture
def cropless(preprocessed, tmp_path):
    """A data set with boxes only."""
    root = copy_dataset(preprocessed, tmp_path / "data root")
    for name in ("crops", "landmarks", "diffs"):
        shutil.rmtree(root / name)
    return root


def test_all_steps_make_what_one_machine_makes(cluster, demo_root, preprocessed, tmp_path):
    root = copy_dataset(demo_root, tmp_path / "data root")
    environment = {**os.environ, "VENV": str(Path(sys.executable).parents[1]), "RAY_ADDRESS": cluster.address}
    command = [ROOT / "preprocess_data.sh", root, "--engine", "ray"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Ray: 2 workers on 2 nodes") == 4
    assert "Traceback" not in done.stderr
    assert contents(root) == contents(preprocessed)
    assert (root / "folds.csv").read_bytes() == (preprocessed / "folds.csv").read_bytes()
    assert layout.report_path(root).is_file()
    assert not list(root.glob(".ray-token*"))


def test_a_node_that_dies_changes_no_artifact(cluster, cropless, preprocessed):
    def kill():
        wait_until(lambda: crops_made(cropless) > 3)
        cluster.kill_node()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert step_commands.run("extract_crops", cropless, "--engine", "ray", "--ray-address", cluster.address) == 0
    finally:
        killer.join()
        cluster.restore()
    assert contents(cropless, ["crops"]) == contents(preprocessed, ["crops"])
    assert not list((cropless / "crops").glob(".*"))


def test_a_driver_that_is_killed_goes_on(cluster, cropless, preprocessed):
    command = [sys.executable, "preprocessing/extract_crops.py", "--root-dir", str(cropless), "--engine", "ray"]
    command += ["--ray-address", cluster.address]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_until(lambda: crops_made(cropless) > 3)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    record = read_run(layout.ledger_path(cropless, "extract_crops"))
    assert not record.finished
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(0 were complete)" not in done.stdout
    assert contents(cropless, ["crops"]) == contents(preprocessed, ["crops"])
    assert not list((cropless / "crops").glob(".*"))


@pytest.mark.parametrize(("signal_", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_driver_that_is_stopped_leaves_no_worker(cluster, cropless, signal_, status):
    import ray

    command = [sys.executable, "preprocessing/extract_crops.py", "--root-dir", str(cropless), "--engine", "ray"]
    command += ["--ray-address", cluster.address]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: crops_made(cropless) > 3)
    os.kill(driver.pid, signal_)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == status
    assert "stopped; run the same command again to resume" in said
    assert "Traceback" not in said
    with ray.init(cluster.address, log_to_driver=False):
        wait_until(lambda: ray.available_resources().get("CPU") == 2)  # all cores are free again
