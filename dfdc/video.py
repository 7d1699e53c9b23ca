"""Reading and writing videos: the only module that touches a decoder (FFmpeg through PyAV).

Frame k is the k-th frame of the stream in the order of showing. Frames are numbered by the packets' time
stamps and not by counting what comes out of the decoder, so that one lost frame does not shift the rest.
Colours are converted as OpenCV's reader does it (bicubic chroma, the stream's own matrix): the published
weights were trained on such pixels.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from dfdc.artifacts import atomic_file

if TYPE_CHECKING:
    import av


class VideoError(RuntimeError):
    """A video that can't be read; the message says why, `path` which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple:
        return (VideoError, (self.path, self.reason))  # so that it survives the way between processes


class VideoReader:
    """One pass through a video.

    Attributes:
        width, height: of the picture as shown, after rotation, in pixels.
        frame_count: frames to be shown, counted by the packets; those a cut file announces but lacks included.
        fps: mean frames per second (0.0 if unknown).
        lost: numbers of the wanted frames that could not be decoded, filled by `frames`.
    """

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        """Open `path`; `threads` is the decoder's (0: as many as there are cores).

        Raises:
            VideoError: not there, empty, not a video, or without a picture stream.
        """
        import av

        self.path = Path(path)
        self.lost: list[int] = []
        self._threads = threads
        try:
            if self.path.stat().st_size == 0:
                raise VideoError(self.path, "the file has zero bytes")
        except OSError as error:
            raise VideoError(self.path, f"can't be opened: {error.strerror}") from error
        self._container = self._open()
        try:
            stream = self._stream()
            # The display matrix that turns a phone's video upright comes with the first decoded frame.
            first = next(self._decoded(stream), None)
            if first is None:
                raise VideoError(self.path, "no frame of it can be decoded")
            first, _ = first
            self._quarter_turns = round(first.rotation / 90) % 4
            height, width = first.height, first.width
            self.height, self.width = (width, height) if self._quarter_turns % 2 else (height, width)
            self.fps = float(stream.average_rate or 0)
            self.frame_count, self._stamped = self._count_packets()
        except av.FFmpegError as error:
            raise VideoError(self.path, f"can't be decoded: {error.strerror}") from error
        finally:
            self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._container.close()

    def _open(self) -> av.container.InputContainer:
        import av

        try:
            # 'file:' keeps FFmpeg from reading a name such as 'http:x.mp4' or '-' as a protocol.
            return av.open(f"file:{self.path}", metadata_errors="ignore")
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise VideoError(self.path, f"not a readable video: {reason}") from error

    def _stream(self) -> av.VideoStream:
        return self._stream_of(self._container)

    def _stream_of(self, container: av.container.InputContainer) -> av.VideoStream:
        streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
        if not streams:
            raise VideoError(self.path, "it has no picture stream")
        stream = streams[0]
        stream.codec_context.thread_count = self._threads
        # Without it, damage is painted over with what lies around it, and passes for a picture.
        stream.codec_context.options = {"err_detect": "explode"}
        return stream

    def _count_packets(self) -> tuple[int, bool]:
        """(frames to be shown, whether all packets are stamped), from the packets, without decoding.

        A container's own count may be an estimate, count frames that an edit list hides, or be a lie. It is believed
        only where the file was cut: an index that lists more frames than there are packets.
        """
        import av

        count, stamped = 0, True
        with self._open() as container:
            stream = self._stream_of(container)
            packets = container.demux(stream)
            with contextlib.suppress(av.FFmpegError):  # a cut file: what came before counts
                for packet in packets:
                    if packet.size and not packet.is_discard:
                        count += 1
                        stamped &= packet.pts is not None
            indexed = stream.frames if "mp4" in container.format.name else 0
            if indexed > count and stream.duration and stream.average_rate:
                shown = round(stream.duration * stream.time_base * stream.average_rate)
                count = max(count, min(indexed, shown, self.path.stat().st_size // 8))
        return count, stamped

    def _decoded(self, stream: av.VideoStream) -> Iterator[tuple[av.VideoFrame, bool]]:
        """Decoded frames and whether they are sound; sets `_pending` for the numbering."""
        import av

        self._pending: list[int] = []  # heap: time stamps of packets whose frame is still to come
        damaged = False  # since an error and until the next key frame, pictures are built on broken ones
        packets = self._container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                # A broken index or a cut file: nothing comes after it, but the decoder still holds frames.
                packet = None
            if packet is not None and packet.size and not packet.is_discard and packet.pts is not None:
                heapq.heappush(self._pending, packet.pts)
            # A frame that can't be decoded leaves its time stamp in the heap: those after it keep their numbers.
            try:
                decoded = packet.decode() if packet is not None else stream.decode(None)
            except av.FFmpegError:
                damaged = True
                decoded = []
            for frame in decoded:
                damaged = (damaged or frame.is_corrupt) and not frame.key_frame
                yield frame, not damaged
            if packet is None:
                return

    def numbered_frames(self) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        """(frame number, undisplayed frame, whether it is sound) of every frame that comes out of the decoder.

        A frame's number is how many packets are shown before it. The decoder gives frames in the order of showing,
        so by the time one comes out, every packet that is shown earlier has been seen. Where packets are not
        stamped, or stamps go backwards (two recordings in one stream), counting is all there is.
        """
        self._container.close()
        self._container = self._open()
        number, previous, stamped = -1, None, self._stamped
        for frame, sound in self._decoded(self._stream()):
            if stamped and (frame.pts is None or (previous is not None and frame.pts < previous)):
                stamped = False
            if stamped:
                previous = frame.pts
                while self._pending and self._pending[0] < frame.pts:
                    heapq.heappop(self._pending)  # never came out
                    number += 1
                if self._pending:
                    heapq.heappop(self._pending)
            number += 1
            yield number, frame, sound

    def frames(self, wanted: Iterable[int] | None = None, *, stride: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """(number, picture) of the wanted frames, in order; those lost go to `lost`.

        Args:
            wanted: frame numbers; None takes every `stride`-th frame to the end.
            stride: used where `wanted` is None.

        Yields:
            frame number and RGB uint8 [height, width, 3], upright.

        Raises:
            VideoError: if decoding ends without a single one of the wanted frames.
        """
        targets = None if wanted is None else sorted(set(wanted))
        if targets is not None and (not targets or targets[0] < 0):
            raise ValueError(f"wanted frames must be numbers from 0 on, not {targets[:1]}")
        self.lost = []
        given, position, expected = 0, 0, 0  # expected: the next multiple of stride
        last = -1
        for number, frame, sound in self.numbered_frames():
            last = number
            if targets is None:
                while expected < number:
                    self.lost.append(expected)
                    expected += stride
                if number != expected:
                    continue
                expected += stride
            else:
                while position < len(targets) and targets[position] < number:
                    self.lost.append(targets[position])
                    position += 1
                if position == len(targets):
                    break
                if number != targets[position]:
                    continue
                position += 1
            picture = self._to_rgb(frame) if sound else None
            if picture is None:
                self.lost.append(number)
                continue
            given += 1
            yield number, picture
            if targets is not None and position == len(targets):
                break
        if targets is not None:
            self.lost += targets[position:]
        else:  # frames the container announces behind the last that could be decoded
            end = max(self.frame_count, last + 1)
            self.lost += range(expected, end, stride)
        if not given:
            raise VideoError(self.path, "none of the wanted frames can be decoded")

    def _to_rgb(self, frame: av.VideoFrame) -> np.ndarray | None:
        picture = frame.to_ndarray(format="rgb24", interpolation="BICUBIC")
        if self._quarter_turns:
            picture = np.ascontiguousarray(np.rot90(picture, self._quarter_turns))
        # A stream may change its size on the way; boxes are in the pixels of one size.
        return picture if picture.shape[:2] == (self.height, self.width) else None


def write_video(path: str | Path, frames: Iterable[np.ndarray], *, fps: float = 25.0, crf: int = 23) -> None:
    """Write H.264 (yuv420p, one thread, so that the same frames give the same bytes) to `path`, atomically.

    Args:
        frames: RGB uint8 [h, w, 3], all of one even size; at least one.
        fps: frames per second.
        crf: x264's constant rate factor, 0 (lossless) to 51.

    Raises:
        ValueError: no frames, odd sizes, or frames of different sizes.
    """
    import av

    shape = None
    with atomic_file(Path(path)) as temp, _open_writer(temp) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        # x264's macroblock tree reads memory it has not set at some widths: other bytes at each run.
        stream.options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
        for picture in frames:
            if shape is None:
                shape = picture.shape
                if len(shape) != 3 or shape[0] % 2 or shape[1] % 2:
                    raise ValueError(f"frames of even size [h, w, 3] are expected, not {list(shape)}")
                stream.height, stream.width = shape[:2]
            if picture.shape != shape:
                raise ValueError(f"a frame of {list(picture.shape)} follows frames of {list(shape)}")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if shape is None:
            raise ValueError("there are no frames to write")
        container.mux(stream.encode(None))


def _open_writer(path: Path) -> av.container.OutputContainer:
    import av

    return av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"})  # bitexact: no date in the file
