"""Reads and writes videos. Only this module and its helpers use a decoder (FFmpeg through PyAV).

Frame k is the k-th frame of the stream in presentation order. Frame numbers come from the packets' timestamps, not from
counting decoded frames, so one lost frame does not shift the others. When few frames of a long video are requested, the
reader seeks from key frame to key frame. The result equals sequential decoding; if a seek misses its target or hits
corrupt data, the reader falls back to sequential decoding. After corrupt data, seeking may recover frames that are lost
in sequential decoding.

Colours are converted as in OpenCV's reader (bicubic chroma, the stream's own matrix), because the published weights
were trained on such pixels. Scoring requests frames as a player shows them: with square pixels, and HDR converted to
SDR.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain, count, takewhile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from dfdc import limits, video_picture
from dfdc.artifacts import atomic_file
from dfdc.identity import regular
from dfdc.video_fields import Fields
from dfdc.video_source import (
    VideoError,
    choose_stream,
    decoder_limits,
    is_hidden,
    open_container,
    packets,
    video_stream,
)

_JUMP = 16  # minimum frames that a seek must save: it resets the decoder and starts with a costly key frame
_MOST_REORDERED = 32  # maximum distance between decoding and presentation position of a packet; codecs allow 16
_MOST_SQUEEZED = 4  # maximum pixel aspect ratio, or its inverse; larger values in a file are taken as invalid
_SQUARE = 0.01  # pixels whose aspect ratio differs from 1 by at most this are square


class _KeyFrame(NamedTuple):
    """A frame at which decoding can start."""

    number: int
    stamp: int  # presentation timestamp, in the stream's time base


class _JumpFailed(Exception):
    """Decoding after a seek did not start with the key frame, or lost frames after it."""


class VideoReader:
    """One pass through a video.

    Attributes:
        width, height: size in pixels of the first frame that `frames` yields, after rotation.
        frame_count: number of displayed frames, counted from packets; of a truncated file, includes the missing ones
            that its index announces.
        fps: mean frames per second (0.0 if unknown).
        duration: display time of all frames in seconds (0.0 if unknown).
        dynamic_range: "sdr", "pq" or "hlg": that of the first frame in the file.
        pixel_aspect: width divided by height of the first frame's pixels, before rotation (1.0: square).
        lost: numbers of requested frames that could not be decoded, set by `frames`. Without `any_size`, it includes
            those in `other_size`.
        other_size: numbers of requested frames whose size differs from the first frame's, set by `frames`.
    """

    def __init__(self, path: str | Path, *, threads: int = 1, any_size: bool = False, as_shown: bool = False) -> None:
        """Open a video.

        Args:
            path: path of a file; never interpreted as a URL.
            threads: decoder threads (0: one per core).
            any_size: yield frames of another size than the first in their own size, instead of counting them as lost.
            as_shown: convert to square pixels, convert HDR (PQ, HLG) to BT.709, and make transparent pixels white.

        Raises:
            VideoError: missing, empty, not a video, in a format that can refer to other files, without a video
                stream, or with frames over `limits.FRAME_PIXELS`, which are not decoded.
        """
        self.path = Path(path)
        self.lost: list[int] = []
        self.other_size: list[int] = []
        self._threads, self._any_size, self._as_shown = threads, any_size, as_shown
        self._reformatter = VideoReformatter()
        self._quarter_turns = 0  # rotation of the last decoded frame, counterclockwise
        self._stamps: array | None = None  # presentation timestamps, sorted; None if they are unusable
        self._key_frames: list[_KeyFrame] = []  # seek targets; empty if seeking is unreliable
        self._unit = 0.0  # time base of the stream in seconds
        try:
            if regular(self.path).st_size == 0:
                raise VideoError(self.path, "the file has zero bytes")
        except OSError as error:
            raise VideoError(self.path, f"can't be opened: {error.strerror}") from error
        self._container = open_container(self.path)
        try:
            self._index = choose_stream(self._container, self.path)
            stream = self._stream()
            self._refuse_excess(stream.height, stream.width)
            self.fps = float(stream.average_rate or 0)
            self._unit = float(stream.time_base or 0)
            # A pixel aspect ratio from the container takes precedence over the one in the frames.
            aspect = stream.sample_aspect_ratio
            self._container_aspect = aspect if aspect != stream.codec_context.sample_aspect_ratio else None
            # The display matrix that rotates a phone's video comes with the first decoded frame.
            first = next(self._decoded(), None)
            if first is None:
                self._refuse_excess_of_image()
                raise VideoError(self.path, "no frame can be decoded")
            first, _ = first
            self.pixel_aspect, self.dynamic_range = self._aspect(), self._range()
            self.height, self.width = self._shown_size(first)
            self._refuse_excess(self.height, self.width)  # square pixels may be more
            self._look_through_packets()
            self.duration = self.frame_count / self.fps if self.fps else 0.0
        except av.FFmpegError as error:
            raise VideoError(self.path, f"can't be decoded: {error.strerror}") from error
        finally:
            self._container.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._container.close()

    def _stream(self) -> av.VideoStream:
        """The selected video stream of `_container`, with its decoder configured."""
        stream = video_stream(self._container, self._index)
        stream.codec_context.thread_count = self._threads
        # Otherwise the decoder conceals corrupt areas, and the frame looks valid.
        stream.codec_context.options = {"err_detect": "explode", **decoder_limits()}
        self._codec = stream.codec_context
        return stream

    def _refuse_excess(self, height: int, width: int) -> None:
        if excess := limits.excess(width, height, limits.FRAME_PIXELS):
            raise VideoError(self.path, f"its frames are too large: {excess}")

    def _refuse_excess_of_image(self) -> None:
        """FFmpeg hides the size of an image that it refuses to decode."""
        from dfdc import pictures  # here: it takes 8 MiB, which videos do not need

        if (size := pictures.size_of_image(self.path)) is not None:
            self._refuse_excess(size[1], size[0])

    def _look_through_packets(self) -> None:
        """Determine, without decoding, the number of displayed frames, their timestamps and the key frames."""
        # A container's own count may be an estimate, include frames that an edit list hides, or be wrong. It is used
        # only for a truncated file, whose index lists more frames than there are packets.
        stamps, is_key, stamped, decoded_at, seen = array("q"), array("b"), True, None, 0
        with open_container(self.path) as container:
            stream = video_stream(container, self._index)
            codec = stream.codec_context.name
            fields = Fields(codec, stream.codec_context.extradata)
            for packet in packets(container, stream):
                seen += not packet.is_discard
                if not (packet.is_discard or is_hidden(packet, codec) or fields.is_second(packet)):
                    before, decoded_at = decoded_at, packet.dts
                    begins_anew = before is not None and decoded_at is not None and decoded_at < before
                    stamped &= packet.pts is not None and not begins_anew
                    stamps.append(packet.pts or 0)
                    is_key.append(packet.is_keyframe)
            self.frame_count, kind = len(stamps), container.format.name
            reorders = stream.codec_context.has_b_frames
            indexed = stream.frames if "mp4" in kind else 0
            if indexed and seen:
                self.fps *= self.frame_count / seen  # FFmpeg computes it from packets
            if indexed > seen and stream.duration and stream.time_base and stream.average_rate:
                shown = round(stream.duration * stream.time_base * stream.average_rate)
                announced = min(indexed, shown, self.path.stat().st_size // 8)
                self.frame_count = max(self.frame_count, announced * self.frame_count // max(seen, 1))
        in_file = np.frombuffer(stamps, np.int64)
        order = np.argsort(in_file, kind="stable")
        in_order = np.arange(len(order))
        if not stamped or (np.abs(order - in_order) > _MOST_REORDERED).any():
            return  # timestamps are missing or start over (two recordings in one stream)
        if kind in ("avi", "asf") and reorders and (order == in_order).all():
            return  # these containers have no presentation timestamps, only decoding timestamps
        shown_at = in_file[order]
        self._stamps = array("q", shown_at.tobytes())
        # Other containers have no index by timestamp.
        if ("mp4" in kind or "matroska" in kind) and (np.diff(shown_at) > 0).all():
            numbers = np.flatnonzero(np.frombuffer(is_key, np.int8)[order])
            self._key_frames = [
                _KeyFrame(*pair) for pair in zip(numbers.tolist(), shown_at[numbers].tolist(), strict=True)
            ]

    def times(self) -> np.ndarray | None:
        """Presentation times in seconds after the first frame, float64 [frames]; None without usable timestamps.

        For a truncated file, only the frames in the file are included.
        """
        if not self._stamps or not self._unit:
            return None
        stamps = np.frombuffer(self._stamps, np.int64)
        return (stamps - stamps[0]) * self._unit

    def _decoded(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        """Decoded frames and whether they are valid."""
        # After an error, frames are predicted from corrupt ones until a valid key frame. A stream with intra refresh
        # has no further key frames. It counts as valid again after the decoder could have restarted twice.
        damaged, begun_anew = False, 0
        for packet in chain(packets(self._container, video_stream(self._container, self._index)), [None]):
            try:
                decoded = self._codec.decode(packet)  # None flushes the decoder
                begun_anew += packet is not None and packet.is_keyframe
            except av.FFmpegError:
                decoded = []
                damaged, begun_anew = True, 0
            for frame in decoded:
                if frame.is_corrupt:
                    damaged, begun_anew = True, 0
                elif frame.key_frame or begun_anew > 2:  # three, because the decoder outputs frames late
                    damaged = False
                # H.264 and HEVC may state the rotation at key frames only; it then applies to the frames that follow.
                angle = frame.rotation if abs(frame.rotation) <= 180 else 0  # larger: the file's matrix is corrupt
                self._quarter_turns = round(angle / 90) % 4 or self._quarter_turns
                yield frame, not damaged

    def numbered_frames(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        """Yield (frame number, decoded frame, whether it is valid) in presentation order.

        Args:
            wanted: sorted frame numbers; frames between them may be skipped. None: all frames.
        """
        last = -1
        try:
            for item in self._jumping(wanted or []):
                last = item[0]
                yield item
        except _JumpFailed:
            self._rewind()
            for item in self._numbered():
                if item[0] > last:
                    yield item

    def _rewind(self) -> av.VideoStream:
        self._container.close()
        self._container, self._quarter_turns = open_container(self.path), 0
        return self._stream()

    def _jumping(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        """As `numbered_frames`, seeking past unneeded frames; _JumpFailed: the result of a seek is unreliable."""
        stream, number = self._rewind(), -1
        while True:
            key = self._key_frame_before(wanted, number)
            if key is not None:
                try:
                    self._container.seek(key.stamp, stream=stream)
                except av.FFmpegError as error:
                    raise _JumpFailed from error
            for number, frame, sound in self._numbered(key):
                yield number, frame, sound
                if self._key_frame_before(wanted, number) is not None:
                    break
            else:
                return

    def _key_frame_before(self, wanted: Sequence[int], number: int) -> _KeyFrame | None:
        """The key frame to seek to after frame `number`; None if seeking to the next wanted frame saves too little."""
        place = bisect_right(wanted, number)
        if place == len(wanted):
            return None
        index = bisect_right(self._key_frames, wanted[place], key=lambda key: key.number) - 1
        return self._key_frames[index] if index >= 0 and self._key_frames[index].number > number + _JUMP else None

    def _numbered(self, key: _KeyFrame | None = None) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        """Number the decoded frames from the beginning, or from `key` after a seek to it.

        With `key`, any deviation from sequential decoding raises _JumpFailed.
        """
        # A frame's number is the number of packets displayed before it, even if those were lost. Without usable
        # timestamps, decoded frames are counted.
        number, stamps, begun = -1, self._stamps, key is None
        for frame, sound in self._decoded():
            if (shown_at := frame.pts) is None:
                stamps = None
            elif key is not None and not begun and shown_at < key.stamp:
                continue  # the seek went to an earlier key frame, or these frames precede the target
            found = number + 1
            if stamps is not None and shown_at is not None:
                first, end = bisect_left(stamps, shown_at), bisect_right(stamps, shown_at)
                found = max(first, found)  # the second of two frames with one timestamp
                if found > max(first, end - 1):
                    continue  # after corrupt data a decoder may repeat an old frame
            if key is not None and not (sound and found == (number + 1 if begun else key.number)):
                raise _JumpFailed
            number, begun = found, True
            yield number, frame, sound
        if key is not None and number + 1 < len(self._stamps or ()):
            raise _JumpFailed  # it ended before the last packet

    def frames(self, wanted: Iterable[int] | None = None, *, stride: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, image) of the requested frames in order; add the numbers of lost frames to `lost`.

        Args:
            wanted: frame numbers; None takes every `stride`-th frame to the end.
            stride: used if `wanted` is None.

        Yields:
            frame number and RGB uint8 [height, width, 3], upright; with `any_size`, sizes may vary.

        Raises:
            VideoError: none of the requested frames could be decoded.
        """
        targets = None if wanted is None else sorted(set(wanted))
        if targets is not None and (not targets or targets[0] < 0):
            raise ValueError(f"frame numbers must be at least 0, and at least one is needed; got {targets[:1]}")
        self.lost, self.other_size = [], []
        upcoming = count(0, stride) if targets is None else iter(targets)
        given, last, expected = 0, -1, next(upcoming)
        for number, frame, sound in self.numbered_frames(targets):
            last = number
            while expected is not None and expected < number:
                self.lost.append(expected)
                expected = next(upcoming, None)
            if expected is None:
                break
            if number != expected:
                continue
            expected = next(upcoming, None)
            # A stream may change its frame size; boxes are in pixels of one size.
            size = self._shown_size(frame)
            if sound and size != (self.height, self.width):
                self.other_size.append(number)
                sound = self._any_size and not limits.excess(*size, limits.FRAME_PIXELS)
            if not sound:
                self.lost.append(number)
                continue
            given += 1
            yield number, self._picture(frame)
            if expected is None:
                break
        if expected is not None:  # without `wanted`, up to the last frame that the container announces
            end = max(self.frame_count, last + 1) if targets is None else targets[-1] + 1
            self.lost += takewhile(lambda number: number < end, chain([expected], upcoming))
        if not given:
            raise VideoError(self.path, "none of the requested frames can be decoded")

    def _range(self) -> str:
        """Dynamic range of the last decoded frame."""
        return video_picture.RANGES.get(self._codec.color_trc, "sdr")

    def _aspect(self) -> float:
        """Pixel aspect ratio (width / height) of the last decoded frame; 1.0 if missing, invalid or nearly square."""
        aspect = float(self._container_aspect or self._codec.sample_aspect_ratio or 1)
        return aspect if 1 / _MOST_SQUEEZED <= aspect <= _MOST_SQUEEZED and abs(aspect - 1) > _SQUARE else 1.0

    def _square_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """(height, width) before rotation; with `as_shown`, with square pixels by enlarging one side."""
        aspect = self._aspect() if self._as_shown else 1.0
        return (
            (frame.height, round(frame.width * aspect)) if aspect > 1 else (round(frame.height / aspect), frame.width)
        )

    def _shown_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """(height, width) of the frame after rotation."""
        size = self._square_size(frame)
        return size[::-1] if self._quarter_turns % 2 else size

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        if not self._as_shown:
            picture = video_picture.to_rgb(frame, self._reformatter)
        elif self._range() == "sdr":
            picture = video_picture.to_opaque(frame, self._reformatter)
        else:
            picture = video_picture.to_sdr(frame, self._range(), self._reformatter)
        picture = video_picture.resized(picture, self._square_size(frame))
        return np.ascontiguousarray(np.rot90(picture, self._quarter_turns))


