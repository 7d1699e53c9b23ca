"""Going on with a run: places, choices, advice, several starts (training/resume.py)."""

import copy
import lzma
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from training_runs import epochs_of, log_text, path_of, read, same, train, weights, write_config

from dfdc.command_line import UsageError
from training import engine, resume
from training.arguments import RunSettings, parse_arguments
from training.config import TrainConfig
from training.saving import History

pytestmark = pytest.mark.slow


def choices(data=5, processes=2, **changes):
    config = TrainConfig(**{name: value for name, value in changes.items() if name in TrainConfig.model_fields})
    flags = {name: value for name, value in changes.items() if name not in TrainConfig.model_fields}
    settings = replace(parse_arguments("", ["--data-dir", "x"]), **({"seed": 1} | flags))
    return resume.choices_of(settings, config, data, processes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 2}, "seed 1 -> 2"),
        ({"fold": 1}, "fold 0 -> 1"),
        ({"data": 6}, "folds.csv (checksum) 5 -> 6"),
        ({"crops_dir": "b"}, "crops_dir crops -> b"),
        ({"padding_part": 4}, "padding_part 3 -> 4"),
        ({"no_hardcore": True}, "no_hardcore False -> True"),
        ({"only_changed_frames": True}, "only_changed_frames False -> True"),
        ({"no_oversample": True}, "no_oversample False -> True"),
        ({"freeze_epochs": 1}, "freeze_epochs 0 -> 1"),
        ({"drop_path": 0.3}, "drop_path 0.2 -> 0.3"),
    ],
)
def test_t57_what_decides_what_is_learned_may_not_change(changes, said):
    faults, changed = resume.compare(choices(**changes), choices(), ())
    assert not changed
    (fault,) = faults
    assert fault == said
    assert resume.compare(choices(), choices(), ()) == ([], [])


def test_a_flag_is_compared_unless_it_is_known_to_decide_nothing():
    compared = {name.removeprefix("--").replace("-", "_") for name in choices()}
    assert {field.name for field in fields(RunSettings)} - compared == {
        *("config", "set", "data_dir", "folds_csv"),  # their contents are compared
        *("validate_on", "test_every", "save_every", "keep", "max_failed", "workers", "device", "local_rank"),
        *("prefix", "output_dir", "log_dir", "resume", "init_from", "pretrained_path", "augmentation_grid"),
    }
    assert len(choices()) == 10 + len(resume.flatten(TrainConfig().model_dump()))


@pytest.mark.parametrize(
    ("now", "good"),
    [
        ({"batch_size": 6, "accumulate": 2}, True),
        ({"batch_size": 24, "processes": 1}, True),
        ({"accumulate": 2, "processes": 1}, True),
        ({"batch_size": 6}, False),
        ({"processes": 4}, False),
        ({"accumulate": 3, "batch_size": 6}, False),
    ],
)
def test_the_crops_of_a_step_must_stay_but_not_how_they_are_shared(now, good):
    faults, changed = resume.compare(choices(**now), choices(), ())
    assert bool(changed) is good
    assert bool(faults) is not good
    if not good:
        assert faults[-1].endswith(" (batch_size x accumulate x processes must stay 24)")
    for key, value in (("ohem_samples", 1), ("loss_normalization", "rank")):
        faults, changed = resume.compare(choices(**now, **{key: value}), choices(**{key: value}), ())
        assert not changed
        assert faults[-1].endswith("because ohem_samples or loss_normalization depends on it)") or not good


def test_rate_and_length_change_for_those_who_ask():
    before, after = choices(), choices(epochs=50)
    assert resume.compare(after, before, {"epochs"}) == ([], ["epochs 40 -> 50, as requested"])
    faults, changed = resume.compare(after, before, ())
    assert (faults, changed) == (
        ["epochs 40 -> 50 (to keep it: set epochs=40; to change it: set epochs=50)"],
        [],
    )
    assert resume.compare(after, before, (), finished=True) == ([], [])
    assert resume.compare(choices(seed=2), before, (), finished=True)[0] == ["seed 1 -> 2"]
    assert resume.compare(choices(drop_path=0.1), before, {"drop_path"})[0] == ["drop_path 0.2 -> 0.1"]


def test_a_key_that_came_since_counts_as_its_default():
    old = choices()
    del old["gradient_checkpointing"], old["schedule.power"]
    assert resume.compare(choices(), old, ()) == ([], [])
    assert resume.compare(choices(gradient_checkpointing=True), old, ())[0] == ["gradient_checkpointing False -> True"]


def test_t56_ranks_that_differ_are_named(monkeypatch):
    values = [{"epoch": 3, "code": "a"}, {"epoch": 0, "code": "a"}, {"epoch": 3, "code": "a", "more": 1}]
    monkeypatch.setattr(resume, "gather_objects", lambda own: values)
    with pytest.raises(UsageError) as error:
        resume.agree(values[0])
    assert "epoch: 3 (rank 0, 2), 0 (rank 1)" in str(error.value)
    assert "more: None (rank 0, 1), 1 (rank 2)" in str(error.value)
    assert "code" not in str(error.value).replace("same code", "")
    monkeypatch.setattr(resume, "gather_objects", lambda own: [own, dict(own)])
    resume.agree(values[0])


