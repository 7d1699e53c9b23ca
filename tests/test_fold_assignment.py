"""Families and their folds (preprocessing/fold_assignment.py)."""

import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from dfdc.command_line import UsageError
from dfdc.layout import FAKE, REAL, Dataset, Video
from preprocessing.fold_assignment import Assignment, Listing, assign_folds, block_folds, find_families, hold_out


def video(name, part="p0", original=None, donor=None):
    return Video(name, Path(part) / f"{name}.mp4", part, FAKE if original else REAL, original, donor)


def data(*videos, crops=1, unlisted=()):
    """A data set of these videos, with parts in natural order; and listings of them with `crops` crops each."""
    parts = sorted({one.part for one in videos}, key=lambda name: int(name[1:]))
    dataset = Dataset(Path(), [Path(part) for part in parts], {one.id: one for one in videos})
    count = crops if isinstance(crops, dict) else {}
    default = 1 if isinstance(crops, dict) else crops
    listings = [
        Listing(one, np.zeros((count.get(one.id, default), 2), np.int64)) for one in videos if one.id not in unlisted
    ]
    return dataset, listings


def folds_of(listings):
    return {listing.video.id: listing.fold for listing in listings}


def reals(*parts, each=1):
    return [video(f"r{part}.{number}", f"p{part}") for part in parts for number in range(each)]


@pytest.mark.parametrize(
    ("count", "splits", "expected"),
    [
        (50, 16, {0: 0, 2: 0, 3: 1, 41: 13, 42: 14, 45: 14, 46: 15, 49: 15}),
        (31, 16, {0: 0, 1: 1, 2: 1, 3: 2, 30: 15}),
        (3, 16, {0: 0, 1: 1, 2: 2}),
        (4, 2, {0: 0, 1: 0, 2: 1, 3: 1}),
        (17, 16, {0: 0, 14: 14, 15: 15, 16: 15}),
        (0, 16, {}),
    ],
)
def test_parts_go_to_folds_in_blocks_the_larger_ones_last(count, splits, expected):
    folds = block_folds([f"p{i}" for i in range(count)], splits)
    assert {index: folds[f"p{index}"] for index in expected} == expected
    assert list(folds.values()) == sorted(folds.values())
    assert set(folds.values()) == set(range(min(count, splits)))
    sizes = [size for _, size in sorted(Counter(folds.values()).items())]
    assert sizes == sorted(sizes)
    assert not sizes or sizes[-1] - sizes[0] <= 1


def test_first_folds_are_those_of_the_blocks():
    dataset, listings = data(*reals(0, 1, 2, 10), video("f", "p10", "r0.0"))
    assignment, notes = assign_folds(listings, dataset, 2, Assignment())
    assert folds_of(listings) == {"r0.0": 0, "r1.0": 0, "r2.0": 1, "r10.0": 1, "f": 0}
    assert assignment.parts == {"p0": 0, "p1": 0, "p2": 1, "p10": 1}
    assert assignment.originals == {"r0.0": 0, "r1.0": 0, "r2.0": 1, "r10.0": 1}
    assert notes == []
    assert assign_folds(listings, dataset, 16, Assignment())[0].parts == {"p0": 0, "p1": 1, "p2": 2, "p10": 3}


def test_a_part_without_originals_gets_no_fold():
    dataset, listings = data(*reals(0, 2), video("f", "p1", "r2.0"))
    assignment, _ = assign_folds(listings, dataset, 16, Assignment())
    assert assignment.parts == {"p0": 0, "p2": 1}
    assert folds_of(listings)["f"] == 1


def test_known_parts_and_originals_keep_their_folds():
    dataset, listings = data(*reals(1, 2, each=2), video("f", "p2", "r1.1"))
    earlier = Assignment({"p1": 3, "p2": 1, "gone": 0}, {"r1.1": 2, "away": 7})
    assignment, _ = assign_folds(listings, dataset, 16, earlier)
    assert folds_of(listings) == {"r1.0": 3, "r1.1": 2, "r2.0": 1, "r2.1": 1, "f": 2}
    assert assignment.parts == earlier.parts
    assert assignment.originals == {"r1.0": 3, "r1.1": 2, "r2.0": 1, "r2.1": 1, "away": 7}
    assert earlier.originals == {"r1.1": 2, "away": 7}  # not written to


