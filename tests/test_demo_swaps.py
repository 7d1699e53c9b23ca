"""The face swaps of the demonstration dataset (demo_data/demo_swaps.py)."""

import numpy as np
import pytest

from demo_data import demo_faces, demo_swaps


def scene_and_donor(portrait, seed=5, frames=3):
    person = demo_faces.make_person(portrait, np.random.default_rng((seed, 0)))
    donor = demo_faces.make_person(portrait, np.random.default_rng((seed, 1)))
    return demo_faces.make_scene(person, frames, (seed, 2)), donor


@pytest.mark.parametrize("generator", demo_swaps.GENERATORS)
def test_a_swap_changes_the_face_and_nothing_else(portrait, generator):
    scene, donor = scene_and_donor(portrait)
    originals = list(demo_faces.frames(scene))
    fakes = list(demo_swaps.swapped_frames(scene, donor, generator, (9,)))
    assert len(fakes) == len(originals)
    for (original, where), fake in zip(originals, fakes, strict=True):
        changed = np.abs(fake.astype(int) - original).max(axis=2)
        x, y = np.moveaxis((where - demo_faces.EYES) / demo_faces.EYE_DISTANCE, 2, 0)
        mouth = np.hypot(x, y - 0.9) < 0.3
        beside = (np.abs(x) > 1.6) | (y < -1.2) | (y > 2.4)
        assert changed[mouth].mean() > 3
        assert beside.mean() > 0.5
        assert changed[beside].max() == 0


def test_a_generator_that_is_none_is_named(portrait):
    scene, donor = scene_and_donor(portrait, frames=1)
    with pytest.raises(ValueError, match="unknown generator 'paint'; choose from autoencoder, paste"):
        next(demo_swaps.swapped_frames(scene, donor, "paint", (9,)))


def test_another_seed_is_another_swap_and_the_same_seed_the_same(portrait):
    scene, donor = scene_and_donor(portrait, frames=1)
    first, again, other = (
        next(demo_swaps.swapped_frames(scene, donor, demo_swaps.HELD_OUT, (seed,))) for seed in (9, 9, 8)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
