"""Scores and losses (dfdc/scoring.py)."""

import numpy as np
import pytest
from helpers import ROOT

from dfdc import scoring


def winners_rule(scores, t=0.8):
    """The published rule as its description says, for comparison."""
    n = len(scores)
    high = [s for s in scores if s > t]
    low = [s for s in scores if s < 0.2]
    if len(high) > n // 2.5 and len(high) > 11:
        return sum(high) / len(high)
    if len(low) > 0.9 * n:
        return sum(low) / len(low)
    return sum(scores) / n


def test_t8_confident_is_the_winners_rule_to_the_letter():
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 11, 12, 13, 28, 29, 30, 32, 64, 200):
        for fake in range(0, count + 1, max(1, count // 13)):
            scores = np.concatenate([rng.uniform(0.75, 1, fake), rng.uniform(0, 0.25, count - fake)])
            assert scoring.confident_score(scores).score == pytest.approx(winners_rule(scores.tolist()))


@pytest.mark.parametrize(
    ("scores", "rule"),
    [
        ([0.9] * 13 + [0.1] * 18, "fake"),
        ([0.9] * 12 + [0.1] * 18, "mean"),
        ([0.9] * 11, "mean"),
        ([0.9] * 12, "fake"),
        ([0.1] * 30 + [0.9] * 2, "real"),
        ([0.1] * 29 + [0.9] * 3, "real"),
        ([0.1] * 28 + [0.9] * 4, "mean"),
    ],
)
def test_t7_the_rule_that_fired_is_told(scores, rule):
    assert scoring.confident_score(scores).rule == rule


def test_t7_three_fake_frames_of_32_are_dropped_by_the_winners_rule_and_that_shows():
    assert scoring.confident_score([0.1] * 29 + [0.99] * 3) == (pytest.approx(0.1), "real")


@pytest.mark.parametrize("value", [0.3, 0.95, 0.01])
def test_t2_one_face_is_enough(value):
    assert scoring.confident_score([value]).score == pytest.approx(value)
    assert scoring.confident_score(np.float32(value)).score == pytest.approx(value)


@pytest.mark.parametrize("scores", [[], [0.2, np.nan], [1.2], [-0.1]])
def test_t3_no_score_without_grounds(scores):
    with pytest.raises(ValueError, match="face scores"):
        scoring.confident_score(scores)


@pytest.mark.parametrize(
    ("fake", "real", "weight", "loss"),
    [(0.4, 0.2, 1.4, 0.38), (0.2, 0.5, 1.4, 0.39), (0.3, 0.7, 1, 0.5), (0.5, 0.25, 3, 0.875), (0, 0.5, 1.4, 0.25)],
)
def test_selection_loss_by_hand(fake, real, weight, loss):
    assert scoring.selection_loss(fake, real, weight) == pytest.approx(loss)
    if weight == 1.4:
        assert scoring.selection_loss(fake, real) == pytest.approx(loss), "the winners' weight of the fakes is 1.4"


def people_of(*counts):
    return np.repeat(np.arange(len(counts)), counts)


def faces_of(*persons):
    """[(count, score), ...], one per person -> scores, people."""
    counts, scores = zip(*persons, strict=True)
    return np.repeat(np.array(scores, float), counts), people_of(*counts)


FAKE_FACES = np.r_[np.full(3, 0.95), np.full(29, 0.1)]
# What the columns of the table in docs/scoring.md stand for.
CASES = {
    "one person of three fake (0.9, others 0.1)": faces_of((32, 0.9), (32, 0.1), (32, 0.1)),
    "3 faces of 0.95 among 29 of 0.1": (FAKE_FACES, np.zeros(32, int)),
    "32 faces of 0.05, and one lone detection of 0.99": faces_of((32, 0.05), (1, 0.99)),
    "those 3 of 0.95 under a number of their own": (FAKE_FACES, np.repeat([1, 0], [3, 29])),
    "a cut from one person (16 of 0.1) to another (16 of 0.9)": faces_of((16, 0.1), (16, 0.9)),
}
STEADY = {"mean": 1, "person-max": 1, "smooth": 3}  # strategies without a cliff: how many faces are drawn


def strategy_table():
    """The cells of the table in docs/scoring.md, without the words that say what a rule does."""
    yield ["strategy", *CASES]
    for name, rule in scoring.STRATEGIES.items():
        yield [f"`{name}`", *(f"{rule(*case).score:.2f}" for case in CASES.values())]


def test_t6_t7_t66_the_table_of_strategies_is_computed():
    lines = (ROOT / "docs/scoring.md").read_text(encoding="utf-8").split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith("| strategy |"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : lines.index("", start)]]
    header, ruler, *rest = rows
    assert set(ruler) == {"---"}
    assert all(row[1] for row in rest)
    assert [[row[0], *row[2:]] for row in (header, *rest)] == list(strategy_table())


@pytest.mark.parametrize(
    ("persons", "expected", "named"),
    [
        # Two persons with 32 and 8 faces: 8/32 weighs (0.25 - 0.1) / 0.3 = 1/2, so 0.9/2 + 0.1/2.
        ([(32, 0.1), (8, 0.9)], {"confident": 0.26, "mean": 0.26, "person-max": 0.5, "smooth": 0.5}, None),
        # The other way round, the person seen most decides alone.
        ([(32, 0.9), (8, 0.1)], {"confident": 0.9, "mean": 0.74, "person-max": 0.9, "smooth": 0.9}, 0),
        # 16/32 weighs 1, 4/32 weighs 0.025/0.3 = 1/12: 1/12 + 11/12 of 0.6.
        (
            [(32, 0.2), (16, 0.6), (4, 1.0)],
            {"confident": 20 / 52, "mean": 20 / 52, "person-max": 19 / 30, "smooth": 19 / 30},
            1,
        ),
        # 6/20 weighs 2/3, 4/20 weighs 1/3: 1/3 of 1, and 2/3 of 2/3 of 0.8, is more than any other two give.
        (
            [(20, 0.1), (6, 0.8), (4, 1.0)],
            {"confident": 10.8 / 30, "mean": 10.8 / 30, "person-max": 31 / 45, "smooth": 31 / 45},
            1,
        ),
        # A tenth weighs nothing, four tenths all.
        ([(30, 0.3), (3, 1.0)], {"confident": 12 / 33, "mean": 12 / 33, "person-max": 0.3, "smooth": 0.3}, 0),
        ([(30, 0.3), (12, 1.0)], {"confident": 0.5, "mean": 0.5, "person-max": 1.0, "smooth": 1.0}, 1),
        # Single faces.
        ([(1, 0.7)], {"confident": 0.7, "mean": 0.7, "person-max": 0.7, "smooth": 0.7}, 0),
        ([(1, 0.1), (1, 0.9), (1, 0.5)], {"confident": 0.5, "mean": 0.5, "person-max": 0.9, "smooth": 0.9}, 1),
    ],
)
def test_strategies_by_hand(persons, expected, named):
    scores, people = faces_of(*persons)
    assert {name: rule(scores, people).score for name, rule in scoring.STRATEGIES.items()} == pytest.approx(expected)
    if named is not None:  # None: equal shares
        assert scoring.person_max_score(scores, people).rule == f"person {named}"
        assert scoring.person_max_score(scores, 7 - people).rule == f"person {7 - named}"
    assert scoring.smooth_score(scores, people).rule == "smooth"


def test_smooth_by_hand_within_a_person():
    """Of three faces drawn of four, the highest is the lowest face in 1 of 64 draws, and 7, 19, 37 are the next."""
    by_hand = (0.2 * 1 + 0.4 * 7 + 0.6 * 19 + 0.8 * 37) / 64
    assert scoring.smooth_score([0.6, 0.2, 0.8, 0.4], np.zeros(4)).score == pytest.approx(by_hand)
    scores, people = [0.6, 0.2, 0.8, 0.4, 0.1, 0.1, 0.1], [5, 5, 5, 5, 2, 2, 2]
    assert scoring.smooth_score(scores, people).score == pytest.approx(by_hand)
    assert scoring.person_max_score(scores, people).score == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.2] * 27 + [0.9] * 3, (0.27, "mean")),
        ([0.2] * 28 + [0.9] * 2, (7.4 / 30, "mean")),  # 0.2 is not below 0.2
        ([0.19] * 27 + [0.9] * 3, (0.261, "mean")),  # 27 of 30 are not more than nine tenths
        ([0.19] * 28 + [0.9] * 2, (0.19, "real")),
        ([0.8] * 20 + [0.1] * 10, (17 / 30, "mean")),  # 0.8 is not above 0.8
        ([0.81] * 12 + [0.21] * 18, (0.45, "mean")),  # 12 is 30 // 2.5
        ([0.81] * 13 + [0.21] * 17, (0.81, "fake")),
        ([0.81] * 11 + [0.21] * 1, (0.76, "mean")),  # 11 is not over 11
        ([0.81] * 12 + [0.21] * 1, (0.81, "fake")),
    ],
)
def test_t8_the_cliffs_of_confident(scores, expected):
    """Each is where the winners put it: one face, or one score a little higher, gives another rule."""
    assert scoring.confident_score(scores) == (pytest.approx(expected[0]), expected[1])


