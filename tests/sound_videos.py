"""Sound videos of many codecs and containers, and what their frames show (used by broken_videos.py)."""

from __future__ import annotations

import functools
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import skimage.data

from dfdc.video import VideoReader

COUNT = 48  # frames of most sound files, more than scoring reads
BLOCK = 8  # side in pixels of the blocks by which frames are compared
FAR = 16.0  # difference of a block's mean, in grey levels, from which a frame is another one
_BARS = 16  # height in pixels of the bars that show a frame's number
_RATE = 25


@dataclass(frozen=True)
class Kind:
    """How a sound file is made."""

    name: str  # of the file; its suffix decides the container
    codec: str
    pix_fmt: str = "yuv420p"
    height: int = 144
    width: int = 192
    count: int = COUNT  # frames
    options: str = ""  # of the encoder, such as "g=12 bf=2"
    movflags: str = ""  # of an MP4
    uneven: bool = False  # whether the frame rate varies
    turned: bool = False  # whether the file says that its frames lie on their side
    extra: tuple[str, ...] = ()  # further streams: "video", "sound", "cover"
    often: int = 10  # how often damaged, compared with the others; 10 for most


_GOP = "g=12 bf=2"
_H264 = f"preset=veryfast {_GOP}"
_HEVC = "preset=ultrafast x265-params=log-level=none:keyint=12:pools=none:frame-threads=1"
_VP9 = "deadline=realtime cpu-used=8 g=12"
_FAST = "preset=ultrafast g=12"

KINDS = [
    *(Kind(f"h264.{suffix}", "libx264", options=_H264) for suffix in ("mp4", "mkv", "avi", "mov", "ts")),
    *(Kind(f"hevc.{suffix}", "libx265", options=_HEVC) for suffix in ("mp4", "mkv", "mov", "ts")),
    *(Kind(f"vp9.{suffix}", "libvpx-vp9", options=_VP9) for suffix in ("webm", "mkv", "mp4")),
    *(Kind(f"mpeg4.{suffix}", "mpeg4", options=_GOP) for suffix in ("mp4", "avi", "mkv", "mov", "ts")),
    *(Kind(f"mjpeg.{suffix}", "mjpeg", pix_fmt="yuvj420p") for suffix in ("avi", "mov", "mkv", "mp4")),
    Kind("index first.mp4", "libx264", options=_H264, movflags="faststart"),
    Kind("fragments.mp4", "libx264", options=_H264, movflags="frag_keyframe+empty_moov"),
    Kind("odd sizes.avi", "mjpeg", pix_fmt="yuvj420p", height=145, width=193),
    Kind("odd sizes.webm", "libvpx-vp9", height=145, width=193, options=_VP9),
    Kind("8K.mp4", "libx264", height=4320, width=7680, count=3, options=_FAST, often=1),
    Kind("8K.avi", "mjpeg", pix_fmt="yuvj420p", height=4320, width=7680, count=3, often=1),
    Kind("8K.mkv", "libx265", height=4320, width=7680, count=3, options=_HEVC, often=1),
    Kind("tiny.mp4", "libx264", height=32, width=32, count=10_000, options=_FAST, often=2),
    Kind("tiny.avi", "mpeg4", height=32, width=32, count=10_000, options=_GOP, often=2),
    Kind("turned.mp4", "libx264", options=_H264, turned=True),
    Kind("ten bits.mkv", "libx265", "yuv420p10le", options=_HEVC),
    Kind("ten bits.mp4", "libx264", "yuv420p10le", options=_H264),
    Kind("uneven.mkv", "libx264", options=_H264, uneven=True),
    Kind("uneven.mp4", "libx264", options=_H264, uneven=True),
    Kind("streams.mp4", "libx264", options=_H264, extra=("video", "sound")),
    Kind("streams.ts", "libx264", options=_H264, extra=("sound", "video")),
    Kind("streams.mkv", "libx264", options=_H264, extra=("video", "sound")),
    Kind("cover.mp4", "libx264", options=_H264, extra=("cover", "sound")),
    Kind("cover.mkv", "libx264", options=_H264, extra=("cover",)),
]


