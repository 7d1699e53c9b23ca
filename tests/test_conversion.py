"""The child process that converts checkpoints (networks/conversion.py)."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_runs import copy_weights, some_images
from pydantic import TypeAdapter
from schemas import KINDS
from scoring_runs import make_checkpoint

from dfdc.children import start_module
from networks import conversion, engine_cache
from networks.engine_cache import EngineError, place_of, read_entry
from networks.ensemble import Ensemble, load_converted
from networks.onnx_model import OnnxModel
from networks.parity import Difference
from networks.sample_faces import sample_faces
from networks.spec import CheckpointError
from networks.torch_model import TorchModel

MODULE = "networks.conversion"


def run_child(*arguments, **options):
    """The exit code, stdout and stderr of the child."""
    with start_module(MODULE, arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as child:
        said, errors = child.stdout.read(), child.stderr.read()
    return child.returncode, said, errors


def nothing_in(cache):
    return not cache.exists() or list(cache.iterdir()) == []


def test_an_entry_has_all_that_a_run_needs(converted):
    path = converted / "a"
    entry, folder = read_entry(path, "openvino"), place_of(path, "openvino")
    assert sorted(item.name for item in folder.iterdir()) == ["entry.json", "model.bin", "model.xml"]
    assert [item.name for item in folder.parent.iterdir()] == [folder.name]  # no unfinished folder
    assert (entry.checkpoint, entry.refused) == ("a", {})
    assert {*entry.versions} == {"conversion", "torch", "timm", "openvino"}
    model = TorchModel(path, "cpu", "fp32")
    assert entry.logits == pytest.approx(model.logits(sample_faces(64)), abs=1e-5)
    assert np.ptp(entry.logits) > 0.05  # else a check would say little
    (seconds,) = entry.seconds.values()
    assert {*seconds} == {"torch fp32", "openvino fp32"}
    assert 0 < min(seconds.values()) <= max(seconds.values()) < 60
    text = (folder / "entry.json").read_text()
    TypeAdapter(KINDS["engine"]).validate_json(text, strict=True)
    assert json.loads(text).keys() == TypeAdapter(KINDS["engine"]).json_schema()["properties"].keys()


def test_weights_are_in_fp32(converted, tmp_path):
    stored = sum(value.numel() * 4 for value in TorchModel(converted / "a", "cpu", "fp32").network.parameters())
    assert (place_of(converted / "a", "openvino") / "model.bin").stat().st_size > 0.9 * stored


def test_another_precision_is_added_without_another_conversion(converted, tmp_path, monkeypatch):
    path = copy_weights(converted, tmp_path / "w")
    before = read_entry(path, "openvino")
    monkeypatch.setattr(conversion, "_write", lambda *_: pytest.fail("converted again"))
    conversion.convert(path, "openvino", "bf16")
    after = read_entry(path, "openvino")
    (seconds,) = after.seconds.values()
    assert {*seconds} == {"torch fp32", "openvino fp32", "torch bf16", "openvino bf16"}
    assert replace(after, seconds=before.seconds) == before


def test_a_network_that_differs_is_refused_in_that_precision_and_not_measured(converted, tmp_path, monkeypatch):
    path = copy_weights(converted, tmp_path / "w")
    monkeypatch.setitem(engine_cache.TOLERANCES, "bf16", Difference(0.0, 0.0))
    monkeypatch.setattr(conversion, "measure", lambda *_: pytest.fail("measured"))
    conversion.convert(path, "openvino", "bf16")
    entry = read_entry(path, "openvino")
    assert entry.refused.keys() == {engine_cache.machine()}  # another machine may compute it well
    assert entry.refused_here("fp32") is None
    assert "its scores in bf16 differ from PyTorch's" in entry.refused_here("bf16")
    assert entry.is_complete("openvino", "bf16")
    monkeypatch.setattr(engine_cache, "machine", lambda: "another")
    assert entry.refused_here("bf16") is None
    assert not entry.is_complete("openvino", "bf16")
    (seconds,) = entry.seconds.values()
    assert {*seconds} == {"torch fp32", "openvino fp32"}


def test_every_image_is_compared_once(converted, tmp_path):
    """A start compares one image; the conversion all."""
    path = copy_weights(converted, tmp_path / "w")
    entry = read_entry(path, "openvino")
    changed = replace(entry, logits=[*entry.logits[:-1], 9.0], seconds={})
    engine_cache.write_entry(place_of(path, "openvino"), changed)
    Ensemble([path], "cpu", "fp32", "openvino").close()
    with pytest.raises(EngineError, match="differ"):
        load_converted(path, "openvino", "fp32", "cpu", 1, 1, compared=None)
    conversion.convert(path, "openvino", "fp32")
    assert read_entry(path, "openvino").refused_here("fp32")


def test_an_entry_of_another_user_that_lacks_this_machine_is_made_anew_in_ones_own_folder(
    converted, tmp_path, monkeypatch
):
    path = copy_weights(converted, tmp_path / "w")
    shared, writable = place_of(path, "openvino"), os.access
    before = (shared / "entry.json").read_bytes()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda place, mode: place != shared.parent and writable(place, mode))
    monkeypatch.setattr(engine_cache, "available_cores", lambda: 77)
    monkeypatch.setattr(conversion, "measure", lambda *_: {"torch fp32": 2.0, "openvino fp32": 1.0})
    conversion.convert(path, "openvino", "fp32")
    assert place_of(path, "openvino").is_relative_to(tmp_path / "home")
    assert read_entry(path, "openvino").seconds_here("openvino", "fp32") == (2.0, 1.0)
    assert (shared / "entry.json").read_bytes() == before


def test_of_two_runs_at_once_the_second_waits_and_finds_all_done(converted, tmp_path, monkeypatch):
    path = copy_weights(converted, tmp_path / "w")
    folder = place_of(path, "openvino")
    entry = read_entry(path, "openvino")
    shutil.rmtree(folder)
    monkeypatch.setattr(conversion, "_write", lambda *_: pytest.fail("converted twice"))
    monkeypatch.setattr(conversion, "measure", lambda *_: pytest.fail("measured twice"))
    with ThreadPoolExecutor(1) as pool:
        with engine_cache.only_writer(folder):
            second = pool.submit(conversion.convert, path, "openvino", "fp32")
            time.sleep(0.2)
            assert not second.done()
            folder.mkdir()
            engine_cache.write_entry(folder, entry)
        second.result(60)


def test_a_network_that_cant_be_loaded_now_is_not_refused_for_ever(converted, tmp_path, monkeypatch):
    path = copy_weights(converted, tmp_path / "w")

    def fails(*_, **more):
        raise EngineError("OpenVINO can't compile it (out of memory)")

    monkeypatch.setattr(conversion, "load_converted", fails)
    with pytest.raises(EngineError, match="memory"):
        conversion.convert(path, "openvino", "bf16")
    assert read_entry(path, "openvino").refused == {}


@pytest.mark.slow
def test_a_conversion_to_onnx(converted, tmp_path):
    path = copy_weights(converted, tmp_path / "w")
    conversion.convert(path, "onnx", "fp32")
    folder = place_of(path, "onnx")
    assert sorted(item.name for item in folder.iterdir()) == ["entry.json", "model.onnx"]
    assert read_entry(path, "openvino") is not None  # that of another engine stays
    images = some_images(3)
    found, expected = (
        OnnxModel(folder / "model.onnx", "cpu").logits(images),
        TorchModel(path, "cpu", "fp32").logits(images),
    )
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_changed_checkpoint_replaces_its_entry(converted, tmp_path, monkeypatch):
    path = copy_weights(converted, tmp_path / "w")
    old = place_of(path, "openvino")
    make_checkpoint(path.parent, "a", seed=9)
    monkeypatch.setattr(conversion, "measure", lambda *_: {"torch fp32": 2.0, "openvino fp32": 1.0})
    conversion.convert(path, "openvino", "fp32")
    assert [item.name for item in old.parent.iterdir()] == [place_of(path, "openvino").name] != [old.name]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no such operator\nand more"), "RuntimeError: no such operator"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (PermissionError(13, "Permission denied", "/home/x"), "/home/x: Permission denied"),
    ],
)
def test_a_conversion_that_fails_leaves_nothing_and_is_told_in_one_line(tmp_path, monkeypatch, capsys, error, reason):
    make_checkpoint(tmp_path, "a")

    def fails(network, checkpoint, folder):
        (folder / "model.bin").write_bytes(b"half")
        raise error

    monkeypatch.setattr(conversion, "_to_openvino", fails)
    monkeypatch.setattr(conversion, "end_with_parent", lambda: None)
    monkeypatch.setattr(conversion, "limit_threads", lambda threads: None)
    assert conversion.main(["openvino", "fp32", "quiet", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    said, errors = capsys.readouterr()
    assert said == f"a: {reason}\n"
    assert errors == ""
    assert nothing_in(tmp_path / ".engines")


def test_a_checkpoint_that_is_none_is_told_by_the_child(tmp_path):
    (tmp_path / "a").write_bytes(b"PK")
    code, said, errors = run_child("openvino", "fp32", "shown", tmp_path / "a")
    assert code == 1
    assert said.startswith("a: CheckpointError: ")
    assert said.count("\n") == 1
    assert "converting" in errors
    assert "Traceback" not in errors
    assert nothing_in(tmp_path / ".engines")


@pytest.mark.slow
@pytest.mark.parametrize("shown", ["shown", "quiet"])
def test_progress_is_shown_only_on_request(converted, tmp_path, shown):
    path = copy_weights(converted, tmp_path / "w")
    shutil.rmtree(path.parent / ".engines")
    code, said, errors = run_child("openvino", "fp32", shown, path)
    assert (code, said) == (0, "")
    if shown == "shown":
        assert errors.startswith("converting 1 checkpoint for openvino; this is done once")
    else:
        assert errors == ""


def stop_child_while_it_writes(path, how):
    """Start a conversion; once its unfinished folder is there, call `how(child)`; return the exit code."""
    cache = path.parent / ".engines"
    with start_module(MODULE, ["openvino", "fp32", "quiet", path], stdout=subprocess.DEVNULL) as child:
        while not list(cache.glob(".openvino-*.part-*")):
            assert child.poll() is None
            time.sleep(0.01)
        how(child)
        return child.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "parent gone"])
def test_t17_a_conversion_that_is_stopped_leaves_no_entry_and_the_next_removes_what_is_left(tmp_path, how):
    make_checkpoint(tmp_path, "a")
    stop = {"killed": lambda child: child.kill(), "parent gone": lambda child: child.stdin.close()}[how]
    assert stop_child_while_it_writes(tmp_path / "a", stop) == {"killed": -signal.SIGKILL, "parent gone": 0}[how]
    assert read_entry(tmp_path / "a", "openvino") is None
    left = {item.name for item in (tmp_path / ".engines").iterdir()}
    assert len(left - {".lock"}) == 1  # its unfinished folder
    assert ".lock" in left
    conversion.convert(tmp_path / "a", "openvino", "fp32")
    assert [item.name for item in (tmp_path / ".engines").iterdir()] == [place_of(tmp_path / "a", "openvino").name]


@pytest.mark.slow
def test_a_conversion_that_is_told_to_end_leaves_nothing(tmp_path):
    make_checkpoint(tmp_path, "a")
    assert stop_child_while_it_writes(tmp_path / "a", lambda child: child.terminate()) == 1
    assert nothing_in(tmp_path / ".engines")


@pytest.mark.slow
def test_a_full_disk_leaves_no_entry(tmp_path):
    make_checkpoint(tmp_path, "a")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails with an error instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    code, said, _ = run_child("openvino", "fp32", "quiet", tmp_path / "a", preexec_fn=limit)
    assert code == 1
    assert said.startswith("a: ")
    assert read_entry(tmp_path / "a", "openvino") is None
    assert nothing_in(tmp_path / ".engines")


def test_measuring_takes_turns_and_keeps_the_best(converted, monkeypatch):
    seconds, order, now = {"torch": [9.0, 5.0, 3.0, 4.0], "openvino": [8.0, 2.0, 1.0, 2.5]}, [], [0.0]

    class Stub:
        def __init__(self, paths, device, precision, engine):
            self.engine, self.specs, self.threads = engine, [type("Spec", (), {"size": 64})], 2

        def score(self, crops):
            assert len(crops) == 2
            order.append(self.engine)
            now[0] += seconds[self.engine].pop(0)

        def close(self):
            order.append("closed")

    monkeypatch.setattr(conversion, "Ensemble", Stub)
    monkeypatch.setattr(conversion, "_MEASURED_SECONDS", 12.0)
    monkeypatch.setattr(conversion.time, "perf_counter", lambda: now[0])
    found = conversion.measure(converted / "a", "openvino", "bf16")
    assert found == {"torch bf16": 3.0 / 2, "openvino bf16": 1.0 / 2}  # not the first ones
    assert order == ["torch", "openvino"] * 4 + ["closed"] * 2


def test_a_network_that_pytorch_cant_read_is_an_error(tmp_path):
    torch.save({"x": 1}, tmp_path / "a")
    with pytest.raises(CheckpointError):
        conversion.convert(tmp_path / "a", "openvino", "fp32")
    assert nothing_in(tmp_path / ".engines")


def test_a_measurement_alone_is_no_conversion(converted, tmp_path, monkeypatch, capsys):
    path = copy_weights(converted, tmp_path / "w")
    for name in ("convert", "end_with_parent", "limit_threads"):
        monkeypatch.setattr(conversion, name, lambda *_: None)
    assert conversion.main(["openvino", "bf16", "shown", str(path)]) == 0
    said = capsys.readouterr().err
    assert said.startswith("measuring openvino in bf16 on this machine\n")
    assert "converting" not in said
