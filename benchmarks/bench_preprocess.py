"""Seconds and memory of the preprocessing commands with start-up: plain, ours, and decoding only as the floor.

    python benchmarks/bench_preprocess.py [DATA_ROOT] --copies 4

Works on links to the videos in a temporary folder. Plain is a straightforward implementation of the recipe, with as
many processes as ours. It keeps all frames of a video in memory, and runs facenet-pytorch's MTCNN in batches of 32.
It crops with OpenCV's reader and PNG writer, detects landmarks crop by crop, and uses scikit-image's SSIM.
Ours are the scripts, measured on the dataset and on --copies copies of it. The last measurement is face detection in
a video and in the same video repeated 30 times.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from measuring import DEMO, ROOT, one_thread, repeat_video, run_measured

from dfdc import layout
from dfdc.command_line import parse_detector_scale

STEPS = ("detect_original_faces", "extract_crops", "generate_landmarks", "generate_diffs", "generate_folds")


# ------------------------------------------------------------------------------------------ plain forms
# Each form imports its own libraries, so that its memory excludes those of the others.
def every_frame(path: Path) -> list:
    import cv2

    capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]), []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return frames


def plain_detect(root: Path, video: Path, scale: str | float) -> None:
    import numpy as np
    from facenet_pytorch import MTCNN
    from PIL import Image

    from dfdc.detector_settings import DETECT_THRESHOLDS, detector_scale

    one_thread()
    frames = every_frame(video)
    height, width = frames[0].shape[:2]
    factor = detector_scale(scale, width, height)
    size = int(width * factor), int(height * factor)
    mtcnn = MTCNN(margin=0, keep_all=True, thresholds=list(DETECT_THRESHOLDS), device="cpu")
    found = []
    for start in range(0, len(frames), 32):
        batch = [np.asarray(Image.fromarray(frame).resize(size)) for frame in frames[start : start + 32]]
        found += [None if boxes is None else boxes.tolist() for boxes in mtcnn.detect(np.stack(batch))[0]]
    (root / f"{video.stem}.json").write_text(json.dumps(found))


def plain_crops(root: Path, video: Path, boxes: Path) -> None:
    import cv2

    from dfdc.imaging import crop_face

    one_thread()
    frames = every_frame(video)
    folder = root / video.stem
    folder.mkdir()
    for number, rows in json.loads(boxes.read_text())["frames"].items():
        for row in rows:
            crop = crop_face(frames[int(number)], row["box"])
            assert crop is not None, (video, row)
            cv2.imwrite(str(folder / f"{number}_{row['face']}.png"), cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))


def plain_landmarks(root: Path, crops: Path) -> None:
    import numpy as np
    from facenet_pytorch import MTCNN
    from PIL import Image

    from dfdc.detector_settings import LANDMARK_THRESHOLDS

    one_thread()
    mtcnn = MTCNN(margin=0, thresholds=list(LANDMARK_THRESHOLDS), device="cpu")
    folder = root / crops.name
    folder.mkdir()
    for path in crops.glob("*.png"):
        _, _, points = mtcnn.detect(Image.open(path).convert("RGB"), landmarks=True)
        if points is not None:
            np.save(folder / path.stem, np.rint(points[0].astype(float)).astype(np.int16))


def plain_diffs(root: Path, real: Path, fake: Path) -> None:
    import cv2
    from bench_ssim import scikit_image

    one_thread()
    folder = root / fake.name
    folder.mkdir()
    for path in fake.glob("*.png"):
        one, other = cv2.imread(str(real / path.name)), cv2.imread(str(path))
        assert one is not None and other is not None, path
        mask = scikit_image(one, other)
        cv2.imwrite(str(folder / f"{path.stem}_diff.png"), mask)


def decode(video: Path) -> None:
    import av

    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def plain_works(step: str, root: Path, out: Path, scale: str | float) -> Sequence[Callable[[], None]]:
    """The tasks of a plain step or a floor, to be distributed over processes."""
    dataset = layout.load_dataset(root)
    videos = [v for v in dataset.videos.values() if layout.bboxes_path(root, v.source).is_file()]
    crops = {v.id: layout.crops_path(root, v.id) for v in videos}
    return {
        "decode_reals": lambda: [partial(decode, v.path) for v in dataset.reals()],
        "decode_all": lambda: [partial(decode, v.path) for v in dataset.videos.values()],
        "detect_original_faces": lambda: [partial(plain_detect, out, v.path, scale) for v in dataset.reals()],
        "extract_crops": lambda: [
            partial(plain_crops, out, v.path, layout.bboxes_path(root, v.source)) for v in videos
        ],
        "generate_landmarks": lambda: [partial(plain_landmarks, out, crops[v.id]) for v in dataset.reals()],
        "generate_diffs": lambda: [partial(plain_diffs, out, crops[v.source], crops[v.id]) for v in dataset.fakes()],
    }[step]()


def run_plain(step: str, root: Path, workers: int, scale: str | float) -> None:
    with tempfile.TemporaryDirectory() as out, multiprocessing.get_context("spawn").Pool(workers) as pool:
        for result in [pool.apply_async(work) for work in plain_works(step, root, Path(out), scale)]:
            result.get()


# ------------------------------------------------------------------------------------------ the data
def link_copies(source: Path, target: Path, copies: int) -> None:
    """Create the parts of `source` in `target` as links, `copies` times under different names."""
    for part in layout.find_parts(source):
        folder = target / part.name
        folder.mkdir(parents=True)
        metadata = {}
        for copy in range(copies):
            entries = json.loads((part / layout.METADATA_NAME).read_text())
            for name, entry in entries.items():
                if (part / name).is_file():
                    (folder / f"c{copy}_{name}").symlink_to((part / name).resolve())
                if "original" in entry:
                    entry["original"] = f"c{copy}_{entry['original']}"
                metadata[f"c{copy}_{name}"] = entry
        (folder / layout.METADATA_NAME).write_text(json.dumps(metadata))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data_root", type=Path, nargs="?", default=DEMO, help="a dataset in DFDC layout (default: demo/)"
    )
    parser.add_argument(
        "--copies", type=int, default=4, help="also measure this many copies of the dataset (default: 4)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of each form (default: 2)")
    parser.add_argument("--detector-scale", default="auto", help="detector scale of both forms (default: auto)")
    parser.add_argument(
        "--plain", help=argparse.SUPPRESS
    )  # for a plain form or a floor, which runs in a separate process
    args = parser.parse_args()

    if args.plain:
        run_plain(args.plain, args.data_root, args.workers, parse_detector_scale(args.detector_scale))
        return
    if not args.data_root.is_dir():
        sys.exit(f"{args.data_root} does not exist; ./quickstart.sh creates demo/")

    def plain(name: str, root: Path) -> tuple[float, float, str]:
        command = [sys.executable, __file__, root, "--plain", name, "--workers", args.workers]
        return run_measured([*command, "--detector-scale", args.detector_scale])

    def ours(step: str, root: Path) -> tuple[float, float, str]:
        more = ["--detector-scale", args.detector_scale] if step == STEPS[0] else []
        script = ROOT / "preprocessing" / f"{step}.py"
        more += ["--workers", args.workers] if step != STEPS[-1] else []
        return run_measured([sys.executable, script, "--root-dir", root, *more])

    with tempfile.TemporaryDirectory() as folder:
        once, often, long = (Path(folder) / name for name in ("once", "often", "long"))
        link_copies(args.data_root, once, 1)
        link_copies(args.data_root, often, args.copies)
        dataset = layout.load_dataset(once)
        print(f"{len(dataset.reals())} real and {len(dataset.fakes())} fake videos, {args.workers} processes", end=", ")
        print(f"scale {args.detector_scale}; seconds with start-up; {args.copies} x: {args.copies} copies")
        more = f"{args.copies} x"
        columns = ["step", "decode", f"decode {more}", "plain", "ours", f"ours {more}", "plain / ours"]
        columns += [f"ours / decode, {more}", "plain MiB", "ours MiB", f"ours {more}"]
        print(f"| {' | '.join(columns)} |\n|" + "---|" * len(columns))
        for step in STEPS:
            floor = {STEPS[0]: "decode_reals", STEPS[1]: "decode_all"}.get(step)
            floors = [plain(floor, root)[0] if floor else None for root in (once, often)]
            seconds, memory, _ = ours(step, once)
            more_seconds, more_memory, _ = ours(step, often)
            plain_seconds, plain_memory, _ = plain(step, once) if step != STEPS[-1] else (None, None, "")
            ratio = plain_seconds and plain_seconds / seconds
            over = more_seconds / floors[1] if floors[1] else None
            cells = [*floors, plain_seconds, seconds, more_seconds, ratio, over]
            shown = ["-" if cell is None else f"{cell:.1f}" for cell in cells]
            shown += ["-" if cell is None else f"{cell:.0f}" for cell in (plain_memory, memory, more_memory)]
            print(f"| {step} | {' | '.join(shown)} |", flush=True)

        part = long / "part"
        part.mkdir(parents=True)
        video = dataset.reals()[0].path
        print(f"\nface detection in {video.name}, one process:")
        for times in (1, 30):
            repeat_video(video, part / "long.mp4", times=times)
            (part / "metadata.json").write_text('{"long.mp4": {"label": "REAL"}}')
            shutil.rmtree(long / "bboxes", ignore_errors=True)
            script = ROOT / "preprocessing" / f"{STEPS[0]}.py"
            seconds, memory, printed = run_measured([sys.executable, script, "--root-dir", long, "--workers", 1])
            print(f"- {times} x: {seconds:.1f} s, {memory:.0f} MiB, {printed.splitlines()[-1]}")


if __name__ == "__main__":
    main()