def test_a_new_part_goes_to_the_fold_with_the_fewest_crops():
    dataset, listings = data(
        *reals(0, 1, 2, 3, 4, 5), crops={"r0.0": 9, "r1.0": 5, "r2.0": 5, "r3.0": 3, "r4.0": 6, "r5.0": 1}
    )
    known = Assignment({"p0": 0, "p1": 1, "p2": 2})
    assert assign_folds(listings, dataset, 3, known)[0].parts == {"p0": 0, "p1": 1, "p2": 2, "p3": 1, "p4": 2, "p5": 1}
    assert folds_of(listings) == {"r0.0": 0, "r1.0": 1, "r2.0": 2, "r3.0": 1, "r4.0": 2, "r5.0": 1}
    # Empty folds come first.
    assert assign_folds(listings, dataset, 5, known)[0].parts == known.parts | {"p3": 3, "p4": 4, "p5": 3}
    # A part whose families are all elsewhere adds nothing to its fold.
    away = Assignment(known.parts, {"r3.0": 0})
    assert assign_folds(listings, dataset, 4, away)[0].parts == known.parts | {"p3": 3, "p4": 3, "p5": 1}
    assert folds_of(listings)["r3.0"] == 0


def test_folds_do_not_depend_on_what_came_in_between():
    dataset, listings = data(*reals(*range(9)))
    first, _ = assign_folds(listings, dataset, 4, Assignment())
    fewer, some = data(*reals(2, 5))
    second, _ = assign_folds(some, fewer, 4, first)
    assert second == first
    third, _ = assign_folds(listings, dataset, 4, second)
    assert third == first


def plain_families(videos):
    """Sets of ids that hang together, by joining two of them at a time."""
    groups = []
    for one in videos:
        joined = {one.id, one.source, *([one.donor] if one.donor else [])}
        apart = []
        for group in groups:
            if group & joined:
                joined |= group
            else:
                apart.append(group)
        groups = [*apart, joined]
    return groups


@pytest.mark.parametrize("seed", range(5))
def test_families_are_those_of_the_plain_way(seed):
    rng = random.Random(seed)
    videos = [video(f"r{number}") for number in range(30)]
    for number in range(30):
        donor = rng.choice([None, None, f"r{rng.randrange(60)}", f"f{rng.randrange(40)}"])
        videos.append(video(f"f{number}", original=f"r{rng.randrange(34)}", donor=donor))
    rng.shuffle(videos)
    found = defaultdict(set)
    names = find_families(videos)
    assert names.keys() == {one.id for one in videos}
    for one, name in names.items():
        found[name].add(one)
    ids = {one.id for one in videos}
    plain = [group & ids for group in plain_families(videos) if group & ids]
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, plain))
    sources = {one.id: one.source for one in videos}
    for name, members in found.items():
        assert name == min(sources[member] for member in members)


def test_no_videos_have_no_families():
    assert find_families([]) == {}


def test_donors_bring_families_together_where_most_crops_of_their_originals_are():
    swap = video("f", "p0", "r0.0", donor="r2.0")
    for crops, home in (
        ({"r0.0": 3, "r2.0": 4, "f": 90}, 2),
        ({"r0.0": 4, "r2.0": 3}, 0),
        ({"r0.0": 4, "r2.0": 4}, 0),
        ({"r2.0": 9, "r0.0": 0}, 2),
    ):
        dataset, listings = data(*reals(0, 1, 2), swap, crops=crops)
        assignment, _ = assign_folds(listings, dataset, 16, Assignment())
        assert folds_of(listings) == {"r0.0": home, "r1.0": 1, "r2.0": home, "f": home}, crops
        assert assignment.parts == {"p0": 0, "p1": 1, "p2": 2}
        assert assignment.originals == {"r0.0": home, "r1.0": 1, "r2.0": home}
        assert [listing.family for listing in listings] == ["r0.0", "r1.0", "r0.0", "r0.0"]


def test_a_fake_whose_original_is_not_listed_goes_to_its_originals_part():
    dataset, listings = data(*reals(0, 1, 2), video("f", "p0", "r2.0"), unlisted=("r2.0",))
    assignment, _ = assign_folds(listings, dataset, 16, Assignment())
    assert folds_of(listings)["f"] == 2
    assert assignment.originals == {"r0.0": 0, "r1.0": 1, "r2.0": 2}


