"""The preprocessing page of a DATA_ROOT, and its counts as a table."""

from __future__ import annotations

from pathlib import Path

from dfdc import artifacts, command_line, layout
from dfdc.ledger import OUTCOMES
from dfdc.rejections import load_rejections
from dfdc.text import plural
from preprocessing.pages import pairs, scan, views
from preprocessing.pages.scan import Survey, stopped


def summarize(found: Survey) -> list[tuple[str, str]]:
    """(name, count) of everything that was counted, as text."""
    dataset, total = found.dataset, found.tally.total()
    rows = [
        ("parts", f"{len(dataset.parts)}"),
        ("videos", f"{len(dataset.reals())} real, {len(dataset.fakes())} fake, {len(dataset.skipped)} skipped"),
    ]
    rows += [(kind, f"{total[kind]}") for kind in ("faces", "crops", "landmarks", "masks")]
    for step, ledger in found.ledgers.items():
        counts = ", ".join(f"{ledger.outcomes[kind]} {kind}" for kind in OUTCOMES)
        told = f"can't be read: {ledger.fault}" if ledger.fault else f"{counts}{stopped(ledger.run)}"
        rows.append((f"failures/{step}.csv", told if ledger.present else "missing: not run yet"))
    orphans = sum(map(len, found.orphans.values()))
    if orphans:
        rows.append(("orphaned", f"{plural(orphans, 'artifact')} (--prune removes them)"))
    if found.rejected:
        rows.append((layout.REJECTED_NAME, plural(len(found.rejected), "row")))
    return rows


def make_report(root: Path, crops_dir: str) -> tuple[Survey, Path]:
    """Write the page; return its data and its path.

    Raises:
        DataError: the dataset can't be read. The page says why, unless `root` is a part or missing.
    """
    page = layout.report_path(root)
    try:
        dataset = layout.load_dataset(root)
        load_rejections(root)
    except command_line.UserError as error:
        # A part is never written to, and a missing folder is not created. A link may lead to a part.
        if root.is_dir() and not (root / layout.METADATA_NAME).is_file() and not page.parent.is_symlink():
            artifacts.write_bytes(page, views.build_fault(root, str(error)))
            raise layout.DataError(f"{error}\n  page: {page}") from None
        raise
    layout.check_crops_dir(crops_dir, dataset.parts)
    artifacts.remove_leftovers(page.parent)
    found = scan.survey(dataset, crops_dir)
    shown, faults = pairs.make_pairs(dataset, crops_dir)
    artifacts.write_bytes(page, views.build(found, shown, faults))
    return found, page
