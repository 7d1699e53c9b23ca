"""Step 5: list every crop with its label and fold -> DATA_ROOT/folds.csv.

    python preprocessing/generate_folds.py --root-dir DATA_ROOT --out folds.csv

Whole parts go to folds, in contiguous blocks, since parts share fewer people than videos of one part do: with
the 50 parts of the full set and 16 folds, fold 0 holds parts 0-2. Training holds out one fold.

With --val-ids, fold 0 is just the videos named there; their originals and fakes are left out of the file, and
the others are folds 1, 2, ... .
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dfdc import artifacts, layout, parallel
from dfdc.layout import FAKE, FOLDS_COLUMNS, REAL, Dataset, Video
from dfdc.parallel import UsageError

STEP = "generate_folds"
WRITE_ROWS = 1 << 14  # at a time, so that few of them are in memory as text
READ_ROWS = 512  # at a time: with more, Python's garbage collector looks through them, and takes three times as long


class LeakError(Exception):
    """Folds that know of each other; the message lists the leaks."""


@dataclass
class Listing:
    """A video with its crops, int64 [n, 2] of (frame, face) in order, and the fold it goes to."""

    video: Video
    crops: np.ndarray
    fold: int = 0


def list_crops(dataset: Dataset, crops_dir: str) -> list[Listing]:
    """Every video that has crops; what was cropped is what is listed."""
    videos = list(dataset.videos.values())

    def listing(video: Video) -> Listing:
        crops = layout.list_crops(layout.crops_path(dataset.root, video.id, crops_dir))
        return Listing(video, np.array(crops, np.int64))  # 4 million tuples would fill half a gigabyte

    found = parallel.progress_bar(parallel.disk_map(listing, videos), total=len(videos), desc=STEP, unit="video")
    return [listing for listing in found if len(listing.crops)]


def part_folds(parts: Sequence[str], n_splits: int) -> dict[str, int]:
    """Part name -> fold: blocks of len(parts) // n_splits neighbours, the last fold takes what is over.

    With fewer parts than folds, each part is a fold.
    """
    block = max(1, len(parts) // n_splits)
    return {part: min(index // block, n_splits - 1) for index, part in enumerate(parts)}


def read_val_ids(path: Path) -> set[str]:
    """Video ids from a file (one a line, with or without suffix) or a folder of videos.

    Raises:
        UsageError: there are none.
    """
    if path.is_dir():
        ids = {video.stem for video in layout.list_videos(path)}
    else:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--val-ids {path}: can't be read ({error})") from None
        names = [line.strip() for line in lines if line.strip()]
        ids = {Path(name).stem if Path(name).suffix.lower() in layout.VIDEO_SUFFIXES else name for name in names}
    if not ids:
        raise UsageError(f"--val-ids {path}: no video is named there; give a file with one id a line, or a folder")
    return ids


def assign_folds(
    listings: list[Listing], dataset: Dataset, n_splits: int, val_ids: set[str] | None
) -> tuple[list[Listing], list[Listing]]:
    """Set the folds; return the listings to write and those left out (relatives of the hold-out).

    A family (an original and its fakes) goes where its original's part goes.

    Raises:
        UsageError: --val-ids names videos that have no crops.
    """
    home = {listing.video.id: dataset.videos.get(listing.video.source, listing.video).part for listing in listings}
    present = set(home.values())
    folds = part_folds([part.name for part in dataset.parts if part.name in present], n_splits)
    for listing in listings:
        listing.fold = folds[home[listing.video.id]]
    if val_ids is None:
        return listings, []

    unknown = sorted(val_ids - {listing.video.id for listing in listings})
    if unknown:
        raise UsageError(
            f"--val-ids: {len(unknown)} of {len(val_ids)} videos have no crops, {', '.join(unknown[:5])} among them. "
            "They must lie in a part of DATA_ROOT (any folder with a metadata.json) and have gone through step 2"
        )
    families = {listing.video.source for listing in listings if listing.video.id in val_ids}
    kept, dropped = [], []
    for listing in listings:
        if listing.video.id in val_ids:
            listing.fold = 0
        elif listing.video.source in families:
            dropped.append(listing)
            continue
        else:
            listing.fold += 1
        kept.append(listing)
    return kept, dropped


def csv_field(text: str) -> str:
    """`text` as one field of folds.csv, in quotes where it needs them."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow((text, ""))
    return buffer.getvalue().removesuffix(",\n")


def write_folds(path: Path, listings: Sequence[Listing], seed: int) -> int:
    """Write the rows in an order that `seed` decides; return how many there are."""
    owner = np.repeat(np.arange(len(listings), dtype=np.int32), [len(listing.crops) for listing in listings])
    crops = np.concatenate([listing.crops for listing in listings])
    order = np.random.default_rng(seed).permutation(len(owner))
    # What the rows of a video have in common is made into text once; see FOLDS_COLUMNS for their order.
    before = [f"{csv_field(listing.video.id)}," for listing in listings]
    between = [f",{int(x.video.label == FAKE)},{csv_field(x.video.source)}," for x in listings]
    after = [f",{listing.fold}\n" for listing in listings]
    with path.open("w", encoding="utf-8", newline="") as handle:
        handle.write(",".join(FOLDS_COLUMNS) + "\n")
        for start in range(0, len(order), WRITE_ROWS):
            rows = order[start : start + WRITE_ROWS]
            columns = owner[rows].tolist(), crops[rows, 0].tolist(), crops[rows, 1].tolist()
            lines = [
                f"{before[at]}{layout.crop_name(frame, face)}{between[at]}{frame}{after[at]}"
                for at, frame, face in zip(*columns, strict=True)
            ]
            handle.write("".join(lines))
    return len(order)


