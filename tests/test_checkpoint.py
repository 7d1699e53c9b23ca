"""Networks and checkpoints (training/model.py, training/checkpoint.py)."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from dfdc.imaging import IMAGENET_MEAN, IMAGENET_STD
from training import checkpoint, model
from training.checkpoint import CheckpointError, ModelSpec

TINY = "test_efficientnet"


class Published(torch.nn.Module):
    """A network built as the winners' code built it: encoder with its ImageNet classifier, pool, one layer."""

    def __init__(self, encoder, width):
        super().__init__()
        self.encoder = timm.create_model(encoder, pretrained=False, drop_path_rate=0.2)
        self.avg_pool = torch.nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = torch.nn.Dropout(0.0)
        self.fc = torch.nn.Linear(width, 1)

    def forward(self, images):
        return self.fc(self.dropout(self.avg_pool(self.encoder.forward_features(images)).flatten(1)))


def rename_in_zip(path: Path, old: bytes, new: bytes) -> None:
    """Change a name in the pickle of a checkpoint file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        for item in source.infolist():
            data = source.read(item)
            if item.filename.endswith("data.pkl"):
                assert old in data
                data = data.replace(old, new)
            target.writestr(item, data)
    path.write_bytes(buffer.getvalue())


@pytest.fixture(scope="module")
def published_b7(tmp_path_factory):
    torch.manual_seed(0)
    network = Published("tf_efficientnet_b7.ns_jft_in1k", 2560).eval()
    path = tmp_path_factory.mktemp("b7") / "final_111_DeepFakeClassifier_tf_efficientnet_b7_ns_0_36"
    weights = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 36, "state_dict": weights, "bce_best": np.float64(0.1234)}, path)
    return network, path


def test_t46_a_published_b7_loads_strictly_and_gives_the_same_output(published_b7):
    network, path = published_b7
    loaded, found = checkpoint.load_model(path)
    assert (found.epoch, found.bce_best) == (36, 0.1234)
    assert found.spec == ModelSpec("DeepFakeClassifier", "tf_efficientnet_b7.ns_jft_in1k", 380)
    own = {name for name in network.state_dict() if not name.startswith("encoder.classifier.")}
    assert set(loaded.state_dict()) == own
    images = torch.randn(1, 3, 380, 380, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(loaded(images), network(images))


def test_t46_numpy_1s_name_of_a_scalar_loads_too(published_b7, tmp_path):
    path = tmp_path / "old"
    path.write_bytes(published_b7[1].read_bytes())
    rename_in_zip(path, b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert checkpoint.read_checkpoint(path).bce_best == 0.1234


def test_t46_pickled_code_does_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    path = tmp_path / "evil"
    torch.save({"state_dict": {"fc.weight": torch.zeros(1, 2560)}, "bce_best": Evil()}, path)
    with pytest.raises(CheckpointError, match="evil is not a checkpoint that can be read safely"):
        checkpoint.read_checkpoint(path)
    assert not marker.exists()


def tiny(**options):
    torch.manual_seed(0)
    return model.build_network("DeepFakeClassifier", TINY, **options)


def test_t45_a_checkpoint_says_what_it_needs(tmp_path):
    spec = ModelSpec("DeepFakeClassifier", TINY, 96, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    network = tiny()
    path = tmp_path / "a"
    checkpoint.save_checkpoint(path, network, spec, epoch=3, bce_best=0.25, metrics={"auc": 0.9})
    loaded, found = checkpoint.load_model(path)
    assert found.spec == spec
    assert (found.epoch, found.bce_best, found.metrics, found.training) == (3, 0.25, {"auc": 0.9}, None)
    content = checkpoint.read_file(path)
    assert content["model"]["margin_part"] == 3
    assert content["model"]["detector_thresholds"] == [0.7, 0.8, 0.8]
    assert content["version"] == 1
    for name, value in network.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


def test_a_full_disk_leaves_the_previous_checkpoint_whole(tmp_path, monkeypatch):
    spec = ModelSpec("DeepFakeClassifier", TINY, 96)
    path = tmp_path / "a_last"
    checkpoint.save_checkpoint(path, tiny(), spec, epoch=1, bce_best=0.5, metrics={})

    def full(content, target):
        Path(target).write_bytes(b"half of it")
        raise RuntimeError("PytorchStreamWriter failed writing file: no space left")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(CheckpointError, match=r"a_last can't be written .*no space left.*The one before is whole"):
        checkpoint.save_checkpoint(path, tiny(), spec, epoch=2, bce_best=0.4, metrics={})
    monkeypatch.undo()
    assert checkpoint.read_checkpoint(path).epoch == 1
    assert [item.name for item in tmp_path.iterdir()] == ["a_last"]


@pytest.mark.parametrize(
    ("content", "said"),
    [({"weights": 1}, "no state_dict"), ({"state_dict": {}}, "no state_dict"), ([1, 2], "no state_dict"),
     ({"state_dict": {"fc.weight": torch.zeros(1, 99)}}, "does not say what network"),
     ({"state_dict": {"x": torch.zeros(1)}}, "does not say what network"),
     ({"state_dict": {"x": torch.zeros(1)}, "model": {"network": "x"}}, "description of the model is broken")],
)  # fmt: skip
def test_t37_files_that_are_no_checkpoint_of_ours_are_named(tmp_path, content, said):
    path = tmp_path / "strange"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=said) as error:
        checkpoint.read_checkpoint(path)
    assert str(path) in str(error.value)


def test_files_that_are_nothing(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.read_checkpoint(tmp_path / "absent")
    for name in ("empty", "text"):
        with pytest.raises(CheckpointError, match="can be read safely"):
            checkpoint.read_checkpoint(tmp_path / name)


def test_t37_weights_of_another_network_are_an_error(tmp_path):
    spec = ModelSpec("DeepFakeClassifier", "test_resnet", 96)
    checkpoint.save_checkpoint(tmp_path / "a", tiny(), spec, epoch=0, bce_best=1, metrics={})
    with pytest.raises(CheckpointError, match="does not fit DeepFakeClassifier with test_resnet"):
        checkpoint.load_model(tmp_path / "a")


def test_unknown_encoder_names_similar_ones():
    with pytest.raises(model.ModelError, match=r"efficientnet_b9.*like it: .*efficientnet_b"):
        model.build_network("DeepFakeClassifier", "efficientnet_b9")


def test_pretrained_without_network_says_what_to_do(monkeypatch):
    real = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("Name or service not known")
        return real(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(model.ModelError, match=r"can't be fetched .*--pretrained-path FILE"):
        model.load_pretrained(tiny(), TINY)


def test_pretrained_from_a_file(tmp_path):
    torch.manual_seed(9)
    source = timm.create_model(TINY)  # with its ImageNet classifier, as published weights have it
    path = tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    network = tiny()
    assert "weights.pth" in model.load_pretrained_file(network, path)
    assert torch.equal(network.encoder.conv_stem.weight, source.conv_stem.weight)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(model.ModelError, match="does not fit the encoder"):
        model.load_pretrained_file(network, path)


def test_normalising_is_imagenets():
    pixel = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    expected = [(v / 255 - m) / s for v, m, s in zip((0, 128, 255), IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    found = model.Normalizer(IMAGENET_MEAN, IMAGENET_STD, "cpu")(pixel)
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    assert found.dtype == torch.float32
    assert found.shape == (1, 3, 1, 1)


def test_t40_a_frozen_encoders_batchnorm_is_frozen_as_well():
    network = tiny()
    model.freeze_encoder(network, True)
    model.set_training_mode(network)
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    network(torch.randn(4, 3, 64, 64)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.encoder.state_dict().items())
    assert all(p.grad is None for p in network.encoder.parameters())
    assert network.fc.weight.grad is not None
    model.freeze_encoder(network, False)
    model.set_training_mode(network)
    network(torch.randn(4, 3, 64, 64))
    assert any(not torch.equal(value, before[name]) for name, value in network.encoder.state_dict().items())


@pytest.mark.parametrize("network", sorted(model.NETWORKS))
@pytest.mark.parametrize("encoder", [TINY, "test_convnext"])
def test_every_network_trains_all_its_parameters(network, encoder):
    torch.manual_seed(0)
    built = model.build_network(network, encoder, dropout=0.1)
    logits = built(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 1)
    logits.sum().backward()
    without = [name for name, parameter in built.named_parameters() if parameter.grad is None]
    assert without == []


def test_gwap_weighs_places_between_1_and_e():
    pool = model.GlobalWeightedAvgPool2d(4)
    maps = torch.randn(2, 4, 5, 3)
    scores = torch.sigmoid(torch.einsum("c,nchw->nhw", pool.conv.weight[0, :, 0, 0], maps) + pool.conv.bias).exp()
    weights = scores / scores.sum((1, 2), keepdim=True)
    assert torch.allclose(pool(maps), (maps * weights[:, None]).sum((2, 3)), atol=1e-6)


def test_srm_sees_noise_and_no_flat_colour():
    filters = model.srm_filters()
    assert filters.shape == (3, 3, 5, 5)
    assert torch.allclose(filters.sum((2, 3)), torch.zeros(3, 3), atol=1e-6)
    network = model.build_network("DeepFakeClassifierSRM", TINY).eval()
    flat = network(torch.full((1, 3, 64, 64), 0.3)), network(torch.full((1, 3, 64, 64), 0.3) + 0)
    assert torch.equal(*flat)
    inner = torch.nn.functional.conv2d(torch.full((1, 3, 64, 64), 0.7), network.srm)
    assert inner.abs().max() < 1e-5


def test_a_tight_margin_is_in_the_checkpoint(tmp_path):
    from training.config import TrainConfig

    spec = ModelSpec.from_config(TrainConfig(encoder=TINY), margin_part=6)
    checkpoint.save_checkpoint(tmp_path / "a", tiny(), spec, epoch=0, bce_best=1, metrics={})
    assert checkpoint.read_checkpoint(tmp_path / "a").spec.margin_part == 6