def pictures(kind: Kind) -> Iterator[np.ndarray]:
    """The frames of a sound file, RGB uint8 [h, w, 3]: a portrait that moves, above the frame's number in 8 bars."""
    portrait = skimage.data.astronaut()[:320, 60:380]
    portrait = cv2.resize(portrait, (kind.width, kind.height - _BARS), interpolation=cv2.INTER_AREA)
    edges = np.linspace(0, kind.width, 9).astype(int)
    for number in range(kind.count):
        bars = np.zeros((_BARS, kind.width, 3), np.uint8)
        for bit in range(8):
            bars[:, edges[bit] : edges[bit + 1]] = 255 * (number >> bit & 1)
        yield np.vstack([np.roll(portrait, number % 24, axis=1), bars])


def make(kind: Kind, folder: Path) -> Path:
    """Write the sound file of a kind; the same bytes each time, on one machine."""
    path = folder / kind.name
    options = {"fflags": "+bitexact"} | ({"movflags": kind.movflags} if kind.movflags else {})
    with av.open(str(path), "w", options=options) as container:
        stream = _add(container, kind)
        others = [(name, _add(container, kind, name)) for name in kind.extra]
        stamps = [40 * n + (n % 3 * 11 + n // 20 * 900 if kind.uneven else 0) for n in range(kind.count)]
        for number, (stamp, picture) in enumerate(zip(stamps, pictures(kind), strict=True)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
            for name, other in others:
                _feed(container, other, name, number, picture)
        for _, one in [("", stream), *others]:
            container.mux(one.encode(None))
    if kind.turned:
        data = bytearray(path.read_bytes())
        place = data.index(b"tkhd") + 44  # the matrix, after version, times, ids, duration, layer and volume
        data[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
        path.write_bytes(data)
    return path


def _add(container: av.container.OutputContainer, kind: Kind, extra: str = "") -> av.stream.Stream:
    if extra == "sound":
        return container.add_stream("mp2" if kind.name.endswith(".ts") else "aac", rate=44100)
    codec = {"": kind.codec, "cover": "mjpeg", "video": "libx264"}[extra]
    stream = container.add_stream(codec, rate=_RATE)
    stream.height, stream.width = (kind.height, kind.width) if not extra else (64, 96)
    stream.pix_fmt = kind.pix_fmt if not extra else "yuvj420p" if extra == "cover" else "yuv420p"
    stream.options = dict(option.split("=", 1) for option in kind.options.split()) if not extra else {}
    stream.codec_context.thread_count = 1
    stream.codec_context.time_base = Fraction(1, 1000 if kind.uneven else _RATE)
    if extra == "cover":
        stream.disposition = av.stream.Disposition.attached_pic
    return stream


def _feed(
    container: av.container.OutputContainer, stream: av.stream.Stream, name: str, number: int, picture: np.ndarray
):
    if name == "sound":
        planar = stream.codec_context.name == "aac"
        silence = np.zeros((1, stream.codec_context.frame_size or 1024), np.float32 if planar else np.int16)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp" if planar else "s16", layout="mono")
        frame.rate = 44100
    elif name == "video" or not number:
        frame = av.VideoFrame.from_ndarray(cv2.resize(picture, (96, 64)), format="rgb24")
        frame.pts, frame.time_base = 40 * number, Fraction(1, 1000)
    else:
        return
    container.mux(stream.encode(frame))


@functools.cache
def sound(kind: Kind) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return make(kind, Path(folder)).read_bytes()


def blocks(picture: np.ndarray) -> np.ndarray:
    """Mean colours of the blocks of a picture, uint8 [h / 8, w / 8, 3]."""
    height, width = picture.shape[:2]
    return cv2.resize(picture, (max(1, width // BLOCK), max(1, height // BLOCK)), interpolation=cv2.INTER_AREA)


@functools.cache
def reference(kind: Kind) -> np.ndarray:
    """`blocks` of all frames of the sound file, uint8 [frames, h / 8, w / 8, 3]."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / kind.name
        path.write_bytes(sound(kind))
        with VideoReader(path, any_size=True, as_shown=True) as reader:
            return np.array([blocks(picture) for _, picture in reader.frames()])


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of a block: mean over its colours, in grey levels."""
    return float(np.abs(found.astype(np.float32) - expected).mean(-1).max())


def compare(kind: Kind, number: int, found: np.ndarray) -> str:
    """Whether frame `number`, given as `blocks`, is "right", "elsewhere" (another frame of the file) or "wrong"."""
    frames = reference(kind)
    if found.shape != frames.shape[1:]:
        return "wrong"
    if number < len(frames) and _distance(found, frames[number]) < FAR:
        return "right"
    return "elsewhere" if min(_distance(found, frame) for frame in frames) < FAR else "wrong"
