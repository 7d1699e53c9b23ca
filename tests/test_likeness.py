"""What is kept of crops, and the search for videos that look alike (preprocessing/likeness.py)."""

import hashlib
import itertools
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import xxhash

from preprocessing import likeness
from preprocessing.likeness import Alike, Look, find_alike, look, pick, read_look


def smooth(seed, size=(90, 70), coarse=(9, 7)):
    """A smooth random picture, RGB uint8 [h, w, 3]."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (*coarse, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([], []),
        (["7_3.png"], ["7_3.png"]),
        (["10_0.png", "9_0.png"], ["9_0.png", "10_0.png"]),
        ([f"{frame}_0.png" for frame in (100, 20, 3, 10)], ["3_0.png", "20_0.png", "100_0.png"]),
        ([f"{frame}_0.png" for frame in (100, 20, 3, 10, 40)], ["3_0.png", "20_0.png", "100_0.png"]),
        (["0_0.png", "0_1.png", "10_1.png"], ["0_1.png", "10_1.png"]),
        (["0_2.png", "10_2.png", "0_10.png", "10_10.png", "5_0.png"], ["0_2.png", "10_2.png"]),
    ],
)
def test_first_middle_and_last_of_the_person_with_most_crops(names, chosen):
    for order in itertools.islice(itertools.permutations(names), 30):
        assert pick(order) == chosen


def test_a_name_that_is_no_crops_is_refused():
    with pytest.raises(ValueError, match=r"notes\.txt"):
        pick(["0_0.png", "notes.txt"])


def test_a_look_holds_pixels_hash_and_colours():
    import imagehash
    from PIL import Image

    picture = smooth(1)
    kept = look("0_0.png", picture)
    assert kept["crop"] == "0_0.png"
    assert kept["pixels"] == xxhash.xxh3_128(b"(90, 70, 3)" + picture.tobytes()).hexdigest()
    assert kept["phash"] == str(imagehash.phash(Image.fromarray(picture)))
    assert len(kept["phash"]) == 16
    tiny = np.frombuffer(bytes.fromhex(kept["tiny"]), np.uint8).reshape(8, 8, 3)
    assert np.array_equal(tiny, cv2.resize(picture, (8, 8), interpolation=cv2.INTER_AREA))
    seen = read_look(kept)
    assert (seen.pixels.hex(), f"{seen.phash:016x}", seen.tiny.hex()) == (kept["pixels"], kept["phash"], kept["tiny"])


def test_pixels_tell_shapes_and_single_values_apart():
    picture = smooth(2, (40, 60))
    other = picture.copy()
    other[-1, -1, -1] ^= 1
    pixels = [look("0_0.png", p)["pixels"] for p in (picture, other, picture.reshape(60, 40, 3), picture.copy())]
    assert len(set(pixels)) == 3
    assert pixels[0] == pixels[3]
    view = np.concatenate([picture, picture], axis=1)[:, :60]  # not contiguous
    assert look("0_0.png", view)["pixels"] == pixels[0]


def test_a_flat_picture_has_no_hash():
    grey = np.full((60, 50, 3), 100, np.uint8)
    noise = np.random.default_rng(0).integers(-2, 3, (60, 50, 1))
    for picture, flat in (
        (grey, True),
        ((grey + noise).astype(np.uint8), True),
        ((grey + 2 * noise).astype(np.uint8), False),
        (smooth(3), False),
    ):
        kept = look("0_0.png", picture)
        assert (kept["phash"] is None) == flat
        assert (read_look(kept).phash is None) == flat


@pytest.mark.parametrize(
    "change",
    [{"pixels": None}, {"pixels": "xy"}, {"phash": "xy"}, {"phash": 3.5}, {"tiny": "00"}, {"tiny": None}, None],
)
def test_what_is_no_look_is_refused(change):
    kept = {key: value for key, value in look("0_0.png", smooth(4)).items() if change is not None or key != "tiny"}
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_look({**kept, **(change or {})})


def agreement(first, second):
    """Lin's concordance correlation coefficient of two tiny pictures, the plain way."""
    a, b = (np.frombuffer(tiny, np.uint8).astype(float) for tiny in (first, second))
    spread = a.var() + b.var() + (a.mean() - b.mean()) ** 2
    return 2 * np.mean((a - a.mean()) * (b - b.mean())) / spread if spread else 0.0


def plain_search(looks, folds, bits):
    """All pairs, one after the other."""
    found = []
    for a, b in itertools.combinations(range(len(looks)), 2):
        near = [
            (bin(x.phash ^ y.phash).count("1"), agreement(x.tiny, y.tiny))
            for x, y in zip(looks[a], looks[b], strict=False)
            if x.phash is not None and y.phash is not None and bin(x.phash ^ y.phash).count("1") <= bits
        ]
        if folds[a] != folds[b] and len(near) >= 2 and np.mean([same for _, same in near]) >= 0.95:
            found.append(Alike(a, b, tuple(distance for distance, _ in near)))
    return found


