"""What preprocessing made of a DATA_ROOT, in one table.

python preprocessing/summarize.py --root-dir DATA_ROOT
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dfdc import artifacts, layout, parallel

STEPS = ("detect_original_faces", "extract_crops", "generate_landmarks", "generate_diffs", "generate_folds")


def summarize(root: Path, crops_dir: str = layout.CROPS_DIR) -> list[tuple[str, str]]:
    """(what, how many) of everything under `root`, counted from the artifacts themselves."""
    dataset = layout.load_dataset(root)
    made: Counter[str] = Counter()
    for video in dataset.videos.values():
        folders = {"crops": layout.crops_path(root, video.id, crops_dir)}
        if video.label == layout.REAL:
            folders["landmarks"] = layout.landmarks_path(root, video.id)
            made["faces"] += _count_faces(layout.bboxes_path(root, video.id))
        else:
            folders["masks"] = layout.diffs_path(root, video.id)
        for kind, folder in folders.items():
            made[kind] += artifacts.count_files(folder) if folder.is_dir() else 0
    rows = [
        ("parts", f"{len(dataset.parts)}"),
        ("videos", f"{len(dataset.reals())} real, {len(dataset.fakes())} fake, {len(dataset.skipped)} skipped"),
    ]
    rows += [(kind, f"{made[kind]}") for kind in ("faces", "crops", "landmarks", "masks")]
    for step in STEPS:
        outcomes = _count_outcomes(layout.ledger_path(root, step))
        rows.append(
            (
                f"failures/{step}.csv",
                ", ".join(f"{outcomes[kind]} {kind}" for kind in ("failed", "skipped", "incomplete")),
            )
        )
    return rows


def _count_faces(path: Path) -> int:
    return json.loads(path.read_text(encoding="utf-8"))["made"]["faces"] if path.is_file() else 0


def _count_outcomes(path: Path) -> Counter[str]:
    if not path.is_file():
        return Counter()
    with path.open(encoding="utf-8", newline="") as handle:
        return Counter(row["outcome"] for row in csv.DictReader(handle))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root-dir", type=Path, required=True, metavar="DATA_ROOT")
    parser.add_argument("--crops-dir", default=layout.CROPS_DIR, help="folder of the crops, in DATA_ROOT (crops)")
    args = parser.parse_args(argv)
    for what, count in summarize(args.root_dir, args.crops_dir):
        print(f"{what:<36} {count}")
    return 0


if __name__ == "__main__":
    parallel.run_main(main)
