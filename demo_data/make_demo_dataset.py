"""Make a small dataset of real and fake face videos, laid out as the DFDC's, to try the whole pipeline on.

    python demo_data/make_demo_dataset.py --out demo

Writes four parts, dfdc_train_part_0 to _3, each with short H.264 videos and a metadata.json, and demo.json, which
says how they were made. The people are made up: one public-domain portrait that comes with scikit-image is warped,
tinted, lit and moved in many ways; with --faces, your own pictures or videos take its place. Every fake is made
from the frames of a real video of the same part, by one of four generators named in metadata.json. One of them,
"pyramid", is found in part 0 only: train on parts 1-3, test on part 0, and see how an unseen generator is coped with.

It shows that the pipeline works, not how good a detector is: the real thing is the DFDC (120,000 videos). The same
command gives the same files, byte for byte with the same library versions. Run again after an interruption, it makes
what is missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dfdc.command_line import run_main, whole_number
from dfdc.devices import available_cores


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, from_one = parser.add_argument, whole_number(1)
    faces = (
        "folder of pictures or videos, each of one person who looks at the camera, to make the people of; files "
        "without a usable face are skipped (scikit-image's portrait)"
    )
    frames = "frames of each video, 25 a second; the pipeline looks at every 10th (80)"
    add("--out", type=Path, required=True, metavar="DIR", help="where to: a new or empty folder")
    add("--faces", type=Path, metavar="DIR", help=faces)
    add("--seed", type=whole_number(0), default=0, metavar="N", help="another seed, other people (0)")
    add("--frames", type=from_one, default=80, metavar="N", help=frames)
    add("--people", type=whole_number(2), default=8, metavar="N", help="real videos in each part (8)")
    add("--fakes", type=from_one, default=8, metavar="N", help="fake videos in each part (8)")
    many = "processes, at most one per core (all cores)"
    add("--workers", type=from_one, default=available_cores(), metavar="N", help=many)
    args = parser.parse_args(argv)
    from demo_data.demo_dataset import PARTS, make_demo_dataset  # heavy: only once there is something to do

    if not make_demo_dataset(**vars(args)):
        print(f"{args.out} is complete and was made with these settings: nothing to do")
        return 0
    print(
        f"{args.out}: {PARTS} parts, each with {args.people} real and {args.fakes} fake videos of {args.frames} "
        f"frames.\nNext: ./preprocess_data.sh {args.out}"
    )
    return 0


if __name__ == "__main__":
    run_main(main)