def write_video(path: str | Path, frames: Iterable[np.ndarray], *, fps: float = 25.0, crf: int = 23) -> None:
    """Write H.264 (yuv420p) to `path` atomically; one thread, so that equal frames result in equal bytes.

    Args:
        frames: RGB uint8 [h, w, 3], all of the same size with even sides; at least one.
        fps: frames per second.
        crf: x264's constant rate factor, 0 (lossless) to 51.

    Raises:
        ValueError: no frames, odd sizes, or frames of different sizes.
    """
    shape, options = None, {"fflags": "+bitexact"}  # bitexact: omit the date
    with atomic_file(Path(path)) as temp, av.open(str(temp), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        # At some widths, x264's macroblock tree reads uninitialised memory, so the bytes would vary between runs.
        stream.options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
        for picture in frames:
            if shape is None:
                shape = picture.shape
                if len(shape) != 3 or shape[0] % 2 or shape[1] % 2:
                    raise ValueError(f"expected frames [h, w, 3] with even height and width, not {list(shape)}")
                stream.height, stream.width = shape[:2]
            if picture.shape != shape:
                raise ValueError(f"a frame of {list(picture.shape)} follows frames of {list(shape)}")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        if shape is None:
            raise ValueError("there are no frames to write")
        container.mux(stream.encode(None))
