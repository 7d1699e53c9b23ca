"""Which converted networks are used, and which are not (networks/engine_cache.py)."""

import json
import os
import pwd
import re
import shutil
import time

import numpy as np
import pytest
from engine_runs import copy_weights, make_entry
from helpers import run_script
from scoring_runs import make_checkpoint

from dfdc import identity
from networks import engine_cache
from networks.engine_cache import EngineError, Entry, check, machine, place_of, read_entry, remove_stale
from networks.sample_faces import sample_faces


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    make_checkpoint(folder, "a", seed=1)
    return folder / "a"


@pytest.fixture
def path(original, tmp_path):
    """A checkpoint with a made-up entry for OpenVINO."""
    (tmp_path / "w").mkdir()
    copied = tmp_path / "w/a"
    shutil.copy(original, copied)
    make_entry(copied)
    return copied


def entry_file(path):
    return place_of(path, "openvino") / "entry.json"


def change_json(path, **change):
    content = json.loads(entry_file(path).read_text())
    entry_file(path).write_text(json.dumps({**content, **change}))


def test_an_entry_lies_beside_its_checkpoint_and_is_found_by_its_content(path, tmp_path):
    folder = place_of(path, "openvino")
    assert folder.parent == path.parent / ".engines"
    assert re.fullmatch(r"openvino-[0-9a-f]{16}-[0-9a-f]{8}", folder.name)
    entry = read_entry(path, "openvino")
    assert (entry.checkpoint, entry.seconds) == ("a", {machine(): {"torch fp32": 2.0, "openvino fp32": 1.0}})
    assert read_entry(path, "onnx") is None
    copied = copy_weights(path.parent, tmp_path / "elsewhere")
    assert read_entry(copied, "openvino") == entry
    copied.rename(copied.with_name("b"))
    assert read_entry(copied.with_name("b"), "openvino") == entry


def test_another_byte_is_another_checkpoint(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    old = place_of(path, "openvino")
    path.write_bytes(content)
    assert place_of(path, "openvino") != old
    assert read_entry(path, "openvino") is None


@pytest.mark.parametrize("name", ["torch", "timm", "openvino", "conversion"])
def test_another_version_is_another_entry(path, monkeypatch, name):
    if name == "conversion":
        monkeypatch.setattr(engine_cache, "CONVERSION_VERSION", 99)
    else:
        versions = engine_cache.package_versions

        def changed(names, unknown):
            return {**versions(names, unknown), name: "99"}

        monkeypatch.setattr(engine_cache, "package_versions", changed)
    assert engine_cache.versions_of("openvino")[name] == "99"
    assert not entry_file(path).exists()
    assert read_entry(path, "openvino") is None
    folder = place_of(path, "openvino")  # an entry there that says otherwise
    shutil.copytree(next(folder.parent.glob("openvino-*")), folder)
    assert read_entry(path, "openvino") is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 1}', "\udcff", None], ids=["empty", "cut", "list", "keys", "bytes", "gone"]
)
def test_an_entry_that_cant_be_read_is_none(path, text):
    if text is None:
        entry_file(path).unlink()
    else:
        entry_file(path).write_bytes(text.encode(errors="surrogateescape"))
    assert read_entry(path, "openvino") is None


@pytest.mark.parametrize("change", [{"sha256": "0"}, {"version": 2}, {"versions": {}}, {"logits": ["x"]}])
def test_an_entry_that_says_otherwise_is_none(path, change):
    assert read_entry(path, "openvino") is not None
    change_json(path, **change)
    assert read_entry(path, "openvino") is None


def test_a_file_in_the_place_of_the_cache_is_no_entry(path):
    shutil.rmtree(path.parent / ".engines")
    (path.parent / ".engines").write_text("")
    assert read_entry(path, "openvino") is None


