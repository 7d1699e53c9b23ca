"""A DATA_ROOT of any size on which every preprocessing step is complete, made of stand-ins; for other benchmarks.

Videos, crops, masks and landmarks are files of a few bytes, and those of one original and its fakes are hard links
of one file, so that millions of names cost folders, not inodes. The stamps hold what the steps' own settings and
digest functions say: should they drift apart, the steps would not take the stubs for complete.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dfdc import artifacts, layout
from dfdc.layout import FRAME_STRIDE, Video
from preprocessing import detect_original_faces, extract_crops, generate_diffs, generate_landmarks


def crop_keys(original: int, crops: int) -> list[tuple[int, int]]:
    """(frame, face) of an original's crops; every tenth original shows two people."""
    people = 2 if original % 10 == 9 and crops % 2 == 0 else 1
    return [(frame * FRAME_STRIDE, face) for frame in range(crops // people) for face in range(people)]


def make_part(root: Path, number: int, originals: int, fakes: int, crops: int, *, all_steps: bool) -> int:
    """Add part `number` with `originals` videos, `fakes` of each, and `crops` crops of every video.

    Args:
        all_steps: make boxes, landmarks and masks as well, not only what the last step reads.

    Returns:
        The number of crops made.
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
        source.write_bytes(family.to_bytes(4, "little"))  # no two originals show the same picture
        for video in family_videos:
            video.path.touch()
            metadata[video.path.name] = {"label": video.label, "split": "train"}
            if video.original:
                metadata[video.path.name]["original"] = real.path.name
        if all_steps:
            _make_boxes(root, real, keys)
        for video in family_videos:
            _make_folders(root, video, keys, source, all_steps=all_steps)
        source.unlink()
    (part / layout.METADATA_NAME).write_text(json.dumps(metadata), encoding="utf-8")
    return originals * (1 + fakes) * crops


def _make_boxes(root: Path, real: Video, keys: list[tuple[int, int]]) -> None:
    frames: dict[str, list[dict]] = {}
    for frame, face in keys:
        row = {"face": face, "box": [100.125, 80.25, 420.375, 400.5], "score": 0.99951}
        frames.setdefault(str(frame), []).append(row)
    boxes = {
        "video": real.path.name,
        "width": 1920,
        "height": 1080,
        "frame_count": FRAME_STRIDE * len(frames),
        "source": artifacts.fingerprint(real.path),
        "settings": detect_original_faces.step_settings("auto"),
        "made": {"frames": len(frames), "faces": len(keys)},
        "failed": None,
        "notes": [],
        "frames": frames,
    }
    path = layout.bboxes_path(root, real.id)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(boxes), encoding="utf-8")


def _make_folders(root: Path, video: Video, keys: list[tuple[int, int]], source: Path, *, all_steps: bool) -> None:
    result = {"failed": None, "notes": []}
    stamp = {
        "settings": extract_crops.SETTINGS,
        "boxes": extract_crops.boxes_digest(root, video.source),
        "source": artifacts.fingerprint(video.path),
        "made": {"crops": len(keys)},
    }
    _link(layout.crops_path(root, video.id), {**stamp, **result}, [layout.crop_name(*key) for key in keys], source)
    if not all_steps:
        return
    if video.label == layout.REAL:
        names = [layout.landmarks_name(*key) for key in keys]
        crops = generate_landmarks.crops_digest(root, layout.CROPS_DIR, video.id)
        stamp = {"settings": generate_landmarks.SETTINGS, "crops": crops, "made": {"landmarks": len(keys)}}
        _link(layout.landmarks_path(root, video.id), {**stamp, **result}, names, source)
    else:
        names = [layout.diff_name(*key) for key in keys]
        digests = generate_diffs.crops_digests(root, layout.CROPS_DIR, video)
        made = {"masks": len(keys), "unchanged": 0}
        stamp = {"settings": generate_diffs.SETTINGS, "crops": digests, "made": made}
        _link(layout.diffs_path(root, video.id), {**stamp, **result}, names, source)


def _link(folder: Path, stamp: dict, names: list[str], source: Path) -> None:
    with artifacts.atomic_folder(folder, stamp) as temp:
        for name in names:
            os.link(source, temp / name)
