"""Train an EfficientNet-B7 on crops of the demo dataset, to measure how numeric precision changes its scores.

    python benchmarks/train_instrument.py demo --output weights/instrument

Random weights say little of a trained network: rounding grows or fades in them as in no other. The published weights
are not always at hand. This network learns a few crops by heart, without augmentation, until its scores reach from 0 to
1: first small images, which takes most of the steps, then images of the published size. It judges no other video.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from dfdc import layout
from dfdc.imaging import IMAGENET_MEAN, IMAGENET_STD, fit
from dfdc.progress import progress_bar
from networks.checkpoint import save_checkpoint
from networks.model import Normalizer, build_network
from networks.spec import ModelSpec

ENCODER, SIZE = "tf_efficientnet_b7.ns_jft_in1k", 380
HELD_OUT = 32  # crops
STAGES = ((112, 16, 1e-3), (SIZE, 4, 1e-4))  # size, batch, learning rate


def read_crops(data: Path, size: int, *, held_out: bool, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops of fold 0 (`held_out`) or of the others, half of them fakes: uint8 [n, size, size, 3], labels float [n]."""
    rows = pd.read_csv(data / "folds.csv", dtype={"video": str, "file": str})
    rows = rows[(rows.fold == 0) == held_out].groupby("label").sample(count // 2, random_state=0)
    paths = [layout.crops_path(data, row.video) / row.file for row in rows.itertuples()]
    pictures = [fit(np.asarray(cv2.imread(str(path)))[..., ::-1], size) for path in paths]
    return torch.from_numpy(np.stack(pictures)), torch.tensor(rows.label.to_numpy(np.float32))


def train(
    network: torch.nn.Module, data: Path, stage: tuple[int, int, float], steps: int, crops: int, device: str
) -> None:
    size, batch, rate = stage
    images, labels = read_crops(data, size, held_out=False, count=crops)
    normalizer = Normalizer(IMAGENET_MEAN, IMAGENET_STD, device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20, (steps - step) / 20))
    network.train()
    order: list[int] = []
    with progress_bar(total=steps, desc=f"{size} px", unit="step") as bar:
        for _ in range(steps):
            order = order or torch.randperm(len(labels)).tolist()
            taken, order = order[:batch], order[batch:]
            logits = network(normalizer(images[taken].to(device)).contiguous(memory_format=torch.channels_last))[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[taken].to(device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            warm.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")
            bar.update()


def settle_norms(network: torch.nn.Module, data: Path, crops: int, device: str) -> None:
    """Compute the statistics of batch norms from the final weights, over all learned crops.

    Otherwise they lag behind weights that moved fast, and the network differs from the one that was trained. Follows Wu
    and Johnson 2021, "Rethinking 'Batch' in BatchNorm" (arXiv:2105.07576).
    """
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    images, _ = read_crops(data, SIZE, held_out=False, count=crops)
    normalizer = Normalizer(IMAGENET_MEAN, IMAGENET_STD, device)
    network.train()
    with torch.inference_mode():
        for batch in images[torch.randperm(len(images))].split(16):
            network(normalizer(batch.to(device)))
    network.eval()


def log_loss(network: torch.nn.Module, data: Path, device: str, *, held_out: bool, count: int) -> float:
    images, labels = read_crops(data, SIZE, held_out=held_out, count=count)
    normalizer = Normalizer(IMAGENET_MEAN, IMAGENET_STD, device)
    with torch.inference_mode():
        logits = torch.cat([network(normalizer(image[None].to(device)))[:, 0].cpu() for image in images])
    return float(torch.nn.functional.binary_cross_entropy_with_logits(logits, labels))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA_ROOT", help="the demo dataset, which ./quickstart.sh creates")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="checkpoint to write")
    parser.add_argument("--steps", type=int, nargs=2, default=[80, 40], metavar="N", help="steps at 112 and 380 pixels")
    parser.add_argument("--crops", type=int, default=96, metavar="N", help="crops to learn (default: 96)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    network = build_network("DeepFakeClassifier", ENCODER).to(args.device, memory_format=torch.channels_last)
    for stage, steps in zip(STAGES, args.steps, strict=True):
        train(network, args.data, stage, steps, args.crops, args.device)
    settle_norms(network, args.data, args.crops, args.device)
    learned = log_loss(network, args.data, args.device, held_out=False, count=args.crops)
    held_out = log_loss(network, args.data, args.device, held_out=True, count=HELD_OUT)
    metrics = {"log_loss_of_learned_crops": learned, "log_loss_of_held_out_crops": held_out}
    spec = ModelSpec("DeepFakeClassifier", ENCODER, SIZE)
    save_checkpoint(args.output, network, spec, epoch=0, bce_best=held_out, metrics=metrics)
    print(f"log loss of {args.crops} learned crops {learned:.3f}, of {HELD_OUT} held-out crops {held_out:.3f}")
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
