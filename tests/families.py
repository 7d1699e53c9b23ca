"""A small DATA_ROOT without a detector: an original and a fake of a few textured frames, with boxes written by hand."""

import numpy as np
from helpers import write_part

from dfdc import layout
from dfdc.boxes import Boxes, FaceBox
from dfdc.identity import fingerprint
from dfdc.rejections import load_rejections
from dfdc.video import VideoReader, write_video
from preprocessing.crop_step import CropStep
from preprocessing.detect_step import DetectStep
from preprocessing.diff_step import DiffStep

SIZE = (120, 160)
FACE = (60.0, 40.0, 100.0, 84.0)


def textured_frames(count, *, face=0, seed=1):
    """Frames of a wall that moves by a pixel each, with a face of brightness `face` added in its middle."""
    rng = np.random.default_rng(seed)
    wall = np.kron(rng.integers(30, 220, (30, 80, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    for number in range(count):
        frame = wall[: SIZE[0], 2 * number : 2 * number + SIZE[1]].copy()
        x1, y1, x2, y2 = map(int, FACE)
        inside = frame[y1 + 8 : y2 - 8, x1 + 8 : x2 - 8].astype(int) + face
        frame[y1 + 8 : y2 - 8, x1 + 8 : x2 - 8] = np.clip(inside, 0, 255)
        yield frame


def write_boxes(root, video, *, boxes=None):
    """The boxes of a REAL video as step 1 would write them, the same face on every tenth frame."""
    with VideoReader(video.path) as reader:
        numbers = range(0, reader.frame_count, layout.FRAME_STRIDE)
        shown = reader.times()
    faces = {number: [FaceBox(0, FACE, 0.999)] for number in numbers} if boxes is None else boxes
    found = Boxes(
        video=video.path.name,
        width=reader.width,
        height=reader.height,
        frame_count=reader.frame_count,
        rate=reader.fps,
        duration=reader.duration,
        times={number: float(shown[number]) for number in numbers},
        source=fingerprint(video.path),
        settings=DetectStep(root, "auto").settings,
        made={"frames": len(numbers), "faces": sum(map(len, faces.values()))},
        failed=None,
        notes=(),
        frames=faces,
    )
    found.write(layout.bboxes_path(root, video.id))


def make_family(root, count=61, fps=25.0):
    """real.mp4, fake.mp4 and the boxes; returns the data set."""
    part = write_part(
        root / "part_0", {"real.mp4": {"label": "REAL"}, "fake.mp4": {"label": "FAKE", "original": "real.mp4"}}
    )
    write_video(part / "real.mp4", textured_frames(count), fps=fps, crf=5)
    write_video(part / "fake.mp4", textured_frames(count, face=60), fps=fps, crf=5)
    dataset = layout.load_dataset(root)
    write_boxes(root, dataset.videos["real"])
    return dataset


def step_of(root, **options):
    return CropStep(root, "crops", load_rejections(root), **options)


def videos_of(root):
    return layout.load_dataset(root).videos


def cut(root, *names):
    videos = videos_of(root)
    return [step_of(root).work(videos[name]) for name in names or videos]


def compare(root):
    return DiffStep(root, "crops").work(videos_of(root)["fake"])