def test_t66_confident_has_cliffs_and_hinge_finds_them():
    # A twelfth sure face ends the mean, (11 x 0.9 + 10 x 0.1) / 21; of 32 faces one more above 0.2 ends "real".
    for scores, gap in (
        ([0.9] * 11 + [0.1] * 10, 0.9 - 10.9 / 21),
        ([0.1] * 29 + [1.0] * 3, 6.9 / 33 - 0.1),
    ):
        assert scoring.hinge(scoring.STRATEGIES["confident"], np.array(scores), np.zeros(len(scores))) == (
            pytest.approx(gap)
        )


def test_hinge_by_hand_and_by_trying_all():
    assert scoring.hinge(scoring.STRATEGIES["mean"], np.array([0.0, 1.0]), np.zeros(2)) == 0.5
    assert scoring.hinge(scoring.STRATEGIES["mean"], np.array([0.3]), np.zeros(1)) == 0
    rng = np.random.default_rng(3)
    for rule in [rule for rule in scoring.STRATEGIES.values() for _ in range(40)]:
        scores, people = rng.beta(0.4, 0.4, 30).round(1), rng.integers(0, rng.integers(1, 9), 30)
        own, changes = rule(scores, people).score, []
        for face in range(30):
            kept = np.arange(30) != face
            changes.append(rule(scores[kept], people[kept]).score - own)
            changes.append(rule(np.r_[scores, scores[face]], np.r_[people, people[face]]).score - own)
        assert scoring.hinge(rule, scores, people) == pytest.approx(np.abs(changes).max())


