"""Step 4: compute the difference masks between one FAKE and its original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from dfdc import artifacts, layout
from dfdc.artifacts import NewFolder, Stamp
from dfdc.imaging import CHANGED, MIN_CHANGED, SSIM_WINDOW, encode_png, read_picture, shows_change, ssim_difference
from dfdc.layout import FAKE, Video
from preprocessing.border import BorderSettings, border_differs
from preprocessing.orphans import PruningStep

# Increase when a change alters the masks. tests/test_versions.py holds the masks of a fixed clip for each version.
VERSION = 3
SETTINGS = {
    "version": VERSION,
    "window": SSIM_WINDOW,
    "changed": [CHANGED, MIN_CHANGED],
    "border": asdict(BorderSettings()),
}


@dataclass
class _Comparison:
    """Result of comparing the crops of a FAKE with those of its original."""

    masks: int = 0
    unchanged: int = 0
    failed: str | None = None
    notes: list[str] = field(default_factory=list)


class DiffStep(PruningStep):
    """Write the masks of one FAKE; `png_level` is the PNG compression level and does not change the pixels."""

    name = "generate_diffs"
    preload = ("preprocessing.diff_step",)
    version = VERSION
    labels = (FAKE,)

    def __init__(self, root: Path, crops_dir: str, png_level: int = 1) -> None:
        super().__init__(root, crops_dir)
        self.png_level = png_level
        # This cache serves only `check` during one run. Each worker computes the identities itself.
        self._remembered = cache(artifacts.folder_identity)

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_remembered"}

    def obstacle(self, video: Video) -> str | None:
        absent = [folder.name for folder in self._crops(video).values() if not folder.is_dir()]
        if not absent:
            return None
        return f"no crops of {' and '.join(absent)}; run step 2 (extract_crops.py), or see failures/extract_crops.csv"

    def check(self, video: Video) -> Stamp | None:
        """See `VideoStep.check`. A fresh stamp with `failed` means that the fake does not match its original."""
        stamp = artifacts.read_stamp(layout.diffs_path(self.root, video.id))
        crops = {key: self._remembered(folder) for key, folder in self._crops(video).items()}
        return stamp if stamp is not None and stamp.is_fresh({"settings": SETTINGS, "crops": crops}) else None

    def _crops(self, video: Video) -> dict[str, Path]:
        return {"fake": self.crops_of(video.id), "real": self.crops_of(video.source)}

    def work(self, video: Video) -> Stamp:
        """Write the masks of one fake and return their stamp."""
        folders = self._crops(video)
        crops = {key: artifacts.folder_identity(folder) for key, folder in folders.items()}
        made_from = {"settings": SETTINGS, "crops": crops}
        fakes, reals = (set(layout.list_crops(folders[key])) for key in ("fake", "real"))
        target = layout.diffs_path(self.root, video.id)
        artifacts.remove_unless(target, {"crops": crops})
        with artifacts.atomic_folder(target) as folder:
            found = self._compare(folders, sorted(fakes & reals), folder)
            for lonely, whose in ((reals - fakes, "original"), (fakes - reals, "fake")):
                if lonely:
                    first = layout.crop_name(*min(lonely))
                    found.notes.append(f"{len(lonely)} crops of the {whose} have no counterpart (first: {first})")
            if found.unchanged:
                found.notes.append(f"{found.unchanged} of {found.masks} masks show no change")
            if not found.masks:
                found.failed = "; ".join(found.notes) or "no pairs of crops"
            made = {"masks": found.masks, "unchanged": found.unchanged}
            folder.stamp = stamp = Stamp(made_from, made, found.failed, tuple(found.notes))
        return stamp

    def _compare(self, folders: dict[str, Path], keys: Sequence[tuple[int, int]], folder: NewFolder) -> _Comparison:
        """Write the masks of the crop pairs `keys`, given as (frame, face)."""
        found = _Comparison()
        unusable: dict[str, list[str]] = {}
        elsewhere: list[str] = []  # crops whose borders differ
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
            found.unchanged += not shows_change(mask)
            folder.write(layout.diff_name(frame, face), encode_png(mask, self.png_level))
            found.masks += 1
        for reason, names in unusable.items():
            found.notes.append(f"{len(names)} pairs (first: {names[0]}): {reason}")
        if elsewhere:
            told = f"differs outside the face in {len(elsewhere)} of {len(keys)} frames (first: {elsewhere[0]})"
            if 2 * len(elsewhere) > len(keys):
                whose = folders["real"].name
                found.failed = f"{told}: not a pair with {whose} (another video, or rotated, or shifted in time)"
            else:
                found.notes.append(told)
        return found
