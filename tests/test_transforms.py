"""Augmentation (training/transforms.py) and its tiles (training/preview.py).

Laws and numbers are those of the winners' list in albumentations 0.4.6.
"""

import itertools
import random

import albumentations as A
import cv2
import numpy as np
import pytest

from dfdc.imaging import center_pad, fit, isotropic_resize
from training import transforms
from training.transforms import Augment, build_augmentation, fancy_pca, shift_hsv

SAMPLES = 3000
COLOUR_STEPS = ("RandomBrightnessContrast", "FancyPCA", "HueSaturationValue")
# What the winners' list says of each step.
PUBLISHED = {
    "ImageCompression": 0.5,
    "GaussNoise": 0.1,
    "GaussianBlur": 0.05,
    "HorizontalFlip": 0.5,
    "resize0": 1 / 3,
    "resize1": 1 / 3,
    "resize2": 1 / 3,
    "PadIfNeeded": 1,
    **dict.fromkeys(COLOUR_STEPS, 0.7 / 3),
    "ToGray": 0.2,
    "ShiftScaleRotate": 0.5,
}


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    return cv2.resize(
        rng.integers(1, 256, (20, 16, 3), dtype=np.uint8), (100, 140), interpolation=cv2.INTER_CUBIC
    ).clip(1)


def steps_of(compose):
    """{name as in PUBLISHED: transform}"""
    named = {}
    for step in compose:
        for number, transform in enumerate(step if isinstance(step, A.OneOf) else [step]):
            name = type(transform).__name__
            named[f"resize{number}" if name == "IsotropicResize" else name] = transform
    return named


@pytest.fixture(scope="module")
def samples():
    """What happened in each of SAMPLES calls of Augment: {step: its parameters}."""
    seen = []
    compose = build_augmentation(32)

    def spy(name, original):
        def record(params, *args, **kwargs):
            seen[-1][name] = params
            return original(params, *args, **kwargs)

        return record

    for name, transform in steps_of(compose).items():
        transform.apply_with_params = spy(name, transform.apply_with_params)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms, "build_augmentation", lambda size: compose)
        augment = Augment(32)
    small = np.random.default_rng(1).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    for seed in range(SAMPLES):
        seen.append({})
        augment(small, seed)
    return seen


def drawn(samples, step, key):
    """[n]: the values of a parameter where its step happened."""
    return np.array([sample[step][key] for sample in samples if step in sample])


def assert_uniform(values, low, high):
    """All within the range, near both its ends, and with the mean and the quartiles of an even spread."""
    span = high - low
    assert low <= values.min() < low + 0.05 * span
    assert high - 0.05 * span < values.max() <= high
    for quarter in (1, 2, 3):
        spread = 4 * np.sqrt(0.25 / len(values))
        assert (values < low + span * quarter / 4).mean() == pytest.approx(quarter / 4, abs=spread)


def test_augmentation_is_by_the_seed(picture):
    augment = Augment(64)
    results = [augment(picture, seed) for seed in range(60)]  # some of them with noise
    cv2.setRNGSeed(7)
    again = Augment(64)
    assert all(np.array_equal(result, again(picture, seed)) for seed, result in reversed(list(enumerate(results))))
    assert len({result.tobytes() for result in results}) > 55  # two samples may see no step at all
    assert {(result.shape, result.dtype.name) for result in results} == {((64, 64, 3), "uint8")}


def test_the_steps_come_in_the_published_order():
    names = [
        "/".join(type(t).__name__ for t in s) if isinstance(s, A.OneOf) else type(s).__name__
        for s in build_augmentation(64)
    ]
    assert names == [
        "ImageCompression",
        "GaussNoise",
        "GaussianBlur",
        "HorizontalFlip",
        "/".join(["IsotropicResize"] * 3),
        "PadIfNeeded",
        "/".join(COLOUR_STEPS),
        "ToGray",
        "ShiftScaleRotate",
    ]