def random_videos(seed, count=1500):
    """Videos that try hard: persons about the bounds of the weights, scores all or nothing, crowds."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        most = int(rng.integers(8, 61))
        others = int(rng.integers(0, 6)) if rng.random() < 0.9 else 40
        parts = rng.choice([0.1, 0.2, 0.36, 0.4, rng.random()], others)
        counts = [most, *np.clip(np.rint(parts * most) + rng.integers(-1, 2, others), 1, most).astype(int)]
        people = people_of(*counts)
        scores = [
            np.repeat(rng.integers(0, 2, len(counts)), counts),
            np.repeat(rng.random(len(counts)), counts),
            rng.random(len(people)) ** rng.choice([0.1, 1, 10]),
            rng.random(len(people)) < rng.choice([0.05, 0.1, 0.5, 0.9, 0.95]),
        ]
        order = rng.permutation(len(people))
        yield most, scores[rng.integers(4)].astype(float)[order], people[order], rng


@pytest.mark.slow
@pytest.mark.parametrize("name", STEADY)
def test_t66_one_face_changes_little(name):
    """One face more, one less or one other score moves a score by at most max(10/3, 2.5 k) / n.

    n: faces of the person seen most; k: STEADY. Let another person with weight c and score s get one more face. c grows
    by at most 1 / 0.3 n. s moves by at most k (1 - s) / (own faces), and c / (own faces) <= 2.5 / n. So c s moves by at
    most (10/3 s + 2.5 k (1 - s)) / n. One more face of the person seen most moves each weight by at most (c + 1/3) / n.
    A score is made of two persons: these move it by at most (1/3 + max(4/3, k)) / (n - 1) together, which is less. The
    highest of such sums moves no more than one of them.
    """
    rule, draws = scoring.STRATEGIES[name], STEADY[name]
    bound = 1 if name == "mean" else max(10 / 3, 2.5 * draws)
    most_seen = 0.0
    for most, scores, people, rng in random_videos(1):
        own = rule(scores, people).score
        face, value = rng.integers(len(scores)), rng.choice([0.0, 1.0, rng.random()])
        other = scores.copy()
        other[face] = value
        for changed in (
            rule(np.r_[scores, value], np.r_[people, rng.integers(people.max() + 2)]),
            rule(np.delete(scores, face), np.delete(people, face)),
            rule(other, people),
        ):
            most_seen = max(most_seen, abs(changed.score - own) * most)
    assert most_seen <= bound + 1e-9
    assert most_seen > 0.75 * bound, "the search must come near the bound to mean anything"


@pytest.mark.slow
@pytest.mark.parametrize("name", STEADY)
def test_t66_a_tenth_of_a_person_split_off_changes_little(name):
    """At most 2/15 where means count: the weights of 0.36 and 0.40 differ by that; or 1 - 0.9^3 = 0.271 for smooth."""
    rule = scoring.STRATEGIES[name]
    bound = {"mean": 0, "person-max": 2 / 15, "smooth": 1 - 0.9**3}[name]
    worst = 0.0
    for _, scores, people, rng in random_videos(2, 3000):
        person = 0 if rng.random() < 0.5 else rng.integers(people.max() + 1)
        faces = rng.permutation(np.flatnonzero(people == person))
        faces = faces[np.argsort(scores[faces], kind="stable")]
        part = len(faces) // 10
        start = rng.choice([0, len(faces) - part])
        split = people.copy()
        split[faces[start : start + part]] = 99
        worst = max(worst, abs(rule(scores, split).score - rule(scores, people).score))
    assert worst <= bound + 1e-9
    assert worst >= 0.8 * bound


@pytest.mark.parametrize("name", STEADY)
def test_t8_strategies_but_confident_keep_what_must_not_matter(name):
    rule = scoring.STRATEGIES[name]
    for _, scores, people, rng in random_videos(3, 500):
        own = rule(scores, people).score
        assert scores.min() - 1e-12 <= own <= scores.max() + 1e-12
        times = int(rng.integers(2, 6))
        assert rule(np.tile(scores, times), np.tile(people, times)).score == pytest.approx(own)
        order = rng.permutation(len(scores))
        assert rule(scores[order], people[order]).score == pytest.approx(own)
        assert rule(scores, rng.permutation(99)[people]).score == pytest.approx(own)
        higher = np.minimum(scores + rng.random(len(scores)) * (rng.random(len(scores)) < 0.1), 1)
        assert rule(higher, people).score >= own - 1e-12


def test_scores_of_equal_faces_are_theirs_to_the_last_bit():
    for value in (0.1, 0.3, 0.7, 1.0):
        for rule in (scoring.person_max_score, scoring.smooth_score):
            assert rule(np.full(29, value), np.zeros(29)).score == value


def test_t7_smooth_grows_with_each_fake_face():
    scores = [
        scoring.smooth_score(np.r_[np.full(count, 0.95), np.full(32 - count, 0.1)], np.zeros(32)).score
        for count in range(33)
    ]
    assert max(np.diff(scores)) < 0.1
    assert min(np.diff(scores)) > 0


@pytest.mark.parametrize("rule", scoring.STRATEGIES.values(), ids=scoring.STRATEGIES)
def test_t3_no_strategy_scores_without_grounds(rule):
    for scores in ([], [0.2, np.nan], [1.2], [-0.1]):
        with pytest.raises(ValueError, match="face scores"):
            rule(np.array(scores), np.zeros(len(scores)))


@pytest.mark.parametrize(
    ("scores", "detected", "expected"),
    [
        ([0.1] * 9 + [0.9], [1.0] * 10, 0.9),  # a group with one fake
        ([0.2, 0.6, 0.99], [1.0, 0.95, 0.949], 0.6),  # the last one may be a hand
        ([0.2, 0.6], [0.94, 0.8], 0.6),  # none is sure: all count
        ([0.3], [0.81], 0.3),
    ],
)
def test_t66_a_photo_is_its_most_suspicious_sure_face(scores, detected, expected):
    assert scoring.photo_score(scores, detected) == (expected, "photo")


def test_a_photo_without_faces_has_no_score():
    with pytest.raises(ValueError, match="no face scores"):
        scoring.photo_score([], [])
