"""What tests of engines share: entries of the engine cache, made or made up."""

import shutil
from dataclasses import replace

import numpy as np

from networks import engine_cache
from networks.checkpoint import describe, read_checkpoint
from networks.engine_cache import Entry, machine, versions_of
from networks.files import sha256


def make_entry(path, engine="openvino", precision="fp32", theirs=2.0, ours=1.0, **change):
    """Write an entry without a network, with the seconds of PyTorch (`theirs`) and of the engine (`ours`)."""
    seconds = {machine(): {f"torch {precision}": theirs, f"{engine} {precision}": ours}}
    description = describe(read_checkpoint(path))
    entry = Entry(path.name, sha256(path), versions_of(engine), description, [0.0] * 13, seconds=seconds)
    folder = engine_cache.place_of(path, engine)
    folder.mkdir(parents=True, exist_ok=True)
    engine_cache.write_entry(folder, replace(entry, **change))
    return folder


def copy_weights(source, target):
    """Copy a folder of checkpoints with their entries; returns the checkpoint `a`."""
    shutil.copytree(source, target)
    return target / "a"


def some_images(count, size=64, seed=0):
    """Random bytes, uint8 [count, size, size, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
