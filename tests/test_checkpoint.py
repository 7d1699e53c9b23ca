"""Checkpoints (training/checkpoint.py)."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

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


def test_a_tight_margin_is_in_the_checkpoint(tmp_path):
    from training.config import TrainConfig

    spec = ModelSpec.from_config(TrainConfig(encoder=TINY), margin_part=6)
    checkpoint.save_checkpoint(tmp_path / "a", tiny(), spec, epoch=0, bce_best=1, metrics={})
    assert checkpoint.read_checkpoint(tmp_path / "a").spec.margin_part == 6
