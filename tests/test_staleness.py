"""What each change makes stale, step by step, and what it must leave alone (steps 1 to 4)."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest
from helpers import copy_dataset

from dfdc import artifacts, layout
from dfdc.boxes import read_boxes
from dfdc.imaging import encode_png, read_picture
from dfdc.rejections import load_rejections
from preprocessing import crop_step, detect_step, diff_step, landmark_step
from preprocessing.crop_step import CropStep
from preprocessing.detect_step import DetectStep
from preprocessing.diff_step import DiffStep
from preprocessing.landmark_step import LandmarkStep

pytestmark = pytest.mark.slow


class Names:
    """The videos of the small demo data set: one original and its fakes, and all the others."""

    def __init__(self, root):
        dataset = layout.load_dataset(root)
        self.real = dataset.reals()[0].id
        self.fakes = {video.id for video in dataset.fakes() if video.source == self.real}
        self.fake = min(self.fakes)
        self.other_real = dataset.reals()[1].id
        self.reals = {video.id for video in dataset.reals()}
        self.all_fakes = {video.id for video in dataset.fakes()}
        self.all = self.reals | self.all_fakes
        self.paths = {video.id: video.path for video in dataset.videos.values()}


NONE = {"boxes": set(), "crops": set(), "landmarks": set(), "masks": set()}


def stale(root, scale="auto", crops_dir="crops", png_level=1):
    """Step -> the videos whose artifact its check does not take for fresh."""
    dataset = layout.load_dataset(root)
    steps = {
        "boxes": (DetectStep(root, scale), dataset.reals()),
        "crops": (CropStep(root, crops_dir, load_rejections(root), png_level), [*dataset.videos.values()]),
        "landmarks": (LandmarkStep(root, crops_dir), dataset.reals()),
        "masks": (DiffStep(root, crops_dir, png_level), dataset.fakes()),
    }
    return {name: {video.id for video in videos if step.check(video) is None} for name, (step, videos) in steps.items()}


@pytest.fixture
def root(preprocessed, tmp_path):
    return copy_dataset(preprocessed, tmp_path / "data root")


def own_copy(path):
    """Videos are hard links of those of other tests: give this one a file of its own."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    return bytearray(data)


def touch(root, names):
    for name in (names.real, names.fake):
        own_copy(names.paths[name])
        os.utime(names.paths[name], (1, 1))


def mend(path):
    data = own_copy(path)
    data[len(data) // 2 + 77] ^= 1  # between the blocks that an earlier version looked at
    path.write_bytes(data)


def edit_boxes(root, name, by):
    path = layout.bboxes_path(root, name)
    content = json.loads(path.read_text())
    content["frames"]["0"][0]["box"][0] = int(content["frames"]["0"][0]["box"][0]) + by
    artifacts.write_json(path, content)


def rewrite_boxes(root, names):
    path = layout.bboxes_path(root, names.real)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3, sort_keys=True))


def crop_of(root, name):
    return layout.crops_path(root, name) / "10_0.png"


def replace_crop(root, name):
    picture = read_picture(crop_of(root, name))
    crop_of(root, name).write_bytes(encode_png(picture[::-1]))


def change_metadata(root, name, **changes):
    path = layout.load_dataset(root).videos[name].path
    metadata = json.loads((path.parent / "metadata.json").read_text())
    metadata[path.name] |= changes
    (path.parent / "metadata.json").write_text(json.dumps(metadata))


def edit_stamp(folder, **changes):
    path = folder / artifacts.STAMP_NAME
    stamp = json.loads(path.read_text())
    stamp |= changes
    path.write_text(json.dumps({key: value for key, value in stamp.items() if value != "gone"}))


def reject(root, *rows):
    (root / layout.REJECTED_NAME).write_text("video,frame,face\n" + "".join(f"{row}\n" for row in rows))


def family_of(n, *, boxes=()):
    """What a change of an original's crops makes stale."""
    return {"boxes": set(boxes), "crops": {n.real}, "landmarks": {n.real}, "masks": n.fakes}


