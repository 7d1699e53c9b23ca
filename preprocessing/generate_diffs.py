"""Step 4: mark where each FAKE differs from its original -> DATA_ROOT/diffs/<fake>/<frame>_<face>_diff.png.

    python preprocessing/generate_diffs.py --root-dir DATA_ROOT

Each mask is uint8 [h, w] with the size of the crop: 255 * (1 - SSIM), clipped to 0..255; 0 means unchanged.
A fake that differs from its original outside the face in most frames is not a valid pair. It is reported and excluded
from training.
"""

from __future__ import annotations

from collections.abc import Sequence

from dfdc.command_line import run_main
from dfdc.step_command import RunOptions, step_parser


def main(argv: Sequence[str] | None = None) -> int:
    args = step_parser(__doc__, crops=True, png=True).parse_args(argv)
    from preprocessing.diff_step import DiffStep  # heavy import: delayed until the arguments are parsed

    return DiffStep(args.root_dir, args.crops_dir, args.png_level).run(RunOptions.of(args))


if __name__ == "__main__":
    run_main(main)
