"""Checkpoints (networks/checkpoint.py)."""

import io
import json
import math
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from networks import checkpoint, model
from networks.spec import CheckpointError, ModelSpec, Normalize
from networks.values import plain_values

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


@pytest.mark.slow
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


@pytest.mark.slow
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
    with pytest.raises(CheckpointError, match="evil can't be read safely as a checkpoint"):
        checkpoint.read_checkpoint(path)
    assert not marker.exists()


def tiny(**options):
    torch.manual_seed(0)
    return model.build_network("DeepFakeClassifier", TINY, **options)


def test_t45_a_checkpoint_says_what_it_needs(tmp_path):
    spec = ModelSpec("DeepFakeClassifier", TINY, 96, Normalize((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
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
    with pytest.raises(CheckpointError, match=r"a_last can't be written .*no space left.*The previous file is intact"):
        checkpoint.save_checkpoint(path, tiny(), spec, epoch=2, bce_best=0.4, metrics={})
    monkeypatch.undo()
    assert checkpoint.read_checkpoint(path).epoch == 1
    assert [item.name for item in tmp_path.iterdir()] == ["a_last"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"weights": 1}, "no state_dict"),
        ({"state_dict": {}}, "no state_dict"),
        ([1, 2], "no state_dict"),
        ({"state_dict": {"fc.weight": torch.zeros(1, 99)}}, "does not describe its network"),
        ({"state_dict": {"x": torch.zeros(1)}}, "does not describe its network"),
        ({"state_dict": {"x": torch.zeros(1)}, "model": {"network": "x"}}, "its 'model' is invalid .network: "),
    ],
)
def test_t37_files_that_are_no_checkpoint_of_ours_are_named(tmp_path, content, said):
    path = tmp_path / "strange"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=said) as error:
        checkpoint.read_checkpoint(path)
    assert str(path) in str(error.value)


def test_files_that_are_nothing(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.read_checkpoint(tmp_path / "absent")
    for name in ("empty", "text"):
        with pytest.raises(CheckpointError, match="can't be read safely"):
            checkpoint.read_checkpoint(tmp_path / name)


def test_t37_weights_of_another_network_are_an_error(tmp_path):
    spec = ModelSpec("DeepFakeClassifier", "test_resnet", 96)
    checkpoint.save_checkpoint(tmp_path / "a", tiny(), spec, epoch=0, bce_best=1, metrics={})
    with pytest.raises(CheckpointError, match="does not fit DeepFakeClassifier with test_resnet"):
        checkpoint.load_model(tmp_path / "a")


def test_a_tight_margin_is_in_the_checkpoint(tmp_path):
    from training.config import TrainConfig
    from training.saving import spec_of

    spec = spec_of(TrainConfig(encoder=TINY), margin_part=6)
    checkpoint.save_checkpoint(tmp_path / "a", tiny(), spec, epoch=0, bce_best=1, metrics={})
    assert checkpoint.read_checkpoint(tmp_path / "a").spec.margin_part == 6


# The same as safetensors, mapped into memory, and what a file of neither kind is told.


def exported(tmp_path, name="tiny.safetensors", network=None, **changes):
    """A safetensors file as export_model.py writes it; `changes` to its description."""
    from safetensors.torch import save_file

    path = tmp_path / "made_from"
    spec = ModelSpec("DeepFakeClassifier", TINY, 96, margin_part=4)
    checkpoint.save_checkpoint(
        path, network or tiny(), spec, epoch=3, bce_best=float("inf"), metrics={"auc": 0.5, "log_loss": float("nan")}
    )
    found = checkpoint.read_checkpoint(path)
    texts = {key: value for key, value in (checkpoint.describe(found) | changes).items() if value is not None}
    save_file(found.state_dict, tmp_path / name, metadata=texts)
    return tmp_path / name, found


def test_a_safetensors_file_reads_as_the_checkpoint_it_was_made_from(tmp_path):
    path, source = exported(tmp_path)
    found = checkpoint.read_checkpoint(path)
    assert (found.spec, found.epoch, found.training) == (source.spec, 3, None)
    assert np.isnan(found.bce_best)  # JSON has no infinity
    assert found.metrics["auc"] == 0.5
    assert np.isnan(found.metrics["log_loss"])
    assert found.state_dict.keys() == source.state_dict.keys()
    assert all(torch.equal(value, found.state_dict[name]) for name, value in source.state_dict.items())
    texts = checkpoint.describe(source)
    assert json.loads(texts["metrics"]) == {"auc": 0.5, "log_loss": None}
    assert "NaN" not in "".join(texts.values())
    assert "Infinity" not in "".join(texts.values())
    assert checkpoint.load_model(path)[1].spec == source.spec


def test_safetensors_are_known_by_name_or_content(tmp_path):
    path, _ = exported(tmp_path)
    renamed = path.rename(tmp_path / "no_suffix")
    assert checkpoint.read_checkpoint(renamed).epoch == 3
    assert checkpoint.is_safetensors(tmp_path / "ABSENT.SafeTensors")
    assert not checkpoint.is_safetensors(tmp_path / "absent")
    assert not checkpoint.is_safetensors(tmp_path)
    assert not checkpoint.is_safetensors(tmp_path / "made_from")  # PyTorch's zip
    whole = renamed.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    short = tmp_path / "short"
    for cut, expected in ((length, True), (length - 1, False), (8, False), (0, False)):
        short.write_bytes(whole[:cut])
        assert checkpoint.is_safetensors(short) is expected
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.read_checkpoint(tmp_path / "absent.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes((tmp_path / "made_from").read_bytes())  # a pickle under that name is never unpickled
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        checkpoint.read_checkpoint(broken)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": None}, "does not describe its network"),
        ({"model": None}, "does not describe its network"),
        ({"version": "2"}, "has version 2, but this program supports only up to 1"),
        ({"version": "x"}, "its description is invalid"),
        ({"version": "null"}, "its description is invalid"),
        ({"epoch": None}, "its 'description' is invalid .epoch: "),
        ({"epoch": None, "bce_best": None, "metrics": None}, "epoch: .*; bce_best: .*; metrics: "),
        ({"metrics": "3"}, "its 'description' is invalid .metrics: "),
        ({"model": '{"network": "x"}'}, "model.network: .*choose DeepFakeClassifier, .*; model.encoder: "),
    ],
)
def test_descriptions_that_cant_be_used_are_named(tmp_path, changes, said):
    path, _ = exported(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=said):
        checkpoint.read_checkpoint(path)


