"""Train one deepfake classifier on the crops that preprocessing made.

    python training/train_classifier.py --config configs/demo.json --data-dir DATA_ROOT
    torchrun --nproc_per_node 2 training/train_classifier.py --config configs/b7.json --data-dir DATA_ROOT --seed 111

Writes <output-dir>/<prefix><network>_<encoder>_<fold>_<epoch> after each epoch, the same with _last (all that it
takes to go on: --resume auto; the one before it is _before) and with _best (lowest held-out log loss), and
<log-dir>/<the same>.log and .jsonl.
"""

from __future__ import annotations

from collections.abc import Sequence

from dfdc import command_line
from training.arguments import parse_arguments


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse_arguments(__doc__, argv)
    from training.config import resolve_config  # loads pydantic: --help does not wait for it

    config = resolve_config(settings)
    from training import trainer  # loads PyTorch: wrong values do not wait for it

    return trainer.run_training(settings, config)


if __name__ == "__main__":
    command_line.run_main(main)
