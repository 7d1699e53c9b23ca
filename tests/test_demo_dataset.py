"""The demonstration dataset: layout, repeatability, own faces, restarts, refusals (demo_data/demo_dataset.py)."""

import json
import shutil

import numpy as np
import pytest

from demo_data import demo_dataset as demo
from demo_data import demo_faces, demo_swaps
from dfdc import layout
from dfdc.command_line import SettingError
from dfdc.detector_settings import DETECT_THRESHOLDS
from dfdc.faces import FaceDetector
from dfdc.video import VideoReader, write_video

pytestmark = pytest.mark.slow

SMALL = {"parts": 2, "people": 2, "fakes": 4, "frames": 3}


def read(path):
    with VideoReader(path) as reader:
        return [picture for _, picture in reader.frames()]


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def metadata(root):
    return {part: json.loads((part / "metadata.json").read_text()) for part in sorted(root.glob("dfdc_train_part_*"))}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "small"
    assert demo.make_demo_dataset(root, **SMALL)
    return root


def test_the_dataset_has_the_layout_of_the_dfdc(small):
    dataset = layout.load_dataset(small)
    assert [part.name for part in dataset.parts] == ["dfdc_train_part_0", "dfdc_train_part_1"]
    assert (len(dataset.reals()), len(dataset.fakes()), dataset.skipped) == (4, 8, {})
    for part, entries in metadata(small).items():
        assert {path.name for path in part.iterdir()} == {*entries, "metadata.json"}
        for entry in entries.values():
            assert entry["split"] == "train"
            assert ("original" in entry) == (entry["label"] == "FAKE")
            if entry["label"] == "FAKE":
                assert entries[entry["original"]]["label"] == "REAL"  # in the same part
                assert entries[entry["donor"]]["label"] == "REAL"
                assert entry["generator"] in demo_swaps.GENERATORS


def test_a_fake_has_the_size_and_length_of_its_original(small):
    for part, entries in metadata(small).items():
        for name, entry in entries.items():
            frames = read(part / name)
            assert len(frames) == SMALL["frames"]
            assert all(side % 2 == 0 for side in frames[0].shape[:2])
            assert frames[0].shape == read(part / entry.get("original", name))[0].shape


def test_the_default_plan_keeps_people_pictures_and_a_generator_out_of_training():
    jobs = demo.plan(parts=4, people=8, fakes=8, portraits=1)
    assert len(jobs) == len({job.name for job in jobs}) >= 24
    generators = [{job.swap.generator for job in jobs if job.part == part and job.swap} for part in range(4)]
    assert generators[0] == set(demo_swaps.GENERATORS)
    assert all(seen == set(demo_swaps.GENERATORS) - {demo_swaps.HELD_OUT} for seen in generators[1:])
    for many in (1, 3, 4, 9):
        jobs = demo.plan(parts=4, people=3, fakes=7, portraits=many)
        assert len({job.name for job in jobs}) == len(jobs)
        people = [
            {p for job in jobs if job.part == part for p in (job.person, job.swap and job.swap.donor)} - {None}
            for part in range(4)
        ]
        assert sum(map(len, people)) == len(set.union(*people))
        if many >= 4:
            pictures = [{job.portrait for job in jobs if job.part == part} for part in range(4)]
            assert sum(map(len, pictures)) == len(set.union(*pictures))


def test_the_same_seed_gives_the_same_bytes_in_one_process_or_two(small, tmp_path):
    assert demo.make_demo_dataset(tmp_path / "again", workers=2, **SMALL)
    assert contents(tmp_path / "again") == contents(small)


def test_another_seed_gives_other_people(small, tmp_path):
    demo.make_demo_dataset(tmp_path, seed=1, parts=1, people=2, fakes=1, frames=1)
    ours, other = (read(root / "dfdc_train_part_0" / "person00.mp4")[0] for root in (small, tmp_path))
    assert ours.shape != other.shape or np.abs(ours.astype(int) - other).mean() > 5


