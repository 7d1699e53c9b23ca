"""Which network a heat map is of, and where it lies on the crop (prediction/pages/heatmap.py)."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from scoring_runs import make_checkpoint

from dfdc.imaging import tighten
from networks.checkpoint import save_checkpoint
from networks.ensemble import Ensemble
from networks.model import NETWORKS, build_network
from networks.spec import ModelSpec, Normalize
from prediction.pages import heatmap, pictures
from prediction.pages.heatmap import _channels_first, _NoMap, look, make_heatmap


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    """`wide` at 64 pixels with the usual margin, `tight` at 96 with a small one and another normalisation."""
    folder = tmp_path_factory.mktemp("weights")
    make_checkpoint(folder, "wide")
    torch.manual_seed(1)
    colours = Normalize((0.2, 0.3, 0.4), (0.5, 0.6, 0.7))
    spec = ModelSpec("DeepFakeClassifier", "test_resnet", 96, colours, margin_part=8)
    save_checkpoint(
        folder / "tight", build_network("DeepFakeClassifier", "test_resnet"), spec, epoch=0, bce_best=1, metrics={}
    )
    made = Ensemble([folder / "wide", folder / "tight"], "cpu")
    yield made
    made.close()


def gradient(height, width):
    """A smooth picture of which no turn or mirror image is like itself."""
    y, x = np.mgrid[0:height, 0:width]
    plane = 40 + 150 * (y / height) ** 2 * (x / width) + 40 * (x / width)
    return np.repeat(plane[..., None], 3, 2).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(120, 80), (50, 90), (200, 200), (33, 40)])
@pytest.mark.parametrize("index", [0, 1])
def test_a_map_lies_on_the_crop_as_the_network_saw_it(ensemble, monkeypatch, shape, index):
    """Where what the network is shown is its own heat map, the map is the crop."""
    given = []

    def make_heatmap(model, images):
        given.append((model, images))
        colours = ensemble.specs[index].normalize
        mean, std = (torch.tensor(values)[:, None, None] for values in (colours.mean, colours.std))
        return (images[0] * std + mean)[0].numpy()

    monkeypatch.setattr(heatmap, "make_heatmap", make_heatmap)
    crop = gradient(*shape)
    seen, heat = look(ensemble, index, crop)
    assert np.array_equal(seen, tighten(crop, ensemble.specs[index].margin_part))
    assert (seen.shape == crop.shape) is (index == 0)
    assert heat.shape == seen.shape[:2]
    assert np.abs(heat - seen[..., 0] / 255)[3:-3, 3:-3].max() < 0.03
    ((model, images),) = given
    assert model is ensemble.models[index].network
    assert images.shape == (1, 3, ensemble.specs[index].size, ensemble.specs[index].size)
    assert not any(weights.requires_grad for weights in model.parameters())


@pytest.mark.slow
def test_the_map_is_of_the_checkpoint_that_is_asked_for(ensemble):
    crop = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    crop = cv2.GaussianBlur(crop, (0, 0), 5)
    maps = []
    for index in (0, 1):
        model, spec = ensemble.models[index].network, ensemble.specs[index]
        model.fc.weight.data.abs_()  # so that something speaks for fake
        seen, heat = look(ensemble, index, crop)
        small = heatmap.center_pad(heatmap.isotropic_resize(seen, spec.size), spec.size)
        own = heatmap.make_heatmap(model, ensemble.models[index].normalized(small[None]))
        expected = cv2.resize(own, seen.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(heat, expected, atol=1e-5)
        assert heat.std() > 0.05
        maps.append(cv2.resize(heat, (64, 64)))
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] < 0.9


def test_other_kinds_of_networks_and_features_have_no_map(ensemble, monkeypatch):
    crop = gradient(80, 80)
    monkeypatch.setattr(heatmap, "make_heatmap", lambda model, images: None)
    seen, heat = look(ensemble, 0, crop)
    assert (seen.shape, heat) == (crop.shape, None)
    onnx = SimpleNamespace(
        logits=lambda images: np.zeros(len(images), np.float32), spec=ensemble.specs[0], holdout=None
    )
    monkeypatch.setattr(ensemble, "models", [onnx, None])  # as an ONNX file
    seen, heat = look(ensemble, 0, crop)
    assert (seen.shape, heat) == (crop.shape, None)


class Encoder:
    num_features, num_prefix_tokens = 5, 1


@pytest.mark.parametrize("shape", [(1, 5), (1, 5, 2, 2, 2), (1, 9, 5), (1, 2, 5), (1, 8, 5), (1, 4, 3, 3)])
def test_features_without_places(shape):
    with pytest.raises(_NoMap):
        _channels_first(torch.zeros(shape), Encoder())


def test_features_with_places_are_copies_with_the_channels_first():
    tokens = torch.arange(50.0).reshape(1, 10, 5)
    turned = _channels_first(tokens, Encoder())
    assert turned.shape == (1, 5, 3, 3)
    assert turned[0, :, 1, 2].tolist() == tokens[0, 1 + 5].tolist()  # after the token of the class; row 1, column 2
    plain = torch.arange(4.0 * 5).reshape(1, 4, 5)
    assert _channels_first(plain, type("Plain", (), {"num_features": 5})()).shape == (1, 5, 2, 2)
    for maps in (torch.zeros(1, 5, 2, 3), torch.zeros(1, 2, 3, 5), torch.zeros(1, 5, 3, 5)):
        turned = _channels_first(maps, Encoder())
        assert turned.shape[1] == 5
        turned += 1
        assert not maps.any()
    square = torch.zeros(1, 5, 3, 5)  # channels could be first or last: first it is
    assert _channels_first(square, Encoder()).shape == (1, 5, 3, 5)
    with pytest.raises(_NoMap):
        _channels_first([torch.zeros(1, 5, 2, 2)], Encoder())


def test_a_network_is_left_without_gradients():
    torch.manual_seed(3)
    model = build_network("DeepFakeClassifier", "test_efficientnet").eval()
    assert heatmap.make_heatmap(model, torch.randn(1, 3, 64, 64)) is not None
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_resnet", "test_convnext"])
def test_heat_maps_are_those_of_the_formula(network, encoder):
    torch.manual_seed(4)
    model = build_network(network, encoder).eval().requires_grad_(False)
    images = torch.randn(1, 3, 96, 96)
    heat = make_heatmap(model, images)
    assert heat.shape == (96, 96)
    assert np.isfinite(heat).all()
    assert 0 <= heat.min() <= heat.max() <= 1
    assert "forward_features" not in vars(model.encoder)  # as it was
    inputs = images if network != "DeepFakeClassifierSRM" else torch.conv2d(images, model.srm, padding=2)
    maps = model.encoder.forward_features(inputs).requires_grad_()
    pooled = model.avg_pool(maps) if network == "DeepFakeClassifierGWAP" else model.encoder.forward_head(maps)
    (gradient,) = torch.autograd.grad(model.fc(pooled).sum(), maps)
    expected = (gradient.mean((2, 3), keepdim=True) * maps).sum(1).relu()[0].detach().numpy()
    expected -= expected.min()
    expected = cv2.resize(expected / (expected.max() + 1e-7), (96, 96))
    expected = (expected - expected.min()) / (np.ptp(expected) + 1e-7)
    np.testing.assert_allclose(heat, expected, atol=1e-4)


@pytest.mark.parametrize("encoder", ["test_vit", "test_efficientnet"])
def test_tokens_have_places_and_a_network_without_has_no_map(encoder, monkeypatch):
    model = build_network("DeepFakeClassifier", encoder).eval()
    side = model.encoder.default_cfg["input_size"][1]
    assert make_heatmap(model, torch.randn(1, 3, side, side)).shape == (side, side)
    monkeypatch.setattr(type(model.encoder), "forward_features", lambda self, images, **_: torch.zeros(1, 8))
    assert make_heatmap(model, torch.randn(1, 3, side, side)) is None


def test_channels_last_are_turned():
    class Encoder:
        num_features = 5

    maps = torch.randn(1, 3, 4, 5)
    assert torch.equal(_channels_first(maps, Encoder()), maps.permute(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(120, 80), (40, 90), (3, 3)])
def test_a_heat_map_lies_on_the_crop(weights, shape):
    crop = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    ensemble = Ensemble([weights / "a", weights / "b"], "cpu")
    for index in (0, 1):
        seen, heat = look(ensemble, index, crop)
        assert seen.shape == (*shape, 3)
        assert heat.shape == shape
        assert max(pictures.overlay(seen, heat).shape) == pictures.FACE_SIDE


def test_heat_maps_in_lower_precision_are_nearly_the_same(weights):
    import skimage.data

    crop = np.ascontiguousarray(skimage.data.astronaut()[20:240, 120:330])
    maps = []
    for precision in ("fp32", "bf16"):
        ensemble = Ensemble([weights / "b"], "cpu", precision)
        ensemble.models[0].network.fc.weight.data.abs_()  # so that something speaks for fake
        maps.append(look(ensemble, 0, crop)[1])
    assert maps[0].std() > 0.1
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.98
