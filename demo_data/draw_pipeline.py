"""Draw the preprocessing steps of one pair of videos: the image in the README.

python demo_data/draw_pipeline.py --root-dir demo --output images/pipeline.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dfdc import layout
from dfdc.command_line import run_main


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root-dir", type=Path, required=True, metavar="DATA_ROOT", help="a preprocessed dataset")
    parser.add_argument(
        "--crops-dir", default=layout.CROPS_DIR, help="folder of the crops, in DATA_ROOT (default: crops)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="PNG", help="image to write")
    args = parser.parse_args(argv)
    from demo_data.pipeline_picture import draw  # heavy import: delayed until the arguments are parsed

    draw(layout.load_dataset(args.root_dir), args.crops_dir, args.output)
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    run_main(main)
