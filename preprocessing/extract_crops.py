"""Step 2: cut the faces out of REAL and FAKE videos -> DATA_ROOT/crops/<video>/<frame>_<face>.png.

    python preprocessing/extract_crops.py --root-dir DATA_ROOT --crops-dir crops

A FAKE is cut with its original's boxes, so that both crops show the same place. A third of the box is added on
each side. The PNGs are lossless. What rejected.csv names is not cut.
"""

from __future__ import annotations

from collections.abc import Sequence

from dfdc.command_line import run_main
from dfdc.step_command import RunOptions, step_parser


def main(argv: Sequence[str] | None = None) -> int:
    args = step_parser(__doc__, crops=True, png=True).parse_args(argv)
    from preprocessing.crop_step import CropStep  # heavy: only once there is something to do

    return CropStep(args.root_dir, args.crops_dir, png_level=args.png_level).run(RunOptions.of(args))


if __name__ == "__main__":
    run_main(main)
