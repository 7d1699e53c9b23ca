"""Opens video files: the allowed formats, the choice of the video stream, and its packets.

Some FFmpeg formats are lists of other files or URLs (playlists, manifests, numbered images). An untrusted file must not
make this machine open other files. So only formats that contain their own frames are allowed.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import av.logging

from dfdc import limits
from dfdc.command_line import UserError

# FFmpeg's names of formats that contain their own frames and open no other file. Excluded are the lists below, scripts,
# devices, audio and old game formats.
FORMATS = (
    "3dostr,amv,anm,apng,asf,asf_o,av1,avi,avs2,avs3,bink,bmp_pipe,cavsvideo,cine,dhav,dirac,dnxhd,"
    "dv,ea,evc,film_cpk,flic,flv,gif,gif_pipe,gxf,h261,h263,h264,hevc,ingenient,ivf,j2k_pipe,"
    "jpeg_pipe,jpegls_pipe,jpegxl_anim,jpegxl_pipe,kux,live_flv,lmlm4,lxf,m4v,matroska,mjpeg,mjpeg_2000,"
    "mov,mpeg,mpegts,mpegtsraw,mpegvideo,mpjpeg,mxf,nsv,nut,nuv,obu,ogg,png_pipe,pva,r3d,rm,roq,"
    "ser,smjpeg,smk,swf,tiff_pipe,ty,vc1,vc1test,vivo,vvc,webp_pipe,wtv,xmv,yuv4mpegpipe"
)

# Formats that consist of names of other files or of URLs.
LISTS = {"applehttp", "concat", "dash", "hls", "image2", "imf", "mlv", "rtp", "rtsp", "sap", "sdp", "vobsub"}

_ENOUGH = 0.5  # minimum packets of the video stream, as a fraction of the longest stream's


class VideoError(UserError, RuntimeError):
    """An unreadable video; the message says why, `path` says which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple:
        return (VideoError, (self.path, self.reason))  # so that it can be pickled


def open_container(path: Path) -> av.container.InputContainer:
    """Open a file in one of `FORMATS`; no other file is opened.

    Raises:
        VideoError: another format, or FFmpeg can't open the file.
    """
    try:
        return _open(path)
    except av.ArgumentError as error:  # FFmpeg's error for a format that is not in the list
        raise VideoError(path, _refusal(path) or f"not a readable video: {error.strerror}") from error
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(path, f"not a readable video: {reason}") from error


def _open(path: Path) -> av.container.InputContainer:
    # 'file:' keeps FFmpeg from reading a name such as 'http:x.mp4' or '-' as a protocol.
    lists = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    # FFmpeg may decode frames to find their format.
    return av.open(f"file:{path}", metadata_errors="ignore", options=decoder_limits(), container_options=lists)


def decoder_limits() -> dict[str, str]:
    """FFmpeg's option against frames that declare more than `limits.FRAME_PIXELS`, at the start or later.

    FFmpeg counts rows rounded up to 64 pixels, hence the half more.
    """
    return {"max_pixels": str(limits.FRAME_PIXELS * 3 // 2)}


def _refusal(path: Path) -> str | None:
    """Why the format of `path` is rejected; None if the format is not the reason. FFmpeg names it only in its log."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture():  # keep it out of the program's own log
            _open(path).close()
    except av.ArgumentError as error:
        log: Any = error.log  # level, format, text; PyAV declares another form
        _, kind, text = log or (0, "", "")
        if "whitelist" in text:
            lists = LISTS & set(kind.split(","))
            reason = "it refers to other files or URLs instead of containing frames" if lists else "it is not a video"
            return f"its format '{kind}' is not allowed: {reason}"
    finally:
        av.logging.set_level(level)
    return None


def choose_stream(container: av.container.InputContainer, path: Path) -> int:
    """Index of the main video stream.

    Cover images and thumbnails are never chosen. Streams with fewer than half of the packets of the longest one are
    excluded as previews. Of the others, the stream that the file marks as default wins, then the one with the largest
    frames, then the first.

    Raises:
        VideoError: no video stream, or no decoder for it.
    """
    streams = [stream for stream in container.streams.video if not _is_still(stream)]
    if not streams:
        raise VideoError(path, "it has no video stream")
    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:
        raise VideoError(path, "no decoder is available for its video codec")
    if len(streams) > 1:
        with open_container(path) as other:
            others = [video_stream(other, stream.index) for stream in streams]
            counts = Counter(packet.stream_index for packet in packets(other, *others))
        enough = _ENOUGH * max(counts.values(), default=0)
        streams = [stream for stream in streams if counts[stream.index] >= enough]
    default = streams[0].disposition.default
    return max(streams, key=lambda stream: (bool(stream.disposition & default), stream.width * stream.height)).index


def video_stream(container: av.container.InputContainer, index: int) -> av.VideoStream:
    """The stream chosen by `choose_stream`, in this or another container of the same file."""
    return next(stream for stream in container.streams.video if stream.index == index)


def _is_still(stream: av.VideoStream) -> bool:
    kinds = type(stream.disposition)
    return bool(stream.disposition & (kinds.attached_pic | kinds.timed_thumbnails | kinds.still_image))


def packets(container: av.container.InputContainer, *streams: av.VideoStream) -> Iterator[av.Packet]:
    """The non-empty packets of `streams`, up to the end of the file or the first error.

    An empty packet (a frame omitted in an AVI) would signal the end of the stream to the decoder. At the end of the
    file, PyAV's demux yields one per stream. It raises IndexError there if the file has an undeclared stream; all
    packets have been read by then.
    """
    with contextlib.suppress(av.FFmpegError, IndexError):
        for packet in container.demux(*streams):
            if packet.size:
                yield packet


def is_hidden(packet: av.Packet, codec: str) -> bool:
    """Whether a packet contains a frame that is decoded but never displayed (alternate reference of VP8 and VP9).

    RFC 6386, section 9.1: bit 4 of the first byte of VP8 is show_frame. VP9 Bitstream Specification 0.6, section 6.2:
    frame_marker (2 bits), profile (2 bits, a reserved one after profile 3), show_existing_frame, frame_type and
    show_frame. A superframe (annex B), which ends with its index, shows its last frame.
    """
    data = memoryview(packet)
    if codec == "vp8":
        return not data[0] & 0x10
    if codec == "vp9" and data[-1] & 0xE0 != 0xC0:
        spare = data[0] >> 4 & 3 != 3  # bits after show_frame, except for profile 3
        return not data[0] >> 2 + spare & 1 and not data[0] >> spare & 1
    return False