@pytest.mark.parametrize("home", ["XDG_CACHE_HOME", "HOME"])
def test_beside_a_checkpoint_that_is_read_only_is_the_users_cache(path, tmp_path, monkeypatch, home):
    shared = place_of(path, "openvino")
    refused = {path.parent, shared.parent}
    writable = os.access
    monkeypatch.setattr(os, "access", lambda place, mode: place not in refused and writable(place, mode))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(home, str(tmp_path / "home"))
    own = tmp_path / "home" / ("" if home == "XDG_CACHE_HOME" else ".cache") / "dfdc-pipeline/engines"
    own /= identity.digest_of(str(path.parent))[:16]
    assert place_of(path, "openvino") == shared  # an entry that another user wrote is used
    shutil.rmtree(shared)
    assert place_of(path, "openvino") == own / shared.name
    assert make_entry(path) == own / shared.name
    assert read_entry(path, "openvino") is not None
    assert not shared.exists()
    shutil.copytree(own / shared.name, shared)
    shutil.rmtree(own)
    refused.add(shared / "entry.json")  # another user's, which may not be read
    assert place_of(path, "openvino") == own / shared.name
    assert read_entry(path, "openvino") is None
    refused.remove(shared.parent)  # a cache folder that may be written to, in a folder that may not
    assert place_of(path, "openvino") == shared


@pytest.mark.parametrize("cache", [None, "relative"])
def test_without_a_cache_folder_of_the_user_only_the_checkpoints_folder_is_left(path, monkeypatch, cache):
    shared, writable = place_of(path, "openvino"), os.access
    monkeypatch.setattr(os, "access", lambda place, mode: place != shared.parent and writable(place, mode))
    monkeypatch.setenv("XDG_CACHE_HOME", cache or "")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # which has no entry of this user either
    assert place_of(path, "openvino") == engine_cache.own_place_of(path, "openvino") == shared


def test_checkpoints_of_one_name_in_two_read_only_folders_keep_their_entries(path, tmp_path, monkeypatch):
    (tmp_path / "v").mkdir()
    make_checkpoint(tmp_path / "v", "a", seed=5)
    shutil.rmtree(path.parent / ".engines")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    refused, writable = {path.parent, tmp_path / "v"}, os.access
    monkeypatch.setattr(os, "access", lambda place, mode: place not in refused and writable(place, mode))
    for checkpoint in (path, tmp_path / "v/a"):
        remove_stale(checkpoint, make_entry(checkpoint), "openvino")
    assert read_entry(path, "openvino").sha256 != read_entry(tmp_path / "v/a", "openvino").sha256


def make_old(folder, seconds=engine_cache.KEPT_SECONDS + 60):
    then = time.time() - seconds
    os.utime(folder, (then, then))


def names(folder):
    return {item.name for item in folder.iterdir()}


def test_what_an_entry_replaces_is_removed_and_nothing_else(path):
    cache = path.parent / ".engines"
    make_checkpoint(path.parent, "b", seed=2)
    other, onnx = make_entry(path.with_name("b")), make_entry(path, "onnx")
    make_old(other)
    old = place_of(path, "openvino")
    make_checkpoint(path.parent, "a", seed=3)
    new = make_entry(path)
    killed = cache / f".{new.name}.part-999999999-1"
    killed.mkdir()
    (cache / "note.txt").write_text("the user's")
    remove_stale(path, new, "openvino")
    assert names(cache) == {new.name, other.name, onnx.name, "note.txt"}
    assert not old.exists()


def test_entries_that_another_machine_may_use_are_kept_for_a_month(path, monkeypatch):
    """Machines with different versions, and one folder of weights: none removes the entry of another at each start."""
    cache, own = path.parent / ".engines", place_of(path, "openvino")
    theirs = make_entry(path, versions={"openvino": "of another machine"}).rename(cache / "openvino-theirs")
    make_entry(path)
    make_checkpoint(path.parent, "b", seed=2)
    renamed = make_entry(path.with_name("b"))
    path.with_name("b").unlink()
    broken, bare = cache / "openvino-broken", cache / "openvino-bare"  # perhaps in the form of another version
    for folder in (broken, bare):
        folder.mkdir()
        (folder / "model.bin").write_bytes(b"x")
    (broken / "entry.json").write_text("{")
    unused = (theirs, renamed, broken, bare)
    for folder in (own, *unused):
        make_old(folder, engine_cache.KEPT_SECONDS - 60)
    remove_stale(path, own, "openvino")
    assert names(cache) == {own.name, *(folder.name for folder in unused)}
    for folder in (own, *unused):
        make_old(folder)
    remove_stale(path, own, "openvino")
    assert names(cache) == {own.name}


