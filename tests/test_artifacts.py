"""Atomic writes and stamps (dfdc/artifacts.py)."""

import contextlib
import errno
import json
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dfdc import artifacts, identity
from dfdc.artifacts import Stamp
from dfdc.identity import NotAFileError
from dfdc.processes import Process, process_start

OLD = 1_000_000_000


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def make(path, files, **made_from):
    with artifacts.atomic_folder(path) as folder:
        folder.stamp = Stamp(made_from, {"crops": len(files)})
        for name, data in files.items():
            folder.write(name, data)
    return path


def test_t17_a_failed_write_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "a.json"
    artifacts.write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), artifacts.atomic_file(path) as temp:
        temp.write_text("half")
        raise RuntimeError("killed")
    assert path.read_text() == '{"old": 1}\n'
    assert names(tmp_path) == ["a.json"]


def test_a_failed_write_of_a_file_that_was_never_begun_leaves_no_trace(tmp_path):
    with pytest.raises(RuntimeError), artifacts.atomic_file(tmp_path / "deep" / "deeper" / "a.json"):
        raise RuntimeError("before the first byte")
    assert names(tmp_path / "deep" / "deeper") == []


def test_t17_a_failed_folder_leaves_the_old_one(tmp_path):
    path = make(tmp_path / "data" / "crops" / "video", {"0_0.png": b"old"})
    with pytest.raises(RuntimeError), artifacts.atomic_folder(path) as folder:
        folder.write("0_0.png", b"x")
        raise RuntimeError("killed")
    assert names(tmp_path / "data" / "crops") == ["video"]
    assert (path / "0_0.png").read_bytes() == b"old"


def test_folder_is_stamped_and_replaced_whole(tmp_path):
    path = tmp_path / "video"
    for contents in (("a", "b"), ("c",)):
        make(path, {name: name.encode() for name in contents}, settings=len(contents))
    assert names(path) == [".stamp.json", "c"]
    assert artifacts.read_stamp(path) == Stamp({"settings": 1}, {"crops": 1}, content=identity.folder_checksum(path))
    kept = artifacts.read_json(path / artifacts.STAMP_NAME)
    assert (kept["files"], kept["listing"]) == (1, identity.folder_listing(path))
    assert names(tmp_path) == ["video"]


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """What is flushed and renamed, in order; the random ends of temporary names are left out."""
    events = []
    fsync, replace = os.fsync, type(tmp_path).replace

    def short(path):
        names = (part.split(".part-")[0] for part in Path(path).relative_to(tmp_path).parts)
        return "/".join(names) or "."

    def flush(handle):
        events.append(f"flush {short(Path(f'/proc/self/fd/{handle}').readlink())}")
        return fsync(handle)

    def rename(path, to):
        events.append(f"rename {short(path)} to {short(to)}")
        return replace(path, to)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(type(tmp_path), "replace", rename)
    return events


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_end(tmp_path, disk):
    artifacts.write_bytes(tmp_path / "file", b"data")
    assert disk == ["flush .file", "rename .file to file", "flush ."]


def test_a_file_that_need_not_survive_a_power_cut_is_not_flushed(tmp_path, disk):
    artifacts.write_bytes(tmp_path / "file", b"data", durable=False)
    assert disk == ["rename .file to file"]


def test_no_power_cut_shows_a_stamp_without_its_data(tmp_path, disk):
    """Data and names of the crops are on the disk before the stamp, and all of the folder before it has its name."""
    make(tmp_path / "video", {"0_0.png": b"a", "10_0.png": b"b"})
    assert sorted(disk[:2]) == ["flush .video/0_0.png", "flush .video/10_0.png"]
    assert disk[2:] == [
        "flush .video",
        "flush .video/..stamp.json",
        "rename .video/..stamp.json to .video/.stamp.json",
        "flush .video",
        "rename .video to video",
        "flush .",
    ]


