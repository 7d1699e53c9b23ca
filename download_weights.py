"""Download the winners' published EfficientNet-B7 checkpoints.

    python download_weights.py --five    # one checkpoint per seed, 1.3 GB
    python download_weights.py           # all seven that the winners submitted, 1.9 GB

Each file is validated as a B7 checkpoint before it gets its final name, and its SHA-256 is stored beside it. Run the
command again to resume a stopped download, or to verify the checksums of existing files.

The winners' repository, github.com/selimsef/dfdc_deepfake_challenge, has the MIT licence. The networks were trained on
the DFDC dataset, which has its own terms: ai.meta.com/datasets/dfdc. Training started from noisy-student weights, which
were trained on ImageNet and unlabelled images of JFT-300M. Read those terms before you use the weights commercially.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dfdc import command_line

RELEASE = "https://github.com/selimsef/dfdc_deepfake_challenge/releases/download/0.0.1"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    five = "download only the latest checkpoint of each of the five seeds (default: all seven checkpoints)"
    parser.add_argument("--five", action="store_true", help=five)
    folder = "folder to write to (default: weights)"
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"), metavar="DIR", help=folder)
    mirror = "URL of a mirror with the same file names (default: the winners' release 0.0.1)"
    parser.add_argument("--url", default=RELEASE, metavar="URL", help=mirror)
    args = parser.parse_args(argv)
    from networks import published  # here: --help must not wait for PyTorch

    published.download(published.FIVE if args.five else published.SEVEN, args.weights_dir, args.url)
    return 0


if __name__ == "__main__":
    command_line.run_main(main)
