"""Images per second, utilisation and memory of a training step, plain against ours, in turn in one run.

    python benchmarks/bench_train_step.py --config configs/b7.json --batch-size 12

Plain: fp16 autocast with a scaler (float32 on a CPU), NCHW, unfused SGD, loss.item() at each step, float images from
the host. Ours: training/engine.py as used by train_classifier.py. It takes bytes from the host, and uses channels last,
bf16 on a GPU that supports it, and fused SGD, without synchronisation. --compile adds torch.compile. Weights are
random, because speed does not depend on them. Utilisation is the model's FLOP/s divided by those of a large matrix
product of the same type on the same device. A model has 3 x forward FLOPs, 2 per multiply-add.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from dfdc.devices import DEVICE_HELP, resolve_device
from networks.model import build_network
from training import engine
from training.config import TrainConfig, load_config
from training.distributed import Ranks
from training.optim import build_optimizer
from training.wrapping import amp_type, use_fast_kernels, wrap


@dataclass(frozen=True)
class Work:
    """The input of both forms: images uint8 [n, h, w, 3] and labels float [n]."""

    config: TrainConfig
    device: str
    images: torch.Tensor
    labels: torch.Tensor

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def build(self) -> torch.nn.Module:
        config = self.config
        return build_network(
            config.network,
            config.encoder,
            drop_path=config.drop_path,
            dropout=config.dropout,
            gradient_checkpointing=config.gradient_checkpointing,
        )

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


def plain(work: Work, number_type: torch.dtype | None) -> Callable[[int], None]:
    network = work.build().to(work.device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, foreach=False)
    kind = work.device.split(":")[0]
    scaler = torch.amp.GradScaler(kind, enabled=work.on_gpu)
    floats = work.images.permute(0, 3, 1, 2).float().div(255).contiguous()

    def steps(count: int) -> None:
        for _ in range(count):
            batch, target = floats.to(work.device), work.labels.to(work.device)
            with torch.autocast(kind, number_type, enabled=work.on_gpu):
                logits = network(batch)[:, 0]
                halves = [
                    torch.nn.functional.binary_cross_entropy_with_logits(logits[target == k], target[target == k])
                    for k in (0, 1)
                ]
                loss = (halves[0] + halves[1]) / 2
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0, foreach=False)
            scaler.step(optimizer)
            scaler.update()
            loss.item()

    return steps


def ours(work: Work, number_type: torch.dtype | None) -> Callable[[int], None]:
    network = work.build().to(work.device).to(memory_format=torch.channels_last)
    optimizer, _ = build_optimizer(network, work.config.optimizer, work.device)
    scaler = engine.make_scaler(work.device, number_type)
    use_fast_kernels(work.device, number_type)
    pinned = work.images.pin_memory() if work.on_gpu else work.images
    count = len(work.labels)
    batch = {"image": pinned, "label": work.labels, "row": torch.arange(count), "error": []}
    batch |= {"valid": torch.ones(count, dtype=torch.bool), "readable": torch.ones(count, dtype=torch.bool)}
    run = engine.Run(
        normalize=work.config.normalize,
        ranks=Ranks(device=work.device),
        amp_type=number_type,
        config=work.config,
        seed=0,
        model=network,
        optimizer=optimizer,
        scaler=scaler,
        steps_per_epoch=1,
    )
    model, said = wrap(run, frozen=False)
    print(said)

    def steps(count: int) -> None:
        run.steps_per_epoch = count
        engine.train_epoch(run, model, [batch] * count, 0)

    return steps


def measure_memory(steps: Callable[[int], None]) -> float:
    """GPU memory of three steps in GiB; nothing else may use the GPU."""
    torch.cuda.reset_peak_memory_stats()
    steps(3)
    return torch.cuda.max_memory_reserved() / 2**30


def measure_peak(work: Work, number_type: torch.dtype) -> float:
    """FLOP/s of a large matrix product."""
    side = 8192 if work.on_gpu else 1024
    a, b = (torch.randn(side, side, device=work.device, dtype=number_type) for _ in range(2))
    reached = 0.0
    for _ in range(6):
        work.synchronize()
        started = time.perf_counter()
        for _ in range(5):
            a @ b
        work.synchronize()
        reached = max(reached, 5 * 2 * side**3 / (time.perf_counter() - started))
    return reached


def measure_speed(work: Work, forms: dict[str, Callable[[int], None]], count: int, turns: int) -> dict[str, float]:
    """Images per second of each form: the best of `turns` turns of `count` steps."""
    best = dict.fromkeys(forms, 0.0)
    for turn in range(turns + 1):  # the first turn is a warm-up
        for name, steps in forms.items():
            work.synchronize()
            started = time.perf_counter()
            steps(count if turn else min(3, count))
            work.synchronize()
            if turn:
                best[name] = max(best[name], count * len(work.labels) / (time.perf_counter() - started))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", type=Path, default=Path("configs/b7.json"), help="configuration (default: configs/b7.json)"
    )
    parser.add_argument("--batch-size", type=int, default=12, help="images per step (default: 12)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps per turn (default: 20)")
    parser.add_argument("--turns", type=int, default=3, help="turns of each form; the best counts (default: 3)")
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument(
        "--compile", choices=("off", "on", "auto"), default="off", help="torch.compile of ours (default: off)"
    )
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="use gradient checkpointing in both forms"
    )
    args = parser.parse_args()
    changes = {"batch_size": args.batch_size, "compile": args.compile, "epochs": 10**6}
    config = load_config(args.config, changes | {"gradient_checkpointing": args.gradient_checkpointing})
    torch.manual_seed(0)
    images = torch.randint(0, 256, (args.batch_size, config.size, config.size, 3), dtype=torch.uint8)
    work = Work(config, resolve_device(args.device), images, (torch.arange(args.batch_size) % 2).float())
    plain_type = torch.float16 if work.on_gpu else None
    our_type = amp_type(config.precision, work.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work.build().eval()(torch.zeros(1, 3, config.size, config.size))
    flops_per_image = 3 * counter.get_total_flops()

    memory, started = {}, time.perf_counter()
    if work.on_gpu:
        memory["plain"] = measure_memory(plain(work, plain_type))
        gc.collect()
        torch.cuda.empty_cache()
    steps = {"ours": ours(work, our_type)}
    if work.on_gpu:
        memory["ours"] = measure_memory(steps["ours"])
        print(f"first steps after {time.perf_counter() - started:.0f} s", flush=True)
    steps = {"plain": plain(work, plain_type), **steps}
    speed = measure_speed(work, steps, args.steps, args.turns)

    what = torch.cuda.get_device_name() if work.on_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{config.encoder}, {config.size} px, batch {args.batch_size}, on {what}", end="; ")
    print(f"ours: {our_type or 'float32'}, compile {args.compile}", end="; ")
    print(f"{flops_per_image / 1e9:.1f} GFLOPs per image and step")
    print("| form | images per second | utilisation | peak memory |\n|---|---|---|---|")
    for name, number_type in (("plain", plain_type), ("ours", our_type)):
        used = speed[name] * flops_per_image / measure_peak(work, number_type or torch.float32)
        print(f"| {name} | {speed[name]:.2f} | {used:.1%} | {f'{memory[name]:.1f} GiB' if memory else '-'} |")
    print(f"ours is {speed['ours'] / speed['plain']:.2f} times plain")
    if memory:
        fits = "fits" if memory["ours"] < 11.3 else "does not fit"
        print(f"a batch of {args.batch_size} {fits} a 12 GB card (the driver uses 0.7 GB of it)")


if __name__ == "__main__":
    main()
