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
import gc
import time
from collections.abc import Callable
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/b7.json"))
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20, help="counted steps of each turn (20)")
    parser.add_argument("--turns", type=int, default=3, help="turns of each form; the best counts (3)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", choices=("off", "on", "auto"), default="off", help="of ours (off)")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="in both forms")
    args = parser.parse_args()

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from dfdc.devices import resolve_device
    from networks.model import build_network
    from training import engine
    from training.config import load_config
    from training.distributed import Ranks
    from training.optim import build_optimizer
    from training.wrapping import amp_type, use_fast_kernels, wrap

    device = resolve_device(args.device)
    on_gpu = device.startswith("cuda")
    changes = {"batch_size": args.batch_size, "compile": args.compile, "epochs": 10**6}
    config = load_config(args.config, changes | {"gradient_checkpointing": args.gradient_checkpointing})
    torch.manual_seed(0)
    images = torch.randint(0, 256, (args.batch_size, config.size, config.size, 3), dtype=torch.uint8)
    labels = (torch.arange(args.batch_size) % 2).float()

    kind = device.split(":")[0]
    plain_type, our_type = torch.float16 if on_gpu else None, amp_type(config.precision, device)

    def build() -> torch.nn.Module:
        return build_network(
            config.network,
            config.encoder,
            drop_path=config.drop_path,
            dropout=config.dropout,
            gradient_checkpointing=config.gradient_checkpointing,
        )

    def synchronize() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    def plain() -> Callable[[int], None]:
        network = build().to(device).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, foreach=False)
        scaler = torch.amp.GradScaler(kind, enabled=on_gpu)
        floats = images.permute(0, 3, 1, 2).float().div(255).contiguous()

        def steps(count: int) -> None:
            for _ in range(count):
                batch, target = floats.to(device), labels.to(device)
                with torch.autocast(kind, plain_type, enabled=on_gpu):
                    logits = network(batch)[:, 0]
                    halves = [
                        torch.nn.functional.binary_cross_entropy_with_logits(logits[target == k], target[target == k])
                        for k in (0, 1)
                    ]
                    loss = sum(halves) / 2
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0, foreach=False)
                scaler.step(optimizer)
                scaler.update()
                loss.item()

        return steps

    def ours() -> Callable[[int], None]:
        network = build().to(device, memory_format=torch.channels_last)
        optimizer, _ = build_optimizer(network, config.optimizer, device)
        scaler = engine.make_scaler(device, our_type)
        use_fast_kernels(device, our_type)
        pinned = images.pin_memory() if on_gpu else images
        every = torch.ones(len(labels), dtype=torch.bool)
        batch = {"image": pinned, "label": labels, "row": torch.arange(len(labels)), "error": []}
        batch |= {"valid": every, "readable": every}
        run = engine.Run(
            normalize=config.normalize,
            ranks=Ranks(device=device),
            amp_type=our_type,
            config=config,
            seed=0,
            model=network,
            optimizer=optimizer,
            scaler=scaler,
            steps_per_epoch=args.steps,
        )
        model, said = wrap(run, frozen=False)
        print(said)

        def steps(count: int) -> None:
            run.steps_per_epoch = count
            engine.train_epoch(run, model, [batch] * count, 0)

        return steps

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build().eval()(torch.zeros(1, 3, config.size, config.size))
    flops_per_image = 3 * counter.get_total_flops()

    # Memory first, each form alone on the device.
    memory: dict[str, float] = {}
    for name, form in (("plain", plain), ("ours", ours)) if on_gpu else ():
        steps = form()
        torch.cuda.reset_peak_memory_stats()
        steps(3)
        memory[name] = torch.cuda.max_memory_reserved() / 2**30
        del steps
        gc.collect()
        torch.cuda.empty_cache()

    forms = {"plain": plain(), "ours": ours()}
    best = dict.fromkeys(forms, 0.0)
    for turn in range(args.turns + 1):  # the first is a warm-up
        for name, steps in forms.items():
            synchronize()
            started = time.perf_counter()
            steps(args.steps if turn else min(3, args.steps))
            synchronize()
            if turn:
                best[name] = max(best[name], args.steps * args.batch_size / (time.perf_counter() - started))

    def peak(number_type: torch.dtype) -> float:
        side = 8192 if on_gpu else 1024
        a, b = (torch.randn(side, side, device=device, dtype=number_type) for _ in range(2))
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
    print(f"{config.encoder}, {config.size} px, batch {args.batch_size}, on {what}; ours: {our_type or 'float32'}, "
          f"compile {args.compile}; {flops_per_image / 1e9:.1f} GFLOPs an image and step")  # fmt: skip
    print("| form | images per second | utilisation | peak memory |\n|---|---|---|---|")
    for name, number_type in (("plain", plain_type or torch.float32), ("ours", our_type or torch.float32)):
        used = best[name] * flops_per_image / peak(number_type)
        print(f"| {name} | {best[name]:.2f} | {used:.1%} | {f'{memory[name]:.1f} GiB' if on_gpu else '-'} |")
    print(f"ours is {best['ours'] / best['plain']:.2f} times plain")
    if on_gpu:
        print(f"a batch of {args.batch_size} {'fits' if memory['ours'] < 11.3 else 'does not fit'} a 12 GB card "
              "(0.7 GB of it are the driver's)")  # fmt: skip


if __name__ == "__main__":
    main()