@pytest.mark.parametrize(("number", "known"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_disk_that_cant_flush_folders_is_used_without_and_a_failure_is_told(tmp_path, monkeypatch, number, known):
    def refuse(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with contextlib.nullcontext() if known else pytest.raises(OSError, match="Input/output"):
        artifacts.write_bytes(tmp_path / "file", b"data")


def test_a_folder_that_lost_a_file_or_got_another_is_not_trusted(tmp_path):
    for change in (
        lambda path: (path / "a").unlink(),
        lambda path: (path / "c").write_bytes(b""),
        lambda path: (path / "a").write_bytes(b""),  # what a crash of the machine may leave
        lambda path: (path / "a").write_bytes(b"A"),
        lambda path: (path / "a").rename(path / "d"),
    ):
        path = make(tmp_path / "video", {"a": b"a", "b": b"b"})
        assert artifacts.read_stamp(path) is not None
        change(path)
        assert artifacts.read_stamp(path) is None


def test_a_copied_folder_is_read_once_and_then_known(tmp_path, monkeypatch):
    path = make(tmp_path / "video", {"a": b"a", "b": b"b"}, settings=7)
    content = artifacts.read_stamp(path).content
    for name in "ab":
        os.utime(path / name, ns=(OLD, OLD))
    assert artifacts.read_stamp(path).made_from["settings"] == 7
    monkeypatch.setattr(artifacts, "folder_checksum", lambda folder: pytest.fail("it was read again"))
    assert artifacts.read_stamp(path).content == content


def test_a_copied_folder_on_a_disk_that_cant_be_written_is_known_too(tmp_path, monkeypatch):
    path = make(tmp_path / "video", {"a": b"a"})
    os.utime(path / "a", ns=(OLD, OLD))

    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(artifacts, "write_json", refuse)
    assert artifacts.read_stamp(path) is not None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "7", '{"files": 1}', '{"content": 7}', '{"content": null}', "[" * 99999]
)
def test_broken_stamps_are_not_trusted(tmp_path, content):
    (tmp_path / ".stamp.json").write_text(content)
    (tmp_path / "a").write_bytes(b"a")
    assert artifacts.read_stamp(tmp_path) is None


def test_t61_a_stamp_that_cant_be_read_is_not_an_absent_one(tmp_path):
    assert artifacts.read_json(tmp_path / "absent") is None
    (tmp_path / "file").write_text("")
    assert artifacts.read_json(tmp_path / "file" / "below") is None
    with pytest.raises(NotAFileError, match="a folder"):
        artifacts.read_json(tmp_path)


def test_the_identity_of_a_folder_is_its_content_or_what_is_listed(tmp_path):
    path = make(tmp_path / "video", {"a": b"a", "b": b"b"})
    content = artifacts.read_stamp(path).content
    assert artifacts.folder_identity(path) == content
    (path / "b").unlink()
    first = artifacts.folder_identity(path)
    assert first == f"unstamped {identity.folder_listing(path)}"
    (path / "a").write_bytes(b"another")  # no stamp is not the same as no stamp
    assert artifacts.folder_identity(path) != first
    assert artifacts.folder_identity(tmp_path / "absent") is None


RESULT = {"made": {"crops": 3}, "notes": ["one"], "failed": None}


def test_a_fresh_stamp_is_of_the_same_inputs():
    stamp = Stamp.from_json({**RESULT, "settings": 1, "more": 2})
    assert stamp.is_fresh({"settings": 1})
    assert stamp.is_fresh({})
    assert not stamp.is_fresh({"settings": 2})
    assert not stamp.is_fresh({"settings": 1, "crops": "a"})


def test_a_stamp_comes_back_from_its_file_and_keeps_its_order(tmp_path):
    looks = ({"crop": "0_0.png", "phash": None},)
    stamp = Stamp({"settings": {"version": 1}, "boxes": "x"}, {"crops": 1}, "why", ("one", "two"), looks)
    with artifacts.atomic_folder(tmp_path / "video") as folder:
        folder.write("a", b"a")
        folder.stamp = stamp
    kept = json.loads((tmp_path / "video" / artifacts.STAMP_NAME).read_text())
    keys = ["settings", "boxes", "made", "failed", "notes", "looks", "files", "content", "listing"]
    assert list(kept) == keys
    assert kept["files"] == 1
    assert artifacts.read_stamp(tmp_path / "video") == replace(stamp, content=kept["content"])
    assert list(Stamp({}, {}).to_json()) == ["made", "failed", "notes"]


def test_a_folder_without_a_stamp_is_not_kept(tmp_path):
    with pytest.raises(ValueError, match="no stamp"), artifacts.atomic_folder(tmp_path / "video"):
        pass
    assert names(tmp_path) == []


WRONG = [{"made": None}, {"made": {"crops": "3"}}, {"made": {"crops": -1}}, {"made": {"crops": True}}]
WRONG += [{"notes": "one"}, {"notes": [1]}, {"failed": 7}, {"failed": False}]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_stamp_with_another_type_is_no_result(wrong):
    assert artifacts.is_result(RESULT)
    assert artifacts.is_result({**RESULT, "made": {"crops": 0}})
    assert not artifacts.is_result({**RESULT, **wrong})
    assert Stamp.from_json({**RESULT, **wrong}) is None
    for key in wrong:
        assert Stamp.from_json({k: v for k, v in RESULT.items() if k != key}) is None or key == "failed"


def test_what_was_made_of_something_else_goes_and_the_rest_stays(tmp_path):
    path = make(tmp_path / "video", {"a": b"a"}, crops="x", source={"size": 1})
    artifacts.remove_unless(path, {"crops": "x"})
    artifacts.remove_unless(path, {"crops": "x", "source": {"size": 1}})
    assert path.is_dir()
    artifacts.remove_unless(path, {"crops": "x", "source": {"size": 2}})
    assert not path.exists()
    path.mkdir()
    artifacts.remove_unless(path, {"crops": "x"})  # without a stamp nobody knows what it is of
    assert not path.exists()
    artifacts.remove_unless(path, {"crops": "x"})


def test_removing_takes_files_links_and_folders_and_follows_nothing(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "a").write_bytes(b"a")
    link, file, folder = tmp_path / "link", tmp_path / "file", tmp_path / "folder"
    link.symlink_to(kept)
    file.write_bytes(b"x")
    folder.mkdir()
    (folder / "x").write_bytes(b"x")
    for path in (link, file, folder, tmp_path / "absent"):
        artifacts.remove(path)
    assert names(tmp_path) == ["kept"]
    assert names(kept) == ["a"]


def test_t17_leftovers_of_ended_processes_go_and_those_of_running_ones_stay(tmp_path, ended):
    own = Process.own()
    running = f"{own.host}-{os.getppid()}-{process_start(os.getppid())}-0123abcd"
    live = [running, f"{own.host}-{own.pid}-{own.start}-0123abcd", f"00000000-{ended.pid}-5-0123abcd"]
    dead = [f"{own.host}-{ended.pid}-5-0123abcd", f"{own.host}-{own.pid}-{own.start - 1}-0123abcd"]
    dead += [f"{own.host}-99999999999999999999-5-0123abcd", f"{ended.pid}-5", "123", ""]  # the last: earlier versions
    for process in live + dead:
        (tmp_path / f".video.part-{process}").mkdir()
        (tmp_path / f".video.part-{process}" / "x").write_text("")
        (tmp_path / f".a.json.part-{process}").write_text("")
    (tmp_path / "kept").write_text("")
    assert artifacts.remove_leftovers(tmp_path, of="a.json") == len(dead)
    (tmp_path / ".a.jsonx.part-7").write_text("")
    assert artifacts.remove_leftovers(tmp_path, of="a.json?") == 0  # a name, no pattern
    assert artifacts.remove_leftovers(tmp_path) == len(dead) + 1
    assert names(tmp_path) == sorted(["kept", *(f".{name}.part-{own}" for own in live for name in ("a.json", "video"))])
    assert artifacts.remove_leftovers(tmp_path / "absent") == 0


@pytest.mark.parametrize("name", ["x" * 250, "é" * 125, "x" + "é" * 124, "\udcff" * 250, "🎥" * 62])
def test_the_longest_name_of_a_disk_has_unfinished_files_too(tmp_path, ended, name):
    name += ".json"
    with artifacts.atomic_file(tmp_path / name) as temp:
        temp.write_text("1")
    with artifacts.atomic_folder(tmp_path / f"{name[:-5]}.file") as folder:
        folder.stamp = Stamp({}, {})
    (tmp_path / temp.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-")).write_text("of a killed run")
    assert artifacts.remove_leftovers(tmp_path, of=name) == 1
    assert names(tmp_path) == sorted([name, f"{name[:-5]}.file"])
    artifacts.remove(tmp_path / f"{name[:-5]}.file")
    assert names(tmp_path) == [name]


def test_leftovers_of_another_host_go_when_they_are_a_day_old(tmp_path):
    left = tmp_path / ".video.part-00000000-5-5-0123abcd"
    left.write_text("")
    for age, gone in ((artifacts.ABANDONED - 60, 0), (artifacts.ABANDONED + 60, 1)):
        then = time.time() - age
        os.utime(left, (then, then))
        assert artifacts.remove_leftovers(tmp_path) == gone
    assert names(tmp_path) == []


def test_t69_two_that_write_one_file_do_not_share_a_temporary_file(tmp_path):
    """Processes of two hosts may have one number, too."""
    assert len({artifacts._temp_path(tmp_path / "a") for _ in range(100)}) == 100

    def write(number):
        artifacts.write_bytes(tmp_path / "a", bytes([number]) * 100_000, durable=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))
    assert len(set((tmp_path / "a").read_bytes())) == 1
    assert names(tmp_path) == ["a"]


def test_of_two_that_make_one_folder_both_succeed_and_one_stays(tmp_path, monkeypatch):
    """The other is done between our removing the old folder and renaming."""
    path, remove, others = tmp_path / "video", artifacts.remove, []

    def slow(folder):
        remove(folder)
        if folder == path and others:
            make(path, *others.pop())

    monkeypatch.setattr(artifacts, "remove", slow)
    for other, kept in (({"a": b"1"}, "other"), ({"a": b"2"}, "ours")):
        others.append((other,))
        made = make(path, {"a": b"1"})
        assert (made / "a").read_bytes() == b"1", kept
        assert artifacts.read_stamp(path) is not None
        assert names(tmp_path) == ["video"]


def test_a_folder_that_another_process_has_just_removed_is_no_fault(tmp_path, monkeypatch):
    path = make(tmp_path / "video", {"a": b"a"})
    replace = type(path).replace

    def late(folder, to):
        if folder == path:
            replace(folder, tmp_path / "elsewhere")
        return replace(folder, to)

    monkeypatch.setattr(type(path), "replace", late)
    artifacts.remove(path)
    assert not path.exists()


def test_a_leftover_that_another_run_takes_away_is_no_fault(tmp_path, monkeypatch):
    (tmp_path / ".a.json.part-1-1").write_text("")
    monkeypatch.setattr(artifacts, "_in_use", lambda path: path.unlink() is not None)
    assert artifacts.remove_leftovers(tmp_path) == 1


def test_checksums_are_those_of_the_standard(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert artifacts.sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(b"a" * 1_000_000)  # B.3; a million bytes are less than a block
    assert artifacts.sha256_of(path) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"


def test_json_is_indented_where_asked_for(tmp_path):
    artifacts.write_json(tmp_path / "a.json", {"é": 1}, indent=1)
    assert (tmp_path / "a.json").read_text() == '{\n "\\u00e9": 1\n}\n'
