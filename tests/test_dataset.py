"""Sampling and samples (training/dataset.py)."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from dfdc import layout
from dfdc.command_line import SettingError
from dfdc.imaging import encode_png
from training import dataset, transforms
from training.config import OcclusionConfig
from training.dataset import EpochSampler, FoldsError

HEADER = "video,file,label,original,frame,fold\n"

ALWAYS_EYES = OcclusionConfig(eyes=1, mouth=0, nose=0, half_face=0, half_picture=0)

SEEDS = (111, 555, 777, 888, 999)


def labels_of(reals, fakes):
    return np.array([0] * reals + [1] * fakes)


@pytest.mark.parametrize(("reals", "fakes"), [(10, 90), (90, 10), (20, 20)])
def test_t35_balanced_whichever_is_the_smaller(reals, fakes):
    labels = labels_of(reals, fakes)
    rows = dataset.epoch_rows(labels, seed=1, epoch=0)
    assert np.bincount(labels[rows]).tolist() == [min(reals, fakes)] * 2
    assert len(set(rows.tolist())) == len(rows)
    smaller = np.flatnonzero(labels == int(fakes < reals))
    assert set(smaller) <= set(rows.tolist())


def test_t36_no_seed_or_epoch_repeats_anothers_draw():
    labels = labels_of(50, 500)
    draws = [tuple(dataset.epoch_rows(labels, seed, epoch)) for seed in SEEDS for epoch in range(4)]
    assert len(set(draws)) == len(draws)
    assert draws[0] == tuple(dataset.epoch_rows(labels, 111, 0))
    fakes = [set(np.array(draw)[labels[list(draw)] == 1]) for draw in draws]
    assert len(set(map(frozenset, fakes))) == len(fakes)


def test_ranks_share_the_batches_of_one_process():
    labels = labels_of(40, 200)
    single = list(EpochSampler(labels, 8, seed=5, max_batches=100))
    ranks = [list(EpochSampler(labels, 4, seed=5, rank=rank, ranks=2, max_batches=100)) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == single
    assert len(single) == 10


def test_resumed_epoch_goes_on_with_the_next_batch():
    sampler = EpochSampler(labels_of(40, 60), 8, seed=5, max_batches=7)
    sampler.set_epoch(3)
    whole = list(sampler)
    sampler.set_epoch(3, first_batch=4)
    assert list(sampler) == whole[4:]
    assert (len(whole), len(sampler)) == (7, 3)


def test_t36_a_sample_depends_on_seed_epoch_and_row_only(crops_root):
    table = dataset.read_folds(crops_root / "folds.csv")

    def samples(seed, workers, keys):
        data = dataset.CropDataset(table, crops_root, "crops", 64, train=True, seed=seed, occlusions=OcclusionConfig())
        loader = DataLoader(data, batch_sampler=[keys], num_workers=workers, collate_fn=dataset.collate)
        return next(iter(loader))["image"].numpy()

    keys = [(row, 2) for row in range(8)]
    images = samples(7, 0, keys)
    assert images.shape == (8, 64, 64, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, samples(7, 2, keys))
    assert np.array_equal(images[::-1], samples(7, 0, keys[::-1]))
    assert not np.array_equal(images, samples(8, 0, keys))
    assert not np.array_equal(images, samples(7, 0, [(row, 3) for row in range(8)]))


def test_t36_five_seeds_share_no_augmentation(crops_root):
    table = dataset.read_folds(crops_root / "folds.csv")
    found = []
    for seed in SEEDS:
        data = dataset.CropDataset(table, crops_root, "crops", 32, train=True, seed=seed)
        found += [b"".join(data[(row, epoch)]["image"].tobytes() for row in range(6)) for epoch in range(3)]
    assert len(set(found)) == len(found)


def test_validation_samples_are_the_crops_scaled_and_padded_alone(crops_root):
    """As Pillow shrinks and enlarges by area and cubic, within what two libraries differ."""
    from PIL import Image

    table = dataset.read_folds(crops_root / "folds.csv")
    data = dataset.CropDataset(table, crops_root, "crops", 120, train=False, occlusions=ALWAYS_EYES, only_changed=True)
    for row in (0, 3, 40):
        sample = data[row]
        path = layout.crops_path(crops_root, str(table["video"][row])) / str(table["file"][row])
        plain = np.array(Image.open(path).resize((100, 120), Image.Resampling.BICUBIC), int)
        assert sample["image"].shape == (120, 120, 3)
        assert not sample["image"][:, :10].any()
        assert not sample["image"][:, 110:].any()
        assert np.abs(sample["image"][:, 10:110].astype(int) - plain).mean() < 2
        assert np.array_equal(sample["image"], data[(row, 7)]["image"])  # in any epoch
        assert sample["valid"]


@pytest.mark.slow
def test_training_samples_are_augmented_and_occluded(crops_root):
    table = dataset.read_folds(crops_root / "folds.csv")
    plain = dataset.CropDataset(table, crops_root, "crops", 60, train=False)

    def differing(occlusions):
        data = dataset.CropDataset(table, crops_root, "crops", 60, train=True, occlusions=occlusions)
        rows = range(len(table))
        changed = [not np.array_equal(plain[row]["image"], data[(row, 0)]["image"]) for row in rows]
        dark = [float((data[(row, 0)]["image"][10:50, 10:50] == 0).all(axis=2).mean()) for row in rows]
        return np.mean(changed), np.mean(dark)

    changed, dark = differing(None)
    assert changed > 0.9  # nothing at all happens to 2 % of the crops
    assert dark < 0.05
    assert differing(ALWAYS_EYES)[1] > dark + 0.05


def test_t30_a_broken_crop_is_named_and_not_replaced(crops_root):
    table = dataset.read_folds(crops_root / "folds.csv")
    row = 4
    path = layout.crops_path(crops_root, str(table["video"][row])) / str(table["file"][row])
    path.write_bytes(b"broken")
    data = dataset.CropDataset(table, crops_root, "crops", 64, train=False)
    batch = dataset.collate([data[row], data[row + 1]])
    assert batch["valid"].tolist() == batch["readable"].tolist() == [False, True]
    assert len(batch["error"]) == 1
    assert str(path) in batch["error"][0]
    assert batch["image"][0].sum() == 0


def test_no_oversample_is_every_crop_once():
    rows = dataset.epoch_rows(labels_of(10, 50), 1, 0, oversample=False)
    assert sorted(rows.tolist()) == list(range(60))
    sampler = EpochSampler(labels_of(10, 50), 7, 1, max_batches=99, oversample=False)
    assert len(list(sampler)) == 8


@pytest.mark.slow
def test_t34_only_changed_frames_are_decided_after_the_occlusion(crops_root):
    table = dataset.read_folds(crops_root / "folds.csv")
    fakes = np.flatnonzero(table["label"] == 1)
    mask = layout.diffs_path(crops_root, str(table["video"][fakes[0]])) / layout.diff_name(
        int(table["frame"][fakes[0]]), 0
    )
    mask.write_bytes(encode_png(np.zeros((60, 50), np.uint8)))

    def valid(only_changed):
        data = dataset.CropDataset(table, crops_root, "crops", 32, train=True, only_changed=only_changed)
        return [data[(int(row), epoch)]["valid"] for row in range(len(table)) for epoch in range(3)]

    assert all(valid(False))
    found = np.array(valid(True)).reshape(-1, 3).all(axis=1)
    assert np.flatnonzero(~found).tolist() == [fakes[0]]


def test_a_broken_landmarks_file_is_named(crops_root):
    table = dataset.read_folds(crops_root / "folds.csv")
    for content in (b"", b"\x93NUMPY"):
        (layout.landmarks_path(crops_root, "real0") / "0_0.npy").write_bytes(content)
        data = dataset.CropDataset(table, crops_root, "crops", 32, train=True, occlusions=ALWAYS_EYES)
        sample = data[(0, 0)]
        assert (sample["valid"], bool(sample["error"])) == (False, True)


def test_padding_part_tightens_picture_mask_and_points_alike(crops_root, monkeypatch):
    table = dataset.read_folds(crops_root / "folds.csv")
    seen = []
    monkeypatch.setattr(
        dataset, "occlude", lambda p, m, q, rng, shares: seen.append((p.shape, m.shape, q.tolist())) or (p, m)
    )
    row = int(np.flatnonzero(table["label"] == 1)[0])
    for part in (3, 6):
        dataset.CropDataset(table, crops_root, "crops", 32, train=True, margin_part=part, occlusions=ALWAYS_EYES)[
            (row, 0)
        ]
    (shape, mask, points), (tight_shape, tight_mask, tight_points) = seen
    assert (shape[:2], mask) == ((60, 50), (60, 50))
    assert tight_shape[:2] == tight_mask == (48, 40)  # 12 and 10 off less 36 // 6 and 30 // 6
    assert (np.array(points) - tight_points).tolist() == [[5, 6]] * 5


def test_the_share_of_unchanged_fakes_is_read_from_the_stamps(crops_root):
    from dfdc import artifacts

    table = dataset.read_folds(crops_root / "folds.csv")
    assert dataset.unchanged_share(table, crops_root) == (0, 0)
    folder = layout.diffs_path(crops_root, "fake1")
    stamp = {"made": {"masks": 6, "unchanged": 2}, "notes": [], "failed": None}
    artifacts.write_json(folder / artifacts.STAMP_NAME, stamp)
    assert dataset.unchanged_share(table, crops_root) == (2, 6)
    del stamp["made"]["unchanged"]
    artifacts.write_json(folder / artifacts.STAMP_NAME, stamp)
    assert dataset.unchanged_share(table, crops_root) == (0, 6)


def test_split_holds_out_every_second_sampled_frame(crops_root):
    table = dataset.read_folds(crops_root / "folds.csv")
    train, held_out = dataset.split_folds(table, 1, crops_root)
    assert set(train["fold"]) == {0, 2}
    assert set(held_out["fold"]) == {1}
    assert set(held_out["frame"]) == {0, 20, 40}


def test_t30_crops_that_are_missing_are_named_before_training(crops_root):
    path = crops_root / "folds.csv"
    table = dataset.read_folds(path)
    dataset.check_crops(table, crops_root / "crops", path)
    gone = layout.crops_path(crops_root, "fake2") / "20_0.png"
    gone.unlink()
    with pytest.raises(FoldsError, match=f"names 1 crops that do not exist, e.g. {gone}"):
        dataset.check_crops(table, crops_root / "crops", path)
    with pytest.raises(FoldsError, match="is not a folder; set data_dir to the DATA_ROOT that contains crops_dir "):
        dataset.check_crops(table, crops_root / "absent", path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "can't be read"),
        ("video,file\na,b\n", "lacks the column label and original and frame and fold"),
        (HEADER, "no rows"),
        (HEADER + "a,0_0.png,1,a,0,0\na,0_0.png,2,a,0,0\n", "line 3: label '2' is neither 0"),
        (HEADER + "a,0_0.png,x,a,0,0\n", "line 2: label 'x' is neither 0"),
        (HEADER + "a,0_0.png,1,a,0,0\n\na,0_0.png,1,a,0,x\n", "line 4: fold 'x' is not a whole number"),
        (HEADER + f"a,0_0.png,1,a,0,{10**30}\n", "line 2: fold '1000.*' is not a whole number of up to 18 digits"),
        (HEADER + "a,0_0.png,1,a,0,٣\n", "line 2: fold '٣' is not a whole number"),
    ],
)
def test_bad_folds_files_are_named(tmp_path, text, said):
    path = tmp_path / "folds.csv"
    path.write_text(text)
    with pytest.raises(FoldsError, match=said):
        table = dataset.read_folds(path)
        dataset.split_folds(table, 0, path)
    with pytest.raises(FoldsError, match=r"absent\.csv"):
        dataset.read_folds(tmp_path / "absent.csv")


def test_names_that_look_like_numbers_or_nothing_stay_texts(tmp_path):
    path = tmp_path / "folds.csv"
    path.write_text("video,file,label,original,frame,fold\n007,0_0.png,0,007,0,0\nNA,0_0.png,1,007,0,1\n")
    table = dataset.read_folds(path)
    assert table["video"].astype(str).tolist() == ["007", "NA"]


def test_a_missing_fold_or_class_is_an_error(crops_root):
    table = dataset.read_folds(crops_root / "folds.csv")
    with pytest.raises(SettingError, match=r"^fold 9: .*has the folds 0, 1, 2"):
        dataset.split_folds(table, 9, crops_root)
    only_real = pd.concat([table[table["label"] == 0], table[table["fold"] == 0]])
    with pytest.raises(SettingError, match="24 real and 0 fake"):
        dataset.split_folds(only_real, 0, crops_root)
    only_fake = pd.concat([table[table["label"] == 1], table[table["fold"] == 0]])
    with pytest.raises(SettingError, match="0 real and 24 fake"):
        dataset.split_folds(only_fake, 0, crops_root)


def test_names_of_digits_stay_names(tmp_path):
    path = tmp_path / "folds.csv"
    path.write_text("video,file,label,original,frame,fold\n007,0_0.png,0,007,0,0\nNA,0_0.png,1,007,0,1\n")
    table = dataset.read_folds(path)
    assert table["video"].astype(str).tolist() == ["007", "NA"]
    assert table["original"].astype(str).tolist() == ["007", "007"]
    assert isinstance(table["video"].dtype, pd.CategoricalDtype)


def batch_of(readable, fill=50):
    images = np.arange(len(readable), dtype=np.uint8)[:, None, None, None] + np.full((1, 4, 4, 3), fill, np.uint8)
    return dataset.collate(
        [
            {"image": image * ok, "label": 0, "row": row, "error": "" if ok else "e", "valid": ok}
            for row, (image, ok) in enumerate(zip(images, readable, strict=True))
        ]
    )


def test_unreadable_crops_get_a_picture_that_could_be_read():
    spare = torch.full((4, 4, 3), 77, dtype=torch.uint8)
    for readable, expected in (
        ([True, True], [100, 101]),
        ([False, True, False, True], [101, 101, 101, 103]),
        ([True, False], [100, 100]),
        ([False, False], [77, 77]),
    ):
        batch = batch_of(readable, fill=100)
        dataset.fill_unreadable(batch, spare)
        assert batch["image"][:, 0, 0, 0].tolist() == expected
        assert batch["valid"].tolist() == readable
    with pytest.raises(ValueError, match="no crop of a batch could be read, and there is no spare image; e"):
        dataset.fill_unreadable(batch_of([False]), None)


def test_a_fake_without_a_visible_change_is_not_valid_only_when_asked(crops_root):
    """The mask of one fake shows its change only where the eyes are blacked out: by then nothing is left to see."""
    table = dataset.read_folds(crops_root / "folds.csv")
    row = int(np.flatnonzero(table["label"] == 1)[0])
    path = layout.diffs_path(crops_root, str(table["video"][row])) / layout.diff_name(int(table["frame"][row]), 0)
    path.write_bytes(encode_png(np.zeros((60, 50), np.uint8)))
    for only_changed, occlusions in ((True, None), (True, ALWAYS_EYES), (False, ALWAYS_EYES)):
        data = dataset.CropDataset(
            table, crops_root, "crops", 32, train=True, only_changed=only_changed, occlusions=occlusions
        )
        assert data[(row, 0)]["valid"] is not only_changed
    path.unlink()  # without a mask a fake gets the benefit of the doubt
    data = dataset.CropDataset(table, crops_root, "crops", 32, train=True, only_changed=True)
    assert data[(row, 0)]["valid"]
    path.write_bytes(encode_png(np.zeros((9, 9), np.uint8)))  # a mask of another size is none
    assert data[(row, 0)]["valid"]


def test_masks_are_read_for_fakes_only_where_they_decide_something(crops_root, monkeypatch):
    table = dataset.read_folds(crops_root / "folds.csv")
    read = []
    original = dataset._load_mask
    monkeypatch.setattr(dataset, "_load_mask", lambda path, shape: read.append(path) or original(path, shape))
    rows = [int(np.flatnonzero(table["label"] == label)[0]) for label in (0, 1)]
    for options, expected in (({}, 0), ({"only_changed": True}, 1), ({"occlusions": ALWAYS_EYES}, 1)):
        read.clear()
        data = dataset.CropDataset(table, crops_root, "crops", 32, train=True, **options)
        for row in rows:
            data[(row, 0)]
        assert len(read) == expected


def test_a_tight_crop_without_landmarks_is_a_sample(crops_root):
    import shutil

    table = dataset.read_folds(crops_root / "folds.csv")
    shutil.rmtree(crops_root / "landmarks")
    data = dataset.CropDataset(table, crops_root, "crops", 32, train=True, margin_part=6, occlusions=OcclusionConfig())
    assert all(not data[(row, 0)]["error"] for row in range(len(table)))


def test_a_batch_has_the_types_that_the_losses_take():
    batch = batch_of([True, False])
    assert [batch[name].dtype for name in ("image", "label", "row", "valid", "readable")] == [
        torch.uint8,
        torch.float32,
        torch.int64,
        torch.bool,
        torch.bool,
    ]


def test_samples_draw_anew_for_each_seed_epoch_and_row(crops_root, monkeypatch):
    table = dataset.read_folds(crops_root / "folds.csv")
    seeds = []
    monkeypatch.setattr(transforms.Augment, "__call__", lambda self, picture, seed: seeds.append(seed) or picture)
    for seed in (1, 2):
        data = dataset.CropDataset(table, crops_root, "crops", 32, train=True, seed=seed)
        for epoch in (0, 1):
            for row in (0, 1):
                data[(row, epoch)]
    assert len(set(seeds)) == 8
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert max(seeds) > 2**27  # of all 31 bits


def test_augmentation_is_built_once_where_it_is_used(crops_root, monkeypatch):
    built = []
    original = transforms.Augment.__init__
    monkeypatch.setattr(transforms.Augment, "__init__", lambda self, size: built.append(size) or original(self, size))
    table = dataset.read_folds(crops_root / "folds.csv")
    data = dataset.CropDataset(table, crops_root, "crops", 32, train=True)
    assert built == []  # in a loader's process, not before
    data[(0, 0)], data[(1, 0)]
    assert built == [32]
