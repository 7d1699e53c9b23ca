"""Step 4: where each FAKE differs from its original -> DATA_ROOT/diffs/<fake>/<frame>_<face>_diff.png.

    python preprocessing/generate_diffs.py --root-dir DATA_ROOT

Each mask is uint8 [h, w] of the crop's size: 255 * (1 - SSIM), clipped to 0..255; 0 where nothing was changed.
A fake that differs from its original where no face is, in most frames, is no pair: it is named, and not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

from dfdc import artifacts, command_line, layout, steps
from dfdc.artifacts import NewFolder
from dfdc.imaging import CHANGED, MIN_CHANGED, SSIM_WINDOW, encode_png, read_picture, shows_change, ssim_difference
from dfdc.layout import FAKE, Dataset, Video
from dfdc.rejections import Rejections, load_rejections
from preprocessing.border import BorderSettings, border_differs
from preprocessing.orphans import prune

STEP = "generate_diffs"
# Raised with every change that gives other masks; tests/test_versions.py has those of a fixed clip for each version.
VERSION = 3
SETTINGS = {
    "version": VERSION,
    "window": SSIM_WINDOW,
    "changed": [CHANGED, MIN_CHANGED],
    "border": asdict(BorderSettings()),
}


class DiffStep(steps.Step):
    """Masks of one FAKE.

    Args:
        root: DATA_ROOT.
        crops_dir: name of the folder of the crops in it.
        png_level: compression; it decides nothing about what the masks show.
    """

    name = STEP

    def __init__(self, root: Path, crops_dir: str, png_level: int = 1) -> None:
        self.root, self.crops_dir, self.png_level = root, crops_dir, png_level
        # The memory is this run's, and only the check's: a worker looks at the crops it compares itself.
        self._remembered = cache(artifacts.folder_identity)

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_remembered"}

    def check(self, video: Video) -> dict | None:
        """As the base says. A fresh stamp that `failed` is of a fake that is no pair with its original."""
        stamp = artifacts.read_stamp(layout.diffs_path(self.root, video.id))
        fresh = artifacts.is_fresh(stamp, {"settings": SETTINGS, "crops": self.crops_identities(video)})
        return stamp if fresh else None

    def crops_identities(self, video: Video) -> dict[str, str | None]:
        """What the crops of a fake and of its original are like now."""
        return {key: self._remembered(folder) for key, folder in self._crops(video).items()}

    def _crops(self, video: Video) -> dict[str, Path]:
        names = {"fake": video.id, "real": video.source}
        return {key: layout.crops_path(self.root, name, self.crops_dir) for key, name in names.items()}

    def work(self, video: Video) -> dict:
        """Write the masks of one fake; return their stamp."""
        folders = self._crops(video)
        stamp = {
            "settings": SETTINGS,
            "crops": {key: artifacts.folder_identity(folder) for key, folder in folders.items()},
            "made": {"masks": 0, "unchanged": 0},
            "failed": None,
            "notes": [],
        }
        fakes, reals = (set(layout.list_crops(folders[key])) for key in ("fake", "real"))
        target = layout.diffs_path(self.root, video.id)
        artifacts.remove_unless(target, {"crops": stamp["crops"]})
        with artifacts.atomic_folder(target, stamp) as folder:
            self._compare(folders, sorted(fakes & reals), folder, stamp)
            for lonely, whose in ((reals - fakes, "the original's"), (fakes - reals, "the fake's")):
                if lonely:
                    first = layout.crop_name(*min(lonely))
                    stamp["notes"].append(f"{len(lonely)} of {whose} crops have no partner, the first is {first}")
            made = stamp["made"]
            if made["unchanged"]:
                stamp["notes"].append(f"{made['unchanged']} of {made['masks']} masks show no change")
            if not made["masks"]:
                stamp["failed"] = "; ".join(stamp["notes"]) or "there are no pairs of crops"
        return stamp

    def _compare(
        self, folders: dict[str, Path], keys: Sequence[tuple[int, int]], folder: NewFolder, stamp: dict
    ) -> None:
        """Write the masks of the pairs of crops `keys`, and what is wrong with them into `stamp`."""
        unusable: dict[str, list[str]] = {}
        elsewhere: list[str] = []  # pairs whose border differs
        for frame, face in keys:
            name = layout.crop_name(frame, face)
            try:
                real, fake = (read_picture(folders[key] / name) for key in ("real", "fake"))
                mask = ssim_difference(real, fake)
            except (ValueError, OSError) as error:
                unusable.setdefault(str(error), []).append(name)
                continue
            if border_differs(real, fake):
                elsewhere.append(name)
            stamp["made"]["unchanged"] += not shows_change(mask)
            folder.write(layout.diff_name(frame, face), encode_png(mask, self.png_level))
            stamp["made"]["masks"] += 1
        for reason, names in unusable.items():
            stamp["notes"].append(f"{len(names)} pairs, the first is {names[0]}: {reason}")
        if elsewhere:
            told = f"in {len(elsewhere)} of {len(keys)} frames it differs where no face is, the first is {elsewhere[0]}"
            if 2 * len(elsewhere) > len(keys):
                original = folders["real"].name
                stamp["failed"] = (
                    f"{told}: it is no pair with {original} (another video, or turned, or shifted in time)"
                )
            else:
                stamp["notes"].append(told)


def with_pairs(dataset: Dataset, crops_dir: str, rejections: Rejections) -> tuple[list[Video], list[tuple[str, str]]]:
    """The FAKE videos that have crops as their original has, and the rest with the reason."""
    skipped = [(name, entry.reason) for name, entry in dataset.skipped.items() if entry.video.label == FAKE]
    videos = []
    for video in dataset.fakes():
        absent = [
            name for name in (video.id, video.source) if not layout.crops_path(dataset.root, name, crops_dir).is_dir()
        ]
        reason = rejections.whole(video)
        if reason is None and absent:
            reason = f"{' and '.join(absent)} without crops; step 2 (extract_crops.py) makes them, or says why not"
        if reason is None:
            videos.append(video)
        else:
            skipped.append((video.id, reason))
    return videos, skipped


def main(argv: Sequence[str] | None = None) -> int:
    parser = steps.step_parser(__doc__, crops=True, png=True)
    args = parser.parse_args(argv)
    dataset = layout.load_dataset(args.root_dir)
    layout.check_crops_dir(args.crops_dir, dataset.parts)
    rejections = load_rejections(args.root_dir)
    artifacts.remove_leftovers(args.root_dir / "diffs")
    if args.prune is not None:
        prune(dataset, STEP, args.prune)
    step = DiffStep(args.root_dir, args.crops_dir, args.png_level)
    return steps.run_step(step, args, *with_pairs(dataset, args.crops_dir, rejections))


if __name__ == "__main__":
    command_line.run_main(main)
