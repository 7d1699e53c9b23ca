"""Step 1: detect the faces of every REAL video on every 10th frame -> DATA_ROOT/bboxes/<original>.json.

    python preprocessing/detect_original_faces.py --root-dir DATA_ROOT

FAKE videos are not processed: step 2 cuts their crops with the boxes of their original. Each box is in full-size
pixels and has a score and a person number. A person keeps the same number throughout the video.
"""

from __future__ import annotations

from collections.abc import Sequence

from dfdc.command_line import parse_detector_scale, run_main
from dfdc.step_command import RunOptions, step_parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = step_parser(__doc__, device=True)
    scale = (
        "resize frames by this factor before detection; auto: x2 if the longer side is under 300 pixels, x1 up to "
        "1000, x0.5 above (default: auto)"
    )
    parser.add_argument(
        "--detector-scale", type=parse_detector_scale, default="auto", metavar="auto|FACTOR", help=scale
    )
    args = parser.parse_args(argv)
    from preprocessing.detect_step import DetectStep  # heavy import: delayed until the arguments are parsed

    return DetectStep(args.root_dir, args.detector_scale).run(RunOptions.of(args))


if __name__ == "__main__":
    run_main(main)
