"""Step 2: cut the faces out of REAL and FAKE videos -> DATA_ROOT/crops/<video>/<frame>_<face>.png.

    python preprocessing/extract_crops.py --root-dir DATA_ROOT --crops-dir crops

A FAKE is cut with its original's boxes, so that both crops show the same place. A third of the box is added on
each side. The PNGs are lossless. What rejected.csv names is not cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from dfdc import artifacts, command_line, layout, steps
from dfdc.artifacts import NewFolder
from dfdc.boxes import Boxes, BoxesError, read_boxes
from dfdc.identity import digest_of, fingerprint, same_file
from dfdc.imaging import MARGIN_PART, crop_face, encode_png, margin_box
from dfdc.layout import Dataset, Video
from dfdc.rejections import Rejections, load_rejections
from dfdc.text import plural
from dfdc.video import VideoError, VideoReader
from dfdc.workers import FailVideo, SkipVideo
from preprocessing import frame_matching, likeness
from preprocessing.frame_matching import match_frames
from preprocessing.orphans import prune, rows_without_effect

STEP = "extract_crops"
# Raised with every change that gives other crops; tests/test_versions.py has those of a fixed clip for each version.
VERSION = 2
SETTINGS = {
    "version": VERSION,
    "margin_part": MARGIN_PART,
    "matching": frame_matching.SETTINGS,
    "looks": [likeness.LOOKS, likeness.TINY],
}
_REMEMBERED = 64  # boxes files: a fake comes soon after its original

Places = dict[int, list[tuple[int, tuple[float, float, float, float]]]]  # frame -> (face, box) of what is cut there


class CropStep(steps.Step):
    """Crops of one video.

    Args:
        root: DATA_ROOT.
        crops_dir: name of the folder of the crops in it.
        rejections: what is not to be cut.
        png_level: compression; it decides nothing about what the crops show.
    """

    name = STEP
    preload = ("cv2", "av", "imagehash")

    def __init__(self, root: Path, crops_dir: str, rejections: Rejections, png_level: int = 1) -> None:
        self.root, self.crops_dir, self.rejections, self.png_level = root, crops_dir, rejections, png_level
        # The memory is this run's, and only the check's: a worker reads the boxes it cuts with itself.
        self._remembered = lru_cache(_REMEMBERED)(self._boxes)
        self._known_digests: dict[str, str | None] = {}  # by original, where nothing is rejected of any video

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key not in ("_remembered", "_known_digests")}

    def check(self, video: Video) -> dict | None:
        stamp = artifacts.read_stamp(self.folder(video))
        if stamp is None:
            return None
        digest = self.boxes_digest(video)
        if digest is None or not artifacts.is_fresh(stamp, {"settings": SETTINGS, "boxes": digest}):
            return None
        return stamp if same_file(stamp.get("source"), video.path) else None

    def boxes_digest(self, video: Video) -> str | None:
        """Digest of all that crops take from the boxes; None if there are none that can be used."""
        if self.rejections.rows:
            return self._read_digest(video)
        if video.source not in self._known_digests:
            self._known_digests[video.source] = self._read_digest(video)
        return self._known_digests[video.source]

    def _read_digest(self, video: Video) -> str | None:
        try:
            boxes = self._remembered(video.source)
        except BoxesError:
            return None  # `work` says what is wrong with them
        return None if boxes is None else self._inputs(boxes, self._places(boxes, video))

    def folder(self, video: Video) -> Path:
        return layout.crops_path(self.root, video.id, self.crops_dir)

    def work(self, video: Video) -> dict:
        """Write the crops of one video; return their stamp."""
        try:
            boxes = self._boxes(video.source)
        except BoxesError as error:
            raise FailVideo(f"{error}; run step 1 (detect_original_faces.py) again") from None
        if boxes is None:
            ledger = layout.ledger_path(self.root, "detect_original_faces")
            raise SkipVideo(f"there are no boxes of {video.source}; see {ledger}")
        source, places = fingerprint(video.path), self._places(boxes, video)
        stamp = {"settings": SETTINGS, "boxes": self._inputs(boxes, places), "source": source}
        stamp |= {"made": {"crops": 0}, "failed": None, "notes": [], "looks": []}
        try:
            if not boxes.faces:
                raise SkipVideo(f"no face was found in {video.source}")
            if not places:
                raise SkipVideo(f"{layout.REJECTED_NAME} names all of its faces")
            with VideoReader(video.path) as reader, artifacts.atomic_folder(self.folder(video), stamp) as folder:
                self._cut(video, boxes, places, reader, folder, stamp)
        except (VideoError, FailVideo, SkipVideo):
            # Crops of another video or of other boxes must not be taken for these. Those of the same stay.
            artifacts.remove_unless(self.folder(video), {"boxes": stamp["boxes"]}, source)
            raise
        return stamp

    def _cut(
        self, video: Video, boxes: Boxes, places: Places, reader: VideoReader, folder: NewFolder, stamp: dict
    ) -> None:
        """Write the crops, and what they lack into `stamp`."""
        if (reader.width, reader.height) != (boxes.width, boxes.height):
            # Its boxes would cut something else. (T19: named, not passed over.)
            sizes = f"{reader.width}x{reader.height} pixels, but {video.source} has {boxes.width}x{boxes.height}"
            raise FailVideo(f"it has {sizes}, and they share boxes")
        match = match_frames(boxes, places, reader, video.source)
        stamp["notes"] += match.notes
        names = [layout.crop_name(number, face) for number in places for face, _ in places[number]]
        looked_at = set(likeness.pick(names))
        degenerate: list[str] = []
        for number, frame in reader.frames(match.frames):
            for original in match.frames[number]:
                for face, box in places[original]:
                    crop, name = crop_face(frame, box), layout.crop_name(original, face)
                    if crop is None:
                        degenerate.append(name)
                        continue
                    folder.write(name, encode_png(crop, self.png_level))
                    stamp["made"]["crops"] += 1
                    if name in looked_at:
                        stamp["looks"].append(likeness.look(name, np.ascontiguousarray(crop)))
        if reader.lost:
            stamp["notes"].append(f"{len(reader.lost)} frames can't be decoded, the first is {reader.lost[0]}")
        if degenerate:
            stamp["notes"].append(f"{len(degenerate)} boxes hold no picture, the first is {degenerate[0]}")
        if not stamp["made"]["crops"]:
            raise FailVideo("; ".join(stamp["notes"]) or "no crop could be cut")

    def _boxes(self, original: str) -> Boxes | None:
        return read_boxes(layout.bboxes_path(self.root, original))

    def _places(self, boxes: Boxes, video: Video) -> Places:
        """What is cut, by frame: the boxes less what is rejected."""
        places: Places = {}
        for number, faces in boxes.frames.items():
            kept = [(f.face, f.box) for f in faces if not self.rejections.covers(video, number, f.face)]
            if kept:
                places[number] = kept
        return places

    def _inputs(self, boxes: Boxes, places: Places) -> str:
        """Digest of all that crops take from the boxes: the very pixels that are cut, and when they are shown.

        Boxes that move by less than a pixel, or are written in another way, change nothing.
        """
        size = boxes.width, boxes.height
        cuts = [[n, face, margin_box(box, *size)] for n, faces in sorted(places.items()) for face, box in faces]
        times = [round(boxes.times[number], 3) for number in sorted(places) if number in boxes.times]
        return digest_of([size, boxes.frame_count, round(boxes.duration, 3), times, cuts])


def with_boxes(dataset: Dataset, rejections: Rejections) -> tuple[list[Video], list[tuple[str, str]]]:
    """The videos whose source has a boxes file, and the rest with the reason."""
    skipped = [(name, entry.reason) for name, entry in dataset.skipped.items()]
    videos = []
    sources = {video.source for video in dataset.videos.values()}
    with_file = {source for source in sources if layout.bboxes_path(dataset.root, source).is_file()}
    for video in dataset.videos.values():
        reason = rejections.whole(video)
        if reason is None and video.source not in with_file:
            reason = f"there are no boxes of {video.source}; step 1 (detect_original_faces.py) makes them"
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
    artifacts.remove_leftovers(args.root_dir / args.crops_dir)
    idle = rows_without_effect(dataset, rejections)
    if idle:
        print(f"{layout.REJECTED_NAME}: nothing is rejected by {plural(len(idle), 'row')}: {'; '.join(idle[:5])}")
    if args.prune is not None:
        prune(dataset, STEP, args.prune, args.crops_dir)
    step = CropStep(args.root_dir, args.crops_dir, rejections, args.png_level)
    return steps.run_step(step, args, *with_boxes(dataset, rejections))


if __name__ == "__main__":
    command_line.run_main(main)
