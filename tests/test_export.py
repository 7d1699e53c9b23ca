"""Checkpoints as safetensors and ONNX files, and back (networks/export.py)."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers import numbered_frames
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.special import expit
from scoring_runs import FakeDetector

import export_model
import predict_folder
from dfdc.command_line import UserError
from dfdc.video import write_video
from networks import checkpoint
from networks import export as exporting
from networks.checkpoint import read_checkpoint, save_checkpoint
from networks.ensemble import Ensemble
from networks.model import NETWORKS, build_network
from networks.onnx_model import OnnxModel
from networks.spec import CheckpointError, ModelSpec, Normalize
from networks.values import plain_values
from prediction import scorer

pytestmark = pytest.mark.slow

FORMS = ("safetensors", "onnx")
SIZE = 64
COLOURS = Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.25))


def lively(network, seed=0):
    """Weights with which the scores of pictures differ, as fresh ones hardly do."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    with torch.inference_mode():
        network.eval()
        # The logits of random pictures get the mean 0 and the spread 1.
        logits = network(torch.randn(8, 3, SIZE, SIZE, generator=generator))
        network.fc.weight.div_(logits.std())
        network.fc.bias.copy_(-(logits - network.fc.bias).mean() / logits.std())
    return network


def make(path, network="DeepFakeClassifier", encoder="test_efficientnet", size=SIZE, seed=0):
    torch.manual_seed(seed)
    built = lively(build_network(network, encoder), seed)
    spec = ModelSpec(network, encoder, size, COLOURS, margin_part=4)
    save_checkpoint(path, built, spec, epoch=7, bce_best=0.25, metrics={"auc": 0.9, "loss": float("nan")})
    return built


def change_exported(monkeypatch, change):
    """Have exported networks, but not the checkpoint, give other logits."""
    load = exporting._load

    def changed(path, form):
        logits = load(path, form)
        return logits if form == "checkpoint" else lambda images: change(logits(images))

    monkeypatch.setattr(exporting, "_load", changed)