def test_descriptions_may_hold_more_than_ours(tmp_path):
    path, source = exported(tmp_path, added="by another program")
    assert checkpoint.read_checkpoint(path).spec == source.spec


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("size", 0),
        ("size", 2049),
        ("size", "96"),
        ("margin_part", 0),
        ("network", "none"),
        ("encoder", None),
        ("mean", [1, 2]),
        ("mean", "abc"),
        ("mean", [math.nan, 0, 0]),
        ("std", [1, 0, 1]),
        ("std", [1, math.inf, 1]),
        ("detector_thresholds", [0.7, 0.8]),
        ("detector_thresholds", [0.7, 0.8, math.nan]),
    ],
)
def test_specs_out_of_range_are_refused(tmp_path, key, bad):
    spec = ModelSpec("DeepFakeClassifier", TINY, 1, margin_part=1)
    values = plain_values(spec)
    (values["normalize"] if key in ("mean", "std") else values)[key] = bad
    path, _ = exported(tmp_path, model=json.dumps(values))
    place = f"model.normalize.{key}" if key in ("mean", "std") else f"model.{key}"
    with pytest.raises(CheckpointError, match=rf"its 'description' is invalid \({place}"):
        checkpoint.read_checkpoint(path)
    path, _ = exported(tmp_path, model=json.dumps(plain_values(spec)))
    assert checkpoint.read_checkpoint(path).spec == spec


@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_mapped_weights_are_the_files_own_and_score_alike(tmp_path, suffix):
    network = tiny().eval()
    path, _ = exported(tmp_path, network=network)
    path = path if suffix else tmp_path / "made_from"
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        for mapped in (False, True):
            loaded, found = checkpoint.load_model(path, mapped=mapped)
            assert not loaded.training
            assert torch.equal(loaded(images), network(images))
            own = loaded.fc.weight.data_ptr() == found.state_dict["fc.weight"].data_ptr()
            assert own is mapped
            if sys.platform == "linux" and not suffix:
                assert (str(path) in Path("/proc/self/maps").read_text()) is mapped
            del found
            assert not any(value.is_meta for value in loaded.state_dict().values())


