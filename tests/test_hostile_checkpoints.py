"""Checkpoints with anything in them (tests/hostile.py): no traceback, and nothing written elsewhere."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from hostile import ANY, CASES, TEXTS, changed, hostile, place, told
from hostile_roots import call
from hypothesis import event, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scoring_runs import make_checkpoint

import export_model
import predict_folder
from dfdc.command_line import UsageError
from networks.checkpoint import describe, load_model, read_checkpoint
from networks.ensemble import Ensemble
from prediction import folder
from training import average_checkpoints, soup
from training.config import TrainConfig, flatten
from training.resume import RECIPE, State, compare

CHOICES = flatten(TrainConfig().model_dump(mode="json")) | {"processes": 1, "--fold": 0}


class Content(dict):
    """The content of a checkpoint, whose weights are not printed."""

    def __repr__(self):
        return repr({name: value for name, value in self.items() if name != "state_dict"})


def small_run():
    """What `State.restore` needs of a run."""
    weights = [torch.nn.Parameter(torch.zeros(3))]
    optimizer, scaler = torch.optim.SGD(weights, 0.1, momentum=0.9), torch.amp.GradScaler("cpu", enabled=True)
    return SimpleNamespace(optimizer=optimizer, scaler=scaler, average=torch.nn.Linear(1, 1), amp_type=None)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The content of a small checkpoint of a run, and its path."""
    path = tmp_path_factory.mktemp("sound") / "a"
    make_checkpoint(path.parent, "a")
    content = torch.load(path, weights_only=True)
    holdout = {"fold": 0, "folds_sha256": "0" * 64, "held_out": ["a", "b"], "trained_on_videos": 3}
    run = small_run()
    training = {"recipe": RECIPE, "choices": CHOICES, "began_from": None, "epoch": 1, "step": 2, "meter": {}}
    training |= {"optimizer": run.optimizer.state_dict(), "scaler": run.scaler.state_dict(), "average": None}
    training |= {"computes_in": "float32", "history": {"best": 0.5, "losses": {0: 0.5}}}
    return Content(content | {"data": holdout, "training": training}), path


TENSORS = st.sampled_from(
    [
        *(torch.zeros(3), torch.full((1, 1), float("nan")), torch.zeros(2, dtype=torch.int64), torch.tensor(7)),
        *(torch.zeros(0), torch.zeros(2, dtype=torch.complex64), torch.zeros(2, 2).to_sparse(), torch.tensor([1.0, 2])),
    ]
)


@st.composite
def contents(draw, whole):
    """The dictionary of a checkpoint of which one part or two are others."""
    content = Content(whole)
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        name = draw(st.sampled_from([*whole, "state_dict", "model", "data", "training"]))
        how = draw(st.integers(0, 4))
        if how == 0:
            content.pop(name, None)
        elif how == 1 or not isinstance(whole[name], dict):
            content[name] = draw(ANY | TENSORS)
        elif name == "state_dict":
            weights = dict(whole[name])
            for key in draw(st.lists(st.sampled_from([*weights]), max_size=3)):
                weights[key] = draw(TENSORS | ANY)
            content[name] = weights | draw(st.dictionaries(TEXTS, TENSORS | ANY, max_size=1))
        else:
            content[name] = draw(changed(st.just(whole[name])))
    return content


@hostile
@given(data=st.data())
def test_checkpoints(sound, data):
    content = data.draw(contents(sound[0]) | ANY)
    with place() as root:
        path = root / "a"
        torch.save(dict(content) if isinstance(content, dict) else content, path)
        _open_checkpoint(path)


def _open_checkpoint(path):
    """All that is done with a checkpoint before it is computed with."""
    for mapped in (False, True):
        found = told(lambda mapped=mapped: load_model(path, mapped=mapped))
    checkpoint = told(lambda: read_checkpoint(path))
    if checkpoint is not None:
        told(lambda: describe(checkpoint))
        if checkpoint.training is not None:
            state = told(lambda: State.from_dict(checkpoint.training, path))
            if state is not None:
                told(lambda: compare(CHOICES, state.choices, ()))
                told(lambda: state.restore(small_run()))
    return found


@hostile
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4)), min_size=1, max_size=3), cut=st.booleans())
def test_damaged_checkpoints(sound, changes, cut):
    with place() as root:
        data = bytearray(sound[1].read_bytes())
        for at, new in changes:
            begin = int(at * len(data))
            data[begin : begin + len(new)] = new
        (root / "a").write_bytes(data[: int(changes[0][0] * len(data))] if cut else data)
        _open_checkpoint(root / "a")


@hostile
@given(data=st.data())
def test_descriptions_of_exported_networks(sound, data):
    checkpoint = read_checkpoint(sound[1])
    texts = {name: json.loads(text) for name, text in describe(checkpoint).items()}
    told_of = data.draw(changed(st.just(texts)) | st.dictionaries(TEXTS, ANY, max_size=3))
    with place() as root:
        path = root / "a.safetensors"
        metadata = (
            {name: json.dumps(value) for name, value in dict(told_of).items()} if isinstance(told_of, dict) else {}
        )
        metadata = {_writable(name): text for name, text in metadata.items()}
        save_file(checkpoint.state_dict, path, metadata)
        _open_checkpoint(path)


def _writable(text):
    return text.encode("utf-8", "replace").decode()


COMMANDS = {
    "export": lambda a, b, out: (export_model.main, a, "--format", "safetensors", "--output", out / "a.safetensors"),
    "average": lambda a, b, out: (average_checkpoints.main, a, b, "--data-dir", out, "--output", out / "soup"),
    "score": lambda a, b, out: (
        *(predict_folder.main, "--models", a, b, "--test-dir", a.parent / "x.mp4", "--output", out / "out.csv"),
        *("--device", "cpu", "--engine", "torch", "--no-report"),
    ),
}


@pytest.fixture(scope="module")
def no_videos():
    """Commands load their checkpoints, and end before they read a video or a crop."""

    def load(settings, device, paths, engine):
        Ensemble(paths, device, settings.precision, engine)
        raise UsageError("loaded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "_open_scorer", load)
        patch.setattr(soup, "validate", lambda *_: SimpleNamespace(metrics={"video": METRICS}))
        yield


METRICS = {"log_loss_fake": 0.5, "log_loss_real": 0.5, "log_loss_balanced": 0.5, "auc": 0.5}


@settings(hostile, max_examples=CASES // 2 or 6)  # exporting takes a third of a second
@given(data=st.data())
def test_commands_bear_hostile_checkpoints(sound, no_videos, data):
    name = data.draw(st.sampled_from([*COMMANDS]))
    content = data.draw(contents(sound[0]))
    with place() as root:
        (root / "x.mp4").touch()
        (root / "out").mkdir()
        paths = root / "run_0_1", root / "run_0_2"
        torch.save(dict(content), paths[0])
        shutil.copy(sound[1], paths[1])
        before = [path.read_bytes() for path in paths]
        main, *arguments = COMMANDS[name](*paths, root / "out")
        event(f"{name}: {call(main, *arguments).status}")
        assert [path.read_bytes() for path in paths] == before
