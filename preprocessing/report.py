"""What preprocessing made of a DATA_ROOT: a page to look at (DATA_ROOT/report/index.html), and a table here.

    python preprocessing/report.py --root-dir DATA_ROOT

The page is one file that needs no network and no script: counts per part, faces found, pairs of crops with
landmarks and masks, what could not be done and why, the balance of the folds, and the settings. It is made from
whatever is there; what is missing or broken is said on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dfdc import command_line, layout


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "folder in which the dfdc_train_part_* folders lie"
    parser.add_argument("--root-dir", type=Path, required=True, metavar="DATA_ROOT", help=where)
    parser.add_argument("--crops-dir", default=layout.CROPS_DIR, help="folder of the crops, in DATA_ROOT (crops)")
    args = parser.parse_args(argv)
    # Here, so that --help does not wait for what makes pictures and pages.
    from preprocessing.pages import make_report, summarize

    found, page = make_report(args.root_dir, args.crops_dir)
    for what, count in summarize(found):
        print(f"{what:<36} {count}")
    print(f"{'page':<36} {page}")
    return 0


if __name__ == "__main__":
    command_line.run_main(main)