CHANGES = {
    "nothing": (lambda r, n: None, lambda n: NONE),
    "times of videos": (touch, lambda n: NONE),
    "a real video, mended in place": (
        lambda r, n: mend(n.paths[n.real]),
        lambda n: NONE | {"boxes": {n.real}, "crops": {n.real}},
    ),
    "a fake, mended in place": (lambda r, n: mend(n.paths[n.fake]), lambda n: NONE | {"crops": {n.fake}}),
    "a box, by four pixels": (lambda r, n: edit_boxes(r, n.real, 4), lambda n: NONE | {"crops": {n.real, *n.fakes}}),
    "a box, by less than a pixel": (lambda r, n: edit_boxes(r, n.real, 0.25), lambda n: NONE),
    "boxes written in another way": (rewrite_boxes, lambda n: NONE),
    "boxes gone": (
        lambda r, n: layout.bboxes_path(r, n.real).unlink(),
        lambda n: NONE | {"boxes": {n.real}, "crops": {n.real, *n.fakes}},
    ),
    "boxes broken": (
        lambda r, n: layout.bboxes_path(r, n.real).write_text('{"frames": 3}'),
        lambda n: NONE | {"boxes": {n.real}, "crops": {n.real, *n.fakes}},
    ),
    "a real crop gone": (lambda r, n: crop_of(r, n.real).unlink(), family_of),
    "a real crop replaced": (lambda r, n: replace_crop(r, n.real), family_of),
    "a real crop of no bytes": (lambda r, n: crop_of(r, n.real).write_bytes(b""), family_of),
    "a fake's crop gone": (
        lambda r, n: crop_of(r, n.fake).unlink(),
        lambda n: NONE | {"crops": {n.fake}, "masks": {n.fake}},
    ),
    "crops of a real video gone": (lambda r, n: shutil.rmtree(layout.crops_path(r, n.real)), family_of),
    "a landmark gone": (
        lambda r, n: next(layout.landmarks_path(r, n.real).glob("*.npy")).unlink(),
        lambda n: NONE | {"landmarks": {n.real}},
    ),
    "a mask gone": (
        lambda r, n: next(layout.diffs_path(r, n.fake).glob("*.png")).unlink(),
        lambda n: NONE | {"masks": {n.fake}},
    ),
    "a fake of another original": (
        lambda r, n: change_metadata(r, n.fake, original=n.paths[n.other_real].name),
        lambda n: NONE | {"crops": {n.fake}, "masks": {n.fake}},
    ),
    "other split in metadata": (lambda r, n: change_metadata(r, n.fake, split="test"), lambda n: NONE),
    "a rejected face": (lambda r, n: reject(r, f"{n.real},10,0"), lambda n: NONE | {"crops": {n.real, *n.fakes}}),
    "a rejected face of a fake": (lambda r, n: reject(r, f"{n.fake},,0"), lambda n: NONE | {"crops": {n.fake}}),
    "a rejected face that is not there": (lambda r, n: reject(r, f"{n.real},10,7"), lambda n: NONE),
    "a stamp of crops without its source": (
        lambda r, n: edit_stamp(layout.crops_path(r, n.real), source="gone"),
        lambda n: NONE | {"crops": {n.real}},
    ),
    "a stamp of crops without its counts": (
        lambda r, n: edit_stamp(layout.crops_path(r, n.real), made="gone"),
        lambda n: NONE | {"crops": {n.real}},
    ),
    "a stamp of landmarks without its crops": (
        lambda r, n: edit_stamp(layout.landmarks_path(r, n.real), crops="gone"),
        lambda n: NONE | {"landmarks": {n.real}},
    ),
    "a stamp of masks without its settings": (
        lambda r, n: edit_stamp(layout.diffs_path(r, n.fake), settings="gone"),
        lambda n: NONE | {"masks": {n.fake}},
    ),
    "a stamp of crops of an earlier version": (
        lambda r, n: edit_stamp(layout.crops_path(r, n.real), content="gone", listing="gone"),
        family_of,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_stale_what_depends_on_it_and_nothing_else(root, change):
    names = Names(root)
    make, expected = CHANGES[change]
    make(root, names)
    assert stale(root) == expected(names)


def test_flags(root):
    names = Names(root)
    assert stale(root, scale=2.0) == NONE | {"boxes": names.reals}
    assert stale(root, png_level=9) == NONE
    everything = NONE | {"crops": names.all, "landmarks": names.reals, "masks": names.all_fakes}
    assert stale(root, crops_dir="others") == everything
    shutil.copytree(root / "crops", root / "others")
    assert stale(root, crops_dir="others") == NONE  # the same crops at another place


def test_another_place_and_a_copy_without_times(root, tmp_path, monkeypatch):
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved, copy_function=shutil.copyfile)
    assert stale(moved) == NONE
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    assert stale(Path("elsewhere")) == NONE


@pytest.mark.parametrize(
    ("module", "step"),
    [(detect_step, "boxes"), (crop_step, "crops"), (landmark_step, "landmarks"), (diff_step, "masks")],
)
def test_t65_results_of_an_older_version_are_stale(root, monkeypatch, module, step):
    names = Names(root)
    everyone = {"boxes": names.reals, "crops": names.all, "landmarks": names.reals, "masks": names.all_fakes}
    if module is detect_step:
        monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    else:
        monkeypatch.setitem(module.SETTINGS, "version", module.VERSION + 1)
    assert stale(root) == NONE | {step: everyone[step]}


def test_every_constant_that_decides_a_result_is_in_the_settings(root):
    """Named one by one, with its value: a changed constant without a changed stamp is what this is about."""
    assert DetectStep(root, "auto").settings == {
        "version": 3,
        "stride": 10,
        "thresholds": [0.85, 0.95, 0.95],
        "detector_scale": "auto",
        "scale_limits": [[299, 2.0], [1000, 1.0], [None, 0.5]],
        "detector": {
            "weights": "facenet-pytorch 2.6.0",
            "smallest_face": 20,
            "pyramid_factor": 0.709,
            "nms": [0.5, 0.7, 0.7, 0.7],
        },
        "tracker": {
            "max_gap": 50,
            "trusted": 5,
            "least_gap": 0.4,
            "near": 10,
            "reach_near": 1.0,
            "reach_far": 2.0,
            "most_growth": 2.0,
        },
    }
    assert crop_step.SETTINGS == {
        "version": 2,
        "margin_part": 3,
        "looks": [3, 8],
        "matching": {"same_count": 0.01, "spare_frames": 2, "same_length": 0.02},
    }
    assert {
        "version": 2,
        "thresholds": [0.65, 0.75, 0.75],
        "smallest": 0.2,
        "middle_overlap": 0.2,
        "detector": DetectStep(root, "auto").settings["detector"],
    } == landmark_step.SETTINGS
    assert diff_step.SETTINGS == {
        "version": 3,
        "window": 7,
        "changed": [20, 33],
        "border": {"part": 0.1, "side": 40, "difference": 10.0, "likeness": 0.8},
    }


def test_stamps_carry_those_settings(root):
    names = Names(root)
    stamps = [
        (read_boxes(layout.bboxes_path(root, names.real)).stamp, DetectStep(root, "auto").settings),
        (artifacts.read_stamp(layout.crops_path(root, names.fake)), crop_step.SETTINGS),
        (artifacts.read_stamp(layout.landmarks_path(root, names.real)), landmark_step.SETTINGS),
        (artifacts.read_stamp(layout.diffs_path(root, names.fake)), diff_step.SETTINGS),
    ]
    for stamp, settings in stamps:
        assert stamp.made_from["settings"] == settings


def test_boxes_are_not_rounded(root):
    """A corner is kept as the detector gave it: rounded ones moved every five-hundredth crop by a pixel."""
    boxes = read_boxes(layout.bboxes_path(root, Names(root).real))
    corners = [corner for faces in boxes.frames.values() for face in faces for corner in face.box]
    assert all(corner == float(np.float32(corner)) for corner in corners)
    assert any(corner != round(corner, 3) for corner in corners)


def test_what_the_check_remembers_is_forgotten_with_the_step(root):
    """Fakes share what is known of their original's boxes and crops, but each run looks anew."""
    names = Names(root)
    dataset = layout.load_dataset(root)
    crops, masks = CropStep(root, "crops", load_rejections(root)), DiffStep(root, "crops")
    real, fake = dataset.videos[names.real], dataset.videos[names.fake]
    assert crops.check(real) is not None
    assert masks.check(fake) is not None
    edit_boxes(root, names.real, 4)
    replace_crop(root, names.real)
    assert crops.check(fake) is not None  # asked within one run: the boxes are those of its beginning
    assert CropStep(root, "crops", load_rejections(root)).check(fake) is None
    assert DiffStep(root, "crops").check(fake) is None


def test_the_picture_of_a_crop_that_was_replaced_is_another_one(root):
    """The change above must be one that shows."""
    path = crop_of(root, Names(root).real)
    before = cv2.imread(str(path))
    replace_crop(root, Names(root).real)
    assert not np.array_equal(cv2.imread(str(path)), before)