def test_an_old_file_and_a_network_with_other_tables_are_read_in_the_plain_way(tmp_path, monkeypatch):
    path = tmp_path / "old"
    spec = ModelSpec("DeepFakeClassifier", TINY, 96)
    checkpoint.save_checkpoint(tmp_path / "new", tiny(), spec, epoch=1, bce_best=0.5, metrics={})
    torch.save(checkpoint.read_file(tmp_path / "new"), path, _use_new_zipfile_serialization=False)
    assert checkpoint.load_model(path, mapped=True)[1].epoch == 1  # a form that can't be mapped

    class WithTable(model.DeepFakeClassifier):
        def __init__(self, *args):
            super().__init__(*args)
            self.register_buffer("table", torch.ones(2), persistent=False)

    monkeypatch.setitem(model.NETWORKS, "DeepFakeClassifier", WithTable)
    loaded, _ = checkpoint.load_model(tmp_path / "new", mapped=True)
    assert loaded.table.tolist() == [1, 1]


def test_the_winners_networks_are_known_by_their_width(tmp_path):
    for width, (encoder, size) in {
        2560: ("tf_efficientnet_b7", 380),
        2048: ("tf_efficientnet_b5", 380),
        1792: ("tf_efficientnet_b4", 380),
        1536: ("tf_efficientnet_b3", 300),
    }.items():
        path = tmp_path / str(width)
        weights = {"module.fc.weight": torch.zeros(1, width), "module.encoder.x": torch.zeros(1)}
        torch.save({"epoch": 1, "state_dict": weights, "bce_best": 0.1}, path)
        spec = checkpoint.read_checkpoint(path).spec
        assert (spec.encoder.split(".")[0], spec.size, spec.margin_part) == (encoder, size, 3)
        for name in ("module.fc.weight", "module.encoder.x"):
            torch.save({"epoch": 1, "state_dict": {name: weights[name]}}, path)
            with pytest.raises(CheckpointError, match="does not describe its network"):
                checkpoint.read_checkpoint(path)
    torch.save({"state_dict": {"fc.weight": torch.zeros(2560), "encoder.x": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match=r"fc\.weight: \[2560\]"):
        checkpoint.read_checkpoint(path)


def test_broken_numbers_and_what_a_run_needs_are_told_apart(tmp_path):
    path = tmp_path / "a"
    spec = ModelSpec("DeepFakeClassifier", TINY, 96)
    checkpoint.save_checkpoint(path, tiny(), spec, epoch=1, bce_best=0.5, metrics={})
    content = checkpoint.read_file(path)
    assert content.keys() == {"epoch", "state_dict", "bce_best", "metrics", "model", "version"}
    checkpoint.save_checkpoint(
        path, tiny(), spec, epoch=1, bce_best=0.5, metrics={}, training={"step": 3}, average_of=["x", "y"]
    )
    more = checkpoint.read_file(path)
    assert (more["training"], more["average_of"]) == ({"step": 3}, ["x", "y"])
    assert checkpoint.read_checkpoint(path).training == {"step": 3}
    del content["epoch"], content["bce_best"], content["metrics"]
    torch.save(content, path)
    found = checkpoint.read_checkpoint(path)
    assert (found.epoch, found.metrics) == (-1, {})
    assert np.isnan(found.bce_best)
    torch.save(content | {"epoch": "x"}, path)
    with pytest.raises(CheckpointError, match="its epoch, bce_best or metrics is invalid"):
        checkpoint.read_checkpoint(path)


# Other types of numbers


@pytest.mark.slow
def test_the_winners_b7_in_half_precision_loads_as_well(published_b7, tmp_path):
    network, _ = published_b7
    weights = {
        f"module.{name}": value.half() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    torch.save({"epoch": 36, "state_dict": weights, "bce_best": np.float64(0.1234)}, tmp_path / "b7")
    loaded, _ = checkpoint.load_model(tmp_path / "b7", mapped=True)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.fc.weight, weights["module.fc.weight"].float())


@pytest.mark.parametrize("odd", [{"epoch": float("inf")}, {"bce_best": 10**400}, {"epoch": torch.zeros(2)}])
def test_numbers_that_are_none_are_told(tmp_path, odd):
    content = {"state_dict": {"fc.weight": torch.zeros(1, 2560), "encoder.a": torch.zeros(1)}, **odd}
    torch.save(content, tmp_path / "a")
    with pytest.raises(CheckpointError, match="its epoch, bce_best or metrics is invalid"):
        checkpoint.read_checkpoint(tmp_path / "a")
