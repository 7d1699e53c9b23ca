"""Every flag and every key of the configuration arrives where it should: spies on one small run through `main`."""

import inspect
import json
from types import SimpleNamespace

import pytest
import timm
import torch
from helpers import make_crops
from training_runs import ENCODER, train

from networks import checkpoint, model
from training import arguments, dataset, engine, loading, losses, optim, saving, wrapping
from training.config import TrainConfig, flatten

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Two data sets, and a file of encoder weights."""
    place = tmp_path_factory.mktemp("seams")
    make_crops(place / "root")
    (place / "root" / "crops").rename(place / "root" / "crops2")
    (place / "root" / "folds.csv").rename(place / "root" / "other.csv")
    make_crops(place / "second", families=3, frames=2)
    (place / "second" / "crops").rename(place / "second" / "crops2")
    torch.manual_seed(0)
    torch.save(timm.create_model(ENCODER).state_dict(), place / "encoder.pth")
    return place


class Seen:
    """Calls by name: the arguments each was given, by parameter."""

    def __init__(self, monkeypatch):
        self.calls = {}
        self._monkeypatch = monkeypatch

    def watch(self, owner, name, key=None):
        original = getattr(owner, name)
        signature = inspect.signature(original)
        calls = self.calls.setdefault(key or name, [])

        def spy(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            call = SimpleNamespace(**bound.arguments)
            calls.append(call)
            call.result = original(*args, **kwargs)
            return call.result

        self._monkeypatch.setattr(owner, name, spy)

    def first(self, name):
        return self.calls[name][0]

    def all(self, name, attribute):
        return [getattr(call, attribute) for call in self.calls[name]]


def watched_run(monkeypatch, roots, out, config, *more):
    """Train with spies at the seams; returns what they saw."""
    seen = Seen(monkeypatch)
    seen.watch(dataset.CropDataset, "__init__", "CropDataset")
    seen.watch(dataset.EpochSampler, "__init__", "EpochSampler")
    seen.watch(loading, "DataLoader")
    seen.watch(model, "build_network")
    seen.watch(model, "load_pretrained_file")
    seen.watch(engine, "learning_rate")
    seen.watch(engine, "clip_grads_with_norm_")
    seen.watch(engine, "train_epoch")
    seen.watch(engine, "validate")
    seen.watch(engine, "_backward")
    seen.watch(losses, "class_sums")
    seen.watch(losses, "class_counts")
    seen.watch(losses, "combine")
    seen.watch(optim, "build_optimizer")
    seen.watch(wrapping, "wrap")
    seen.watch(wrapping, "compile_model")
    seen.watch(checkpoint, "save_checkpoint")
    seen.watch(saving.Saver, "__init__", "Saver")
    seen.watch(engine, "update_average")
    seen.watch(engine, "Normalizer")
    path = out / "given.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    assert train(roots / "root", out, path, "--folds-csv", "other.csv", "--crops-dir", "crops2", *more) == 0
    return seen


BASE = {"encoder": ENCODER, "pretrained": False, "size": 32, "epochs": 1, "batch_size": 4, "batches_per_epoch": 2}

# Another value than the default for every key, in runs that can hold them; what of a run shows that it arrived.
KEYS = [
    (
        {
            "network": "DeepFakeClassifierGWAP",
            "drop_path": 0.3,
            "dropout": 0.4,
            "gradient_checkpointing": True,
            "size": 48,
            "epochs": 3,
            "batches_per_epoch": 2,
            "batch_size": 3,
            "accumulate": 2,
            "precision": "bf16",
            "label_smoothing": 0.2,
            "loss": "focal",
            "loss_normalization": "rank",
            "ohem_samples": 1,
            "ema_decay": 0.7,
            "occlusions": {
                "eyes": 0.01,
                "mouth": 0.02,
                "nose": 0.03,
                "half_face": 0.04,
                "half_picture": 0.05,
                "random_half": 0.06,
            },
            "optimizer": {
                "type": "SGD",
                "learning_rate": 0.02,
                "momentum": 0.5,
                "nesterov": False,
                "weight_decay": 0.03,
                "clip_grad_norm": 0.25,
            },
            "schedule": {
                "type": "multistep",
                "power": 2.0,
                "gamma": 0.5,
                "every_epochs": 2.0,
                "milestones": [1.0, 2.0],
                "lowest": 0.1,
                "warmup_steps": 3,
            },
            "normalize": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
        },
        {
            "network": lambda s: s.first("build_network").network,
            "encoder": lambda s: s.first("build_network").encoder,
            "drop_path": lambda s: s.first("build_network").drop_path,
            "dropout": lambda s: s.first("build_network").dropout,
            "gradient_checkpointing": lambda s: s.first("build_network").gradient_checkpointing,
            "size": lambda s: {*s.all("CropDataset", "size")}.pop(),
            "epochs": lambda s: len(s.calls["train_epoch"]),
            "batches_per_epoch": lambda s: s.first("learning_rate").steps_per_epoch,
            "batch_size": lambda s: s.first("EpochSampler").batch_size,
            "accumulate": lambda s: {len(window) for window in s.all("_backward", "window")}.pop(),
            "precision": lambda s: {torch.bfloat16: "bf16"}[s.first("class_sums").logits.dtype],
            "label_smoothing": lambda s: s.first("class_sums").smoothing,
            "loss": lambda s: s.first("class_sums").criterion.__name__,
            "loss_normalization": lambda s: (
                "rank" if s.first("combine").counts is s.first("_backward").local else "global"
            ),
            "ohem_samples": lambda s: ({*s.all("class_sums", "hardest")} & {*s.all("class_counts", "hardest")}).pop(),
            "ema_decay": lambda s: s.first("update_average").decay,
            **{
                f"occlusions.{name}": lambda s, name=name: getattr(s.first("CropDataset").occlusions, name)
                for name in ("eyes", "mouth", "nose", "half_face", "half_picture", "random_half")
            },
            "optimizer.type": lambda s: type(s.first("build_optimizer").result[0]).__name__,
            "optimizer.learning_rate": lambda s: s.first("learning_rate").base,
            **{
                f"optimizer.{name}": lambda s, name=name: s.first("build_optimizer").result[0].param_groups[1][name]
                for name in ("momentum", "nesterov", "weight_decay")
            },
            "optimizer.clip_grad_norm": lambda s: s.first("clip_grads_with_norm_").max_norm,
            **{
                f"schedule.{name}": lambda s, name=name: getattr(s.first("learning_rate").config, name)
                for name in ("type", "power", "gamma", "every_epochs", "milestones", "lowest", "warmup_steps")
            },
            "normalize.mean": lambda s: {call.mean for call in s.calls["Normalizer"]}.pop(),
            "normalize.std": lambda s: {call.std for call in s.calls["Normalizer"]}.pop(),
        },
    ),
]
ELSEWHERE = {
    "pretrained": "test_pretrained_weights_are_fetched_when_asked_for",
    "compile": "tests/test_wrapping.py",
}


@pytest.mark.parametrize(("changes", "observers"), KEYS)
def test_every_key_of_the_configuration_arrives(monkeypatch, roots, tmp_path, changes, observers):
    given = BASE | changes
    seen = watched_run(monkeypatch, roots, tmp_path, given)
    default = flatten(TrainConfig().model_dump())
    expected = flatten(given)
    assert observers.keys() | ELSEWHERE.keys() == default.keys()  # a new key needs an observer
    for key, observe in observers.items():
        wanted = tuple(expected[key]) if isinstance(expected[key], list) else expected[key]
        assert observe(seen) == wanted, key
        # SGD alone takes all of the optimizer's keys; the test below has another.
        assert wanted != default[key] or key == "optimizer.type", f"{key}: the default shows nothing"
    # The batches of a whole run: 3 epochs of 2 steps of 2 batches of 3 crops.
    assert [len(call.window) for call in seen.calls["_backward"]] == [2] * 6
    assert {len(batch["label"]) for call in seen.calls["_backward"] for batch in call.window} == {3}
    # Six calls of the schedule, with the total and the rates of its own.
    assert {call.total_steps for call in seen.calls["learning_rate"]} == {6}
    assert [call.step for call in seen.calls["learning_rate"]] == list(range(6))
    spec = seen.calls["save_checkpoint"][-1].spec
    assert (spec.network, spec.size, spec.normalize.mean) == ("DeepFakeClassifierGWAP", 48, (0.1, 0.2, 0.3))


def test_another_optimizer_arrives(monkeypatch, roots, tmp_path):
    seen = watched_run(monkeypatch, roots, tmp_path, BASE | {"optimizer": {"type": "RMSprop", "momentum": 0.3}})
    optimizer, said = seen.first("build_optimizer").result
    assert (type(optimizer).__name__, said) == ("RMSprop", "PyTorch RMSprop (not fused)")
    assert optimizer.param_groups[0]["momentum"] == 0.3


def test_pretrained_weights_are_fetched_when_asked_for(monkeypatch, roots, tmp_path):
    calls = []
    monkeypatch.setattr(model, "load_pretrained", lambda network, encoder: calls.append(encoder) or "fetched")
    watched_run(monkeypatch, roots, tmp_path, BASE)
    assert calls == []
    watched_run(monkeypatch, roots, tmp_path / "b", BASE | {"pretrained": True})
    assert calls == [ENCODER]


FLAGS = {
    "data_dir": lambda s, place: str(s.first("CropDataset").data_dir) == str(place / "root"),
    "crops_dir": lambda s, place: {*s.all("CropDataset", "crops_dir")} == {"crops2"},
    "folds_csv": lambda s, place: len(s.first("CropDataset").table) == 48,
    "fold": lambda s, place: set(s.first("CropDataset").table["video"].astype(str)) == FOLDS_0_AND_2,
    "validate_on": lambda s, place: (
        [str(d) for d in s.all("CropDataset", "data_dir")[1:]] == [str(place / n) for n in ("root", "second", "second")]
        and [len(t) for t in s.all("CropDataset", "table")[1:]] == [12, 6, 2]
    ),
    "seed": lambda s, place: (
        s.first("CropDataset").seed == s.first("EpochSampler").seed == s.first("train_epoch").run.seed == 3
    ),
    "pretrained_path": lambda s, place: s.first("load_pretrained_file").path == place / "encoder.pth",
    "epochs": lambda s, place: len(s.calls["train_epoch"]) == 3,
    "batch_size": lambda s, place: s.first("EpochSampler").batch_size == 2,
    "label_smoothing": lambda s, place: s.first("class_sums").smoothing == 0.05,
    "set": lambda s, place: s.first("learning_rate").base == 0.003,
    "freeze_epochs": lambda s, place: s.all("wrap", "frozen") == [True, False],
    "test_every": lambda s, place: len(s.calls["validate"]) == 2 * 3,  # epochs 1 and 2, three sets each
    "save_every": lambda s, place: (
        sum(bool(call.training) and call.training["step"] == 1 for call in s.calls["save_checkpoint"]) == 3
    ),
    "keep": lambda s, place: s.first("Saver").keep == 1,
    "max_failed": lambda s, place: s.first("train_epoch").run.max_failed == 0.5,
    "no_hardcore": lambda s, place: s.first("CropDataset").occlusions is None,
    "no_oversample": lambda s, place: s.first("EpochSampler").oversample is False,
    "only_changed_frames": lambda s, place: s.first("CropDataset").only_changed is True,
    "padding_part": lambda s, place: (
        {*s.all("CropDataset", "margin_part")} == {5} == {spec.margin_part for spec in s.all("save_checkpoint", "spec")}
    ),
    "workers": lambda s, place: s.all("DataLoader", "options")[0]["num_workers"] == 1,
    "device": lambda s, place: s.first("train_epoch").run.ranks.device == "cpu",
}
FOLDS_0_AND_2 = {f"{kind}{number}" for kind in ("real", "fake") for number in (0, 2, 3, 5)}
OTHER_TESTS = {
    "config": "all of this file",
    "prefix": "test_trainer.py: the names of the files",
    "output_dir": "test_trainer.py: the names of the files",
    "log_dir": "test_trainer.py: the names of the files",
    "resume": "test_resume.py",
    "init_from": "test_resume.py",
    "local_rank": "test_distributed.py",
    "augmentation_grid": "test_trainer.py",
}


def test_every_flag_arrives(monkeypatch, roots, tmp_path):
    class Loader(torch.utils.data.DataLoader):
        def __init__(self, dataset, batch_sampler=None, batch_size=None, **options):
            shape = {"batch_sampler": batch_sampler} if batch_sampler else {"batch_size": batch_size}
            super().__init__(dataset, **shape, **options)

    monkeypatch.setattr(loading, "DataLoader", Loader)
    seen = watched_run(
        monkeypatch,
        roots,
        tmp_path,
        BASE,
        *("--fold", 1, "--seed", 3, "--epochs", 3, "--batch-size", 2, "--label-smoothing", 0.05),
        *("--set", "optimizer.learning_rate=0.003", "--freeze-epochs", 1, "--test-every", 2, "--save-every", 1e-9),
        *("--keep", 1, "--max-failed", 0.5, "--no-hardcore", "--no-oversample", "--only-changed-frames"),
        *("--padding-part", 5, "--workers", 1, "--pretrained-path", roots / "encoder.pth"),
        *("--validate-on", f"all={roots / 'second'}", "--validate-on", f"part={roots / 'second'}:1"),
        *("--folds-csv", "other.csv"),
    )
    monkeypatch.undo()
    flags = vars(arguments.parse_arguments("", ["--data-dir", "x"])).keys()
    assert flags == FLAGS.keys() | OTHER_TESTS.keys()  # a new flag needs an observer
    for name, arrived in FLAGS.items():
        assert arrived(seen, roots), name
    # Training samples are training's, all others are not.
    assert seen.all("CropDataset", "train") == [True, False, False, False]
    options = seen.all("DataLoader", "options")
    assert [option["pin_memory"] for option in options] == [False] * 4  # on a GPU only
    assert all(option["persistent_workers"] and option["collate_fn"] is dataset.collate for option in options)
    # Epoch 0 was not validated, and is neither the newest nor the best.
    kept = {path.name.rsplit("_", 1)[1] for path in (tmp_path / "weights").iterdir()}
    assert {"0", "2"} & kept == {"2"}


def test_defaults_arrive_too(monkeypatch, roots, tmp_path):
    seen = watched_run(monkeypatch, roots, tmp_path, BASE)
    train_set = seen.first("CropDataset")
    assert train_set.occlusions == TrainConfig().occlusions
    assert (train_set.only_changed, train_set.margin_part, train_set.seed) == (False, 3, 777)
    assert seen.first("EpochSampler").oversample is True
    assert seen.all("wrap", "frozen") == [False]
    assert seen.first("build_network").dropout is None
    assert seen.first("combine").counts is not seen.first("_backward").local
    assert seen.first("class_sums").logits.dtype == torch.float32
    assert seen.first("class_sums").criterion is losses.bce
    assert seen.first("class_sums").hardest == 0
    assert seen.calls["update_average"] == []
    assert seen.first("Saver").keep is None
    assert seen.first("clip_grads_with_norm_").max_norm == 1.0


def test_pictures_and_network_are_channels_last(monkeypatch, roots, tmp_path):
    layouts = []
    original = wrapping.wrap

    def wrap(run, *, frozen):
        run.model.register_forward_pre_hook(
            lambda module, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
        )
        weight = run.model.encoder.conv_stem.weight
        layouts.append(weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous())
        return original(run, frozen=frozen)

    monkeypatch.setattr(wrapping, "wrap", wrap)
    watched_run(monkeypatch, roots, tmp_path, BASE)
    assert len(layouts) > 3
    assert all(layouts)
