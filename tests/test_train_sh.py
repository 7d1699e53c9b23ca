"""What train.sh starts on one machine, on several, and under SLURM. Fake programs on PATH record their arguments."""

import os
import shlex
import subprocess

import pytest
from helpers import ROOT

FAKES = {
    "python": 'echo "python $*" >> "$CALLS"',
    "torchrun": 'echo "torchrun $*" >> "$CALLS"',
    "scontrol": 'echo "scontrol $*" >> "$CALLS"; printf "node-03\\nnode-07\\n"',
}
# What srun sets for the second of two nodes.
SLURM = {
    "SLURM_JOB_ID": "7054321",
    "SLURM_STEP_ID": "0",
    "SLURM_NNODES": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NODEID": "1",
    "SLURM_JOB_NODELIST": "node-[03,07]",
}
NODES = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "first"}


@pytest.fixture
def start(tmp_path):
    """A function that runs train.sh with these GPUs and variables: its result, and the calls of the fakes."""
    (tmp_path / "bin").mkdir()
    for name, body in FAKES.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "data root").mkdir()

    def run(gpus, *flags, **variables):
        calls = tmp_path / "calls"
        calls.write_text("")
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "MASTER_", "NODE"))}
        own |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "VENV": str(tmp_path / "absent")}
        own |= {"CALLS": str(calls), "SEEDS": "1", **variables}
        command = [ROOT / "train.sh", tmp_path / "data root", str(gpus), *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=own, check=False, timeout=60)
        return done, calls.read_text().splitlines()

    return run


def launch_of(call):
    return call.partition(" training/train_classifier.py")[0]


@pytest.mark.parametrize(
    ("gpus", "launch", "device"),
    [(0, "python", "cpu"), (1, "python", "cuda"), (4, "torchrun --standalone --nproc_per_node 4", "cuda")],
)
def test_one_machine(start, tmp_path, gpus, launch, device):
    done, calls = start(gpus, "--keep", "3", SEEDS="1 5")
    assert done.returncode == 0, done.stderr
    assert [launch_of(call) for call in calls] == [launch, launch]
    assert all(f" --device {device} " in call and " --keep 3 " in call for call in calls)
    assert calls[1].endswith(" --seed 5 --prefix b7_5_")
    assert f" --data-dir {tmp_path / 'data root'} " in calls[0]


def test_it_says_what_it_runs(start):
    done, calls = start(2)
    (said,) = (line for line in done.stdout.splitlines() if "train_classifier" in line)
    assert " ".join(shlex.split(said)) == calls[0]


@pytest.mark.parametrize(("gpus", "processes", "device"), [(8, 8, "cuda"), (1, 1, "cuda"), (0, 1, "cpu")])
def test_two_machines_by_rank_use_another_port_for_each_seed(start, gpus, processes, device):
    done, calls = start(gpus, **NODES, MASTER_PORT="4000", SEEDS="1 5")
    assert done.returncode == 0, done.stderr
    said = f"torchrun --nnodes 2 --nproc_per_node {processes} --node_rank 1 --master_addr first --master_port"
    assert [launch_of(call) for call in calls] == [f"{said} 4000", f"{said} 4001"]
    assert all(f" --device {device} " in call for call in calls)
    assert launch_of(start(gpus, **NODES)[1][0]) == f"{said} 29500"


def test_two_machines_by_an_endpoint_need_no_rank(start):
    _, calls = start(2, NNODES="3", RDZV_ENDPOINT="first:4000", SEEDS="1 5")
    said = "torchrun --nnodes 3 --nproc_per_node 2 --rdzv_backend c10d --rdzv_endpoint first:{} --rdzv_id b7"
    assert [launch_of(call) for call in calls] == [said.format(4000), said.format(4001)]


def test_one_machine_ignores_addresses(start):
    assert launch_of(start(1, MASTER_ADDR="first", NODE_RANK="3")[1][0]) == "python"
    assert launch_of(start(1, NNODES="1", RDZV_ENDPOINT="first:4000")[1][0]) == "python"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"NNODES": "two"}, "NNODES must be a number of machines, not 'two'"),
        ({"NNODES": "0"}, "NNODES must be a number of machines, not '0'"),
        ({"NODE_RANK": ""}, "NNODES is 2: set NODE_RANK to the number of this machine, 0 to 1, not ''"),
        ({"NODE_RANK": "2"}, "0 to 1, not '2'"),
        ({"MASTER_ADDR": ""}, "set MASTER_ADDR to the name of the first machine, or RDZV_ENDPOINT"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT must be a number from 1 to 65499, not 'http'"),
        ({"MASTER_PORT": "65535"}, "MASTER_PORT must be a number from 1 to 65499, not '65535'"),
        ({"RDZV_ENDPOINT": "first"}, "RDZV_ENDPOINT must be HOST:PORT, not 'first'"),
    ],
)
def test_wrong_variables_end_it_before_anything_starts(start, change, said):
    done, calls = start(2, **(NODES | change))
    assert (done.returncode, calls) == (2, [])
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


