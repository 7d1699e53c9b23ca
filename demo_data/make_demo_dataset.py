"""Create a small dataset of real and fake face videos in the layout of the DFDC, to try the whole pipeline.

    python demo_data/make_demo_dataset.py --out demo

Writes four parts, dfdc_train_part_0 to _3, each with short H.264 videos and a metadata.json. demo.json records
the settings and generators. The people are artificial: the script warps, tints, lights and moves a public-domain
portrait that comes with scikit-image. --faces uses your own images or videos instead. Each fake is made from the frames
of a real video of the same part, by one of four generators; metadata.json names the generator. Only part 0 uses the
generator "pyramid": train on parts 1-3 and test on part 0 to measure the detection of an unseen generator.

This dataset shows that the pipeline works, not how good a detector is. For that, use the DFDC (120,000 videos). The
same command with the same library versions writes identical files. After an interruption, run it again: it creates
only the missing files.
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
        "folder of images or videos to make the people from, each of one person looking at the camera (default: the "
        "portrait of scikit-image). Files without a usable face are skipped"
    )
    frames = "frames per video, at 25 per second; the pipeline uses every 10th frame (default: 80)"
    add("--out", type=Path, required=True, metavar="DIR", help="output folder, new or empty")
    add("--faces", type=Path, metavar="DIR", help=faces)
    add("--seed", type=whole_number(0), default=0, metavar="N", help="random seed; decides the people (default: 0)")
    add("--frames", type=from_one, default=80, metavar="N", help=frames)
    add("--people", type=whole_number(2), default=8, metavar="N", help="real videos per part (default: 8)")
    add("--fakes", type=from_one, default=8, metavar="N", help="fake videos per part (default: 8)")
    many = "worker processes, at most one per core (default: all cores)"
    add("--workers", type=from_one, default=available_cores(), metavar="N", help=many)
    args = parser.parse_args(argv)
    from demo_data.demo_dataset import PARTS, make_demo_dataset  # heavy import: delayed until the arguments are parsed

    if not make_demo_dataset(**vars(args)):
        print(f"{args.out} is complete: nothing to do")
        return 0
    print(
        f"{args.out}: {PARTS} parts, each with {args.people} real and {args.fakes} fake videos of {args.frames} frames."
    )
    return 0


if __name__ == "__main__":
    run_main(main)