@pytest.mark.slow
def test_t53_steps_are_drawn_independently_with_the_published_shares(samples):
    def share(*steps):
        return np.mean([all(step in sample for step in steps) for sample in samples])

    def near(probability):
        return pytest.approx(probability, abs=4 * np.sqrt(probability * (1 - probability) / SAMPLES))

    assert {step for sample in samples for step in sample} == set(PUBLISHED)
    for step, probability in PUBLISHED.items():
        assert share(step) == near(probability), step
    groups = ({"resize0", "resize1", "resize2"}, set(COLOUR_STEPS))
    for first, second in itertools.combinations(PUBLISHED, 2):
        one_of = any({first, second} <= group for group in groups)
        expected = 0 if one_of else PUBLISHED[first] * PUBLISHED[second]
        assert share(first, second) == near(expected), (first, second)


@pytest.mark.slow
def test_t53_parameters_are_drawn_independently(samples):
    values = {
        (step, key): [sample[step][key] if step in sample else np.nan for sample in samples]
        for step, key in [
            ("ImageCompression", "quality"),
            ("GaussNoise", "variance"),
            ("HueSaturationValue", "hue"),
            ("HueSaturationValue", "saturation"),
            ("HueSaturationValue", "value"),
            ("RandomBrightnessContrast", "alpha"),
            ("RandomBrightnessContrast", "beta"),
            ("FancyPCA", "alpha"),
            ("ShiftScaleRotate", "angle"),
            ("ShiftScaleRotate", "scale"),
            ("ShiftScaleRotate", "dx"),
            ("ShiftScaleRotate", "dy"),
        ]
    }
    pairs = 0
    for (first, one), (second, other) in itertools.combinations(values.items(), 2):
        both = ~np.isnan(one) & ~np.isnan(other)
        if both.sum() > 30:
            pairs += 1
            correlation = np.corrcoef(np.array(one)[both], np.array(other)[both])[0, 1]
            assert abs(correlation) < 4 / np.sqrt(both.sum()), (first, second)
    assert pairs > 40


def test_jpeg_quality_is_60_to_100(samples):
    qualities = drawn(samples, "ImageCompression", "quality")
    assert set(qualities) == set(range(60, 101))
    assert {sample["ImageCompression"]["image_type"] for sample in samples if "ImageCompression" in sample} == {".jpg"}


@pytest.mark.parametrize(
    ("step", "key", "low", "high"),
    [
        ("GaussNoise", "variance", 10, 50),
        ("RandomBrightnessContrast", "alpha", 0.8, 1.2),
        ("RandomBrightnessContrast", "beta", -51, 51),
        ("HueSaturationValue", "hue", -20, 20),
        ("HueSaturationValue", "saturation", -30, 30),
        ("HueSaturationValue", "value", -20, 20),
        ("ShiftScaleRotate", "angle", -10, 10),
        ("ShiftScaleRotate", "scale", 0.8, 1.2),
        ("ShiftScaleRotate", "dx", -0.1, 0.1),
        ("ShiftScaleRotate", "dy", -0.1, 0.1),
    ],
)
def test_ranges_are_the_published_ones_to_both_ends(samples, step, key, low, high):
    assert_uniform(drawn(samples, step, key), low, high)


@pytest.mark.parametrize(
    ("step", "limits"),
    [
        ("GaussNoise", {"variance": (10, 50)}),
        ("HueSaturationValue", {"hue": (-20, 20), "saturation": (-30, 30), "value": (-20, 20)}),
        ("ShiftScaleRotate", {"angle": (-10, 10), "scale": (0.8, 1.2), "dx": (-0.1, 0.1), "dy": (-0.1, 0.1)}),
    ],
)
def test_the_ends_of_our_own_ranges(step, limits):
    transform = steps_of(build_augmentation(64))[step]
    transform.set_random_state(np.random.default_rng(0), random.Random(0))
    many = [transform.get_params() for _ in range(5000)]
    assert many[0].keys() == limits.keys()
    for name, (low, high) in limits.items():
        values = np.array([params[name] for params in many])
        assert 0 <= values.min() - low < (high - low) * 10 / 5000
        assert 0 <= high - values.max() < (high - low) * 10 / 5000


def test_fancy_pcas_alpha_is_normal_with_a_tenth(samples):
    alphas = drawn(samples, "FancyPCA", "alpha")
    assert alphas.mean() == pytest.approx(0, abs=4 * 0.1 / np.sqrt(len(alphas)))
    assert alphas.std() == pytest.approx(0.1, rel=4 / np.sqrt(2 * len(alphas)))
    assert (abs(alphas) < 0.1).mean() == pytest.approx(0.683, abs=0.07)


