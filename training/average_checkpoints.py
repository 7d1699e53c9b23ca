"""Average the weights of several checkpoints of one run (a "soup"), and validate the result.

    python training/average_checkpoints.py weights/RUN_30 weights/RUN_34 weights/RUN_38 --data-dir DATA_ROOT

Writes <run>_soup beside the first checkpoint: a normal checkpoint with the metrics of the held-out fold.
Averaging helps if late epochs surround one minimum (Izmailov et al. 2018, UAI; Wortsman et al. 2022, ICML).
The average can be worse than the best source. Choose epochs with plot_loss.py, and compare the metrics.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dfdc import command_line
from dfdc.command_line import UsageError
from training.arguments import SoupSettings, add_flags


def parse_arguments(argv: Sequence[str] | None) -> SoupSettings:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser, SoupSettings)
    settings = SoupSettings(**vars(parser.parse_args(argv)))
    if settings.batch_size < 1:
        raise UsageError(f"--batch-size {settings.batch_size}: 1 or more is expected")
    return settings


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse_arguments(argv)
    from training import soup  # loads PyTorch, which --help does not need

    soup.make_soup(settings)
    return 0


if __name__ == "__main__":
    command_line.run_main(main)