def test_the_codes_digest_changes_with_the_code(monkeypatch, tmp_path):
    for folder in ("training", "dfdc"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("1")
    monkeypatch.setattr(resume, "__file__", str(tmp_path / "training" / "resume.py"))
    found = {resume.source_digest()}
    for path in ("training/a.py", "dfdc/a.py", "dfdc/b.py"):
        (tmp_path / path).write_text("2")
        found.add(resume.source_digest())
    assert len(found) == 4
    assert all(len(digest) == 12 for digest in found)


def test_all_that_a_state_holds_is_put_back():
    from tiny_runs import everything, make_batch, make_run
    from tiny_runs import train as train_steps

    def run_with_average():
        run = make_run(steps=2, optimizer={"type": "AdamW", "learning_rate": 0.1}, ema_decay=0.5)
        run.scaler, run.average = engine.make_scaler("cpu", torch.float16), copy.deepcopy(run.model)
        return run

    first, second = run_with_average(), run_with_average()
    train_steps(first, [make_batch(1), make_batch(2)])
    first.scaler.update(4.0)
    state = resume.State(
        recipe=resume.RECIPE,
        choices={},
        began_from=None,
        epoch=0,
        step=1,
        meter={"fake": 1.0},
        optimizer=first.optimizer.state_dict(),
        scaler=first.scaler.state_dict(),
        average=first.average.state_dict(),
        computes_in="float16",
        history=History(0.25, {3: 0.5}),
    )
    state.restore(second)
    assert second.scaler.get_scale() == 65536  # a type has a scale of its own
    second.amp_type = torch.float16
    state.restore(second)
    second.model.load_state_dict(first.model.state_dict())
    assert second.scaler.get_scale() == 4.0
    assert same(first.average.state_dict(), second.average.state_dict())
    assert same(everything(first), everything(second))


def test_a_state_comes_back_from_plain_values():
    """The names are those of the files that are there: they stay."""
    values = {
        "recipe": resume.RECIPE,
        "choices": choices(),
        "began_from": "sha",
        "epoch": 1,
        "step": 2,
        "meter": {"fake": 1.0},
        "optimizer": {"state": {}, "param_groups": []},
        "scaler": {},
        "average": None,
        "computes_in": "float32",
        "history": {"best": 0.25, "losses": {3: 0.5}},
    }
    state = resume.State.from_dict(values, Path("last"))
    assert (state.epoch, state.history) == (1, History(0.25, {3: 0.5}))
    assert list(state.to_dict().items()) == list(values.items())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (7, "its training state is a int, not a dictionary"),
        ({}, "was written by another version of the trainer"),
        ({"recipe": resume.RECIPE, "choices": {}}, "its training state is corrupt .*epoch: Field required"),
        ({"recipe": resume.RECIPE, "history": [3]}, "its training state is corrupt .*history: "),
    ],
)
def test_a_corrupt_state_is_told(values, said):
    with pytest.raises(UsageError, match=said):
        resume.State.from_dict(values, Path("last"))


@pytest.mark.parametrize(
    ("name", "value"), [("optimizer", {}), ("optimizer", {"state": 3, "param_groups": [7]}), ("average", {"a": 1})]
)
def test_a_state_that_does_not_fit_is_told(name, value):
    from tiny_runs import make_run

    run = make_run(steps=2, ema_decay=0.5)
    run.scaler, run.average = engine.make_scaler("cpu", torch.float16), copy.deepcopy(run.model)
    sound = {"optimizer": run.optimizer.state_dict(), "scaler": {}, "average": None}
    own = sound | {name: value}
    state = resume.State(resume.RECIPE, {}, None, 0, 1, {}, **own, computes_in="float16", history=History())
    with pytest.raises(UsageError, match=r"is corrupt .*Start a new run with another prefix"):
        state.restore(run)


OLD_LAST = Path(__file__).parent / "data" / "last_of_2026.xz"


def test_a_state_that_was_written_before_it_had_a_type_goes_on(crops_root, tmp_path):
    """Written by an earlier trainer after four steps of its second epoch; all weights but the last bias are 0."""
    config = write_config(tmp_path, ema_decay=0.5)
    path_of(tmp_path, "last").parent.mkdir()
    path_of(tmp_path, "last").write_bytes(lzma.decompress(OLD_LAST.read_bytes()))
    old = read(tmp_path).training
    assert resume.State.from_dict(old, tmp_path).to_dict() == old
    assert train(crops_root, tmp_path, config, "--freeze-epochs", 2, "--resume", "auto") == 0
    assert "resumes from epoch 1, step 4;" in log_text(tmp_path)
    assert weights(tmp_path)["fc.bias"].item() == pytest.approx(-0.0506, abs=1e-4)  # as the earlier one ended
    assert read(tmp_path).training["history"]["losses"] == pytest.approx({0: 0.83178, 1: 0.83713}, abs=1e-4)
    (record,) = epochs_of(tmp_path)
    assert (record["train_fake"], record["train_real"]) == pytest.approx((0.70971, 0.67986), abs=1e-4)
