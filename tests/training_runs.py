"""Small training runs through the trainer's command line, for several test files."""

import json
import signal

import torch

from dfdc import command_line
from networks import checkpoint
from training import engine, train_classifier

SCRIPT = "training/train_classifier.py"
ENCODER = "test_efficientnet"


def write_config(folder, **changes):
    values = {
        "encoder": ENCODER,
        "pretrained": False,
        "drop_path": 0.2,
        "size": 32,
        "epochs": 2,
        "batch_size": 4,
        "optimizer": {"type": "SGD", "learning_rate": 0.05},
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


def arguments(root, out, config, *more):
    return [
        *("--config", config, "--data-dir", root, "--output-dir", out / "weights", "--log-dir", out / "logs"),
        *("--prefix", "t_", "--device", "cpu", "--workers", 0, *more),
    ]


def train(root, out, config, *more):
    """The trainer's exit status. Its messages name settings by their flags, as for the user of the command."""
    with command_line.flags_shown():
        return train_classifier.main([str(value) for value in arguments(root, out, config, *more)])


def path_of(out, name, encoder=ENCODER):
    return out / "weights" / f"t_DeepFakeClassifier_{encoder}_0_{name}"


def read(out, name="last"):
    return checkpoint.read_checkpoint(path_of(out, name))


def weights(out, name="last"):
    return read(out, name).state_dict


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def records(out):
    (path,) = (out / "logs").glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def epochs_of(out):
    return [record for record in records(out) if record["event"] == "epoch"]


def log_text(out):
    (path,) = (out / "logs").glob("*.log")
    return path.read_text()


def terminate():
    """Do what a SIGTERM does here. A real one has ended pytest-xdist's process, and it is not known why.

    Tests of whole processes send real ones.
    """
    signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)


def terminate_at(monkeypatch, global_step):
    """Have this process's handler of SIGTERM called as it begins `global_step`."""
    original = engine.seed_step

    def seed_step(seed, step, rank):
        if step == global_step:
            terminate()
        original(seed, step, rank)

    monkeypatch.setattr(engine, "seed_step", seed_step)
