"""A stub DATA_ROOT of any size on which every preprocessing step is complete; used by other benchmarks.

Videos, crops, masks and landmarks are files of a few bytes. Those of one original and its fakes are hard links to one
file, so that millions of names need folders, not inodes. The stamps use the settings and digest functions of the steps,
because the steps would otherwise not consider the stubs complete.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from dfdc import artifacts, layout
from dfdc.artifacts import Stamp
from dfdc.boxes import Boxes, FaceBox
from dfdc.identity import fingerprint
from dfdc.layout import FRAME_STRIDE, Video
from dfdc.rejections import Rejections
from preprocessing import crop_step, diff_step, landmark_step, likeness
from preprocessing.crop_step import CropStep
from preprocessing.detect_step import DetectStep

BOX = (100.125, 80.25, 420.375, 400.5)


def crop_keys(original: int, crops: int) -> list[tuple[int, int]]:
    """(frame, face) of the crops of an original; every tenth original shows two people."""
    people = 2 if original % 10 == 9 and crops % 2 == 0 else 1
    return [(frame * FRAME_STRIDE, face) for frame in range(crops // people) for face in range(people)]


def make_part(root: Path, number: int, originals: int, fakes: int, crops: int, *, all_steps: bool) -> int:
    """Add part `number` with `originals` real videos, `fakes` fakes of each, and `crops` crops per video.

    Args:
        all_steps: also create landmarks and masks, not only boxes and crops.

    Returns:
        The number of created crops.
    """
    part = root / f"dfdc_train_part_{number}"
    part.mkdir(parents=True)
    metadata: dict[str, dict] = {}
    for index in range(originals):
        family = number * originals + index
        real = Video(f"real{family:06}", part / f"real{family:06}.mp4", part.name, layout.REAL, None)
        family_videos = [real]
        for copy in range(fakes):
            name = f"fake{family:06}_{copy}"
            family_videos.append(Video(name, part / f"{name}.mp4", part.name, layout.FAKE, real.id))
        keys = crop_keys(family, crops)
        source = root / f".family{family}"
        source.write_bytes(family.to_bytes(4, "little"))  # all originals have different images
        for video in family_videos:
            video.path.touch()
            metadata[video.path.name] = {"label": video.label, "split": "train"}
            if video.original:
                metadata[video.path.name]["original"] = real.path.name
        _make_boxes(root, real, keys)
        looks = _make_looks(family, keys)
        for video in family_videos:
            _make_folders(root, video, keys, source, looks, all_steps=all_steps)
        source.unlink()
    (part / layout.METADATA_NAME).write_text(json.dumps(metadata), encoding="utf-8")
    return originals * (1 + fakes) * crops


def _make_boxes(root: Path, real: Video, keys: list[tuple[int, int]]) -> None:
    frames: dict[int, list[FaceBox]] = {}
    for frame, face in keys:
        frames.setdefault(frame, []).append(FaceBox(face, BOX, 0.99951))
    count = FRAME_STRIDE * len(frames)
    boxes = Boxes(
        video=real.path.name,
        width=1920,
        height=1080,
        frame_count=count,
        rate=30.0,
        duration=count / 30,
        times={frame: frame / 30 for frame in frames},
        source=fingerprint(real.path),
        settings=DetectStep(root, "auto").settings,
        made={"frames": len(frames), "faces": len(keys)},
        failed=None,
        notes=(),
        frames=frames,
    )
    boxes.write(layout.bboxes_path(root, real.id))


def _make_looks(family: int, keys: list[tuple[int, int]]) -> list[dict]:
    """The entries of three crops in step 2's stamp, see `likeness.look`; they differ between families."""
    rng = np.random.default_rng(family)
    names = likeness.pick([layout.crop_name(*key) for key in keys])
    return [likeness.look(name, rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for name in names]


def _make_folders(
    root: Path, video: Video, keys: list[tuple[int, int]], source: Path, looks: list[dict], *, all_steps: bool
) -> None:
    made_from = {
        "settings": crop_step.SETTINGS,
        "boxes": CropStep(root, layout.CROPS_DIR, Rejections()).boxes_digest(video),
        "source": fingerprint(video.path),
    }
    stamp = Stamp(made_from, {"crops": len(keys)}, looks=tuple(looks))
    crops = layout.crops_path(root, video.id)
    _link(crops, stamp, [layout.crop_name(*key) for key in keys], source)
    if not all_steps:
        return
    if video.label == layout.REAL:
        names = [layout.landmarks_name(*key) for key in keys]
        made_from = {"settings": landmark_step.SETTINGS, "crops": artifacts.folder_identity(crops)}
        stamp = Stamp(made_from, {"landmarks": len(keys)})
        _link(layout.landmarks_path(root, video.id), stamp, names, source)
    else:
        names = [layout.diff_name(*key) for key in keys]
        pair = {"fake": crops, "real": layout.crops_path(root, video.source)}
        contents = {key: artifacts.folder_identity(folder) for key, folder in pair.items()}
        stamp = Stamp({"settings": diff_step.SETTINGS, "crops": contents}, {"masks": len(keys), "unchanged": 0})
        _link(layout.diffs_path(root, video.id), stamp, names, source)


def _link(folder: Path, stamp: Stamp, names: list[str], source: Path) -> None:
    with artifacts.atomic_folder(folder) as new:
        new.stamp = stamp
        for name in names:
            os.link(source, new.path / name)
            new.content.add(name, source.read_bytes())
