"""Reading damaged videos (dfdc/video.py): decoders that leave frames out, hand them out twice, or make up a part."""

import av
import pytest
from test_video import GOP, encode
from test_video_source import read

from dfdc.video import VideoReader


@pytest.mark.parametrize("fault", ["ends early", "unsound", "leaves one out", "begins late", None])
def test_t10_after_a_jump_that_goes_wrong_all_is_read(tmp_path, monkeypatch, fault):
    path = encode(tmp_path / "j.mp4", options={**GOP, "bf": "0"}, count=100)
    original, calls = VideoReader._decoded, []

    def decoded(reader):
        calls.append(1)
        for number, (frame, sound) in enumerate(original(reader)):
            if len(calls) == 2:  # the first looks at the first frame, the second comes after the jump
                if (fault, number) == ("ends early", 3):
                    return
                if (fault, number) in (("leaves one out", 1), ("begins late", 0)):
                    continue
                sound = sound and (fault, number) != ("unsound", 2)
            yield frame, sound

    monkeypatch.setattr(VideoReader, "_decoded", decoded)
    found, reader = read(path, [72, 80])
    assert {number: shown for number, (shown, *_) in found.items()} == {72: 72, 80: 80}
    assert (reader.lost, len(calls)) == ([], 3 if fault else 2)
    calls[:] = [1]
    assert [number for number, _, _ in reader.numbered_frames([72])][-27:] == list(range(73, 100))
    assert len(calls) == (3 if fault else 2)


@pytest.mark.parametrize("late", [0, 1, 5])
def test_t11_a_frame_that_the_decoder_hands_out_again_moves_no_other(write_numbered, monkeypatch, late):
    path, original = write_numbered(), VideoReader._decoded

    def decoded(reader):
        handed_out = []
        for item in original(reader):
            handed_out.append(item)
            yield item
            if len(handed_out) == 11:
                yield handed_out[-1 - late]

    monkeypatch.setattr(VideoReader, "_decoded", decoded)
    assert {number: shown for number, (shown, *_) in read(path)[0].items()} == {number: number for number in range(40)}


def test_t11_a_frame_of_which_a_part_is_missing_is_lost_with_those_built_on_it(tmp_path):
    """Nothing is wrong with what is there; the decoder makes up the missing slice, and says so."""
    path = encode(tmp_path / "s.mp4", options={**GOP, "bf": "0", "slices": "4"}, count=72)
    with av.open(str(path)) as container:
        place = [packet.pos for packet in container.demux(video=0) if packet.size][30]
    data = bytearray(path.read_bytes())
    place += 4 + int.from_bytes(data[place : place + 4], "big")  # the second of the frame's units
    assert data[place + 4] & 31 == 1, "not a slice"
    data[place + 4] = 12  # filler
    path.write_bytes(data)
    found, reader = read(path)
    assert reader.lost == list(range(30, 48))
    assert list(found) == [*range(30), *range(48, 72)]


def test_a_corrupt_rotation_turns_nothing(write_numbered):
    path = write_numbered()
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44  # the matrix of the track
    data[place : place + 32] = bytes(32)  # it has no angle
    path.write_bytes(data)
    assert read(path, [7])[0] == {7: (7, 64, 96)}
