"""Report the results of preprocessing: write DATA_ROOT/report/index.html and print a table.

    python preprocessing/report.py --root-dir DATA_ROOT

The page is one file without scripts or network access. It shows counts per part, detected faces, and pairs of crops
with landmarks and masks. It also shows failures with their reasons, the balance of the folds, and the settings. It
uses all available artifacts and lists missing or corrupt ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dfdc import command_line, layout


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "folder that holds the dfdc_train_part_* folders"
    parser.add_argument("--root-dir", type=Path, required=True, metavar="DATA_ROOT", help=where)
    parser.add_argument(
        "--crops-dir", default=layout.CROPS_DIR, help="folder of the crops, in DATA_ROOT (default: crops)"
    )
    args = parser.parse_args(argv)
    # Heavy import: delayed so that --help is fast.
    from preprocessing.pages import make_report, summarize

    found, page = make_report(args.root_dir, args.crops_dir)
    for what, count in summarize(found):
        print(f"{what:<36} {count}")
    print(f"{'page':<36} {page}")
    return 0


if __name__ == "__main__":
    command_line.run_main(main)
