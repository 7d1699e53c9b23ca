"""Step 4: where each FAKE differs from its original -> DATA_ROOT/diffs/<fake>/<frame>_<face>_diff.png.

    python preprocessing/generate_diffs.py --root-dir DATA_ROOT

Each mask is uint8 [h, w] of the crop's size: 255 * (1 - SSIM), clipped to 0..255; 0 where nothing was changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dfdc import artifacts, layout, parallel
from dfdc.imaging import encode_png, read_picture, shows_change, ssim_difference
from dfdc.layout import Dataset, Video

STEP = "generate_diffs"
SETTINGS = {"version": 2, "window": 7}


def crops_digests(
    root: Path, crops_dir: str, video: Video, digest: Callable = artifacts.folder_digest
) -> dict[str, str | None]:
    """Digests of the stamps of a fake's and its original's crops; None where they are not complete."""
    names = {"fake": video.id, "real": video.source}
    return {key: digest(layout.crops_path(root, name, crops_dir)) for key, name in names.items()}


def read_stamp(video: Video, root: Path, crops_dir: str, digest: Callable = artifacts.folder_digest) -> dict | None:
    """The stamp of the masks of `video` if they are complete, and made of today's crops.

    Args:
        digest: `artifacts.folder_digest`, or that with a memory: fakes share their original's crops.
    """
    stamp = artifacts.read_stamp(layout.diffs_path(root, video.id))
    expected = {"settings": SETTINGS, "crops": crops_digests(root, crops_dir, video, digest)}
    return stamp if artifacts.is_fresh(stamp, expected) else None


def generate(video: Video, context: dict) -> dict:
    """Write the masks of one fake; return their stamp."""
    root, crops_dir = context["root"], context["crops_dir"]
    target = layout.diffs_path(root, video.id)
    artifacts.remove(target)
    fakes = layout.crops_path(root, video.id, crops_dir)
    reals = layout.crops_path(root, video.source, crops_dir)
    stamp = {
        "settings": SETTINGS,
        "crops": crops_digests(root, crops_dir, video),
        "made": {"masks": 0, "unchanged": 0},
        "failed": None,
        "notes": [],
    }
    fake_crops, real_crops = set(layout.list_crops(fakes)), set(layout.list_crops(reals))
    unusable: dict[str, list[str]] = {}
    with artifacts.atomic_folder(target, stamp) as folder:
        for frame, face in sorted(fake_crops & real_crops):
            name = layout.crop_name(frame, face)
            try:
                mask = ssim_difference(read_picture(reals / name), read_picture(fakes / name))
            except (ValueError, OSError) as error:
                unusable.setdefault(str(error), []).append(name)
                continue
            stamp["made"]["unchanged"] += not shows_change(mask)
            (folder / layout.diff_name(frame, face)).write_bytes(encode_png(mask, context["png_level"]))
            stamp["made"]["masks"] += 1
        for lonely, whose in ((real_crops - fake_crops, "the original's"), (fake_crops - real_crops, "the fake's")):
            if lonely:
                first = layout.crop_name(*min(lonely))
                stamp["notes"].append(f"{len(lonely)} of {whose} crops have no partner, the first is {first}")
        for reason, names in unusable.items():
            stamp["notes"].append(f"{len(names)} pairs, the first is {names[0]}: {reason}")
        if stamp["made"]["unchanged"]:
            stamp["notes"].append(f"{stamp['made']['unchanged']} of {stamp['made']['masks']} masks show no change")
        if not stamp["made"]["masks"]:
            raise parallel.FailVideo("; ".join(stamp["notes"]) or "there are no pairs of crops")
    return stamp


def with_pairs(dataset: Dataset, crops_dir: str) -> tuple[list[Video], dict[str, str]]:
    """The FAKE videos that have crops as their original has, and the rest with the reason."""
    skipped = dict(dataset.skipped)
    videos = []
    for video in dataset.fakes():
        absent = [name for name in (video.id, video.source)
                  if not layout.crops_path(dataset.root, name, crops_dir).is_dir()]  # fmt: skip
        if absent:
            skipped[video.id] = f"{' and '.join(absent)} without crops; step 2 (extract_crops.py) makes them"
        else:
            videos.append(video)
    return videos, skipped


def main(argv: Sequence[str] | None = None) -> int:
    parser = parallel.step_parser(__doc__, crops=True, png=True)
    args = parser.parse_args(argv)
    dataset = layout.load_dataset(args.root_dir)
    layout.check_crops_dir(args.crops_dir, dataset.parts)
    artifacts.remove_leftovers(args.root_dir / "diffs")
    step = parallel.Step(
        STEP,
        generate,
        # The memory is this run's, and only the check's: a worker looks at the crops it compares itself.
        partial(read_stamp, root=args.root_dir, crops_dir=args.crops_dir, digest=cache(artifacts.folder_digest)),
        context={"root": args.root_dir, "crops_dir": args.crops_dir, "png_level": args.png_level},
    )
    return parallel.run_step(step, args, *with_pairs(dataset, args.crops_dir))


if __name__ == "__main__":
    parallel.run_main(main)
