"""Step 3: detect five landmarks in every crop of the REAL videos -> DATA_ROOT/landmarks/<original>/<frame>_<face>.npy.

    python preprocessing/generate_landmarks.py --root-dir DATA_ROOT

Each file is int16 [5, 2], x and y in crop pixels. The order is left eye, right eye, nose, left and right mouth corner,
as seen in the image. A FAKE uses the landmarks of its original.
"""

from __future__ import annotations

from collections.abc import Sequence

from dfdc.command_line import run_main
from dfdc.step_command import RunOptions, step_parser


def main(argv: Sequence[str] | None = None) -> int:
    args = step_parser(__doc__, crops=True, device=True).parse_args(argv)
    from preprocessing.landmark_step import LandmarkStep  # heavy import: delayed until the arguments are parsed

    return LandmarkStep(args.root_dir, args.crops_dir).run(RunOptions.of(args))


if __name__ == "__main__":
    run_main(main)
