"""Train one deepfake classifier on a preprocessed dataset.

    python training/train_classifier.py --config configs/demo.json --data-dir DATA_ROOT
    torchrun --nproc_per_node 2 training/train_classifier.py --config configs/b7.json --data-dir DATA_ROOT --seed 111

A run is named <prefix><network>_<encoder>_<fold>. In the output folder, it writes <run>_<epoch> after each epoch,
<run>_best (lowest held-out log loss), <run>_last (for --resume auto) and <run>_before (the previous _last). In the log
folder, it writes <run>.log and <run>.jsonl.
"""

from __future__ import annotations

from collections.abc import Sequence

from dfdc import command_line
from training.arguments import parse_arguments


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse_arguments(__doc__, argv)
    from training.config import resolve_config  # loads pydantic, which --help does not need

    config = resolve_config(settings)
    from training import trainer  # loads PyTorch, which invalid values do not wait for

    return trainer.run_training(settings, config)


if __name__ == "__main__":
    command_line.run_main(main)
