"""The people of the demonstration dataset, and how they move (demo_data/demo_faces.py)."""

import numpy as np

from demo_data import demo_faces


def make_scene(portrait, seed=5, frames=3):
    person = demo_faces.make_person(portrait, np.random.default_rng((seed, 0)))
    return demo_faces.make_scene(person, frames, (seed, 2))


def test_the_head_moves_smoothly(portrait):
    scene = make_scene(portrait, frames=100)
    poses = np.array([demo_faces.pose_at(scene, index) for index in range(100)])
    steps = np.abs(np.diff(poses[:, :2], axis=0))
    assert 0 < steps.max() < 3
    assert np.ptp(poses[:, :2], axis=0).max() > 4


def test_a_seed_is_a_person_and_a_scene(portrait):
    first, again, other = (demo_faces.frames(make_scene(portrait, seed, frames=1)) for seed in (5, 5, 6))
    (picture, where), (same, _), (another, _) = (next(iter(found)) for found in (first, again, other))
    assert picture.dtype == np.uint8
    assert all(side % 2 == 0 for side in picture.shape[:2])
    assert where.shape == (*picture.shape[:2], 2)
    assert np.array_equal(picture, same)
    assert picture.shape != another.shape or np.abs(picture.astype(int) - another).mean() > 5
