"""Going on with a run, through the command line: places, choices, advice, several starts."""

import shlex
import signal

import pytest
import torch
from training_runs import (
    epochs_of,
    log_text,
    path_of,
    read,
    same,
    terminate,
    terminate_at,
    train,
    weights,
    write_config,
)

from dfdc import layout
from dfdc.command_line import UsageError, UserError
from training import engine, resume, wrapping
from training.engine import NotFiniteError, TrainingError


@pytest.fixture
def stopped(crops_root, tmp_path, monkeypatch):
    """A run of two epochs that was stopped within its first, as a function: resume with these arguments."""
    config = write_config(tmp_path)
    terminate_at(monkeypatch, 3)
    assert train(crops_root, tmp_path, config) == 128 + signal.SIGTERM
    monkeypatch.undo()
    return lambda *more, config=config: train(crops_root, tmp_path, config, *more)


def test_flags_that_change_what_is_learned_are_refused(stopped):
    for more in (
        ["--padding-part", 4],
        ["--no-hardcore"],
        ["--only-changed-frames"],
        ["--no-oversample"],
        ["--crops-dir", "crops2"],
        ["--freeze-epochs", 1],
        ["--seed", 5],
        ["--set", "drop_path=0.1"],
        ["--epochs", 3, "--set", "optimizer.weight_decay=0"],
    ):
        with pytest.raises(UserError, match=r"other settings|crops2"):
            stopped("--resume", "auto", *more)


def test_another_rate_is_taken_and_logged(stopped, tmp_path):
    assert stopped("--resume", "auto", "--set", "optimizer.learning_rate=0.001") == 0
    assert "changed since: optimizer.learning_rate 0.05 -> 0.001, as requested" in log_text(tmp_path)
    assert epochs_of(tmp_path)[0]["learning_rate"] < 0.001
    with pytest.raises(
        UsageError, match=r"to keep it: --set optimizer\.learning_rate=0\.001; .* --set optimizer\.learning_rate=0\.05"
    ):
        stopped("--resume", "auto", "--epochs", 3)


def rows_seen(monkeypatch):
    """A list to which the rows of each training batch come, in order."""
    seen = []
    original = engine.fill_unreadable
    monkeypatch.setattr(
        engine, "fill_unreadable", lambda batch, spare: seen.extend(batch["row"].tolist()) or original(batch, spare)
    )
    return seen


@pytest.mark.slow
def test_half_the_batch_twice_is_the_same_run(stopped, crops_root, tmp_path, monkeypatch):
    """The advice after out of memory: each step must see the very crops that it would have seen."""
    whole = tmp_path / "whole"
    seen = rows_seen(monkeypatch)
    train(crops_root, whole, write_config(whole))
    expected = seen.copy()
    seen.clear()
    assert stopped("--resume", "auto", "--batch-size", 2, "--set", "accumulate=2") == 0
    assert "changed since: batch_size 4 -> 2" in log_text(tmp_path)
    assert "changed since: accumulate 1 -> 2" in log_text(tmp_path)
    assert seen == expected[4 * 4 :]  # the run was stopped after its fourth step
    assert [record["step"] for record in epochs_of(tmp_path)] == [record["step"] for record in epochs_of(whole)]


@pytest.mark.slow
def test_t57_a_finished_run_is_not_begun_again(crops_root, tmp_path, capsys):
    config = write_config(tmp_path, epochs=1)
    train(crops_root, tmp_path, config)
    start, second = path_of(tmp_path, "0"), tmp_path / "second"
    for out in (tmp_path, second):
        if out == second:
            train(crops_root, second, config, "--init-from", start)
        before = weights(out)
        for flag in ("--resume", "--init-from"):
            if out == tmp_path:
                with pytest.raises(UsageError, match="the run did not start from"):
                    train(crops_root, out, config, flag, start)
            else:
                assert train(crops_root, out, config, flag, start) == 0
                assert "already finished, all 1 epochs" in capsys.readouterr().out
        assert same(before, weights(out))


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--resume", "--init-from"])
def test_weights_of_a_given_checkpoint_begin_a_new_run(crops_root, tmp_path, flag, monkeypatch):
    config = write_config(tmp_path, epochs=1)
    train(crops_root, tmp_path, config)
    start = path_of(tmp_path, "last")  # its place, metrics and optimizer are not taken
    second = tmp_path / "second"
    started_with = []
    original = wrapping.wrap
    monkeypatch.setattr(
        wrapping,
        "wrap",
        lambda run, frozen: (
            started_with.append({k: v.clone() for k, v in run.model.state_dict().items()})
            or original(run, frozen=frozen)
        ),
    )
    terminate_at(monkeypatch, 2)
    assert train(crops_root, second, config, flag, start) == 143
    monkeypatch.undo()
    assert same(started_with[0], weights(tmp_path))
    assert read(second).metrics == {}
    assert f"weights of {start}" in log_text(second)
    # Its own _last comes first from now on: a restart does not begin at FILE again.
    assert train(crops_root, second, config, flag, start) == 0
    assert "from epoch 0, step 3" in log_text(second)
    assert [record["epoch"] for record in epochs_of(second)] == [0]
    other = path_of(tmp_path, "0")
    with pytest.raises(UsageError, match="the run did not start from"):
        train(crops_root, second, config, flag, other)
    with pytest.raises(UsageError, match="old name"):
        train(crops_root, second, config, "--resume", start, "--init-from", start)


