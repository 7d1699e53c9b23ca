"""Images per second of a training step, plain and ours, in turn in one run; utilisation and memory.

    python benchmarks/bench_train_step.py --config configs/b7.json --batch-size 12

Plain: fp16 autocast with a scaler (float32 on a CPU), NCHW, unfused SGD, loss.item() at each step, floats from host.
Ours: training/engine.py as train_classifier.py runs it: bytes from the host, channels last, bf16 where there is a GPU
that has it, fused SGD, no synchronisation; --compile adds torch.compile. Weights are random: speed does not depend on
them. Utilisation is model FLOPs (3 x forward, 2 per multiply-add) over what a large matrix product reaches on the
same device in the same type.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/b7.json"))
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20, help="counted steps of each turn (20)")
    parser.add_argument("--turns", type=int, default=3, help="turns of each form; the best counts (3)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from dfdc.devices import resolve_device
    from training import engine
    from training.config import load_config
    from training.distributed import Ranks
    from training.model import build_network
    from training.optim import build_optimizer
    from training.train_classifier import amp_type

    device = resolve_device(args.device)
    on_gpu = device.startswith("cuda")
    config = replace(load_config(args.config), batch_size=args.batch_size, compile=args.compile, epochs=10**6)
    torch.manual_seed(0)
    images = torch.randint(0, 256, (args.batch_size, config.size, config.size, 3), dtype=torch.uint8)
    labels = (torch.arange(args.batch_size) % 2).float()

    def build() -> torch.nn.Module:
        return build_network(config.network, config.encoder, drop_path=config.drop_path, dropout=config.dropout)

    def synchronize() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    # Plain.
    plain_network = build().to(device).train()
    plain_optimizer = torch.optim.SGD(plain_network.parameters(), lr=0.01, momentum=0.9, nesterov=True, foreach=False)
    plain_scaler = torch.amp.GradScaler(device.split(":")[0], enabled=on_gpu)
    floats = images.permute(0, 3, 1, 2).float().div(255).contiguous()
    plain_type = torch.float16 if on_gpu else None

    def plain_steps(count: int) -> None:
        for _ in range(count):
            batch, target = floats.to(device), labels.to(device)
            with torch.autocast(device.split(":")[0], plain_type, enabled=on_gpu):
                logits = plain_network(batch)[:, 0]
                halves = [torch.nn.functional.binary_cross_entropy_with_logits(logits[target == k], target[target == k])
                          for k in (0, 1)]  # fmt: skip
                loss = sum(halves) / 2
            plain_optimizer.zero_grad()
            plain_scaler.scale(loss).backward()
            plain_scaler.unscale_(plain_optimizer)
            torch.nn.utils.clip_grad_norm_(plain_network.parameters(), 1.0, foreach=False)
            plain_scaler.step(plain_optimizer)
            plain_scaler.update()
            loss.item()

    # Ours.
    network = build().to(device, memory_format=torch.channels_last)
    optimizer, name = build_optimizer(network, config.optimizer, device)
    amp = amp_type(config.precision, device)
    scaler = torch.amp.GradScaler(device.split(":")[0], enabled=amp is torch.float16)
    pinned = images.pin_memory() if on_gpu else images
    batch = {"image": pinned, "label": labels, "row": torch.arange(len(labels)), "error": [],
             "valid": torch.ones(len(labels), dtype=torch.bool)}  # fmt: skip
    run = engine.Run(config, Ranks(device=device), 0, network, optimizer, scaler, amp, args.steps, lambda: False)
    model = engine.wrap(run, frozen=False)

    def our_steps(count: int) -> None:
        run.steps_per_epoch = count
        engine.train_epoch(run, model, [batch] * count, 0)

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build().eval()(floats[:1])
    flops_per_image = 3 * counter.get_total_flops()

    best: dict[str, float] = {}
    memory: dict[str, float] = {}
    for turn in range(args.turns + 1):  # the first is a warm-up
        for form, steps in (("plain", plain_steps), ("ours", our_steps)):
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            synchronize()
            started = time.perf_counter()
            steps(args.steps if turn else min(3, args.steps))
            synchronize()
            seconds = time.perf_counter() - started
            memory[form] = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
            if turn:
                best[form] = max(best.get(form, 0.0), args.steps * args.batch_size / seconds)

    def peak(kind: torch.dtype) -> float:
        side = 8192 if on_gpu else 1024
        a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
        reached = 0.0
        for _ in range(6):
            synchronize()
            started = time.perf_counter()
            for _ in range(5):
                a @ b
            synchronize()
            reached = max(reached, 5 * 2 * side**3 / (time.perf_counter() - started))
        return reached

    what = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"{config.encoder}, {config.size} px, batch {args.batch_size}, on {what}; ours: {amp or 'float32'}, {name}, "
          f"compile {args.compile}; {flops_per_image / 1e9:.1f} GFLOPs an image and step")  # fmt: skip
    print("| form | images per second | utilisation | peak memory |\n|---|---|---|---|")
    for form, kind in (("plain", plain_type or torch.float32), ("ours", amp or torch.float32)):
        used = best[form] * flops_per_image / peak(kind)
        # Both networks lie in the same process, so the other one's weights are in the peak of each.
        print(f"| {form} | {best[form]:.2f} | {used:.1%} | {f'{memory[form]:.1f} GiB' if on_gpu else '-'} |")
    print(f"ours is {best['ours'] / best['plain']:.2f} times plain")


if __name__ == "__main__":
    main()