def read_distinct(path: Path) -> tuple[list[tuple[str, str, str, int]], dict[str, str]]:
    """What the written `path` says, without its repetitions.

    Returns:
        Each (video, face, label, fold) once, in order of its first row; `face` is the end of the file's name.
        The first crop, by name, of each video that has rows with label 0, in order of the video's first row.

    Raises:
        ValueError: a column is absent, or a row has not as many fields as the others, or a fold is no number.
    """
    columns = ("video", "file", "label", "fold")
    codes: dict[str, dict[str, int]] = {}  # a column's texts, numbered in order of their first row
    for column in columns:
        codes[column] = defaultdict(itertools.count().__next__)
    pieces: dict[str, list[np.ndarray]] = {column: [] for column in columns}
    # Not pandas: it takes a column of videos called 007, 008, ... for numbers.
    with path.open(encoding="utf-8", newline="") as handle:
        reader = csv.reader(handle)
        header = next(reader)
        while rows := list(itertools.islice(reader, READ_ROWS)):
            fields = list(zip(*rows, strict=True))
            for column in columns:
                numbers = map(codes[column].__getitem__, fields[header.index(column)])
                pieces[column].append(np.fromiter(numbers, np.int32, len(rows)))
    video, file, label, fold = (np.concatenate(pieces[column]) for column in columns)
    videos, files, labels, folds = (list(codes[column]) for column in columns)

    ends = [name.rpartition("_")[2] for name in files]
    faces = {end: number for number, end in enumerate(dict.fromkeys(ends))}
    face = np.array([faces[end] for end in ends])[file]
    shape = (len(videos), len(faces), len(labels), len(folds))
    _, rows_of_first = np.unique(np.ravel_multi_index((video, face, label, fold), shape), return_index=True)
    rows_of_first.sort()
    distinct = [
        (videos[video[row]], ends[file[row]], labels[label[row]], int(folds[fold[row]])) for row in rows_of_first
    ]

    by_name = sorted(range(len(files)), key=files.__getitem__)
    rank = np.empty(len(files), np.int64)
    rank[by_name] = np.arange(len(files))
    first = np.full(len(videos), len(files))
    real = label == codes["label"].get("0", -1)
    np.minimum.at(first, video[real], rank[file[real]])
    reals = dict.fromkeys(name for name, _, text, _ in distinct if text == "0")
    return distinct, {name: files[by_name[first[codes["video"][name]]]] for name in reals}


def picture_keys(paths: Sequence[Path]) -> list[object]:
    """A value for each picture, equal for files of equal content and for no others.

    Only files that share their size with another are read: a crop takes some 100 KB, and there are 20,000 originals.
    """
    sizes = list(parallel.disk_map(lambda path: path.stat().st_size, paths))
    count = Counter(sizes)

    def key(item: tuple[Path, int]) -> object:
        path, size = item
        return hashlib.sha256(path.read_bytes()).digest() if count[size] > 1 else size

    return list(parallel.disk_map(key, list(zip(paths, sizes, strict=True))))


def find_leaks(path: Path, dataset: Dataset, crops_dir: str) -> list[str]:
    """What the written `path` gives away from one fold to another; each leak is one sentence.

    Looked at, from the file and metadata.json: rows of one video, an original and its fakes, one person (face
    number) of one original, and the very same picture under two names.
    """
    video_folds, family_folds, person_folds = defaultdict(set), defaultdict(set), defaultdict(set)
    distinct, first_crops = read_distinct(path)
    for video, face, _, fold in distinct:
        family = dataset.videos[video].source
        video_folds[video].add(fold)
        family_folds[family].add(fold)
        person_folds[(family, face)].add(fold)
    leaks = [f"video {video} is in folds {sorted(folds)}" for video, folds in video_folds.items() if len(folds) > 1]
    leaks += [
        f"{family} and its fakes are in folds {sorted(folds)}"
        for family, folds in family_folds.items()
        if len(folds) > 1
    ]
    leaks += [
        f"person {face.removesuffix('.png')} of {family} is in folds {sorted(folds)}"
        for (family, face), folds in person_folds.items()
        if len(folds) > 1
    ]
    paths = [layout.crops_path(dataset.root, video, crops_dir) / name for video, name in first_crops.items()]
    same_picture = defaultdict(list)
    for video, key in zip(first_crops, picture_keys(paths), strict=True):
        same_picture[key].append(video)
    for videos in same_picture.values():
        if len(set().union(*(video_folds[video] for video in videos))) > 1:
            leaks.append(f"{' and '.join(sorted(videos))} are the same video in different folds; remove one of them")
    return leaks