def test_outside_the_face_a_fake_video_shows_what_its_original_shows(small):
    for part, entries in metadata(small).items():
        for name, entry in entries.items():
            if entry["label"] == "FAKE":
                original, fake = read(part / entry["original"])[0], read(part / name)[0]
                difference = np.abs(original.astype(int) - fake)
                rows = slice(int(0.8 * len(original)), None)  # the clothes
                assert difference[rows].mean() < 3  # only what the compression makes of it
                assert difference.max() > 15


def test_mtcnn_finds_exactly_one_face(small):
    detector = FaceDetector(DETECT_THRESHOLDS)
    for part, entries in metadata(small).items():
        for name in entries:
            (faces,) = detector.detect([read(part / name)[0]])
            assert len(faces) == 1, name


def test_a_complete_dataset_is_left_alone(small, capsys):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    assert not demo.make_demo_dataset(small, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before


def test_an_interrupted_run_is_completed(small, tmp_path):
    root = tmp_path / "cut"
    shutil.copytree(small, root)
    part = root / "dfdc_train_part_1"
    (part / "metadata.json").unlink()
    (part / "person03.mp4").unlink()
    (part / ".person03.mp4.part-1").write_bytes(b"half a video")
    kept = (part / "person02.mp4").stat().st_mtime_ns
    assert demo.make_demo_dataset(root, **SMALL)
    assert contents(root) == contents(small)
    assert (part / "person02.mp4").stat().st_mtime_ns == kept


def test_other_settings_are_refused_by_name(small):
    with pytest.raises(SettingError, match="seed 0 instead of 7"):
        demo.make_demo_dataset(small, **SMALL, seed=7)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match="is a file"):
        demo.make_demo_dataset(tmp_path / "file", **SMALL)


def test_the_users_faces_are_used_and_unusable_files_named(tmp_path, capsys):
    from PIL import Image
    from skimage.data import astronaut, cat

    faces = tmp_path / "faces"
    faces.mkdir()
    Image.fromarray(astronaut()[:300, :, ::-1]).save(faces / "a.png")  # with blue skin
    Image.fromarray(cat()).save(faces / "cat.png")
    (faces / "notes.txt").write_text("no picture")
    (faces / "broken.mp4").write_bytes(b"no video")
    write_video(faces / "film.mp4", [astronaut()] * 2)
    portraits = demo.load_portraits(faces)
    said = capsys.readouterr().err
    assert len(portraits) == 2
    assert all(name in said for name in ("cat.png", "notes.txt", "broken.mp4"))
    assert "film.mp4" not in said and "a.png" not in said
    # Laid on the canvas, the eyes are where they belong.
    np.testing.assert_allclose(portraits[0].points[:2].mean(axis=0), demo_faces.EYES, atol=0.5)

    tiny = {"parts": 1, "people": 2, "fakes": 1, "frames": 1}
    assert demo.make_demo_dataset(tmp_path / "out", faces=faces, **tiny)
    assert not demo.make_demo_dataset(tmp_path / "out", faces=faces, **tiny)
    (faces / "a.png").unlink()
    with pytest.raises(SettingError, match="faces 5 files instead of 4 files"):
        demo.make_demo_dataset(tmp_path / "out", faces=faces, **tiny)


def test_without_one_usable_face_nothing_is_begun(tmp_path):
    faces = tmp_path / "faces"
    faces.mkdir()
    with pytest.raises(SettingError, match="holds no files"):
        demo.make_demo_dataset(tmp_path / "out", faces=faces, **SMALL)
    (faces / "notes.txt").write_text("no picture")
    with pytest.raises(SettingError, match=r"no usable face[\s\S]*notes\.txt"):
        demo.make_demo_dataset(tmp_path / "out", faces=faces, **SMALL)
    with pytest.raises(SettingError, match="not a folder"):
        demo.make_demo_dataset(tmp_path / "out", faces=tmp_path / "absent", **SMALL)
    assert not (tmp_path / "out").exists()
