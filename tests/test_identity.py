"""Files and folders that are the same, or are not (dfdc/identity.py)."""

import os

import pytest
import xxhash

from dfdc import artifacts, identity

OLD = 1_000_000_000  # a time of change, in nanoseconds


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(bytes(range(256)) * 8192)  # two blocks of reading
    return path


def test_a_fingerprint_is_size_time_and_the_checksum_of_the_whole_file(video):
    os.utime(video, ns=(OLD, OLD))
    whole = xxhash.xxh3_128(video.read_bytes()).hexdigest()
    assert identity.fingerprint(video) == {"size": 256 * 8192, "mtime_ns": OLD, "xxh3": whole}


@pytest.mark.parametrize("place", [0, 100, 1 << 20, 1_500_001, 256 * 8192 - 1])
def test_t62_a_file_mended_in_place_is_another_wherever_the_damage_was(video, place):
    recorded = identity.fingerprint(video)
    data = bytearray(video.read_bytes())
    data[place] ^= 1
    video.write_bytes(data)
    os.utime(video, ns=(OLD, OLD))
    assert not identity.same_file(recorded, video)


def test_t62_equal_time_and_size_are_enough(video, monkeypatch):
    recorded = identity.fingerprint(video)
    monkeypatch.setattr(identity, "file_checksum", lambda path: pytest.fail("it was read"))
    assert identity.same_file(recorded, video)
    video.write_bytes(b"shorter")
    assert not identity.same_file(recorded, video)


def test_a_copy_has_another_time_and_is_the_same(video):
    recorded = identity.fingerprint(video)
    os.utime(video, ns=(OLD, OLD))
    assert identity.same_file(recorded, video)


@pytest.mark.parametrize("record", [None, [], "text", {}, {"size": 256 * 8192}, {"size": 256 * 8192, "crc": 7}])
def test_what_is_no_fingerprint_is_the_same_as_nothing(video, record):
    assert not identity.same_file(record, video)


def test_a_fingerprint_of_an_earlier_version_counts_by_time_and_size(video):
    os.utime(video, ns=(OLD, OLD))
    recorded = {"size": 256 * 8192, "mtime_ns": OLD, "crc": 12345}
    assert identity.same_file(recorded, video)
    os.utime(video, ns=(OLD + 1, OLD + 1))
    assert not identity.same_file(recorded, video)


def test_t61_what_cant_be_read_is_not_said_to_have_changed(video, tmp_path):
    recorded = identity.fingerprint(video)
    link = tmp_path / "link.mp4"
    link.symlink_to(tmp_path / "away.mp4")
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    for path in (link, tmp_path / "absent.mp4", tmp_path, pipe):
        for look in (identity.fingerprint, lambda p: identity.same_file(recorded, p)):
            with pytest.raises(OSError) as error:
                look(path)
            assert str(path) in (str(error.value), str(error.value.filename))
    with pytest.raises(identity.NotAFileError, match="not a regular file"):
        identity.fingerprint(pipe)


def test_records_of_one_content():
    new = {"size": 5, "mtime_ns": 1, "xxh3": "a"}
    assert identity.same_record(new, {**new, "mtime_ns": 2})
    assert not identity.same_record(new, {**new, "xxh3": "b"})
    assert not identity.same_record(new, {**new, "size": 6})
    old = {"size": 5, "mtime_ns": 1, "crc": 3}
    assert identity.same_record(old, new)
    assert identity.same_record(new, old)
    assert not identity.same_record({**old, "mtime_ns": 2}, new)
    assert not identity.same_record({**old, "size": 6}, new)
    for nothing in (None, [], "text"):
        assert not identity.same_record(nothing, new)
        assert not identity.same_record(new, nothing)


def filled(folder, files):
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


FILES = {"0_0.png": b"first", "10_0.png": b"second", "été.png": b""}


def test_a_folders_checksum_is_of_names_and_contents_in_any_order(tmp_path):
    folder = filled(tmp_path / "a", FILES)
    backwards = identity.FolderChecksum()
    for name, data in reversed(FILES.items()):
        backwards.add(name, data)
    assert backwards.files == 3
    assert identity.folder_checksum(folder) == backwards.hexdigest()
    assert len(backwards.hexdigest()) == 32
    (folder / ".stamp.json").write_text("hidden files do not count")
    assert identity.folder_checksum(folder) == backwards.hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {**FILES, "10_0.png": b"Second"},
        {"0_0.png": b"second", "10_0.png": b"first", "été.png": b""},  # contents changed places
        {"0_0.png": b"first", "10_0.png": b"second"},
        {**FILES, "20_0.png": b""},
        {"0_0.pngfirst": b"", "10_0.png": b"second", "été.png": b""},  # the name took over the content
    ],
)
def test_a_folders_checksum_tells_other_files(tmp_path, other):
    a, b = filled(tmp_path / "a", FILES), filled(tmp_path / "b", other)
    assert identity.folder_checksum(a) != identity.folder_checksum(b)


def test_a_folders_listing_is_of_names_sizes_and_times(tmp_path):
    folder = filled(tmp_path / "a", FILES)
    for path in folder.iterdir():
        os.utime(path, ns=(OLD, OLD))
    before = identity.folder_listing(folder)
    (folder / ".hidden").write_bytes(b"x")
    assert identity.folder_listing(folder) == before
    for change in (
        lambda: (folder / "0_0.png").write_bytes(b"longer than first"),
        lambda: os.utime(folder / "0_0.png", ns=(OLD, OLD + 1)),
        lambda: (folder / "10_0.png").rename(folder / "20_0.png"),
        lambda: (folder / "20_0.png").unlink(),
    ):
        change()
        after = identity.folder_listing(folder)
        assert after != before
        before = after


def test_what_is_no_file_is_another_content_and_no_error(tmp_path):
    folder = filled(tmp_path / "a", FILES)
    checksum, listing = identity.folder_checksum(folder), identity.folder_listing(folder)
    seen = {(checksum, listing)}
    (folder / "0_0.png").unlink()
    for make in (
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(tmp_path / "nothing"),
        os.mkfifo,
    ):
        make(folder / "0_0.png")
        seen.add((identity.folder_checksum(folder), identity.folder_listing(folder)))
        artifacts.remove(folder / "0_0.png")
    assert len(seen) == 2  # the whole folder, and a folder with something odd in it
    assert (checksum, listing) in seen


def test_files_are_counted_without_hidden_ones(tmp_path):
    folder = filled(tmp_path / "a", {**FILES, ".stamp.json": b""})
    assert identity.count_files(folder) == 3


def test_digests_of_values():
    value = {"b": [1, 2.5, None], "a": {"x": "text"}}
    assert identity.digest_of(value) == identity.digest_of({"a": {"x": "text"}, "b": (1, 2.5, None)})
    others = [{"b": [1, 2.5, 0], "a": {"x": "text"}}, {"a": {"x": "text"}}, [value], "text", None, 1, "1", [], [[]]]
    digests = [identity.digest_of(other) for other in (value, *others)]
    assert len(set(digests)) == len(digests)
    assert identity.digest_of("\udc80")  # a file name that is no text