def print_table(listings: Sequence[Listing], dataset: Dataset) -> None:
    """Which parts each fold holds, and how much of either class."""
    print(f"{'fold':>4}  {'real':>6} {'fake':>6} videos  {'real':>9} {'fake':>9} crops  parts")
    for fold in sorted({listing.fold for listing in listings}):
        inside = [listing for listing in listings if listing.fold == fold]
        parts = sorted({listing.video.part for listing in inside}, key=layout.natural_key)
        shown = ", ".join(parts) if len(parts) <= 4 else f"{parts[0]} ... {parts[-1]} ({len(parts)} parts)"
        videos = {label: sum(x.video.label == label for x in inside) for label in (REAL, FAKE)}
        crops = {label: sum(len(x.crops) for x in inside if x.video.label == label) for label in (REAL, FAKE)}
        numbers = f"{videos[REAL]:>6} {videos[FAKE]:>6}         {crops[REAL]:>9} {crops[FAKE]:>9}"
        print(f"{fold:>4}  {numbers}        {shown}")


def folds_digest(listings: Sequence[Listing], seed: int) -> str:
    """Digest of everything that folds.csv is made from."""
    digest = hashlib.sha256(f"{seed}".encode())
    for listing in listings:
        digest.update(f"{listing.video}{listing.fold}".encode())
        digest.update(listing.crops.tobytes())
    return digest.hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    parser = parallel.step_parser(__doc__, crops=True)
    parser.add_argument("--out", type=Path, default=Path(layout.FOLDS_NAME), metavar="FILE",
                        help="where to write; a relative path is taken in DATA_ROOT (folds.csv)")  # fmt: skip
    parser.add_argument("--n_splits", "--n-splits", type=int, default=16, help="number of folds, 2 or more (16)")
    parser.add_argument("--seed", type=int, default=777, help="decides the order of the rows (777)")
    parser.add_argument("--val-ids", type=Path, metavar="FILE",
                        help="hold out just these: a file with one video id a line, or a folder of videos")  # fmt: skip
    args = parser.parse_args(argv)
    if args.n_splits < 2:
        raise UsageError(f"--n_splits {args.n_splits}: two folds or more are needed, one of them to hold out")
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed}: give a number from 0 on")
    val_ids = read_val_ids(args.val_ids) if args.val_ids else None
    dataset = layout.load_dataset(args.root_dir)
    layout.check_crops_dir(args.crops_dir, dataset.parts)
    parallel.worker_count(args.workers, ["cpu"])  # a wrong value is told; one process does it all
    listings = list_crops(dataset, args.crops_dir)
    ledger = artifacts.Ledger(layout.ledger_path(args.root_dir, STEP))
    for video in dataset.videos.keys() - {listing.video.id for listing in listings}:
        ledger.rows[(video, "skipped")] = "it has no crops; step 2 (extract_crops.py) makes them"
    for video, reason in dataset.skipped.items():
        ledger.rows[(video, "skipped")] = reason
    ledger.write()
    if not listings:
        raise UsageError(
            f"{args.root_dir / args.crops_dir} holds no crops of the videos in metadata.json. Run steps 1 and 2 first "
            f"(preprocess_data.sh runs all); {args.root_dir / 'failures'} says what could not be done"
        )
    kept, dropped = assign_folds(listings, dataset, args.n_splits, val_ids)
    rows = sum(len(listing.crops) for listing in kept)

    target = args.root_dir / args.out
    stamp = target.with_name(f".{target.name}.stamp.json")
    digest = folds_digest(kept, args.seed)
    fresh = not args.force and target.is_file() and read_digest(stamp) == [digest, artifacts.fingerprint(target)["crc"]]
    if not fresh:
        try:
            with artifacts.atomic_file(target) as temp:
                write_folds(temp, kept, args.seed)
                leaks = find_leaks(temp, dataset, args.crops_dir)
                if leaks:
                    raise LeakError("\n  ".join(leaks[:20]))
        except LeakError as error:
            print(f"{STEP}: {target} was not written, since folds leak into each other:\n  {error}", file=sys.stderr)
            return 1
        artifacts.write_json(stamp, [digest, artifacts.fingerprint(target)["crc"]])
    print_table(kept, dataset)
    if dropped:
        names = ", ".join(sorted(listing.video.id for listing in dropped)[:10])
        print(f"left out, being originals and fakes of the hold-out: {len(dropped)} videos ({names}, ...)")
    if len({listing.fold for listing in kept}) < 2:
        print("only one fold has crops, so that nothing is left to train on when it is held out; add another part, "
              "or name a hold-out with --val-ids")  # fmt: skip
    print(f"{STEP}: {rows} crops of {len(kept)} videos -> {target}" + (" (was complete)" if fresh else ""))
    return 0


def read_digest(path: Path) -> object:
    """What the stamp of a folds.csv says; None if there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    parallel.run_main(main)