def apply(step, image, **params):
    transform = steps_of(build_augmentation(64))[step]
    transform.set_random_state(np.random.default_rng(3), None)
    return transform.apply(image, **params)


@pytest.mark.parametrize("variance", [10, 50])
def test_noise_has_its_variance_in_each_colour_of_each_pixel(variance):
    grey = np.full((120, 100, 3), 128, np.uint8)
    noise = apply("GaussNoise", grey, variance=variance).astype(float) - 128
    assert noise.var() == pytest.approx(variance + 1 / 12, rel=0.04)
    assert noise.mean() == pytest.approx(-0.5, abs=4 * np.sqrt(variance / noise.size))  # it is truncated
    assert np.abs(np.corrcoef(noise.reshape(-1, 3).T) - np.eye(3)).max() < 0.05
    flat = noise[..., 0].ravel()
    assert abs(np.corrcoef(flat[1:], flat[:-1])[0, 1]) < 0.05


@pytest.mark.parametrize("level", [0, 255])
def test_noise_is_clipped_not_wrapped(level):
    noisy = apply("GaussNoise", np.full((40, 40, 3), level, np.uint8), variance=50)
    assert np.abs(noisy.astype(int) - level).max() < 60
    assert (noisy == level).mean() > 0.4


def test_blur_is_opencvs_3x3_kernel(picture):
    rng = np.random.default_rng(4)
    noise = rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)
    blur = steps_of(build_augmentation(64))["GaussianBlur"]
    for image in (picture, noise):
        for _ in range(3):  # no part of it is drawn
            blurred = blur(image=image, force_apply=True)["image"]
            assert np.abs(blurred.astype(int) - cv2.GaussianBlur(image, (3, 3), 0)).max() <= 1


def test_t31_the_three_resizes_differ_as_published(picture):
    pairs = [
        (cv2.INTER_AREA, cv2.INTER_CUBIC),
        (cv2.INTER_AREA, cv2.INTER_LINEAR),
        (cv2.INTER_LINEAR, cv2.INTER_LINEAR),
    ]
    small = picture[:40, :30]
    for number, (down, up) in enumerate(pairs):
        # 140 x 100 to 64: 45.71 is truncated
        assert np.array_equal(apply(f"resize{number}", picture), cv2.resize(picture, (45, 64), interpolation=down))
        assert np.array_equal(apply(f"resize{number}", small), cv2.resize(small, (48, 64), interpolation=up))


def test_what_augmentation_may_do_nothing_to_is_what_prediction_sees(picture):
    resize, pad = (steps_of(build_augmentation(64))[name] for name in ("resize0", "PadIfNeeded"))
    for image in (picture, picture[:, :61], picture[:33, :61], picture[:64, :63]):
        resized = resize(image=image, force_apply=True)["image"]
        assert np.array_equal(pad(image=resized)["image"], fit(image, 64))
    assert fit(picture, 64).shape == (64, 64, 3)
    assert fit(picture, 64)[:, :9].sum() == 0  # 140 x 100 becomes 64 x 45, in the middle
    assert np.array_equal(fit(picture, 64)[:, 9:54], isotropic_resize(picture, 64))
    assert np.array_equal(fit(picture, 64), center_pad(isotropic_resize(picture, 64), 64))


def test_brightness_and_contrast_are_of_the_whole_range(picture):
    shown = apply("RandomBrightnessContrast", picture, alpha=1.2, beta=-51.0)
    assert np.array_equal(shown, np.clip(picture * np.float32(1.2) - 51, 0, 255).astype(np.uint8))


def brute_force_pca(picture, alpha):
    """The formula in NumPy: V^T (alpha e), with the eigenvectors as columns, the largest eigenvalue first."""
    colours = picture.reshape(-1, 3) / 255
    values, vectors = np.linalg.eigh(np.cov(colours, rowvar=False))
    values, vectors = values[[2, 1, 0]], vectors[:, [2, 1, 0]]
    shift = [sum(vectors[j, i] * alpha * values[j] for j in range(3)) for i in range(3)]
    return np.clip(picture + 255 * np.array(shift), 0, 255).astype(np.uint8)