@pytest.mark.slow
def test_a_stop_while_validating_loses_nothing(crops_root, tmp_path, monkeypatch):
    config = write_config(tmp_path)
    train(crops_root, tmp_path / "whole", config)
    original = engine.validate

    def validate(run, *args):
        terminate()
        return original(run, *args)

    monkeypatch.setattr(engine, "validate", validate)
    stopped = tmp_path / "stopped"
    assert train(crops_root, stopped, config) == 143
    monkeypatch.undo()
    place = read(stopped).training
    assert (place["epoch"], place["step"]) == (0, 12)
    steps = []
    kept = engine.seed_step
    monkeypatch.setattr(engine, "seed_step", lambda *args: steps.append(args[1]) or kept(*args))
    assert train(crops_root, stopped, config, "--resume", "auto") == 0
    assert steps[0] == 12
    assert same(weights(tmp_path / "whole"), weights(stopped))
    first, second = epochs_of(tmp_path / "whole")[0], epochs_of(stopped)[0]
    for key in ("video", "train_fake", "train_real", "gradient_norm", "learning_rate"):
        assert first[key] == second[key], key


@pytest.mark.slow
def test_t55_the_last_state_and_the_one_before_are_good_and_the_advice_is_taken(crops_root, tmp_path, monkeypatch):
    config = write_config(tmp_path)
    original = engine.losses.class_sums
    calls = []

    def breaks(*args):
        calls.append(1)
        return original(*args) * (float("nan") if len(calls) > 14 else 1.0)

    monkeypatch.setattr(engine.losses, "class_sums", breaks)
    monkeypatch.setattr(engine, "MOST_SKIPPED_IN_A_ROW", 2)
    with pytest.raises(NotFiniteError) as error:
        train(crops_root, tmp_path, config, "--save-every", 1e-9)
    monkeypatch.undo()
    assert error.value.status == 1
    err = str(error.value)
    assert "not finite in 3 steps of epoch 1, 3 of them in a row, last from step 2" in err
    last, before = read(tmp_path), read(tmp_path, "before")
    assert f"The last good checkpoint is {last.path}. The previous one is {before.path}." in err
    assert (before.training["step"], last.training["step"]) == (3, 4)  # the first two bad steps were borne
    for found in (last, before):
        assert all(torch.isfinite(v).all() for v in found.state_dict.values() if v.is_floating_point())
    advice = shlex.split(err.strip().split("rate: ")[1])
    assert advice == ["--resume", "auto", "--set", "optimizer.learning_rate=0.025"]
    assert train(crops_root, tmp_path, config, *advice) == 0
    assert "as requested" in log_text(tmp_path)


@pytest.mark.slow
def test_out_of_memory_says_what_to_change_and_it_is_taken(crops_root, tmp_path, monkeypatch):
    config = write_config(tmp_path)
    original = engine.losses.combine
    calls = []

    def full(*args):
        calls.append(1)
        if len(calls) == 14:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return original(*args)

    monkeypatch.setattr(engine.losses, "combine", full)
    with pytest.raises(TrainingError) as error:
        train(crops_root, tmp_path, config, "--save-every", 1e-9)
    monkeypatch.undo()
    assert error.value.status == 1
    err = str(error.value)
    assert "out of memory (CUDA out of memory. Tried to allocate 2 GiB)" in err
    advice = shlex.split(err.split("memory: ")[-1].split(" (or")[0])
    assert advice == ["--resume", "auto", "--batch-size", "2", "--set", "accumulate=2"]
    assert train(crops_root, tmp_path, config, *advice) == 0