def export(path, form, *more):
    return export_model.main([str(value) for value in (path, "--format", form, *more)])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint `a`, its two exports, and `b`, of another encoder and size."""
    folder = tmp_path_factory.mktemp("weights")
    make(folder / "a")
    make(folder / "b", encoder="test_resnet", size=96, seed=1)
    for form in FORMS:
        assert export(folder / "a", form) == 0
    return folder


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("network", "encoder"), [*((name, "test_efficientnet") for name in NETWORKS), ("DeepFakeClassifier", "test_resnet")]
)
def test_every_network_scores_as_it_did_at_any_batch_size(tmp_path, form, network, encoder, capsys):
    original = make(tmp_path / "a", network, encoder)
    assert export(tmp_path / "a", form) == 0
    assert "largest difference on 13 images of a face: probability " in capsys.readouterr().out
    exported, plain = exporting._load(tmp_path / f"a.{form}", form), exporting._load(tmp_path / "a", "checkpoint")
    with torch.inference_mode():
        for count in (1, 2, 5):
            images = np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
            expected, found = expit(plain(images)), expit(exported(images))
            assert found.shape == (count,)
            assert np.abs(expected - found).max() <= (0 if form == "safetensors" else 1e-5)
            by_hand = torch.sigmoid(original(torch.from_numpy(COLOURS.to_input(images))))[:, 0].numpy()
            assert np.abs(by_hand - expected).max() <= 1e-6
        assert expected.max() - expected.min() > 0.05  # or the comparison would say little


def test_t45_a_safetensors_file_says_what_it_needs(weights):
    found, original = read_checkpoint(weights / "a.safetensors"), read_checkpoint(weights / "a")
    assert found.spec == original.spec
    assert (found.epoch, found.bce_best, found.metrics["auc"], found.training) == (7, 0.25, 0.9, None)
    assert math.isnan(found.metrics["loss"])
    assert found.state_dict.keys() == original.state_dict.keys()
    assert all(torch.equal(value, original.state_dict[name]) for name, value in found.state_dict.items())
    with safe_open(weights / "a.safetensors", "pt") as file:
        texts = file.metadata()
    assert json.loads(texts["model"]) == plain_values(original.spec)
    assert (texts["format"], texts["version"], texts["epoch"]) == ("pt", "1", "7")
    assert json.loads(texts["metrics"]) == {"auc": 0.9, "loss": None}


def test_t45_an_onnx_file_says_what_it_needs(weights):
    model = onnx.load(weights / "a.onnx")
    onnx.checker.check_model(model)
    assert [item.version for item in model.opset_import if item.domain == ""] == [exporting.OPSET]
    spec = read_checkpoint(weights / "a").spec
    texts = {item.key: item.value for item in model.metadata_props}
    assert json.loads(texts["model"]) == plain_values(spec)
    assert (texts["version"], texts["epoch"], texts["bce_best"]) == ("1", "7", "0.25")
    assert OnnxModel(weights / "a.onnx", "cpu").spec == spec
    ((images,), (logits,)) = model.graph.input, model.graph.output
    dimensions = [[d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in (images, logits)]
    assert [images.name, logits.name, *dimensions] == ["images", "logits", ["n", 3, SIZE, SIZE], ["n", 1]]


@pytest.mark.parametrize("form", FORMS)
def test_t46_the_winners_form_is_exported_too(tmp_path, form, monkeypatch):
    network = lively(build_network("DeepFakeClassifier", "test_efficientnet"))
    monkeypatch.setitem(checkpoint._PUBLISHED, network.fc.in_features, ("test_efficientnet", SIZE))
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    state["module.encoder.classifier.weight"] = torch.zeros(1000, network.fc.in_features)
    torch.save({"epoch": 36, "state_dict": state, "bce_best": np.float64(0.125)}, tmp_path / "final_111_b7_ns_0.36")
    assert export(tmp_path / "final_111_b7_ns_0.36", form) == 0
    exported = tmp_path / f"final_111_b7_ns_0.36.{form}"
    spec = ModelSpec("DeepFakeClassifier", "test_efficientnet", SIZE)
    if form == "safetensors":
        found = read_checkpoint(exported)
        assert (found.spec, found.epoch, found.bce_best) == (spec, 36, 0.125)
        assert found.state_dict.keys() == network.state_dict().keys()
    else:
        assert OnnxModel(exported, "cpu").spec == spec


def test_a_whole_b7_as_safetensors(tmp_path):
    network = build_network("DeepFakeClassifier", "tf_efficientnet_b7.ns_jft_in1k")
    torch.save({"epoch": 1, "state_dict": network.state_dict(), "bce_best": 0.1}, tmp_path / "b7")
    assert export(tmp_path / "b7", "safetensors") == 0
    assert 2.5e8 < (tmp_path / "b7.safetensors").stat().st_size < 2.6e8


def test_predict_folder_scores_the_same_with_each_form(weights, tmp_path, monkeypatch):
    write_video(tmp_path / "clip.mp4", numbered_frames(6))
    boxes = [[10, 10, 40, 50], [30, 5, 80, 60]]
    monkeypatch.setattr(scorer, "FaceDetector", lambda thresholds, device: FakeDetector(boxes))
    output = tmp_path / "submission.csv"
    command = [
        "--weights-dir",
        weights,
        "--models",
        "a",
        "a.safetensors",
        "a.onnx",
        "b",
        "--test-dir",
        tmp_path / "clip.mp4",
        "--output",
        output,
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--no-report",
    ]
    command = [str(value) for value in command]
    assert predict_folder.main(command) == 0
    (video,) = json.loads(output.with_suffix(".json").read_text())["videos"]
    scores = np.array([face["scores"] for face in video["faces"]])
    assert scores.shape == (12, 4)
    assert scores[:, 1] == pytest.approx(scores[:, 0], abs=1e-5)
    assert scores[:, 2] == pytest.approx(scores[:, 0], abs=1e-3)
    assert np.abs(scores[:, 3] - scores[:, 0]).max() > 0.01
    assert [model["name"] for model in video["models"]] == ["a", "a.safetensors", "a.onnx", "b"]
    assert predict_folder.main(command) == 0  # nothing left to score: the files are looked at all the same


def test_compiling_passes_over_onnx(weights, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda call: calls.append(1) or call)
    ensemble = Ensemble([weights / "a", weights / "a.onnx"], "cpu", "fp32")
    ensemble.compiled = True
    crops = list(np.random.default_rng(0).integers(0, 256, (5, 70, 60, 3), dtype=np.uint8))
    scores = ensemble.score(crops)
    ensemble.close()
    assert calls == [1]
    assert len(ensemble.compilable) == 1
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("difference", [0.01, float("nan")])
def test_a_network_that_scores_otherwise_is_not_written(weights, tmp_path, form, difference, monkeypatch):
    output = tmp_path / f"a.{form}"
    output.write_text("before")
    change_exported(monkeypatch, lambda logits: logits + np.float32(difference))
    with pytest.raises(exporting.ParityError, match="Largest difference of probabilities ") as error:
        export(weights / "a", form, "--output", output, "--force")
    assert error.value.status == 1
    assert f"{output} was not written" in str(error.value)
    assert [item.name for item in tmp_path.iterdir()] == [output.name]
    assert output.read_text() == "before"


@pytest.mark.parametrize("wrong", [1, 12])
def test_one_image_is_compared_alone_and_the_others_as_a_batch(weights, tmp_path, wrong, monkeypatch):
    change_exported(monkeypatch, lambda logits: logits + (len(logits) == wrong))
    with pytest.raises(exporting.ParityError):
        export(weights / "a", "onnx", "--output", tmp_path / "a.onnx")


def test_a_network_that_is_sure_of_everything_is_compared_too(tmp_path, monkeypatch):
    original = make(tmp_path / "a")
    torch.nn.init.constant_(original.fc.bias, 1000)  # probability 1, whatever the picture
    save_checkpoint(tmp_path / "a", original, read_checkpoint(tmp_path / "a").spec, epoch=0, bce_best=1, metrics={})
    assert export(tmp_path / "a", "onnx") == 0
    change_exported(monkeypatch, lambda logits: logits + 5)
    with pytest.raises(exporting.ParityError, match="Largest difference of probabilities 0 "):
        export(tmp_path / "a", "onnx", "--force")


def test_t46_reading_safetensors_runs_no_pickle_code(weights, tmp_path, monkeypatch):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    def never(*arguments, **options):
        raise AssertionError("a safetensors file was given to torch.load")

    torch.save({"state_dict": Evil()}, tmp_path / "evil.safetensors")
    shutil.copy(weights / "a.safetensors", tmp_path / "a")  # its content tells it, too
    monkeypatch.setattr(torch, "load", never)
    with pytest.raises(CheckpointError, match=r"evil\.safetensors is not a readable safetensors file"):
        read_checkpoint(tmp_path / "evil.safetensors")
    assert read_checkpoint(tmp_path / "a").epoch == 7
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "2"}, "version 2, but this program supports only up to 1"),
        ({"model": "{}"}, "model.network: .*; model.encoder: "),
        ({"metrics": "[]"}, "its 'description' is invalid .metrics: "),
        ({"epoch": "x"}, "its description is invalid"),
        (None, "does not describe its network"),
    ],
)
def test_safetensors_files_that_are_none_of_ours_are_named(weights, tmp_path, change, said):
    with safe_open(weights / "a.safetensors", "pt") as file:
        texts = file.metadata()
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", None if change is None else {**texts, **change})
    with pytest.raises(CheckpointError, match=said) as error:
        read_checkpoint(tmp_path / "x.safetensors")
    assert "x.safetensors" in str(error.value)


def test_onnx_files_that_are_none_of_ours_are_named(weights, tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    model = onnx.load(weights / "a.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    for name, said in (
        ("text.onnx", "is not a usable ONNX file"),
        ("bare.onnx", "does not describe its network"),
    ):
        with pytest.raises(CheckpointError, match=said) as error:
            Ensemble([tmp_path / name], "cpu")
        assert name in str(error.value)


def test_an_onnx_network_without_memory_is_tried_in_halves(weights, monkeypatch):
    crops = list(np.random.default_rng(0).integers(0, 256, (4, 70, 60, 3), dtype=np.uint8))
    ensemble = Ensemble([weights / "a.onnx"], "cpu")
    expected = ensemble.score(crops)
    session = ensemble.models[0]._session

    class Small:
        def run(self, names, inputs):
            if len(inputs["images"]) > 1:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 99")
            return session.run(names, inputs)

    ensemble.models[0]._session = Small()
    assert ensemble.score(crops) == pytest.approx(expected, abs=1e-6)
    ensemble.close()


def test_without_the_cuda_provider_onnx_runs_on_the_cpu_and_says_so(weights, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.warns(UserWarning, match=r"a\.onnx runs on the CPU"):
        network = OnnxModel(weights / "a.onnx", "cuda:0")
    assert network.logits(np.zeros((1, SIZE, SIZE, 3), np.uint8)).shape == (1,)


@pytest.mark.parametrize(("content", "form"), [(None, "safetensors"), (b"hello", "onnx")])
def test_what_is_no_checkpoint_is_named(weights, tmp_path, content, form):
    path = tmp_path / "given"
    path.write_bytes((weights / "a.onnx").read_bytes() if content is None else content)
    with pytest.raises(UserError, match="given can't be read safely as a checkpoint"):
        export(path, form)
    assert list(tmp_path.iterdir()) == [path]


def test_an_exported_form_is_exported_again(weights, tmp_path, capsys):
    output = tmp_path / "again.onnx"
    assert export(weights / "a.safetensors", "onnx", "--output", output) == 0
    said = capsys.readouterr().out
    assert f"opset {exporting.OPSET}" in said
    assert f"written: {output}" in said


def test_an_encoder_that_onnx_does_not_know_is_named(weights, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise torch.onnx.OnnxExporterError("no decomposition")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(UserError, match="can't export test_efficientnet to ONNX"):
        export(weights / "a", "onnx", "--output", tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []
