"""Field-coded H.264 of camcorders: a frame in two packets, one per field.

FFmpeg outputs separately coded fields as separate packets, but one frame for both. So the second packet must not be
counted; only the slice header identifies it. (For MPEG-2, FFmpeg puts both fields into one packet.)
"""

from __future__ import annotations

from collections.abc import Iterator

import av

_SLICES, _SEQUENCE = (1, 5), 7  # ITU-T H.264, table 7-1
_START = b"\0\0\1"
_ENOUGH = 64  # bytes; more than the part of a header that is parsed, without scaling lists
_ENOUGH_OF_SEQUENCE = 1 << 10  # bytes of a sequence parameter set that are parsed
_MOST_FRAME_BITS = 16  # 7.4.2.1.1: log2_max_frame_num_minus4 is at most 12
_WITH_CHROMA = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138)  # profiles in 7.3.2.1.1 with chroma fields


class _Bits:
    """Reads an H.264 NAL unit bit by bit; after its end all bits are 1, so that every number ends."""

    def __init__(self, unit: bytes) -> None:
        data = unit[1:].replace(b"\0\0\3", b"\0\0")  # 7.3.1: emulation prevention
        self._bits, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        value = 0
        for _ in range(count):
            self._left -= 1
            value = 2 * value + (1 if self._left < 0 else self._bits >> self._left & 1)
        return value

    def number(self) -> int:
        """ue(v) of 9.1."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


class Fields:
    """Detects second fields; call it for every packet in file order."""

    def __init__(self, codec: str, header: bytes | None) -> None:
        """`header` is the codec's global header, as an H.264 byte stream (annex B) or configuration record (avcC)."""
        self._size_bytes = 0  # bytes of the length prefix of each unit; 0: start codes
        self._frame_bits: int | None = None  # length of frame_num; None: the stream has no fields
        self._first: int | None = None  # parity of a first field whose second is pending
        if codec != "h264" or not header or len(header) < 9:
            return
        units = _units(header, 0)
        if header[0] == 1:  # ISO/IEC 14496-15, 5.3.3.1
            self._size_bytes = (header[4] & 3) + 1
            units = iter([header[8:]])
        for unit in units:
            if unit[0] & 31 == _SEQUENCE:
                self._frame_bits = _frame_bits(unit)
                return

    def is_second(self, packet: av.Packet) -> bool:
        """Whether the packet contains only the second field of the frame begun in the previous packet."""
        if self._frame_bits is None:
            return False
        waiting, self._first = self._first, None
        for unit in _units(bytes(packet), self._size_bytes):
            if unit[0] & 31 in _SLICES:
                parity = _parity(unit[:_ENOUGH], self._frame_bits)
                if parity is not None and waiting == 1 - parity:
                    return True
                self._first = parity
                return False
        return False


def _units(data: bytes, size_bytes: int) -> Iterator[bytes]:
    """The NAL units of a packet, after start codes or after length prefixes of `size_bytes` bytes."""
    place = 0
    if size_bytes:
        while place + size_bytes < len(data):
            begin = place + size_bytes
            place = begin + max(1, int.from_bytes(data[place:begin], "big"))
            yield data[begin:place]
        return
    place = data.find(_START)
    while place >= 0:
        begin, place = place + 3, data.find(_START, place + 3)
        if unit := data[begin : place if place >= 0 else len(data)]:  # in a corrupt file, it may be empty
            yield unit


def _parity(unit: bytes, frame_bits: int) -> int | None:
    """0 for a slice of a top field, 1 for a bottom field, None for a frame (7.3.3)."""
    bits = _Bits(unit)
    for _ in ("first_mb_in_slice", "slice_type", "pic_parameter_set_id"):
        bits.number()
    bits.take(frame_bits)
    return bits.take(1) if bits.take(1) else None


def _frame_bits(unit: bytes) -> int | None:
    """Bits of frame_num, from a sequence parameter set (7.3.2.1.1); None if the stream has frames only."""
    # Scaling lists, and 4:4:4 in separate planes, are treated as frames only; no camcorder writes them.
    bits = _Bits(unit[:_ENOUGH_OF_SEQUENCE])
    profile = bits.take(8)
    bits.take(16)  # constraints, level
    bits.number()  # seq_parameter_set_id
    if profile in _WITH_CHROMA:
        if bits.number() == 3 and bits.take(1):  # chroma_format_idc, separate_colour_plane_flag
            return None
        bits.number(), bits.number()  # bit depths
        bits.take(1)  # qpprime_y_zero_transform_bypass_flag
        if bits.take(1):  # seq_scaling_matrix_present_flag
            return None
    frame_bits = bits.number() + 4
    if frame_bits > _MOST_FRAME_BITS:
        return None
    order = bits.number()  # pic_order_cnt_type
    if order == 0:
        bits.number()
    elif order == 1:
        bits.take(1)
        bits.number(), bits.number()
        for _ in range(min(bits.number(), 255)):  # a corrupt file may state more
            bits.number()
    bits.number()  # max_num_ref_frames
    bits.take(1)  # gaps_in_frame_num_value_allowed_flag
    bits.number(), bits.number()  # width, height
    return None if bits.take(1) else frame_bits  # frame_mbs_only_flag