def test_an_entry_of_another_user_that_stays_is_no_fault_of_the_conversion(path, monkeypatch):
    """In a folder of several users, an entry may be neither readable nor removable."""
    own, removed = make_entry(path), []
    for name in "ab":
        make_old(make_entry(path, versions={"openvino": name}).rename(own.with_name(f"openvino-{name}")))
    make_entry(path)

    def refuse(folder):
        removed.append(folder.name)
        raise PermissionError(13, "Permission denied", "model.bin")

    monkeypatch.setattr(engine_cache.artifacts, "remove", refuse)
    remove_stale(path, own, "openvino")
    assert sorted(removed) == ["openvino-a", "openvino-b"]


def test_measurements_of_other_machines_and_precisions_stay(path, monkeypatch):
    folder, first = place_of(path, "openvino"), machine()
    engine_cache.add_seconds(folder, read_entry(path, "openvino"), {"torch bf16": 4.0, "torch fp32": 3.0})
    monkeypatch.setattr(engine_cache, "available_cores", lambda: 77)
    assert machine().endswith(", 77 cores")
    engine_cache.add_seconds(folder, read_entry(path, "openvino"), {"torch fp32": 9.0})
    own = {"torch fp32": 3.0, "openvino fp32": 1.0, "torch bf16": 4.0}
    assert read_entry(path, "openvino").seconds == {first: own, machine(): {"torch fp32": 9.0}}


def test_a_machine_without_cpuinfo_has_a_name(monkeypatch):
    known = machine()

    def gone(self, **_):
        raise FileNotFoundError

    monkeypatch.setattr(engine_cache.Path, "read_text", gone)
    assert re.fullmatch(r"\S.*, \d+ cores", known)
    assert re.fullmatch(r"\S.*, \d+ cores", machine())


def test_an_entry_is_dropped(path):
    make_entry(path, "onnx")
    engine_cache.drop_entry(path, "openvino")
    assert read_entry(path, "openvino") is None
    assert read_entry(path, "onnx") is not None
    engine_cache.drop_entry(path, "openvino")  # there is none


def some_entry(*logits):
    return Entry("a", "0", {}, {}, list(logits))


@pytest.mark.parametrize(
    ("precision", "off", "fine"),
    [("fp32", 0.0, True), ("fp32", 0.003, True), ("fp32", 0.005, False), ("bf16", 0.3, True), ("bf16", 0.5, False)],
)
def test_a_network_that_differs_is_refused(precision, off, fine):
    asked = []

    def logits(images):
        asked.append(images)
        return np.full(len(images), off if len(asked) == 2 else 0, np.float32)

    def run():
        check(logits, 32, some_entry(0, 0, 7), precision, 2)

    if fine:
        run()
    else:
        with pytest.raises(EngineError, match=rf"^its scores in {precision} differ from PyTorch's: prob.* by 0\."):
            run()
    assert np.array_equal(np.concatenate(asked), sample_faces(32)[:2])
    assert [len(images) for images in asked] == [1, 1]  # as a CPU scores them


def test_nan_is_refused():
    with pytest.raises(EngineError, match="probabilities by nan"):
        check(lambda images: np.full(len(images), np.nan, np.float32), 32, some_entry(0, 0), "fp32", 2)


def test_a_confident_network_is_checked_by_its_logits():
    entry = some_entry(1000, 1000)
    check(lambda images: np.full(len(images), 981, np.float32), 32, entry, "fp32", 2)
    with pytest.raises(EngineError, match=r"probabilities by 0 \(allowed: 0\.001\), logits by 0\.021 \(relative"):
        check(lambda images: np.full(len(images), 979, np.float32), 32, entry, "fp32", 2)


def test_looking_at_an_entry_needs_no_engine(path):
    code = (
        "import sys, pathlib; from networks.engine_cache import read_entry\n"
        f"assert read_entry(pathlib.Path({str(path)!r}), 'openvino')\n"
        "print([name for name in ('torch', 'timm', 'openvino', 'onnxruntime') if name in sys.modules])"
    )
    assert run_script("-c", code).stdout == "[]\n"


def test_refusals_are_kept(path):
    entry = read_entry(path, "openvino")
    for precision in ("bf16", "fp32"):
        engine_cache.add_refusal(place_of(path, "openvino"), entry, precision, f"it differs in {precision}")
        entry = read_entry(path, "openvino")
    assert entry.refused == {engine_cache.machine(): {name: f"it differs in {name}" for name in ("bf16", "fp32")}}
