"""Opening a video file: which formats are read, which stream of the file is the film, and its packets.

FFmpeg knows formats that are lists of other files or addresses (playlists, manifests, numbered pictures). A file that
somebody sent must not make this machine open another one. So only formats are read that hold their own pictures.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import av.logging

from dfdc.command_line import UserError

# FFmpeg's names of the formats that hold pictures of their own and open no further file.
# Left out are the lists below, scripts, devices, sound and old games.
FORMATS = (
    "3dostr,amv,anm,apng,asf,asf_o,av1,avi,avs2,avs3,bink,bmp_pipe,cavsvideo,cine,dhav,dirac,dnxhd,"
    "dv,ea,evc,film_cpk,flic,flv,gif,gif_pipe,gxf,h261,h263,h264,hevc,ingenient,ivf,j2k_pipe,"
    "jpeg_pipe,jpegls_pipe,jpegxl_anim,jpegxl_pipe,kux,live_flv,lmlm4,lxf,m4v,matroska,mjpeg,mjpeg_2000,"
    "mov,mpeg,mpegts,mpegtsraw,mpegvideo,mpjpeg,mxf,nsv,nut,nuv,obu,ogg,png_pipe,pva,r3d,rm,roq,"
    "ser,smjpeg,smk,swf,tiff_pipe,ty,vc1,vc1test,vivo,vvc,webp_pipe,wtv,xmv,yuv4mpegpipe"
)

# Formats that consist of the names of other files or of addresses.
LISTS = {"applehttp", "concat", "dash", "hls", "image2", "imf", "mlv", "rtp", "rtsp", "sap", "sdp", "vobsub"}

_ENOUGH = 0.5  # of the packets of the longest stream: a stream with fewer is not the film


class VideoError(UserError, RuntimeError):
    """A video that can't be read; the message says why, `path` which."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple:
        return (VideoError, (self.path, self.reason))  # so that it survives the way between processes


def open_container(path: Path) -> av.container.InputContainer:
    """Open a file in one of `FORMATS`, and no other file.

    Raises:
        VideoError: another format, or what FFmpeg can't open.
    """
    try:
        return _open(path)
    except av.ArgumentError as error:  # what FFmpeg answers to a format that is not on the list
        raise VideoError(path, _refusal(path) or f"not a readable video: {error.strerror}") from error
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(path, f"not a readable video: {reason}") from error


def _open(path: Path) -> av.container.InputContainer:
    # 'file:' keeps FFmpeg from reading a name such as 'http:x.mp4' or '-' as a protocol.
    lists = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    return av.open(f"file:{path}", metadata_errors="ignore", container_options=lists)


def _refusal(path: Path) -> str | None:
    """Why the format of `path` is refused; None if the format is not the reason. FFmpeg names it in its log only."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture():  # the program's own log need not show it
            _open(path).close()
    except av.ArgumentError as error:
        log: Any = error.log  # level, format, text; PyAV declares another form
        _, kind, text = log or (0, "", "")
        if "whitelist" in text:
            lists = LISTS & set(kind.split(","))
            reason = "it names other files or addresses instead of holding pictures" if lists else "it is no video"
            return f"its format '{kind}' is refused: {reason}"
    finally:
        av.logging.set_level(level)
    return None


def choose_stream(container: av.container.InputContainer, path: Path) -> int:
    """Index of the stream that is the film.

    Cover pictures and thumbnails are never taken. Of several streams, those with less than half of the packets of the
    longest one are left out (previews). Then the stream that the file marks as default wins, then the largest picture,
    then the first.

    Raises:
        VideoError: no picture stream, or none that can be decoded here.
    """
    streams = [stream for stream in container.streams.video if not _is_still(stream)]
    if not streams:
        raise VideoError(path, "it has no picture stream")
    streams = [stream for stream in streams if stream.codec_context is not None]
    if not streams:
        raise VideoError(path, "its pictures are in a format that can't be decoded here")
    if len(streams) > 1:
        with open_container(path) as other:
            others = [video_stream(other, stream.index) for stream in streams]
            counts = Counter(packet.stream_index for packet in packets(other, *others))
        enough = _ENOUGH * max(counts.values(), default=0)
        streams = [stream for stream in streams if counts[stream.index] >= enough]
    default = streams[0].disposition.default
    return max(streams, key=lambda stream: (bool(stream.disposition & default), stream.width * stream.height)).index


def video_stream(container: av.container.InputContainer, index: int) -> av.VideoStream:
    """The stream that `choose_stream` chose, of this or another container of the same file."""
    return next(stream for stream in container.streams.video if stream.index == index)


def _is_still(stream: av.VideoStream) -> bool:
    kinds = type(stream.disposition)
    return bool(stream.disposition & (kinds.attached_pic | kinds.timed_thumbnails | kinds.still_image))


def packets(container: av.container.InputContainer, *streams: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of `streams` that hold something, up to where the file ends or breaks off.

    An empty packet (a frame that an AVI leaves out) would tell the decoder that the stream ends. At the end of the
    file PyAV's demux hands out one for each stream, and raises IndexError if it met a stream that the file did not
    announce; so everything was read by then.
    """
    with contextlib.suppress(av.FFmpegError, IndexError):
        for packet in container.demux(*streams):
            if packet.size:
                yield packet


def is_hidden(packet: av.Packet, codec: str) -> bool:
    """Whether a packet holds a frame that is decoded, but never shown (VP8's and VP9's alternate reference frames).

    RFC 6386, section 9.1: bit 4 of the first byte of VP8 is show_frame. VP9 Bitstream Specification 0.6, section 6.2:
    frame_marker (2 bits), profile (2 bits, a reserved one after profile 3), show_existing_frame, frame_type and
    show_frame. A superframe (annex B), which ends with its index, shows its last frame.
    """
    data = memoryview(packet)
    if codec == "vp8":
        return not data[0] & 0x10
    if codec == "vp9" and data[-1] & 0xE0 != 0xC0:
        spare = data[0] >> 4 & 3 != 3  # bits behind show_frame, but for profile 3
        return not data[0] >> 2 + spare & 1 and not data[0] >> spare & 1
    return False
