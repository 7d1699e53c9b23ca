"""Runs of a network that is done in no time, without files, for several test files."""

import copy
import math

import numpy as np
import pandas as pd
import torch

from training import engine, wrapping
from training.config import OptimizerConfig, ScheduleConfig, TrainConfig
from training.distributed import Ranks
from training.engine import ValidationSet
from training.optim import build_optimizer

SIZE = 8
PLAIN = {"type": "SGD", "learning_rate": 1.0, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}


class Tiny(torch.nn.Module):
    """Large enough for batch norm and a gradient, and done in no time."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)
        )
        self.fc = torch.nn.Linear(4, 1)
        self.seen = []

    def forward(self, images):
        self.seen.append(images.detach())
        return self.fc(self.encoder(images).flatten(1))


def make_run(steps=1, amp=None, optimizer=None, network=Tiny, ranks=None, **changes):
    """A run with a rate of 1 and no momentum, unless `optimizer` says otherwise; `changes`: of the configuration."""
    torch.manual_seed(0)
    clip = (optimizer or {}).pop("clip_grad_norm", 0.0)
    settings = OptimizerConfig(**{**PLAIN, **(optimizer or {}), "clip_grad_norm": clip})
    values = {"epochs": 1, "batch_size": 4, "label_smoothing": 0.0, "schedule": ScheduleConfig(type="constant")}
    config = TrainConfig(optimizer=settings, **values).model_copy(update=changes)  # sizes no user may take, too
    model = network()
    built, _ = build_optimizer(model, config.optimizer, "cpu")
    return engine.Run(
        normalize=config.normalize,
        ranks=ranks or Ranks(),
        amp_type=amp,
        config=config,
        seed=0,
        model=model,
        optimizer=built,
        scaler=engine.make_scaler("cpu", amp),
        steps_per_epoch=steps,
        spare=torch.full((SIZE, SIZE, 3), 99, dtype=torch.uint8),
    )


def make_batch(seed, labels=(1.0, 0, 1, 0), valid=None, broken=(), size=SIZE):
    rng = torch.Generator().manual_seed(seed)
    count = len(labels)
    images = torch.randint(1, 256, (count, size, size, 3), dtype=torch.uint8, generator=rng)
    readable = torch.tensor([place not in broken for place in range(count)])
    images[~readable] = 0
    return {
        "image": images,
        "label": torch.tensor(labels),
        "row": torch.arange(count) + 10 * seed,
        "valid": (torch.ones(count, dtype=torch.bool) if valid is None else torch.tensor(valid)) & readable,
        "readable": readable,
        "error": [f"crop {place} of batch {seed}" for place in broken],
    }


def train(run, batches, **options):
    batches = copy.deepcopy(batches)
    model, _ = wrapping.wrap(run, frozen=False)
    return engine.train_epoch(run, model, batches, 0, **options)


def network_input(batch, config):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (config.normalize.mean, config.normalize.std))
    return (batch["image"].permute(0, 3, 1, 2).float() / 255 - mean) / std


def everything(run):
    """Weights, statistics and what the optimizer keeps, by name."""
    values = {name: value.clone() for name, value in run.model.state_dict().items() if value.is_floating_point()}
    for number, kept in enumerate(run.optimizer.state.values()):
        values |= {f"{number}.{key}": v.clone() for key, v in kept.items() if isinstance(v, torch.Tensor)}
    return values


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def at_step(run, bad_steps, act):
    """A hook that does `act` in the given steps, and nothing in the others."""
    calls = []

    def hook(*_):
        calls.append(1)
        return act(*_) if len(calls) - 1 in bad_steps else None

    return hook


def break_gradient(run, bad_steps, value=math.inf):
    """Gradients that are `value`, with a finite loss."""
    broken = at_step(run, bad_steps, lambda gradient: torch.full_like(gradient, value))
    run.model.fc.weight.register_hook(broken)


def break_activation(run, bad_steps):
    """A forward pass that overflows, batch norm's statistics included."""
    run.model.encoder[0].register_forward_hook(at_step(run, bad_steps, lambda module, inputs, out: out * math.inf))


def break_norm(run, bad_steps):
    """Finite gradients whose norm is not."""
    break_gradient(run, bad_steps, 3e38)


BREAK = {"gradient": break_gradient, "activation": break_activation, "norm": break_norm}


def held_out(batches, videos=None, name=""):
    labels = torch.cat([batch["label"] for batch in batches]).tolist()
    videos = videos or [f"v{number}" for number in range(len(labels))]
    table = pd.DataFrame({"video": videos, "label": np.array(labels, int)})
    rows = torch.arange(len(labels)).split([len(batch["label"]) for batch in batches])
    return ValidationSet(name, table, [{**batch, "row": own} for batch, own in zip(batches, rows, strict=True)])