def test_fancy_pca_is_its_formula(picture):
    rng = np.random.default_rng(3)
    tinted = (picture * np.array([1, 0.6, 0.2])).astype(np.uint8)
    dark = rng.integers(0, 40, (31, 17, 3), dtype=np.uint8)
    for image in (picture, tinted, dark, dark[:2, :2]):
        for alpha in (*rng.normal(0, 0.1, 8), -3.0, 5.0, 20.0):
            expected = brute_force_pca(image, alpha)
            assert np.abs(fancy_pca(image, alpha).astype(int) - expected).max() <= 1
            assert abs(fancy_pca(image, alpha).mean() - expected.mean()) < 0.4


def test_fancy_pca_shifts_all_pixels_by_one_whole_colour(picture):
    middle = (picture * 0.3).astype(np.uint8) + 90
    shifts = []
    for alpha in np.linspace(-30, 30, 31):
        shift = fancy_pca(middle, alpha).astype(int) - middle
        assert len(np.unique(shift.reshape(-1, 3), axis=0)) == 1
        expected = brute_force_pca(middle, alpha).astype(int) - middle
        shifts.append((*shift[0, 0], *expected[0, 0]))
    shifts = np.array(shifts)
    assert np.abs(shifts).max() > 60
    assert (shifts[:, :3] == shifts[:, 3:]).mean() > 0.97  # float32 may fall on the other side of a whole number


@pytest.mark.parametrize("shape", [(9, 9, 3), (1, 1, 3)])
def test_fancy_pca_leaves_one_colour_alone(shape):
    flat = np.full(shape, 77, np.uint8)
    assert np.array_equal(fancy_pca(flat, 1.0), flat)


@pytest.mark.parametrize("shifts", [(-20, -30, -20), (20, 30, 20), (0.6, -0.6, 7.9), (-7.3, 12.2, -0.4), (0, 0, 0)])
def test_hsv_is_shifted_and_truncated(picture, shifts):
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(float) + shifts
    hsv[..., 0] %= 180
    expected = cv2.cvtColor(hsv.clip(0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)
    assert np.array_equal(shift_hsv(picture, *shifts), expected)
    hue, saturation, value = shifts
    assert np.array_equal(apply("HueSaturationValue", picture, hue=hue, saturation=saturation, value=value), expected)
    assert np.array_equal(apply("FancyPCA", picture, alpha=0.3), fancy_pca(picture, 0.3))


def test_grey_is_the_luma_of_bt_601(picture):
    grey = apply("ToGray", picture)
    assert np.abs(grey - (picture @ np.array([0.299, 0.587, 0.114]))[..., None]).max() <= 1


@pytest.mark.parametrize(
    ("angle", "scale", "dx", "dy"),
    [(10, 1, 0, 0), (-10, 1.2, 0, 0), (0, 0.8, 0.1, 0), (0, 1, 0, -0.1), (7, 1.1, -0.05, 0.033)],
)
def test_shift_scale_rotate_moves_a_dot_where_the_formula_says(angle, scale, dx, dy):
    size = 201
    dot = np.zeros((size, size, 3), np.uint8)
    cv2.circle(dot, (130, 70), 6, (255, 255, 255), -1)
    moved = apply("ShiftScaleRotate", dot, angle=angle, scale=scale, dx=dx, dy=dy)
    moments = cv2.moments(moved[..., 0])
    turn = np.deg2rad(angle)  # counter-clockwise, where y points down
    x, y = 130 - size / 2, 70 - size / 2
    expected = (
        size / 2 + scale * (x * np.cos(turn) + y * np.sin(turn)) + dx * size,
        size / 2 + scale * (y * np.cos(turn) - x * np.sin(turn)) + dy * size,
    )
    assert (moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]) == pytest.approx(expected, abs=0.15)
    assert moments["m00"] / cv2.moments(dot[..., 0])["m00"] == pytest.approx(scale**2, rel=0.03)
    assert moved.shape == dot.shape
    white = np.full((size, size - 40, 3), 255, np.uint8)
    assert apply("ShiftScaleRotate", white, angle=angle, scale=0.8, dx=dx, dy=dy)[0, 0].sum() == 0  # black around it
