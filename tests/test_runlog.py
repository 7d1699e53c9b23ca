"""The log of a run (training/runlog.py)."""

import pytest
from training_runs import (
    records,
    train,
    write_config,
)

from dfdc import layout
from networks import checkpoint


@pytest.mark.slow
def test_a_run_leaves_checkpoints_and_logs(crops_root, tmp_path, capsys):
    config = write_config(tmp_path)
    assert train(crops_root, tmp_path, config) == 0
    names = sorted(
        path.name.removeprefix("t_DeepFakeClassifier_test_efficientnet_0") for path in (tmp_path / "weights").iterdir()
    )
    assert names == ["_0", "_1", "_before", "_best", "_config.json", "_last"]
    logs = {
        path.name.removeprefix("t_DeepFakeClassifier_test_efficientnet_0") for path in (tmp_path / "logs").iterdir()
    }
    assert logs == {".log", ".jsonl", "_wrong.png", ""}  # the last is TensorBoard's
    assert list((tmp_path / "logs").glob("*_0/events.out.tfevents.*"))
    light, full = ((tmp_path / "weights" / f"t_DeepFakeClassifier_test_efficientnet_0_{n}") for n in ("1", "last"))
    assert checkpoint.read_checkpoint(light).training is None
    assert checkpoint.read_checkpoint(full).training["epoch"] == 2
    start, *epochs = records(tmp_path)
    assert start["config"]["encoder"] == "test_efficientnet"
    assert {"torch", "timm", "revision"} <= start["versions"].keys()
    assert [(record["epoch"], record["step"], record["seed"]) for record in epochs] == [(0, 12, 777), (1, 24, 777)]
    assert {"auc", "average_precision", "equal_error_rate", "accuracy", "log_loss_balanced"} <= epochs[1][
        "video"
    ].keys()
    assert {"frame", "video", "video_confident", "train_fake", "train_real", "learning_rate", "data_wait"} <= epochs[
        1
    ].keys()
    assert epochs[1]["video"]["count"] == 4  # two families of fold 0
    assert epochs[1]["frame"]["count"] == 12  # every second of six frames
    text = next((tmp_path / "logs").glob("*.log")).read_text().splitlines()
    assert text[2].startswith("epoch 0 fake 0.")
    assert "checkpoints of all 2 epochs need" in text[1]
    assert "PyTorch fused SGD" in text[0]
    assert train(crops_root, tmp_path, config, "--resume", "auto") == 0
    assert "already finished" in capsys.readouterr().out


def test_t43_a_hold_out_with_one_class_trains_on(crops_root, tmp_path):
    path = crops_root / layout.FOLDS_NAME
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not (line.startswith("real") and line.endswith(",0"))) + "\n")
    assert train(crops_root, tmp_path, write_config(tmp_path, epochs=1)) == 0
    record = records(tmp_path)[-1]
    assert "auc" not in record["video"]
    assert record["video"]["log_loss_fake"] > 0
    assert "real - |" in next((tmp_path / "logs").glob("*.log")).read_text()


@pytest.mark.slow
def test_validation_is_not_trainings(crops_root, tmp_path):
    config = write_config(tmp_path, epochs=3)
    train(crops_root, tmp_path, config, "--test-every", 2)
    epochs = [record for record in records(tmp_path) if record["event"] == "epoch"]
    assert ["video" in record for record in epochs] == [False, True, True]
