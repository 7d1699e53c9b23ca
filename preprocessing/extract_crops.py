"""Step 2: cut the faces out of REAL and FAKE videos -> DATA_ROOT/crops/<video>/<frame>_<face>.png.

    python preprocessing/extract_crops.py --root-dir DATA_ROOT --crops-dir crops

A FAKE is cut with its original's boxes, so that both crops show the same place. A third of the box is added on
each side. The PNGs are lossless.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dfdc import artifacts, layout, parallel
from dfdc.imaging import MARGIN_PART, crop_face, encode_png
from dfdc.layout import Dataset, Video
from dfdc.video import VideoReader

STEP = "extract_crops"
SETTINGS = {"version": 1, "margin_part": MARGIN_PART}


def boxes_digest(root: Path, original: str) -> str | None:
    """Digest of an original's boxes file; None if there is none."""
    path = layout.bboxes_path(root, original)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None


def read_stamp(video: Video, root: Path, crops_dir: str, digest: Callable = boxes_digest) -> dict | None:
    """The stamp of the crops of `video` if they are complete, and made of today's video and boxes.

    Args:
        digest: `boxes_digest`, or that with a memory: an original and its fakes share their boxes.
    """
    stamp = artifacts.read_stamp(layout.crops_path(root, video.id, crops_dir))
    expected = {"settings": SETTINGS, "boxes": digest(root, video.source)}
    fresh = artifacts.is_fresh(stamp, expected) and artifacts.same_file(stamp["source"], video.path)
    return stamp if fresh else None


def load_boxes(root: Path, original: str) -> dict:
    """The boxes of an original.

    Raises:
        SkipVideo: step 1 has none, or found no face.
        FailVideo: the file is not what step 1 writes.
    """
    path = layout.bboxes_path(root, original)
    try:
        boxes = json.loads(path.read_text(encoding="utf-8"))
        faces = sum(len(rows) for rows in boxes["frames"].values())
        size = int(boxes["width"]), int(boxes["height"])
    except FileNotFoundError:
        ledger = layout.ledger_path(root, "detect_original_faces")
        raise parallel.SkipVideo(f"there are no boxes of {original}; see {ledger}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise parallel.FailVideo(f"{path} is broken ({error!r}); remove it and run step 1 again") from None
    if not faces:
        raise parallel.SkipVideo(f"no face was found in {original}")
    return {**boxes, "size": size}


def extract(video: Video, context: dict) -> dict:
    """Write the crops of one video; return their stamp."""
    root = context["root"]
    target = layout.crops_path(root, video.id, context["crops_dir"])
    artifacts.remove(target)  # stale: if this fails, the next steps must not take it for good
    digest, boxes = boxes_digest(root, video.source), load_boxes(root, video.source)
    wanted = {int(frame): rows for frame, rows in boxes["frames"].items() if rows}
    stamp = {
        "settings": SETTINGS,
        "boxes": digest,
        "source": artifacts.fingerprint(video.path),
        "made": {"crops": 0},
        "failed": None,
        "notes": [],
    }
    degenerate: list[str] = []
    with VideoReader(video.path) as reader, artifacts.atomic_folder(target, stamp) as folder:
        if (reader.width, reader.height) != boxes["size"]:
            # Its boxes would cut something else. (T19: named, not passed over.)
            sizes = "{}x{} pixels, but {} has {}x{}".format(reader.width, reader.height, video.source, *boxes["size"])
            raise parallel.FailVideo(f"it has {sizes}, and they share boxes")
        for number, frame in reader.frames(wanted):
            for row in wanted[number]:
                crop = crop_face(frame, row["box"])
                name = layout.crop_name(number, row["face"])
                if crop is None:
                    degenerate.append(name)
                    continue
                (folder / name).write_bytes(encode_png(crop, context["png_level"]))
                stamp["made"]["crops"] += 1
        if reader.lost:
            stamp["notes"].append(f"{len(reader.lost)} frames can't be decoded, the first is {reader.lost[0]}")
        if degenerate:
            stamp["notes"].append(f"{len(degenerate)} boxes hold no picture, the first is {degenerate[0]}")
        if not stamp["made"]["crops"]:
            raise parallel.FailVideo("; ".join(stamp["notes"]) or "no crop could be cut")
    return stamp


def with_boxes(dataset: Dataset, crops_dir: str) -> tuple[list[Video], dict[str, str]]:
    """The videos whose source has a boxes file, and the rest with the reason."""
    skipped = dict(dataset.skipped)
    videos = []
    sources = {video.source for video in dataset.videos.values()}
    with_file = {source for source in sources if layout.bboxes_path(dataset.root, source).is_file()}
    for video in dataset.videos.values():
        if video.source in with_file:
            videos.append(video)
        else:
            skipped[video.id] = f"there are no boxes of {video.source}; step 1 (detect_original_faces.py) makes them"
            # Crops of a video that can't be read any more must not be trained on. Only what this step made goes.
            crops = layout.crops_path(dataset.root, video.id, crops_dir)
            if artifacts.read_stamp(crops) is not None:
                artifacts.remove(crops)
    return videos, skipped


def main(argv: Sequence[str] | None = None) -> int:
    parser = parallel.step_parser(__doc__, crops=True, png=True)
    args = parser.parse_args(argv)
    dataset = layout.load_dataset(args.root_dir)
    layout.check_crops_dir(args.crops_dir, dataset.parts)
    artifacts.remove_leftovers(args.root_dir / args.crops_dir)
    step = parallel.Step(
        STEP,
        extract,
        # The memory is this run's, and only the check's: a worker reads the boxes it cuts with itself.
        partial(read_stamp, root=args.root_dir, crops_dir=args.crops_dir, digest=cache(boxes_digest)),
        context={"root": args.root_dir, "crops_dir": args.crops_dir, "png_level": args.png_level},
        preload=("cv2", "av"),
    )
    return parallel.run_step(step, args, *with_boxes(dataset, args.crops_dir))


if __name__ == "__main__":
    parallel.run_main(main)