# ------------------------------------------------------------------------------------------------ SLURM
def test_slurm_gives_nodes_rank_first_host_and_a_port_of_the_job(start):
    done, (listed, call) = start(8, **SLURM)
    assert (done.returncode, done.stderr) == (0, "")
    assert listed == "scontrol show hostnames node-[03,07]"
    said = "torchrun --nnodes 2 --nproc_per_node 8 --node_rank 1 --master_addr node-03 --master_port"
    assert launch_of(call) == f"{said} {10000 + 7054321 % 20000}"
    other = start(8, **(SLURM | {"SLURM_JOB_ID": "7054322"}))[1][1]
    assert launch_of(other) == f"{said} {10000 + 7054322 % 20000}"


def test_a_step_of_some_nodes_of_a_job_counts_its_own(start):
    step = {"SLURM_NNODES": "9", "SLURM_STEP_NODELIST": "node-[03,07]", "SLURM_JOB_NODELIST": "node-[01-09]"}
    listed, call = start(8, **(SLURM | step))[1]
    assert listed == "scontrol show hostnames node-[03,07]"
    assert " --nnodes 2 " in call


def test_another_name_of_the_number_of_nodes(start):
    few = {name: value for name, value in SLURM.items() if name not in ("SLURM_NNODES", "SLURM_STEP_NUM_NODES")}
    assert " --nnodes 2 " in start(8, **few, SLURM_JOB_NUM_NODES="2")[1][1]


def test_variables_of_the_user_come_before_slurms(start):
    (call,) = start(8, **SLURM, MASTER_ADDR="mine", MASTER_PORT="4000")[1]
    assert " --node_rank 1 --master_addr mine --master_port 4000 " in call
    (call,) = start(8, **SLURM, RDZV_ENDPOINT="mine:4000")[1]
    assert " --rdzv_endpoint mine:4000 --rdzv_id 7054321 " in call
    (call,) = start(8, **SLURM, NNODES="1")[1]
    assert launch_of(call) == "torchrun --standalone --nproc_per_node 8"


def test_a_job_of_one_node_needs_no_rendezvous(start):
    one = SLURM | {"SLURM_NNODES": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NODEID": "0"}
    (call,) = start(8, **one)[1]
    assert launch_of(call) == "torchrun --standalone --nproc_per_node 8"
    # A batch script without srun; its tasks stand for cores.
    (call,) = start(8, SLURM_JOB_ID="7", SLURM_NNODES="1", SLURM_NTASKS="16", SLURM_NODEID="0")[1]
    assert launch_of(call) == "torchrun --standalone --nproc_per_node 8"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"SLURM_STEP_NUM_TASKS": "16"}, "SLURM runs 16 tasks on 2 nodes"),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "1"}, "SLURM runs 8 tasks on 1 nodes"),
        ({"SLURM_STEP_NUM_TASKS": "", "SLURM_NTASKS": "16"}, "SLURM runs 16 tasks on 2 nodes"),
    ],
)
def test_several_tasks_on_a_node_are_too_many(start, change, said):
    done, calls = start(2, **(SLURM | change))
    assert (done.returncode, calls) == (2, [])
    assert said in done.stderr
    assert "srun --ntasks-per-node 1 ./train.sh" in done.stderr


def test_a_job_of_two_nodes_without_srun_is_told_why_it_waits(start):
    done, calls = start(2, **{name: value for name, value in SLURM.items() if "_STEP_" not in name}, SLURM_NTASKS="2")
    assert (done.returncode, len(calls)) == (0, 2)
    assert "this job has 2 nodes; start train.sh by srun" in done.stderr


def test_without_scontrol_the_address_is_asked_for(start, tmp_path):
    (tmp_path / "bin/scontrol").write_text("#!/bin/bash\nexit 127\n")
    done, calls = start(2, **SLURM)
    assert (done.returncode, calls) == (2, [])
    assert "set MASTER_ADDR to the name of the first one" in done.stderr
