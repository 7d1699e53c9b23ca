"""Step 2: cut the faces out of REAL and FAKE videos -> DATA_ROOT/crops/<video>/<frame>_<face>.png.

    python preprocessing/extract_crops.py --root-dir DATA_ROOT --crops-dir crops

A FAKE is cut with the boxes of its original, so that both crops show the same area. Each side of the box gets a
margin of a third of the box. The PNGs are lossless. Crops listed in rejected.csv are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

from dfdc.command_line import run_main
from dfdc.step_command import RunOptions, step_parser


def main(argv: Sequence[str] | None = None) -> int:
    args = step_parser(__doc__, crops=True, png=True).parse_args(argv)
    from preprocessing.crop_step import CropStep  # heavy import: delayed until the arguments are parsed

    return CropStep(args.root_dir, args.crops_dir, png_level=args.png_level).run(RunOptions.of(args))


if __name__ == "__main__":
    run_main(main)
