"""Step 4: where each FAKE differs from its original -> DATA_ROOT/diffs/<fake>/<frame>_<face>_diff.png.

    python preprocessing/generate_diffs.py --root-dir DATA_ROOT

Each mask is uint8 [h, w] of the crop's size: 255 * (1 - SSIM), clipped to 0..255; 0 where nothing was changed.
A fake that differs from its original where no face is, in most frames, is no pair: it is named, and not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

from dfdc.command_line import run_main
from dfdc.step_command import RunOptions, step_parser


def main(argv: Sequence[str] | None = None) -> int:
    args = step_parser(__doc__, crops=True, png=True).parse_args(argv)
    from preprocessing.diff_step import DiffStep  # heavy: only once there is something to do

    return DiffStep(args.root_dir, args.crops_dir, args.png_level).run(RunOptions.of(args))


if __name__ == "__main__":
    run_main(main)