def test_a_new_donor_joins_folds_where_most_crops_are_and_says_so():
    swap = video("f", "p0", "r0.0", donor="r2.0")
    earlier = Assignment({"p0": 0, "p1": 1, "p2": 2}, {"r0.0": 0, "r1.0": 1, "r2.0": 2})
    for crops, home in (({"r0.0": 3, "r2.0": 5}, 2), ({"r0.0": 3, "r2.0": 3}, 0), ({"r0.0": 3, "r2.0": 4}, 0)):
        dataset, listings = data(*reals(0, 1, 2, each=1), swap, *reals(3, 4, 5, 6), crops=crops)
        with pytest.raises(UsageError, match=r"Donors in metadata\.json link videos of different folds") as no:
            assign_folds(listings, dataset, 16, earlier, first=1)
        assert f"a donor links videos of folds [1, 3]: the family of r0.0 goes to fold {home + 1}" in str(no.value)
        assert "force (preprocess_data.sh: force_folds)" in str(no.value)
        assignment, notes = assign_folds(listings, dataset, 16, earlier, force=True)
        assert {folds_of(listings)[name] for name in ("r0.0", "r2.0", "f")} == {home}
        assert assignment.originals["r0.0"] == assignment.originals["r2.0"] == home
        assert notes == [f"a donor links videos of folds [0, 2]: the family of r0.0 goes to fold {home}"]
        assert assign_folds(listings, dataset, 16, assignment)[1] == []
    # Where only one of them had a fold, that is the one.
    earlier.originals.pop("r2.0")
    dataset, listings = data(*reals(0, 1, 2), swap, crops={"r2.0": 50})
    assign_folds(listings, dataset, 16, earlier)
    assert folds_of(listings) == {"r0.0": 0, "r1.0": 1, "r2.0": 0, "f": 0}


def test_donors_that_link_too_much_are_named():
    def notes(*videos):
        dataset, listings = data(*videos)
        return assign_folds(listings, dataset, 16, Assignment())[1]

    across = video("f", "p0", "r0.0", donor="r1.0")
    within = video("g", "p0", "r0.0", donor="r0.1")
    all_one = "donors link all 3 videos into one family: they share one fold, so no fold can be held out"
    assert notes(*reals(0, 1), across) == [all_one]
    assert notes(*reals(0, each=2), within) == [all_one]
    assert notes(*reals(0, 1, 2), across) == [
        "donors link 3 of 4 videos across parts; the largest such family has 3",
    ]
    assert notes(*reals(0, 1, 2, 3), across) == [
        "donors link 3 of 5 videos across parts; the largest such family has 3"
    ]
    assert notes(*reals(0, 1, 2, 3, 4), across) == []  # just half
    assert notes(*reals(0, each=2), within, *reals(1)) == []
    assert notes(*reals(0), video("h", "p0", "r0.0")) == []  # one original: no donor is to blame
    second = video("h", "p2", "r2.0", donor="r3.0")
    assert notes(*reals(0, 1, 2, 3, 4), across, second, video("i", "p2", "r2.0")) == [
        "donors link 7 of 8 videos across parts; the largest such family has 4"
    ]


def test_a_hold_out_is_fold_0_and_its_families_are_left_out():
    dataset, listings = data(
        *reals(0, 1, 2), video("f0", "p0", "r0.0"), video("g0", "p0", "r0.0"), video("f1", "p1", "r1.0", donor="r0.0")
    )
    assign_folds(listings, dataset, 16, Assignment())
    kept, dropped = hold_out(listings, ("f0",))
    assert folds_of(kept) == {"f0": 0, "r2.0": 3}
    assert [listing.video.id for listing in dropped] == ["r0.0", "r1.0", "g0", "f1"]


def test_a_hold_out_that_is_not_listed_is_refused():
    dataset, listings = data(*reals(0, 1))
    assign_folds(listings, dataset, 16, Assignment())
    wanted = (*(f"x{number}" for number in range(7, 0, -1)), "r0.0")
    with pytest.raises(UsageError, match=r"7 of 8 videos can't be listed, including x1, x2, x3, x4, x5\.") as refusal:
        hold_out(listings, wanted)
    assert "x6" not in str(refusal.value)
    assert folds_of(listings) == {"r0.0": 0, "r1.0": 1}