def changed_look(rng, seen):
    """A look with a few bits, and a little of the colours, changed."""
    phash = seen.phash
    if rng.random() < 0.1:
        phash = None
    elif phash is not None:
        for bit in rng.sample(range(64), rng.choice((0, 0, 1, 2, 4, 9))):
            phash ^= 1 << bit
    colours = np.frombuffer(seen.tiny, np.uint8).astype(int)
    noise = np.random.default_rng(rng.randrange(1 << 30)).normal(0, rng.choice((0, 10, 15, 20, 80)), colours.shape)
    return Look(rng.randbytes(16), phash, np.clip(colours + noise, 0, 255).astype(np.uint8).tobytes())


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 7, 64, 512])
@pytest.mark.parametrize("pairs", [3, 1 << 13])
def test_no_pair_is_missed(monkeypatch, block, pairs):
    monkeypatch.setattr(likeness, "BLOCK", block)
    monkeypatch.setattr(likeness, "_PAIRS", pairs)
    rng = random.Random(block)
    looks = []
    for _ in range(24):
        first = [
            Look(rng.randbytes(16), rng.getrandbits(64), rng.randbytes(192)) for _ in range(rng.choice((1, 2, 3, 3)))
        ]
        looks += [first, *([changed_look(rng, seen) for seen in first] for _ in range(5))]
    rng.shuffle(looks)
    folds = [rng.choice((0, 0, 1, 2, 5)) for _ in looks]
    for bits in (1, 4, 10):
        expected = plain_search(looks, folds, bits)
        found = find_alike(looks, folds, bits)
        assert len(found) > 10
        assert sorted(found, key=lambda pair: (pair.first, pair.second)) == expected
        assert find_alike(looks, folds, bits, most=7) == found[:7]
    assert find_alike(looks, [3] * len(looks), 10) == []
    assert find_alike([], [], 10) == []


def test_all_64_bits_count():
    tiny = bytes(range(192))
    for bit in (0, 31, 63):
        looks = [[Look(b"", 0, tiny)] * 2, [Look(b"", 1 << bit, tiny)] * 2]
        assert find_alike(looks, [0, 1], 0) == []
        assert find_alike(looks, [0, 1], 1) == [Alike(0, 1, (1, 1))]
    assert find_alike([[Look(b"", 0, tiny)] * 2, [Look(b"", (1 << 64) - 1, tiny)] * 2], [0, 1], 64)


def test_pictures_of_one_colour_agree_with_none():
    looks = [[Look(b"", 5, bytes([9]) * 192)] * 3] * 2
    assert find_alike(looks, [0, 1], 10) == []


def test_hardly_any_colour_agrees_with_itself():
    tiny = bytes([9]) * 191 + bytes([10])
    looks = [[Look(b"", 5, tiny)] * 3] * 2
    assert len(find_alike(looks, [0, 1], 10)) == 1


def test_brightness_counts():
    tiny = np.arange(192, dtype=np.uint8) // 2
    looks = [[Look(b"", 5, (tiny + extra).tobytes())] * 3 for extra in (0, 5, 100)]
    assert [(pair.first, pair.second) for pair in find_alike(looks, [0, 1, 2], 10)] == [(0, 1)]


def test_a_search_that_found_enough_stops(monkeypatch):
    monkeypatch.setattr(likeness, "BLOCK", 4)
    rows = []
    search = likeness._search

    def counted(table, bits, start):
        rows.append(start)
        for number, pair in enumerate(search(table, bits, start)):
            assert number < 5
            yield pair

    monkeypatch.setattr(likeness, "_search", counted)
    monkeypatch.setattr(likeness, "available_cores", lambda: 1)
    looks = [[Look(b"", 5, bytes(range(192)))] * 3] * 4000
    assert len(find_alike(looks, list(range(4000)), 10, most=5)) == 5
    assert len(rows) < 500


@pytest.fixture(scope="module")
def portrait_videos(tmp_path_factory) -> dict[str, Path]:
    """A short video of a person, copies of it as people make them, and another person."""
    from skimage.data import astronaut

    from dfdc.video import write_video

    folder = tmp_path_factory.mktemp("videos")
    person = np.ascontiguousarray(astronaut()[:288, 100:356])
    other = np.ascontiguousarray(person[:, ::-1])

    def frames(picture, size=None, brighter=0):
        for number in range(0, 15, 5):
            frame = np.roll(picture, (number, 2 * number), (0, 1))
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if size else frame
            yield np.clip(frame.astype(int) + brighter, 0, 255).astype(np.uint8)

    made = {
        "original": (frames(person), 12),
        "crf 23": (frames(person), 23),
        "crf 35": (frames(person), 35),
        "half": (frames(person, (128, 144)), 23),
        "other": (frames(other), 12),
    }
    for name, (pictures, crf) in made.items():
        write_video(folder / f"{name}.mp4", pictures, crf=crf)
    return {name: folder / f"{name}.mp4" for name in made}


def test_copies_of_a_video_are_found_and_strangers_are_not(portrait_videos):
    from dfdc.video import VideoReader

    looks = {}
    for name, path in portrait_videos.items():
        with VideoReader(path) as reader:
            # Each copy's faces are found anew: boxes differ by a few pixels.
            shift = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 3
            crops = [frame[shift : frame.shape[0] - 2 + shift, 2:-1] for _, frame in reader.frames()]
        looks[name] = [read_look(look(f"{number}_0.png", crop)) for number, crop in enumerate(crops)]
    assert [len(seen) for seen in looks.values()] == [3] * 5
    assert len({seen[0].pixels for seen in looks.values()}) == 5
    names = list(looks)
    found = find_alike(list(looks.values()), range(5), likeness.NEAR_BITS)
    assert {(names[pair.first], names[pair.second]) for pair in found} == set(itertools.combinations(names[:4], 2))
