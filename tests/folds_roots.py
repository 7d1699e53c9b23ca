"""DATA_ROOTs with crops as step 2 leaves them, and step 5 run on them as if steps 2 and 4 had said this or that."""

import csv
from unittest import mock

import cv2
import numpy as np
import pytest
from helpers import write_part

from dfdc import artifacts, layout
from dfdc.artifacts import Stamp
from dfdc.command_line import UserError, flags_shown
from dfdc.imaging import encode_png
from dfdc.workers import FailVideo
from preprocessing import folds_step, generate_folds, likeness
from preprocessing.folds_listing import Checks
from preprocessing.folds_stamp import stamp_path

HEADER = "video,file,label,original,frame,fold\n"


def picture_of(seed, size=(24, 20)):
    """A smooth random picture, RGB uint8 [h, w, 3]."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)


def put_crops(root, video, pictures, **more):
    """Crops as step 2 leaves them; `pictures` by their names."""
    looks = [likeness.look(name, pictures[name]) for name in likeness.pick(list(pictures))]
    with artifacts.atomic_folder(layout.crops_path(root, video)) as folder:
        folder.stamp = Stamp({}, {"crops": len(pictures)}, **({"looks": tuple(looks)} | more))
        for name, picture in pictures.items():
            folder.write(name, encode_png(picture))


def new_crops(root, video, seed, frames=2, people=2):
    names = [layout.crop_name(frame * 10, face) for frame in range(frames) for face in range(people)]
    put_crops(root, video, {name: picture_of(seed * 100 + number) for number, name in enumerate(names)})


def make_part(root, part, **donors):
    """One real and two fakes with crops of two persons; `donors` of the fakes by their names."""
    metadata = {f"r{part}.mp4": {"label": "REAL"}}
    for kind in "ab":
        fake = f"f{part}{kind}"
        metadata[f"{fake}.mp4"] = {"label": "FAKE", "original": f"r{part}.mp4"}
        if fake in donors:
            metadata[f"{fake}.mp4"]["donor"] = f"{donors[fake]}.mp4"
    folder = write_part(root / f"dfdc_train_part_{part}", metadata)
    for seed, name in enumerate(metadata):
        (folder / name).write_bytes(b"video")
        new_crops(root, name[:-4], part * 10 + seed)


def make_root(root, parts, **donors):
    for part in parts:
        make_part(root, part, **donors)
    return root


def rows_of(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def folds_of(root, name="folds.csv"):
    return {row["video"]: int(row["fold"]) for row in rows_of(root / name)}


def ledger_of(root):
    with layout.ledger_path(root, "generate_folds").open(newline="") as handle:
        return {row["video"]: (row["outcome"], row["reason"]) for row in csv.DictReader(handle)}


def main(root, *arguments, rejected=(), stale=(), unreadable=(), unpaired=(), unknown_pairs=(), uncompared=()):
    """Run the step where steps 2 and 4 say these things of videos."""

    def open_checks(where, crops_dir):
        assert where == root

        def crops(video):
            if video.id in unreadable:
                raise FailVideo(f"{video.path} can't be read (Input/output error)")
            return None if video.id in stale else artifacts.read_stamp(layout.crops_path(root, video.id, crops_dir))

        def pair(video):
            assert video.label == "FAKE"
            if video.id in unknown_pairs:
                raise FailVideo("its masks can't be read")
            if video.id in uncompared:
                return None
            return Stamp({}, {}, "its border differs" if video.id in unpaired else None)

        return Checks(lambda video: f"rejected: {video.id}" if video.id in rejected else None, crops, pair)

    with flags_shown(), mock.patch.object(folds_step, "open_checks", open_checks):
        return generate_folds.main(["--root-dir", str(root), *map(str, arguments)])


def refuse_stamp_of(monkeypatch, video):
    """Let the stamps of this video's folders be such as can't be read."""
    read = artifacts.read_json

    def refuse(path):
        if path.parent.name == video:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(artifacts, "read_json", refuse)


def refused(root, *arguments, said, **options):
    """The step refuses, for a reason that says `said`, and changes neither folds.csv nor its stamp."""
    files = [root / "folds.csv", stamp_path(root / "folds.csv")]
    before = [path.read_bytes() if path.exists() else None for path in files]
    with flags_shown():
        with pytest.raises(UserError) as refusal:
            main(root, *arguments, **options)
        for text in [said] if isinstance(said, str) else said:
            assert text in str(refusal.value)
    assert [path.read_bytes() if path.exists() else None for path in files] == before


def all_videos(*parts):
    """The names that `make_root` gives."""
    return [name for part in parts for name in (f"r{part}", f"f{part}a", f"f{part}b")]
