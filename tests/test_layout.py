"""Parts, metadata and names (dfdc/layout.py)."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
from helpers import write_part

from dfdc import layout
from dfdc.command_line import SettingError
from dfdc.layout import DataError
from dfdc.shards import Shard

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def real_fake(part, *names):
    for name in names:
        (part / name).write_bytes(b"x")
    return part


def test_t21_parts_by_any_name_and_a_zip_is_none(tmp_path):
    for name in ("dfdc_train_part_10", "dfdc_train_part_2", "dfdc_train_part_00", "my videos"):
        write_part(tmp_path / name, {})
    (tmp_path / "dfdc_train_part_3.zip").write_bytes(b"zip")
    (tmp_path / "crops").mkdir()
    (tmp_path / "1²").mkdir()  # a digit, but no number
    names = [part.name for part in layout.find_parts(tmp_path)]
    assert names == ["dfdc_train_part_00", "dfdc_train_part_2", "dfdc_train_part_10", "my videos"]


def test_folders_that_the_steps_write_are_no_parts(tmp_path):
    write_part(tmp_path / "part_0", {"metadata.mp4": {"label": "REAL"}})
    for name in ("bboxes", "report"):  # bboxes/metadata.json: the boxes of metadata.mp4
        write_part(tmp_path / name, {"width": 640})
    dataset = layout.load_dataset(tmp_path)
    assert [part.name for part in dataset.parts] == ["part_0"]
    assert dataset.listed == {"part_0": 1}
    with pytest.raises(SettingError, match="crops_dir report"):
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
    assert {name: skipped.reason for name, skipped in dataset.skipped.items()} == {
        "undelivered": f"{part / 'undelivered.mp4'} is not on disk",
        "orphan": "its original gone is not on disk",
        "nameless": "it names no original",
        "of_fake": "its original orphan is not REAL",
    }
    assert dataset.listed == {"part_0": 5}
    fake = dataset.skipped["orphan"].video
    assert (fake.id, fake.label, fake.original, fake.path) == ("orphan", "FAKE", "gone", part / "orphan.mp4")


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
        ({"a\nb.mp4": {"label": "REAL"}}, "contains non-printable characters"),
        ({"\ud800.mp4": {"label": "REAL"}}, "contains non-printable characters"),
        ({"..": {"label": "REAL"}}, "'..' is not a plain file name"),
        ({"a.mp4": {"label": "MAYBE"}}, "label 'MAYBE' is neither REAL nor FAKE"),
        ({"a.mp4": {"label": ["REAL"]}}, "is neither REAL nor FAKE"),
        ({"a.mp4": "REAL"}, "expected an object"),
        ({"a.mp4": {"label": "FAKE", "original": 7}}, "original 7 is not a file name"),
        ({"a.mp4": {"label": "FAKE", "original": "../b.mp4"}}, "original: '../b.mp4' is not a plain file name"),
        ({"a.mp4": {"label": "REAL", "original": ""}}, "original: '' is not a plain file name"),
        ({"a.mp4": {"label": "FAKE", "original": "b.mp4", "donor": ["c"]}}, "donor ['c'] is not a file name"),
        ({"a.mp4": {"label": "FAKE", "original": "b.mp4", "donor": ".c"}}, "donor: '.c' is a hidden file"),
        ({".a.mp4": {"label": "REAL"}}, "'.a.mp4' is a hidden file"),
        ({"é" * 125 + "x.mp4": {"label": "REAL"}}, "éx.mp4' has 251 bytes without its suffix, and names of artifacts "),
        ({"a.mp4": {"label": "FAKE", "original": "x" * 251}}, "x' has 251 bytes without its suffix, and names of art"),
        ({"a\\b.mp4": {"label": "REAL"}}, "'a\\\\b.mp4' is not a plain file name"),
        ({"a\0b.mp4": {"label": "REAL"}}, "is not a plain file name"),
        ({"": {"label": "REAL"}}, "'' is not a plain file name"),
        ({".": {"label": "REAL"}}, "'.' is not a plain file name"),
        ('{"a": {"label": "REAL"}, "a": {"label": "REAL"}}', "entry 'a': duplicate entry; keep one"),
        ('{"a.mp4": {"split": "", "label": "REAL", "label": "FAKE"}}', "'a.mp4': duplicate key 'label'"),
        ('{"a": {"label": "X", "label": "", "split": 1, "split": 1}}', "duplicate key 'label' and 'split'"),
        (["a.mp4"], "expected a JSON object"),
        ('{"a.mp4": {"label"', "invalid JSON"),
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
    assert str(error.value).count("\n  ") == 3


def test_of_many_faults_twenty_are_shown():
    faults = [f"fault {number}" for number in range(21)]
    assert layout.list_faults(faults[:20]) == "\n  ".join(faults[:20])
    assert layout.list_faults(faults) == "\n  ".join([*faults[:20], "... and 1 more"])


def test_what_is_no_text_or_can_t_be_opened_is_named(tmp_path):
    part = write_part(tmp_path / "part_0", "")
    for data, said in ((b"\xff", "not UTF-8 text"), (b"[" * 200_000, "invalid JSON"), (b"", "invalid JSON")):
        (part / "metadata.json").write_bytes(data)
        with pytest.raises(DataError, match=rf"part_0/metadata\.json: {said}"):
            layout.load_dataset(tmp_path)


def test_a_metadata_json_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    write_part(tmp_path / "part_0", {})

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"metadata\.json: can't be read \(Permission denied\)"):
        layout.load_dataset(tmp_path)


def test_keys_may_repeat_in_what_is_not_read(tmp_path):
    part = write_part(tmp_path / "part_0", '{"a.mp4": {"label": "REAL", "notes": {"x": 1, "x": 2}}}')
    assert list(layout.load_dataset(real_fake(part, "a.mp4").parent).videos) == ["a"]


def test_relations_of_a_fake_are_ids_and_a_real_has_none(tmp_path):
    metadata = {
        "fake.mp4": {"label": "FAKE", "original": "real.mp4", "donor": "donor.of.it.mov"},
        "plain.mp4": {"label": "FAKE", "original": "real.mp4"},
        "real.mp4": {"label": "REAL", "original": "fake.mp4", "donor": "fake.mp4"},
    }
    real_fake(write_part(tmp_path / "part_0", metadata), *metadata)
    dataset = layout.load_dataset(tmp_path)
    found = {video.id: (video.original, video.source, video.donor) for video in dataset.videos.values()}
    assert found == {
        "fake": ("real", "real", "donor.of.it"),
        "plain": ("real", "real", None),
        "real": (None, "real", None),
    }
    assert [video.id for video in dataset.reals()] == ["real"]
    assert [video.id for video in dataset.fakes()] == ["fake", "plain"]


def test_links_to_nowhere_are_skipped_and_others_are_not(tmp_path):
    names = ["gone.mp4", "under_a_file.mp4", "linked.mp4", "plain.mp4", "ring.mp4"]
    metadata = {name: {"label": "REAL"} for name in names} | {"fake.mp4": {"label": "FAKE", "original": "gone.mp4"}}
    part = real_fake(write_part(tmp_path / "part_0", metadata), "plain.mp4", "fake.mp4")
    (part / "gone.mp4").symlink_to(tmp_path / "away" / "gone.mp4")
    (part / "under_a_file.mp4").symlink_to(part / "plain.mp4" / "x.mp4")
    (part / "linked.mp4").symlink_to(part / "plain.mp4")
    (part / "ring.mp4").symlink_to(part / "ring.mp4")  # something is there, and reading it says what is wrong
    dataset = layout.load_dataset(tmp_path)
    assert set(dataset.videos) == {"linked", "plain", "ring"}
    said = "is a dangling link; mount the missing disk, or remove the link"
    for name in ("gone", "under_a_file"):
        assert dataset.skipped[name].reason == f"{part / name}.mp4 {said}"
    assert dataset.skipped["fake"].reason == "its original gone is not on disk"


@pytest.mark.parametrize("in_metadata", [NFC, NFD])
@pytest.mark.parametrize("on_disk", [NFC, NFD])
@pytest.mark.parametrize("in_fake", [NFC, NFD])
def test_names_match_in_either_unicode_form(tmp_path, in_metadata, on_disk, in_fake):
    fake = {"label": "FAKE", "original": f"{in_fake}.mp4", "donor": f"{in_fake}.mp4"}
    part = write_part(tmp_path / "part_0", {f"{in_metadata}.mp4": {"label": "REAL"}, "fake.mp4": fake})
    real_fake(part, f"{on_disk}.mp4", "fake.mp4")
    dataset = layout.load_dataset(tmp_path)
    assert list(dataset.videos) == [NFC, "fake"]
    assert dataset.videos[NFC].path == part / f"{on_disk}.mp4"
    assert (dataset.videos["fake"].original, dataset.videos["fake"].donor) == (NFC, NFC)


@pytest.mark.parametrize("listed", [NFC, NFD])
def test_with_both_forms_on_disk_the_one_that_is_listed_is_meant(tmp_path, listed):
    part = real_fake(write_part(tmp_path / "part_0", {f"{listed}.mp4": {"label": "REAL"}}), f"{NFC}.mp4", f"{NFD}.mp4")
    if len(os.listdir(part)) < 3:  # noqa: PTH208 - a test
        pytest.skip("this disk does not tell the forms apart")
    assert layout.load_dataset(tmp_path).videos[NFC].path.name == f"{listed}.mp4"


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("clip.mp4", "CLIP.mp4", "have names that differ only in case or in Unicode form"),
        ("clip.mp4", "Clip.avi", "differ only in"),
        (f"{NFC}.mp4", f"{NFD}.mp4", "differ only in"),
        (f"{NFC}.mp4", f"{NFD.upper()}.mp4", "differ only in"),
        ("\u0390.mp4", "\u1fd3.mp4", "differ only in"),
        ("clip.mp4", "clip.avi", "have the same name; artifact names must be unique"),
    ],
)
@pytest.mark.parametrize("parts", [("part_0", "part_0"), ("part_0", "part_1")])
def test_names_that_are_one_file_on_some_disks_are_refused(tmp_path, first, second, said, parts):
    entries = {part: {} for part in parts}
    for part, name in zip(parts, (first, second), strict=True):
        entries[part][name] = {"label": "REAL"}
    for part, metadata in entries.items():
        write_part(tmp_path / part, metadata)  # the files need not be there
    with pytest.raises(DataError) as error:
        layout.load_dataset(tmp_path)
    assert f"{tmp_path / parts[0] / first} and {tmp_path / parts[1] / second} " in str(error.value)
    assert said in str(error.value)


def test_empty_or_wrong_root_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        layout.load_dataset(tmp_path / "absent")
    with pytest.raises(DataError, match=r"no folder in .* contains a metadata\.json"):
        layout.load_dataset(tmp_path)
    write_part(tmp_path, {})
    with pytest.raises(DataError, match="itself a part"):
        layout.load_dataset(tmp_path)


def test_t61_a_part_or_artifacts_on_a_disk_that_is_away_are_named(tmp_path):
    real_fake(write_part(tmp_path / "part_0", {"a.mp4": {"label": "REAL"}}), "a.mp4")
    (tmp_path / "notes.txt").symlink_to(tmp_path / "nothing")  # no folder's name
    (tmp_path / ".hidden").symlink_to(tmp_path / "nothing")
    assert len(layout.load_dataset(tmp_path).videos) == 1
    for name in ("part_1", "bboxes"):
        (tmp_path / name).symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError) as error:
        layout.load_dataset(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/bboxes, {tmp_path}/part_1: dangling links. Mount the missing disk, or remove the links"
    )


def test_t28_strange_names_are_plain_names(tmp_path):
    names = ["-rf.mp4", 'it\'s a "video".mp4', "naïve café 影片.mp4", "$(touch x).mp4", "a.b.mp4"]
    part = write_part(tmp_path / "part 0", json.dumps({name: {"label": "REAL"} for name in names}))
    real_fake(part, *names)
    videos = layout.load_dataset(tmp_path).videos
    assert {video.path.name for video in videos.values()} == set(names)
    assert layout.crops_path(tmp_path, "a.b").name == "a.b"


def test_file_names_of_artifacts():
    root = Path("root")
    assert layout.bboxes_path(root, "a.b") == Path("root/bboxes/a.b.json")
    assert layout.crops_path(root, "a.b") == Path("root/crops/a.b")
    assert layout.crops_path(root, "a", "tight") == Path("root/tight/a")
    assert layout.landmarks_path(root, "a") == Path("root/landmarks/a")
    assert layout.diffs_path(root, "a") == Path("root/diffs/a")
    assert layout.ledger_path(root, "step") == Path("root/failures/step.csv")
    assert layout.ledger_path(root, "step", Shard(2, 3)) == Path("root/failures/step.shard-2-of-3.csv")
    assert layout.report_path(root) == Path("root/report/index.html")
    assert layout.landmarks_name(10, 2) == "10_2.npy"
    assert layout.diff_name(10, 2) == "10_2_diff.png"


def test_crop_names_there_and_back(tmp_path):
    assert layout.crop_name(120, 3) == "120_3.png"
    assert layout.parse_crop_name("120_3.png") == (120, 3)
    with pytest.raises(ValueError, match="not a crop name"):
        layout.parse_crop_name("120_3_diff.png")
    for name in (
        "100_0.png",
        "20_1.png",
        "20_0.png",
        "20_0_diff.png",
        ".20_2.png",
        "x",
        "020_0.png",
        "٣_0.png",
        f"{10**9}_0.png",
    ):
        (tmp_path / name).write_bytes(b"")
    assert layout.list_crops(tmp_path) == [(20, 0), (20, 1), (100, 0)]
    assert layout.list_crops(tmp_path / "none") == layout.list_crops(tmp_path / "x") == []


@pytest.mark.parametrize("name", ["", "..", "a/b", ".crops", "bboxes", "weights", "logs", "my part"])
def test_crops_get_a_folder_of_their_own(name):
    assert layout.check_crops_dir("tight", [Path("my part")]) == "tight"
    with pytest.raises(SettingError, match=r"choose the plain name of a separate folder"):
        layout.check_crops_dir(name, [Path("my part")])


def test_t13_videos_by_suffix_in_any_case(tmp_path):
    for name in ("b.MP4", "a.mov", "c.webm", ".hidden.mp4", "notes.txt", "metadata.json", "d.PNG", "e.gif"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "d.mkv").write_bytes(b"")
    (tmp_path / "10.mp4").symlink_to(tmp_path / "a.mov")
    (tmp_path / "9.mp4").symlink_to(tmp_path / "gone.mp4")

    def names(paths):
        return [path.name for path in paths]

    videos = ["10.mp4", "a.mov", "b.MP4", "c.webm"]
    assert names(layout.list_videos(tmp_path)) == videos
    assert names(layout.list_videos(tmp_path, recursive=True)) == [*videos, "d.mkv"]
    files = ["9.mp4", "10.mp4", "a.mov", "b.MP4", "c.webm", "d.PNG", "e.gif", "metadata.json", "notes.txt"]
    assert names(layout.list_files(tmp_path)) == files
    assert layout.is_picture(Path("d.PNG"))
    assert layout.is_picture(Path("d.Heic"))
    assert not layout.is_picture(Path("d.mov"))


def test_linked_folders_are_looked_into_once_each_and_hidden_ones_are_not(tmp_path):
    top, away = tmp_path / "top", tmp_path / "away"
    for folder in (top / "b", away / "deep", top / ".trash"):
        folder.mkdir(parents=True)
    for path in (top / "b/1.mp4", away / "deep/2.mp4", top / ".trash/3.mp4"):
        path.write_bytes(b"")
    (top / "a_link").symlink_to(top / "b")  # by its own name, though the link's comes first
    (top / "c").symlink_to(away)
    (away / "round").symlink_to(away)
    (away / "up").symlink_to(top)
    (top / "d").symlink_to(away / "deep")
    found = [str(path.relative_to(top)) for path in layout.list_files(top, recursive=True)]
    assert found == ["b/1.mp4", "c/deep/2.mp4"]
    assert layout.list_files(top) == []
    assert layout.list_files(top / "c/deep/../deep") == [top / "c/deep/../deep/2.mp4"]


def test_a_folder_that_cant_be_looked_into_is_told(tmp_path, monkeypatch):
    for name in ("shut", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").write_bytes(b"")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="shut"):
        layout.list_files(tmp_path, recursive=True)
    told = []
    found = layout.list_files(tmp_path, recursive=True, onerror=told.append)
    assert found == [tmp_path / "open/a.mp4"]
    assert [error.filename for error in told] == [str(tmp_path / "shut")]


def test_names_with_digits_that_are_no_numbers_have_an_order(tmp_path):
    names = [
        "1²2.png",
        "1¹.png",
        "½.png",
        "②.png",
        "٣.png",
        "3.png",
        "10.mp4",
        "a1²2",
        "1",
        "",
        "²",
        "x²10.mp4",
        "x²9.mp4",
    ]
    ordered = sorted(names, key=layout.natural_key)
    assert ordered.index("x²9.mp4") < ordered.index("x²10.mp4")
    assert ordered.index("3.png") < ordered.index("10.mp4")
    assert layout.natural_key("a" + "9" * 5000)[0] == "a"  # a name in a table
    for name in filter(None, names):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in layout.list_videos(tmp_path)] == ["10.mp4", "x²9.mp4", "x²10.mp4"]


@pytest.mark.parametrize(
    ("name", "target"),
    [("crops", "."), ("crops", ".."), ("crops", "part_0/below"), ("bboxes", "../disk"), ("report", ".")],
)
def test_t73_a_linked_artifact_folder_may_not_lead_to_the_videos(tmp_path, name, target):
    root = tmp_path / "root"
    (tmp_path / "disk/part_1").mkdir(parents=True)
    write_part(tmp_path / "disk/part_1", {"b.mp4": {"label": "REAL"}})
    write_part(root / "part_0", {"a.mp4": {"label": "REAL"}})
    (root / "part_0/below").mkdir()
    (root / "part_1").symlink_to("../disk/part_1")
    (root / name).symlink_to(target)
    with pytest.raises(DataError, match=f"{name} is a link to .*, where the videos are; let it lead to"):
        layout.check_crops_dir(name, layout.find_parts(root))


def test_an_artifact_folder_may_be_a_link_to_another_disk(tmp_path):
    write_part(tmp_path / "root/part_0", {"a.mp4": {"label": "REAL"}})
    (tmp_path / "disk").mkdir()
    for name in ("bboxes", "crops"):
        (tmp_path / "root" / name).symlink_to("../disk")
    assert layout.check_crops_dir("crops", layout.find_parts(tmp_path / "root")) == "crops"