def test_other_errors_are_not_taken_for_a_full_memory(crops_root, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(engine.losses, "combine", broken)
    with pytest.raises(RuntimeError, match="something else"):
        train(crops_root, tmp_path, write_config(tmp_path))


def test_t37_resuming_something_else_is_an_error(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=1)
    train(crops_root, tmp_path, config)
    other = write_config(tmp_path, epochs=2, encoder="test_resnet")
    with pytest.raises(UsageError, match="contains DeepFakeClassifier with test_efficientnet"):
        train(crops_root, tmp_path, other, "--resume", path_of(tmp_path, "last"))
    path = crops_root / layout.FOLDS_NAME
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    config = write_config(tmp_path, epochs=1)
    with pytest.raises(UsageError, match=r"folds\.csv"):
        train(crops_root, tmp_path, config, "--resume", "auto")


def test_states_of_an_older_trainer_and_damaged_ones_say_what_to_do(crops_root, tmp_path, monkeypatch):
    config = write_config(tmp_path)
    train(crops_root, tmp_path, config, "--epochs", 1)
    monkeypatch.setattr(resume, "RECIPE", 3)
    with pytest.raises(UsageError, match=r"\(recipe 2, expected 3\).*--init-from"):
        train(crops_root, tmp_path, config, "--resume", "auto")
    monkeypatch.undo()
    last, before = path_of(tmp_path, "last"), path_of(tmp_path, "before")
    before.write_bytes(last.read_bytes())
    last.write_bytes(b"damaged")
    with pytest.raises(UsageError, match="To resume from the previous state: mv ") as error:
        train(crops_root, tmp_path, config, "--resume", "auto")
    _, source, target = shlex.split(str(error.value).split("previous state: ")[1])
    assert (source, target) == (str(before), str(last))
    before.replace(last)
    assert train(crops_root, tmp_path, config, "--resume", "auto", "--epochs", 1) == 0
    last.write_bytes(b"damaged")  # and by now no state before it
    before.unlink(missing_ok=True)
    with pytest.raises(UsageError, match="To start from an epoch's weights, use another --prefix with --init-from"):
        train(crops_root, tmp_path, config, "--resume", "auto")
    last.write_bytes(path_of(tmp_path, "0").read_bytes())
    with pytest.raises(UsageError, match="does not contain the state of a run"):
        train(crops_root, tmp_path, config, "--resume", "auto")


@pytest.mark.slow
def test_t50_a_run_does_not_overwrite_another(crops_root, tmp_path):
    config = write_config(tmp_path)
    train(crops_root, tmp_path, config)
    with pytest.raises(UsageError, match="already exists"):
        train(crops_root, tmp_path, config)
    last, before = path_of(tmp_path, "last"), path_of(tmp_path, "before")
    last.unlink()  # it takes the most room, and is the first to be deleted
    with pytest.raises(UsageError, match="it can't be resumed") as error:
        train(crops_root, tmp_path, config, "--resume", "auto")
    assert shlex.split(str(error.value).rpartition("previous state: ")[2]) == ["mv", str(before), str(last)]
    before.replace(last)
    assert train(crops_root, tmp_path, config, "--resume", "auto") == 0
    for name in ("last", "before", "best"):
        path_of(tmp_path, name).unlink(missing_ok=True)
    with pytest.raises(UsageError, match=r"_0 exists, from a run of this name, but .*_last is missing"):
        train(crops_root, tmp_path, config, "--seed", 5)


def test_a_finished_run_is_finished_at_any_rate(crops_root, tmp_path, capsys):
    """The rate was changed on request once: train.sh, run again without it, goes on with its other seeds."""
    config = write_config(tmp_path, epochs=1)
    train(crops_root, tmp_path, config, "--set", "optimizer.learning_rate=0.01")
    assert train(crops_root, tmp_path, config, "--resume", "auto") == 0
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(UsageError, match="seed 777 -> 5"):
        train(crops_root, tmp_path, config, "--resume", "auto", "--seed", 5)


@pytest.mark.slow
def test_another_type_to_compute_in_is_logged(crops_root, tmp_path):
    config = write_config(tmp_path)
    train(crops_root, tmp_path, config, "--epochs", 1)
    state = torch.load(path_of(tmp_path, "last"), weights_only=True)
    state["training"]["computes_in"] = "bfloat16"  # as a run with "auto" that came from another GPU
    torch.save(state, path_of(tmp_path, "last"))
    train(crops_root, tmp_path, config, "--epochs", 2, "--resume", "auto")
    assert "changed since: computes in bfloat16 -> float32" in log_text(tmp_path)
