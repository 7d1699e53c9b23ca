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

from dfdc import artifacts, command_line, layout
from dfdc.ledger import OUTCOMES
from dfdc.page import plural
from dfdc.rejections import load_rejections
from preprocessing import report_page, report_pairs, report_scan
from preprocessing.report_page import stopped
from preprocessing.report_scan import Survey


def summarize(found: Survey) -> list[tuple[str, str]]:
    """(what, how many) of everything that was counted, as text."""
    dataset, total = found.dataset, found.tally.total()
    rows = [
        ("parts", f"{len(dataset.parts)}"),
        ("videos", f"{len(dataset.reals())} real, {len(dataset.fakes())} fake, {len(dataset.skipped)} skipped"),
    ]
    rows += [(kind, f"{total[kind]}") for kind in ("faces", "crops", "landmarks", "masks")]
    for step, ledger in found.ledgers.items():
        counts = ", ".join(f"{ledger.outcomes[kind]} {kind}" for kind in OUTCOMES)
        told = f"can't be read: {ledger.fault}" if ledger.fault else f"{counts}{stopped(ledger.run)}"
        rows.append((f"failures/{step}.csv", told if ledger.present else "not there: not run yet"))
    orphans = sum(map(len, found.orphans.values()))
    if orphans:
        rows.append(("of no video any more", f"{orphans} artifacts (--prune removes them)"))
    if found.rejected:
        rows.append((layout.REJECTED_NAME, plural(len(found.rejected), "row")))
    return rows


def make_report(root: Path, crops_dir: str) -> tuple[Survey, Path]:
    """Write the page; return what it shows and where it lies.

    Raises:
        DataError: the data set can't be read. The page says why, unless `root` is no place for one.
    """
    page = layout.report_path(root)
    try:
        dataset = layout.load_dataset(root)
        load_rejections(root)
    except command_line.UserError as error:
        # A part is never written to, and a folder that is not there is not made.
        if root.is_dir() and not (root / layout.METADATA_NAME).is_file():
            artifacts.write_bytes(page, report_page.build_fault(root, str(error)))
            raise layout.DataError(f"{error}\n  page: {page}") from None
        raise
    layout.check_crops_dir(crops_dir, dataset.parts)
    artifacts.remove_leftovers(page.parent)
    found = report_scan.survey(dataset, crops_dir)
    pairs, faults = report_pairs.make_pairs(dataset, crops_dir)
    artifacts.write_bytes(page, report_page.build(found, pairs, faults))
    return found, page


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root-dir", type=Path, required=True, metavar="DATA_ROOT",
                        help="folder in which the dfdc_train_part_* folders lie")  # fmt: skip
    parser.add_argument("--crops-dir", default=layout.CROPS_DIR, help="folder of the crops, in DATA_ROOT (crops)")
    args = parser.parse_args(argv)
    found, page = make_report(args.root_dir, args.crops_dir)
    for what, count in summarize(found):
        print(f"{what:<36} {count}")
    print(f"{'page':<36} {page}")
    return 0


if __name__ == "__main__":
    command_line.run_main(main)
