"""Parts, metadata and names (dfdc/layout.py)."""

import json

import pytest
from conftest import write_part

from dfdc import layout
from dfdc.layout import DataError


def real_fake(part, *names):
    for name in names:
        (part / name).write_bytes(b"x")
    return part


def test_t21_parts_by_any_name_and_a_zip_is_none(tmp_path):
    for name in ("dfdc_train_part_10", "dfdc_train_part_2", "dfdc_train_part_00", "my videos"):
        write_part(tmp_path / name, {})
    (tmp_path / "dfdc_train_part_3.zip").write_bytes(b"zip")
    (tmp_path / "crops").mkdir()
    names = [part.name for part in layout.find_parts(tmp_path)]
    assert names == ["dfdc_train_part_00", "dfdc_train_part_2", "dfdc_train_part_10", "my videos"]


def test_folders_that_the_steps_write_are_no_parts(tmp_path):
    write_part(tmp_path / "part_0", {"metadata.mp4": {"label": "REAL"}})
    for name in ("bboxes", "report"):  # bboxes/metadata.json: the boxes of metadata.mp4
        write_part(tmp_path / name, {"width": 640})
    dataset = layout.load_dataset(tmp_path)
    assert [part.name for part in dataset.parts] == ["part_0"]
    assert dataset.listed == {"part_0": 1}
    with pytest.raises(DataError, match="--crops-dir report"):
        layout.check_crops_dir("report", dataset.parts)


def test_t22_real_without_fake_is_used_and_orphans_are_named(tmp_path):
    part = write_part(
        tmp_path / "part_0",
        {
            "alone.mp4": {"label": "REAL", "split": "train"},
            "orphan.mp4": {"label": "FAKE", "original": "gone.mp4"},
            "nameless.mp4": {"label": "FAKE"},
            "undelivered.mp4": {"label": "REAL"},
            "of_fake.mp4": {"label": "FAKE", "original": "orphan.mp4"},
        },
    )
    real_fake(part, "alone.mp4", "orphan.mp4", "nameless.mp4", "of_fake.mp4")
    dataset = layout.load_dataset(tmp_path)
    assert list(dataset.videos) == ["alone"]
    assert dataset.skipped["orphan"] == "its original gone is not on disk"
    assert "no original" in dataset.skipped["nameless"]
    assert "not on disk" in dataset.skipped["undelivered"]
    assert set(dataset.skipped) == {"orphan", "nameless", "undelivered", "of_fake"}


def test_t25_same_name_in_two_parts_names_both(tmp_path):
    for name in ("part_0", "part_1"):
        real_fake(write_part(tmp_path / name, {"a.mp4": {"label": "REAL"}}), "a.mp4")
    with pytest.raises(DataError) as error:
        layout.load_dataset(tmp_path)
    assert str(tmp_path / "part_0" / "a.mp4") in str(error.value)
    assert str(tmp_path / "part_1" / "a.mp4") in str(error.value)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"../evil.mp4": {"label": "REAL"}}, "'../evil.mp4' is not a plain file name"),
        ({"/etc/evil.mp4": {"label": "REAL"}}, "'/etc/evil.mp4' is not a plain file name"),
        ({"a\nb.mp4": {"label": "REAL"}}, "can't be in a list of files"),
        ({"\ud800.mp4": {"label": "REAL"}}, "can't be in a list of files"),
        ({"..": {"label": "REAL"}}, "'..' is not a plain file name"),
        ({"a.mp4": {"label": "MAYBE"}}, "label 'MAYBE' is neither REAL nor FAKE"),
        ({"a.mp4": {"label": ["REAL"]}}, "is neither REAL nor FAKE"),
        ({"a.mp4": "REAL"}, "an object is expected"),
        ({"a.mp4": {"label": "FAKE", "original": 7}}, "original 7 is not a file name"),
        ({"a.mp4": {"label": "FAKE", "original": "../b.mp4"}}, "'../b.mp4' is not a plain file name"),
        (["a.mp4"], "a JSON object is expected"),
        ('{"a.mp4": {"label"', "broken JSON"),
    ],
)
def test_t29_hostile_metadata_is_named_and_refused(tmp_path, metadata, said):
    part = write_part(tmp_path / "part_0", metadata)
    with pytest.raises(DataError) as error:
        layout.load_dataset(tmp_path)
    assert said in str(error.value)
    assert str(part / "metadata.json") in str(error.value)


def test_all_metadata_faults_are_told_at_once(tmp_path):
    write_part(tmp_path / "part_0", {"a.mp4": {"label": "X"}, "b.mp4": 3})
    write_part(tmp_path / "part_1", "not json")
    with pytest.raises(DataError) as error:
        layout.load_dataset(tmp_path)
    assert str(error.value).count("\n") == 3


def test_empty_or_wrong_root_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        layout.load_dataset(tmp_path / "absent")
    with pytest.raises(DataError, match=r"holds a metadata\.json"):
        layout.load_dataset(tmp_path)
    write_part(tmp_path, {})
    with pytest.raises(DataError, match="itself a part"):
        layout.load_dataset(tmp_path)


def test_t28_strange_names_are_plain_names(tmp_path):
    names = ["-rf.mp4", 'it\'s a "video".mp4', "naïve café 影片.mp4", "$(touch x).mp4", "a.b.mp4"]
    part = write_part(tmp_path / "part 0", json.dumps({name: {"label": "REAL"} for name in names}))
    real_fake(part, *names)
    videos = layout.load_dataset(tmp_path).videos
    assert {video.path.name for video in videos.values()} == set(names)
    assert layout.crops_path(tmp_path, "a.b").name == "a.b"


def test_crop_names_there_and_back():
    assert layout.parse_crop_name(layout.crop_name(120, 3)) == (120, 3)
    with pytest.raises(ValueError, match="no crop name"):
        layout.parse_crop_name("120_3_diff.png")


def test_t13_videos_by_suffix_in_any_case(tmp_path):
    for name in ("b.MP4", "a.mov", "c.webm", ".hidden.mp4", "notes.txt", "metadata.json"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "d.mkv").write_bytes(b"")
    assert [path.name for path in layout.list_videos(tmp_path)] == ["a.mov", "b.MP4", "c.webm"]
    assert [path.name for path in layout.list_videos(tmp_path, recursive=True)] == ["a.mov", "b.MP4", "c.webm", "d.mkv"]
