"""Compare decoders: seconds to read every 10th frame of videos as RGB on one thread, in turn.

    python benchmarks/bench_decode.py [VIDEOS ...]

OpenCV: VideoCapture, grab all, retrieve every 10th. PyAV: decode all, convert every 10th.
torchcodec, if installed: get_frame_at.
Ours: dfdc/video.py, which numbers frames by presentation timestamp and handles corrupt data.
Floor: PyAV, decode all, convert none.
Afterwards, each decoder reads a video with a corrupt middle.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from measuring import add_videos, best_in_turn, find_videos, one_thread, run_measured

STRIDE = 10

# Each form imports its own library, so that --only measures the memory of a single library.


def floor(path: Path) -> Iterator[None]:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            yield None


def pyav(path: Path) -> Iterator[object]:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number % STRIDE == 0:
                yield frame.to_ndarray(format="rgb24")


def opencv(path: Path) -> Iterator[object]:
    import cv2

    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    number = 0
    while capture.grab():
        if number % STRIDE == 0:
            yield cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
        number += 1
    capture.release()


def torchcodec(path: Path) -> Iterator[object]:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, num_ffmpeg_threads=1, dimension_order="NHWC")
    for number in range(0, len(decoder), STRIDE):
        yield decoder.get_frame_at(number).data.numpy()


def ours(path: Path) -> Iterator[object]:
    from dfdc.video import VideoReader

    with VideoReader(path) as reader:
        for _, frame in reader.frames(stride=STRIDE):
            yield frame


FORMS: dict[str, Callable[[Path], Iterator[object]]] = {"floor": floor, "OpenCV": opencv, "PyAV": pyav, "ours": ours}


def read(form: str, videos: list[Path]) -> int:
    return sum(1 for path in videos for _ in FORMS[form](path))


def damage(source: Path, target: Path) -> None:
    """Write a copy of `source` in which random bytes replace 1/20 of the file, from its middle on."""
    data = bytearray(source.read_bytes())
    start, length = len(data) // 2, len(data) // 20
    data[start : start + length] = np.random.default_rng(0).bytes(length)
    target.write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_videos(parser)
    parser.add_argument("--turns", type=int, default=3, help="number of turns; the best counts (default: 3)")
    parser.add_argument(
        "--only", choices=[*FORMS, "torchcodec"], help="only read, with this decoder (to measure its memory)"
    )
    args = parser.parse_args()
    one_thread()
    if importlib.util.find_spec("torchcodec"):
        FORMS["torchcodec"] = torchcodec
    videos = find_videos(args.videos)
    if args.only:
        read(args.only, videos)
        return

    whole = best_in_turn({name: lambda name=name: read(name, videos) for name in FORMS}, args.turns)
    quarter = videos[:: 4 if len(videos) > 3 else 1]
    part = best_in_turn({name: lambda name=name: read(name, quarter) for name in FORMS}, args.turns)
    print(f"{len(videos)} videos, every {STRIDE}th frame, one thread")
    print(f"| decoder | seconds | times the floor | on {len(quarter)} videos | peak MiB | frames |")
    print("|---|---|---|---|---|---|")
    for name in FORMS:
        _, memory, _ = run_measured([sys.executable, __file__, *videos, "--only", name])
        frames = "-" if name == "floor" else read(name, videos)
        times = f"{whole[name]:.2f} | {whole[name] / whole['floor']:.2f} | {part[name]:.2f}"
        print(f"| {name} | {times} | {memory:.0f} | {frames} |")

    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / "broken.mp4"
        damage(max(videos, key=lambda path: path.stat().st_size), broken)
        print("\na video in which random bytes replace 1/20 of the file, from its middle on:")
        for name in FORMS:
            frames = 0
            try:
                for _ in FORMS[name](broken):
                    frames += 1
                said = "no error"
            except Exception as error:  # the errors of the decoders are the result here
                said = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
            print(f"- {name}: {frames} frames, {said}")


if __name__ == "__main__":
    main()
