"""Run by torchrun in test_distributed.py: one step on given batches, or training with one death.

gradients OUT          each rank trains one step on its own, unequal share of fixed crops
die-once MARKER ...    as train_classifier.py, but rank 1 is killed at step 7, the first time
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from training import distributed, engine, train_classifier
from training.config import OptimizerConfig, TrainConfig
from training.model import build_network
from training.optim import build_optimizer

LABELS = torch.tensor([1.0, 1, 1, 1, 1, 0, 0, 0])  # the first rank has fakes only


def step_once(out: Path) -> None:
    """Train one step and save the weights: with a rate of 1 and no momentum their change is the gradient."""
    ranks = distributed.start("cpu")
    config = TrainConfig(
        encoder="test_convnext",
        size=32,
        epochs=2,
        optimizer=OptimizerConfig(
            learning_rate=1.0, momentum=0.0, nesterov=False, weight_decay=0.0, clip_grad_norm=0.0
        ),
    )
    torch.manual_seed(0)
    network = build_network("DeepFakeClassifier", "test_convnext")
    images = torch.randint(
        0, 256, (len(LABELS), 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    share = slice(ranks.rank * len(LABELS) // ranks.world_size, (ranks.rank + 1) * len(LABELS) // ranks.world_size)
    labels = LABELS[share]
    batch = {"image": images[share], "label": labels, "row": torch.arange(len(labels)), "error": [],
             "valid": torch.ones(len(labels), dtype=torch.bool)}  # fmt: skip
    optimizer, _ = build_optimizer(network, config.optimizer, "cpu")
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    run = engine.Run(config, ranks, 0, network, optimizer, scaler, None, 1, lambda: False)
    engine.train_epoch(run, engine.wrap(run, frozen=False), [batch], 0)
    if ranks.is_main:
        torch.save(network.state_dict(), out)
    distributed.barrier()
    distributed.stop()


def die_once(marker: Path, arguments: list[str]) -> int:
    """Train; rank 1 kills itself at step 7 unless `marker` says it did so already."""
    original = engine.seed_step

    def seed_step(seed: int, step: int, rank: int) -> None:
        if step == 7 and rank == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        original(seed, step, rank)

    engine.seed_step = seed_step
    return train_classifier.main(arguments)


if __name__ == "__main__":
    if sys.argv[1] == "gradients":
        step_once(Path(sys.argv[2]))
    else:
        sys.exit(die_once(Path(sys.argv[2]), sys.argv[3:]))
