"""Reading and writing videos: the only module that touches a decoder (FFmpeg through PyAV).

Frame k is the k-th frame of the stream in the order of showing. Frames are numbered by the packets' time
stamps and not by counting what comes out of the decoder, so that one lost frame does not shift the rest.
Where few frames of a long video are wanted, the reader jumps from key frame to key frame; pictures and numbers are
those of reading it all, which is what it goes back to where a jump does not land where it should, or into damage.
(Behind damage a jump may show frames that are lost to a decoder that came through it.)
Colours are converted as OpenCV's reader does it (bicubic chroma, the stream's own matrix): the published
weights were trained on such pixels.
"""

from __future__ import annotations

import contextlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dfdc.artifacts import atomic_file
from dfdc.identity import regular

if TYPE_CHECKING:
    import av

_JUMP = 16  # frames that a jump must spare: it empties the decoder, and begins with a key frame, the dearest
_MOST_REORDERED = 32  # places that a packet may lie from where it is shown; codecs allow 16


class VideoError(RuntimeError):
    """A video that can't be read; the message says why, `path` which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple:
        return (VideoError, (self.path, self.reason))  # so that it survives the way between processes


class _KeyFrame(NamedTuple):
    """A frame at which decoding can begin."""

    number: int
    stamp: int  # in the stream's unit of time


class _JumpFailed(Exception):
    """Decoding from a key frame did not begin with it, or something was lost after it."""


class VideoReader:
    """One pass through a video.

    Attributes:
        width, height: of the picture as shown, after rotation, in pixels.
        frame_count: frames to be shown, counted by the packets; those a cut file announces but lacks included.
        fps: mean frames per second (0.0 if unknown).
        duration: seconds that the frames are shown (0.0 if unknown).
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
        self._stamps: array | None = None  # of the frames, in the order of showing; None where they mean nothing
        self._key_frames: list[_KeyFrame] = []  # to jump to; none where that is not to be relied on
        self._unit = 0.0  # seconds of the stream's unit of time
        try:
            if regular(self.path).st_size == 0:
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
            self._unit = float(stream.time_base or 0)
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
        if stream.codec_context is None:
            raise VideoError(self.path, "its pictures are in a format that can't be decoded here")
        stream.codec_context.thread_count = self._threads
        # Without it, damage is painted over with what lies around it, and passes for a picture.
        stream.codec_context.options = {"err_detect": "explode"}
        return stream

    def _look_through_packets(self) -> None:
        """Find out, without decoding, how many frames are shown, when, and which are key frames.

        A container's own count may be an estimate, count frames that an edit list hides, or be a lie. It is believed
        only where the file was cut: an index that lists more frames than there are packets.
        """
        import av

        stamps, is_key, stamped = array("q"), array("b"), True
        with self._open() as container:
            stream = self._stream_of(container)
            packets = container.demux(stream)
            with contextlib.suppress(av.FFmpegError):  # a cut file: what came before counts
                for packet in packets:
                    if packet.size and not packet.is_discard:
                        stamped &= packet.pts is not None
                        stamps.append(packet.pts or 0)
                        is_key.append(packet.is_keyframe)
            self.frame_count, kind = len(stamps), container.format.name
            reorders = stream.codec_context.has_b_frames
            indexed = stream.frames if "mp4" in kind else 0
            if indexed > self.frame_count and stream.duration and stream.average_rate:
                shown = round(stream.duration * stream.time_base * stream.average_rate)
                self.frame_count = max(self.frame_count, min(indexed, shown, self.path.stat().st_size // 8))
        in_file = np.frombuffer(stamps, np.int64)
        order = np.argsort(in_file, kind="stable")
        in_order = np.arange(len(order))
        if not stamped or (np.abs(order - in_order) > _MOST_REORDERED).any():
            return  # without stamps, or they begin anew: two recordings in one stream
        if kind in ("avi", "asf") and reorders and (order == in_order).all():
            return  # these have no time of showing: the stamps are the order of decoding
        shown_at = in_file[order]
        self._stamps = array("q", shown_at.tobytes())
        # Other containers have no index that a time stamp leads into.
        if ("mp4" in kind or "matroska" in kind) and (np.diff(shown_at) > 0).all():
            numbers = np.flatnonzero(np.frombuffer(is_key, np.int8)[order])
            self._key_frames = [
                _KeyFrame(*pair) for pair in zip(numbers.tolist(), shown_at[numbers].tolist(), strict=True)
            ]

    def times(self) -> np.ndarray | None:
        """float64 [frames]: when each frame is shown, in seconds after the first; None where the file does not say.

        A cut file says it only of the frames that it holds.
        """
        if not self._stamps or not self._unit:
            return None
        stamps = np.frombuffer(self._stamps, np.int64)
        return (stamps - stamps[0]) * self._unit

    def _decoded(self, stream: av.VideoStream) -> Iterator[tuple[av.VideoFrame, bool]]:
        """Decoded frames and whether they are sound.

        After an error pictures are built on broken ones, until a sound key frame. A stream without further ones, which
        refreshes its pictures part by part, is sound again when its decoder could have begun anew twice since.
        """
        import av

        damaged, begun_anew = False, 0
        packets = self._container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                # A broken index or a cut file: nothing comes after it, but the decoder still holds frames.
                packet = None
            try:
                decoded = packet.decode() if packet is not None else stream.decode(None)
                begun_anew += packet is not None and packet.is_keyframe
            except av.FFmpegError:
                decoded = []
                damaged, begun_anew = True, 0
            for frame in decoded:
                if frame.is_corrupt:
                    damaged, begun_anew = True, 0
                elif frame.key_frame or begun_anew > 2:  # the third: the decoder hands out frames late
                    damaged = False
                yield frame, not damaged
            if packet is None:
                return

    def numbered_frames(self, wanted: Sequence[int] | None = None) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        """(frame number, undisplayed frame, whether it is sound) of the frames that come out of the decoder.

        Args:
            wanted: sorted frame numbers; frames between them may be left out. None: all frames.
        """
        last = -1
        try:
            for item in self._jumping(wanted or []):
                last = item[0]
                yield item
        except _JumpFailed:
            for item in self._numbered(self._rewound()):
                if item[0] > last:
                    yield item

    def _rewound(self) -> av.VideoStream:
        self._container.close()
        self._container = self._open()
        return self._stream()

    def _jumping(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        """As `numbered_frames`, over what lies between the wanted frames.

        Raises:
            _JumpFailed: what came after a jump is not to be relied on.
        """
        import av

        stream, number = self._rewound(), -1
        while True:
            key = self._key_frame_before(wanted, number)
            if key is not None:
                try:
                    self._container.seek(key.stamp, stream=stream)
                except av.FFmpegError as error:
                    raise _JumpFailed from error
            for number, frame, sound in self._numbered(stream, key):
                yield number, frame, sound
                if self._key_frame_before(wanted, number) is not None:
                    break
            else:
                return

    def _key_frame_before(self, wanted: Sequence[int], number: int) -> _KeyFrame | None:
        """The key frame to go on from after frame `number`, if that spares something on the way to what is wanted."""
        place = bisect_right(wanted, number)
        if place == len(wanted):
            return None
        index = bisect_right(self._key_frames, wanted[place], key=lambda key: key.number) - 1
        return self._key_frames[index] if index >= 0 and self._key_frames[index].number > number + _JUMP else None

    def _numbered(
        self, stream: av.VideoStream, key: _KeyFrame | None = None
    ) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        """Number what is decoded from the beginning, or from `key`, to which the container was set.

        A frame's number is how many packets are shown before it, whatever became of those. Where the stamps mean
        nothing, counting is all there is.

        Raises:
            _JumpFailed: with `key`, at whatever is not as it would be had all been read.
        """
        number, stamps, begun = -1, self._stamps, key is None
        for frame, sound in self._decoded(stream):
            if frame.pts is None:
                stamps = None
            elif not begun and frame.pts < key.stamp:
                continue  # the container went back to an earlier key frame, or these come out before it
            found = number + 1
            if stamps is not None:
                first, end = bisect_left(stamps, frame.pts), bisect_right(stamps, frame.pts)
                found = max(first, found)  # of two with one stamp, the second comes second
                if found > max(first, end - 1):
                    continue  # after damage a decoder may hand out an old frame once more
            if key is not None and not (sound and found == (number + 1 if begun else key.number)):
                raise _JumpFailed
            number, begun = found, True
            yield number, frame, sound
        if key is not None and number + 1 < len(self._stamps or ()):
            raise _JumpFailed  # it ended before the last packet

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
        for number, frame, sound in self.numbered_frames(targets):
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
