"""Average the weights of some checkpoints of one run (a "soup"), and validate the result.

    python training/average_checkpoints.py weights/RUN_30 weights/RUN_34 weights/RUN_38 --data-dir DATA_ROOT

Writes <run>_soup beside the first checkpoint: a checkpoint like any other, with the metrics of the held-out fold. After
Izmailov et al. 2018 (UAI) and Wortsman et al. 2022 (ICML): where late epochs lie around one minimum, their
mean lies nearer to it. Choose epochs by plot_loss.py, and compare: it may also be worse than the best of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dfdc import command_line, layout
from dfdc.command_line import UsageError
from dfdc.devices import DEVICE_HELP
from training.arguments import SoupSettings


def parse_arguments(argv: Sequence[str] | None) -> SoupSettings:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="epochs of one run: RUN_30, or RUN_30_ema")
    add("--data-dir", type=Path, required=True, metavar="DATA_ROOT", help="where preprocessing wrote")
    add("--crops-dir", default=layout.CROPS_DIR, help="folder of the crops, in DATA_ROOT (crops)")
    add("--folds-csv", type=Path, default=Path(layout.FOLDS_NAME), help="in DATA_ROOT, or here (folds.csv)")
    add("--fold", type=int, help="the fold that the run held out (the last number of its name)")
    add("--output", type=Path, metavar="FILE", help="(<run>_soup beside the first checkpoint)")
    add("--batch-size", type=int, default=16, metavar="N", help="crops that are scored at once (16)")
    add("--workers", type=int, default=-1, metavar="N", help="loader processes (all cores; 0: none)")
    add("--max-failed", type=float, default=0.05, metavar="FRACTION", help="stop if a larger part can't be read (0.05)")
    add("--device", default="auto", help=DEVICE_HELP)
    settings = SoupSettings(**vars(parser.parse_args(argv)))
    if settings.batch_size < 1:
        raise UsageError(f"--batch-size {settings.batch_size}: 1 or more is expected")
    return settings


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse_arguments(argv)
    from training import soup  # loads PyTorch, which --help does without

    soup.make_soup(settings)
    return 0


if __name__ == "__main__":
    command_line.run_main(main)
