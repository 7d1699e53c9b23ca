"""Reading and writing videos: with its two helpers, the only module that touches a decoder (FFmpeg through PyAV).

Frame k is the k-th frame of the stream in the order of showing. Frames are numbered by the packets' time
stamps and not by counting what comes out of the decoder, so that one lost frame does not shift the rest.
Where few frames of a long video are wanted, the reader jumps from key frame to key frame; pictures and numbers are
those of reading it all, which is what it goes back to where a jump does not land where it should, or into damage.
(Behind damage a jump may show frames that are lost to a decoder that came through it.)
Colours are converted as OpenCV's reader does it (bicubic chroma, the stream's own matrix): the published
weights were trained on such pixels. Scoring asks for pictures as a player shows them: square pixels, and a high
dynamic range brought down to the usual one.
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

from dfdc import video_picture
from dfdc.artifacts import atomic_file
from dfdc.identity import regular
from dfdc.video_fields import Fields
from dfdc.video_source import VideoError, choose_stream, is_hidden, open_container, packets, video_stream

_JUMP = 16  # frames that a jump must spare: it empties the decoder, and begins with a key frame, the dearest
_MOST_REORDERED = 32  # places that a packet may lie from where it is shown; codecs allow 16
_MOST_SQUEEZED = 4  # times as wide as high, or the reverse: a pixel that the file says is more so is a lie
_SQUARE = 0.01  # a pixel whose sides differ by no more is square


class _KeyFrame(NamedTuple):
    """A frame at which decoding can begin."""

    number: int
    stamp: int  # in the stream's unit of time


class _JumpFailed(Exception):
    """Decoding from a key frame did not begin with it, or something was lost after it."""


class VideoReader:
    """One pass through a video.

    Attributes:
        width, height: of the first picture as `frames` gives it, after rotation, in pixels.
        frame_count: frames to be shown, counted by the packets; those a cut file announces but lacks included.
        fps: mean frames per second (0.0 if unknown).
        duration: seconds that the frames are shown (0.0 if unknown).
        dynamic_range: "sdr", "pq" or "hlg", of the first frame as it is in the file.
        pixel_aspect: width of the first frame's pixels to their height, before rotation (1.0: square).
        lost: numbers of the wanted frames that could not be decoded, filled by `frames`. Without `any_size`, those in
            `other_size` are among them.
        other_size: numbers of the wanted frames whose size is not that of the first frame, filled by `frames`.
    """

    def __init__(self, path: str | Path, *, threads: int = 1, any_size: bool = False, as_shown: bool = False) -> None:
        """Open a video.

        Args:
            path: a file; its name is taken as it is.
            threads: of the decoder (0: as many as there are cores).
            any_size: give frames of another size than the first in their own size, instead of counting them as lost.
            as_shown: make pixels square, bring a high dynamic range (PQ, HLG) down to BT.709, show what is
                transparent as white.

        Raises:
            VideoError: not there, empty, not a video, of a format that can name other files, or without a picture
                stream.
        """
        self.path = Path(path)
        self.lost: list[int] = []
        self.other_size: list[int] = []
        self._threads, self._any_size, self._as_shown = threads, any_size, as_shown
        self._quarter_turns = 0  # of the frame that was decoded last, against the clock
        self._stamps: array | None = None  # of the frames, in the order of showing; None where they mean nothing
        self._key_frames: list[_KeyFrame] = []  # to jump to; none where that is not to be relied on
        self._unit = 0.0  # seconds of the stream's unit of time
        try:
            if regular(self.path).st_size == 0:
                raise VideoError(self.path, "the file has zero bytes")
        except OSError as error:
            raise VideoError(self.path, f"can't be opened: {error.strerror}") from error
        self._container = open_container(self.path)
        try:
            self._index = choose_stream(self._container, self.path)
            stream = self._stream()
            self.fps = float(stream.average_rate or 0)
            self._unit = float(stream.time_base or 0)
            # What only the container says of the pixels' sides goes before what the frames say.
            aspect = stream.sample_aspect_ratio
            self._container_aspect = aspect if aspect != stream.codec_context.sample_aspect_ratio else None
            # The display matrix that turns a phone's video upright comes with the first decoded frame.
            first = next(self._decoded(), None)
            if first is None:
                raise VideoError(self.path, "no frame of it can be decoded")
            first, _ = first
            self.pixel_aspect, self.dynamic_range = self._aspect(), self._range()
            self.height, self.width = self._shown_size(first)
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
        """The film in `_container`, ready to be decoded."""
        stream = video_stream(self._container, self._index)
        stream.codec_context.thread_count = self._threads
        # Without it, damage is painted over with what lies around it, and passes for a picture.
        stream.codec_context.options = {"err_detect": "explode"}
        self._codec = stream.codec_context
        return stream

    def _look_through_packets(self) -> None:
        """Find out, without decoding, how many frames are shown, when, and which are key frames."""
        # A container's own count may be an estimate, count frames that an edit list hides, or be a lie. It is believed
        # only where the file was cut: an index that lists more frames than there are packets.
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
                self.fps *= self.frame_count / seen  # it is reckoned with packets
            if indexed > seen and stream.duration and stream.time_base and stream.average_rate:
                shown = round(stream.duration * stream.time_base * stream.average_rate)
                announced = min(indexed, shown, self.path.stat().st_size // 8)
                self.frame_count = max(self.frame_count, announced * self.frame_count // max(seen, 1))
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

    def _decoded(self) -> Iterator[tuple[av.VideoFrame, bool]]:
        """Decoded frames and whether they are sound."""
        # After an error pictures are built on broken ones, until a sound key frame. A stream without further ones,
        # which refreshes its pictures part by part, is sound again when its decoder could have begun anew twice since.
        damaged, begun_anew = False, 0
        for packet in chain(packets(self._container, video_stream(self._container, self._index)), [None]):
            try:
                decoded = self._codec.decode(packet)  # None: the frames that the decoder still holds
                begun_anew += packet is not None and packet.is_keyframe
            except av.FFmpegError:
                decoded = []
                damaged, begun_anew = True, 0
            for frame in decoded:
                if frame.is_corrupt:
                    damaged, begun_anew = True, 0
                elif frame.key_frame or begun_anew > 2:  # the third: the decoder hands out frames late
                    damaged = False
                # H.264 and HEVC may say it at key frames only; it then holds for what follows.
                self._quarter_turns = round(frame.rotation / 90) % 4 or self._quarter_turns
                yield frame, not damaged

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
            self._rewind()
            for item in self._numbered():
                if item[0] > last:
                    yield item

    def _rewind(self) -> av.VideoStream:
        self._container.close()
        self._container, self._quarter_turns = open_container(self.path), 0
        return self._stream()

    def _jumping(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        """As `numbered_frames`, over what lies between; _JumpFailed: what came after a jump can't be relied on."""
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
        """The key frame to go on from after frame `number`, if that spares something on the way to what is wanted."""
        place = bisect_right(wanted, number)
        if place == len(wanted):
            return None
        index = bisect_right(self._key_frames, wanted[place], key=lambda key: key.number) - 1
        return self._key_frames[index] if index >= 0 and self._key_frames[index].number > number + _JUMP else None

    def _numbered(self, key: _KeyFrame | None = None) -> Iterator[tuple[int, av.VideoFrame, bool]]:
        """Number what is decoded from the beginning, or from `key`, to which the container was set.

        With `key`, whatever is not as it would be had all been read raises _JumpFailed.
        """
        # A frame's number is how many packets are shown before it, whatever became of those. Where the stamps mean
        # nothing, counting is all there is.
        number, stamps, begun = -1, self._stamps, key is None
        for frame, sound in self._decoded():
            if (shown_at := frame.pts) is None:
                stamps = None
            elif key is not None and not begun and shown_at < key.stamp:
                continue  # the container went back to an earlier key frame, or these come out before it
            found = number + 1
            if stamps is not None and shown_at is not None:
                first, end = bisect_left(stamps, shown_at), bisect_right(stamps, shown_at)
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
            frame number and RGB uint8 [height, width, 3], upright; with `any_size`, in a size of its own.

        Raises:
            VideoError: if decoding ends without a single one of the wanted frames.
        """
        targets = None if wanted is None else sorted(set(wanted))
        if targets is not None and (not targets or targets[0] < 0):
            raise ValueError(f"wanted frames must be numbers from 0 on, not {targets[:1]}")
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
            # A stream may change its size on the way; boxes are in the pixels of one size.
            if sound and self._shown_size(frame) != (self.height, self.width):
                self.other_size.append(number)
                sound = self._any_size
            if not sound:
                self.lost.append(number)
                continue
            given += 1
            yield number, self._picture(frame)
            if expected is None:
                break
        if expected is not None:  # of all frames, those that the container announces behind the last decoded one
            end = max(self.frame_count, last + 1) if targets is None else targets[-1] + 1
            self.lost += takewhile(lambda number: number < end, chain([expected], upcoming))
        if not given:
            raise VideoError(self.path, "none of the wanted frames can be decoded")

    def _range(self) -> str:
        """Dynamic range of what was decoded last."""
        return video_picture.RANGES.get(self._codec.color_trc, "sdr")

    def _aspect(self) -> float:
        """Width to height of a pixel of what was decoded last; 1.0 where the file says nothing, or what can't be."""
        aspect = float(self._container_aspect or self._codec.sample_aspect_ratio or 1)
        return aspect if 1 / _MOST_SQUEEZED <= aspect <= _MOST_SQUEEZED and abs(aspect - 1) > _SQUARE else 1.0

    def _square_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """(height, width) before rotation, with square pixels: the direction that is squeezed is enlarged."""
        aspect = self._aspect() if self._as_shown else 1.0
        return (
            (frame.height, round(frame.width * aspect)) if aspect > 1 else (round(frame.height / aspect), frame.width)
        )

    def _shown_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """(height, width) of the picture that is made of the frame."""
        size = self._square_size(frame)
        return size[::-1] if self._quarter_turns % 2 else size

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        if not self._as_shown:
            picture = video_picture.to_rgb(frame)
        elif self._range() == "sdr":
            picture = video_picture.to_opaque(frame)
        else:
            picture = video_picture.to_sdr(frame, self._range())
        picture = video_picture.resized(picture, self._square_size(frame))
        return np.ascontiguousarray(np.rot90(picture, self._quarter_turns))


def write_video(path: str | Path, frames: Iterable[np.ndarray], *, fps: float = 25.0, crf: int = 23) -> None:
    """Write H.264 (yuv420p, one thread, so that the same frames give the same bytes) to `path`, atomically.

    Args:
        frames: RGB uint8 [h, w, 3], all of one even size; at least one.
        fps: frames per second.
        crf: x264's constant rate factor, 0 (lossless) to 51.

    Raises:
        ValueError: no frames, odd sizes, or frames of different sizes.
    """
    shape, options = None, {"fflags": "+bitexact"}  # bitexact: no date in the file
    with atomic_file(Path(path)) as temp, av.open(str(temp), "w", format="mp4", options=options) as container:
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
