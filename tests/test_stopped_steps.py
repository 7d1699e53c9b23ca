"""Steps that are killed, stopped or out of room (preprocessing/*.py): what they leave, and what they say."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT, copy_dataset, run_script
from test_preprocessing import ledger, run_step, snapshot

from dfdc import artifacts, layout
from dfdc.ledger import read_run

pytestmark = pytest.mark.slow


@pytest.fixture
def root(preprocessed, tmp_path):
    """A preprocessed data set that may be written to."""
    return copy_dataset(preprocessed, tmp_path / "data root")


def kill_when(command, happened):
    """Start a step and kill it, workers and all, as soon as `happened` says so."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not happened() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_t17_a_step_killed_at_any_moment_is_completed(root):
    expected = {name: (root / name).read_bytes() for name in snapshot(root) if name.startswith("crops/")}
    expected = {name: data for name, data in expected.items() if not name.endswith(".json")}
    shutil.rmtree(root / "crops")
    command = [sys.executable, "preprocessing/extract_crops.py", "--root-dir", str(root), "--workers", "2"]
    crops = root / "crops"

    def unfinished():
        return crops.is_dir() and any(path.suffix == ".png" for path in crops.glob(".*/*"))

    def complete(number):
        return crops.is_dir() and len(list(crops.glob("[!.]*"))) >= number

    for happened in (unfinished, lambda: complete(3), lambda: complete(6)):
        kill_when(command, happened)
        for folder in crops.glob("[!.]*"):
            assert artifacts.read_stamp(folder) is not None
        record = read_run(layout.ledger_path(root, "extract_crops"))
        assert (record.videos, record.finished) == (16, False)
    before = {name: state for name, state in snapshot(root).items() if name.startswith("crops/")}
    before = {name: state for name, state in before.items() if "/." not in name}
    done = run_step("extract_crops", root)
    assert done.returncode == 0
    assert f"16 videos ({len({name.split('/')[1] for name in before})} were complete)" in done.stdout
    after = snapshot(root)
    assert {name: after[name] for name in before} == before  # finished work was not done again
    assert {name: (root / name).read_bytes() for name in expected} == expected
    assert not list(crops.glob(".*"))


def test_a_killed_step_does_not_say_that_all_is_well(root):
    """The page after a kill: what an earlier run said stays, and the step is not said to have ended."""
    shutil.rmtree(root / "crops")
    command = [sys.executable, "preprocessing/extract_crops.py", "--root-dir", str(root), "--workers", "1"]
    kill_when(
        command, lambda: layout.ledger_path(root, "extract_crops").stat().st_mtime_ns and (root / "crops").is_dir()
    )
    done = run_script("preprocessing/report.py", "--root-dir", root)
    assert "0 incomplete: stopped or still running, after " in done.stdout
    page = layout.report_path(root).read_text()
    assert "Crops: stopped or still running, after" in page
    assert "All five steps are complete" not in page
    assert "Nothing failed" not in page


def test_ctrl_c_ends_a_step_with_130_and_its_workers_with_it(root):
    command = [sys.executable, "preprocessing/extract_crops.py", "--root-dir", str(root), "--workers", "1"]
    for _ in range(5):  # on a busy machine the step may be done before this test hears of its first video
        shutil.rmtree(root / "crops")
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not list((root / "crops").glob("[!.]*")):
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the step and its workers
        _, err = process.communicate(timeout=60)
        if process.returncode != 0:
            break
    assert process.returncode == 130
    assert err.rstrip().endswith("stopped; run the same command again to resume")
    assert "Traceback" not in err
    assert read_run(layout.ledger_path(root, "extract_crops")).finished is False
    with pytest.raises(ProcessLookupError):
        for _ in range(500):  # all of its group are gone, or about to
            os.killpg(process.pid, 0)
            time.sleep(0.01)


def test_a_disk_that_takes_no_more_ends_a_step_with_1(root):
    """A limit on the size of files stands in for a full disk: each crop is too large."""
    shutil.rmtree(root / "crops")
    command = [sys.executable, "preprocessing/extract_crops.py", "--root-dir", str(root), "--workers", "2"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "16 of 16 videos failed, more than --max-failed 0.05 allows" in done.stderr
    assert {outcome for outcome, _ in ledger(root, "extract_crops").values()} == {"failed"}
    assert all("File too large" in reason for _, reason in ledger(root, "extract_crops").values())
    assert not list((root / "crops").iterdir())
