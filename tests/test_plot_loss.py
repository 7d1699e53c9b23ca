"""plot_loss.py: reading logs, choosing epochs, the picture."""

import json

import pytest
from conftest import ROOT, run_script

import plot_loss
from dfdc.parallel import UsageError

LOG = """run: random weights; seed 1
epoch 0 fake 0.7000 real 0.6000 | bce 0.65 auc 0.5 acc 0.5 | train 0.69 lr 0.01 | 10.0 img/s, data wait 3%, 9 s
epoch 1 fake 0.3000 real 0.5000 | bce 0.40 auc 0.9 acc 0.8 | train 0.5 lr 0.01 | 10.0 img/s, data wait 3%, 9 s
epoch 2 fake - real - | bce - auc - acc - | train 0.4 lr 0.01 | 10.0 img/s, data wait 3%, 9 s
run: from epoch 1, step 0 weights of last
epoch 1 fake 0.4000 real 0.2000 | bce 0.30 auc 0.9 acc 0.8 | train 0.5 lr 0.01 | 10.0 img/s, data wait 3%, 9 s
epoch 3 fake 0.2000 real 0.5000 | bce 0.35 auc 0.9 acc 0.8 | train 0.3 lr 0.01 | 10.0 img/s, data wait 3%, 9 s
"""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "run.log"
    path.write_text(LOG)
    return path


def test_t51_epochs_are_the_logs_own_also_after_a_resume(log):
    assert plot_loss.read_losses(log) == {0: (0.7, 0.6), 1: (0.4, 0.2), 3: (0.2, 0.5)}


def test_json_lines_say_the_same(tmp_path, log):
    path = tmp_path / "run.jsonl"
    rows = [{"event": "start"}, {"event": "epoch", "epoch": 2}]
    for epoch, fake, real in ((0, 0.7, 0.6), (1, 0.3, 0.5), (1, 0.4, 0.2), (3, 0.2, 0.5)):
        rows.append({"event": "epoch", "epoch": epoch, "video": {"log_loss_fake": fake, "log_loss_real": real}})
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"event": "epo')
    assert plot_loss.read_losses(path) == plot_loss.read_losses(log)


def test_the_fake_loss_weighs_more(log):
    losses = plot_loss.read_losses(log)
    assert plot_loss.combine(0.4, 0.2) == pytest.approx((1.4 * 0.4 + 0.2) / 2)
    assert plot_loss.best_epochs(losses, 1.4, 2) == [1, 3]
    assert plot_loss.best_epochs(losses, 3.0, 2) == [3, 1]


def test_t51_the_plot_is_a_file_and_the_best_epochs_are_named(log, tmp_path):
    output = tmp_path / "deep" / "loss.png"
    done = run_script("plot_loss.py", "--log-file", log, "--output", output, "--best", 2, env={"DISPLAY": ""})
    assert done.returncode == 0, done.stderr
    assert output.read_bytes().startswith(b"\x89PNG")
    assert done.stdout.splitlines()[:2] == [
        "epoch 1: 0.3800 (fake 0.4000, real 0.2000)",
        "epoch 3: 0.3900 (fake 0.2000, real 0.5000)",
    ]
    assert run_script("plot_loss.py", "--log-file", log, env={"DISPLAY": ""}).returncode == 0
    assert log.with_suffix(".png").exists()


def test_five_seeds_come_into_one_picture_and_their_best_into_a_file(log, tmp_path):
    other = tmp_path / "b7_555_net_tf_efficientnet_b7.ns_jft_in1k_0.log"
    other.write_text(LOG.replace("fake 0.2000", "fake 0.1000"))
    chosen = tmp_path / "weights" / "selected.txt"
    done = run_script(
        "plot_loss.py", "--log-file", log, other, "--select", 1, "--select-file", chosen, env={"DISPLAY": ""}
    )
    assert done.returncode == 0, done.stderr
    assert chosen.read_text().splitlines() == ["run_1", f"{other.name[:-4]}_3"]
    assert (tmp_path / "run.png").exists()
    assert run_script("plot_loss.py", "--log-file", log, log).returncode == 2


def test_an_epoch_that_is_not_finite_is_never_the_best(log):
    log.write_text(LOG + LOG.splitlines()[1].replace("0.7000", "nan").replace("epoch 0", "epoch 9") + "\n")
    assert 9 not in plot_loss.read_losses(log)


def test_logs_without_an_epoch_are_an_error(tmp_path):
    path = tmp_path / "empty.log"
    path.write_text("epoch one\n{broken\n")
    with pytest.raises(UsageError, match="no epoch"):
        plot_loss.read_losses(path)
    done = run_script("plot_loss.py", "--log-file", tmp_path / "absent.log", cwd=ROOT)
    assert done.returncode == 2
    assert "absent.log" in done.stderr
