"""The temperature of scores (prediction/calibration.py)."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scoring_runs import details, make_checkpoint, run
from scoring_runs import labels as csv_labels
from test_metrics_report import verdict

from dfdc.command_line import UserError
from dfdc.scoring import log_loss
from networks.files import ModelFile
from prediction import calibration, metrics_report

MODELS = [ModelFile("a", 9, "7"), ModelFile("b", 8, "6")]


def overconfident(count=400, factor=3.0, seed=0):
    """Labels drawn from probabilities, and the same probabilities with their logits times `factor`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.2, count)
    labels = (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(int)
    return labels, 1 / (1 + np.exp(-factor * logits))


def test_log_loss_is_clipped_as_on_kaggle():
    assert log_loss([1], [0.0]) == pytest.approx(-np.log(1e-15))
    assert log_loss([0], [1.0]) == pytest.approx(-np.log(1e-15), rel=1e-3)  # 1 - 1e-15 is rounded


def test_the_temperature_undoes_too_much_confidence():
    labels, scores = overconfident(4000)
    fit = calibration.fit_temperature(labels, scores)
    assert fit.temperature == pytest.approx(3, rel=0.1)
    assert (fit.at_bound, fit.videos, fit.fakes) == ("", 4000, labels.sum())
    assert fit.log_loss_after < fit.log_loss_before == log_loss(labels, scores)
    calibrated = calibration.calibrate(scores, fit.temperature)
    error = metrics_report.expected_calibration_error
    assert error(labels, calibrated) < 0.03 < error(labels, scores)
    assert np.array_equal(calibrated > 0.5, scores > 0.5)
    # No other temperature is better.
    others = [log_loss(labels, calibration.calibrate(scores, fit.temperature * f)) for f in (0.8, 0.95, 1.05, 1.25)]
    assert min(others) > fit.log_loss_after


TEMPERATURES = [calibration.LOWEST, 0.5, 0.9, 0.999999, 1, 1.000001, 2, 7.5, calibration.HIGHEST]


def many_scores():
    """Scores as float32 networks give them: from its smallest numbers to the last under 1."""
    exponents = np.float32(10.0) ** np.linspace(-44, -0.31, 400, dtype=np.float32)
    high = 1 - np.float32(10.0) ** np.linspace(-7, -0.31, 200, dtype=np.float32)
    ends = np.float32(
        [0, np.nextafter(np.float32(0), np.float32(1)), 0.5, np.nextafter(np.float32(1), np.float32(0)), 1]
    )
    return np.unique(np.concatenate([exponents, high, ends])).astype(np.float64)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_calibrating_keeps_the_order_the_ends_and_the_side_of_one_half(temperature):
    scores = many_scores()
    calibrated = calibration.calibrate(scores, temperature)
    assert (np.diff(calibrated) > 0).all()
    assert (calibrated[0], calibrated[-1]) == (0, 1)
    assert np.array_equal(np.sign(calibrated - 0.5), np.sign(scores - 0.5))
    means = np.sort(1 - np.random.default_rng(0).integers(1, 5000, 300) * 2e-9)  # of several scores near 1
    assert np.array_equal(np.diff(calibration.calibrate(means, temperature)) > 0, np.diff(means) > 0)
    labels = np.random.default_rng(1).integers(0, 2, len(scores))
    from sklearn.metrics import roc_auc_score

    assert roc_auc_score(labels, calibrated) == roc_auc_score(labels, scores)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_calibrating_divides_the_logit_and_can_be_undone(temperature):
    scores = np.concatenate([10.0 ** np.linspace(-40, -0.31, 200), np.linspace(0.5, 0.98, 50)])
    calibrated = calibration.calibrate(scores, temperature)
    for score, found in zip(scores[::10], calibrated[::10], strict=True):
        odds = (score / (1 - score)) ** (1 / temperature)
        assert found == pytest.approx(odds / (1 + odds), rel=1e-9)
    assert calibration.calibrate(calibrated, 1 / temperature) == pytest.approx(scores, rel=1e-6)


def test_a_temperature_of_1_changes_nothing_at_all(monkeypatch):
    scores = many_scores()
    assert np.array_equal(calibration.calibrate(scores, 1.0), scores)
    assert calibration.calibrate([0.1], 1.0) is not scores
    verdicts = calibration.apply_temperature([verdict("a", 1e-30), verdict("b")], 1.0)
    assert [(v.score, v.score_uncalibrated) for v in verdicts] == [(1e-30, 1e-30), (None, None)]
    labels = np.random.default_rng(0).integers(0, 2, len(scores))
    monkeypatch.setattr(calibration, "LOWEST", 1 - 1e-12)  # so that 1 is what is fitted
    monkeypatch.setattr(calibration, "HIGHEST", 1.0)
    fit = calibration.fit_temperature(labels, scores)
    assert fit.log_loss_before == pytest.approx(fit.log_loss_after, abs=1e-9)
    assert fit.log_loss_before == log_loss(labels, scores)


def test_what_the_clip_of_the_log_loss_hides_is_not_credited_to_the_temperature():
    """Wrong videos at 1e-38: their loss stays that of 1e-15 until the temperature has brought them nearer."""
    labels = np.array([0, 1] * 8)
    scores = np.where(labels == 1, 1e-38, 1 - 1e-6)  # all wrong
    fit = calibration.fit_temperature(labels, scores)
    assert fit.at_bound == "highest"
    expected = [-np.log(1e-15), -np.log(1e-6)]
    assert fit.log_loss_before == pytest.approx(np.mean(expected), rel=1e-3)
    logits = np.array([38 * np.log(10), 6 * np.log(10)]) / calibration.HIGHEST
    assert fit.log_loss_after == pytest.approx(np.logaddexp(0, logits).mean(), rel=1e-3)


@pytest.mark.parametrize(("wrong", "logit"), [(0.0, 149 * np.log(2)), (1.0, 24 * np.log(2))])
def test_a_score_of_0_or_1_counts_as_the_nearest_that_float32_tells_from_it(wrong, logit):
    """One wrong video of 40, the others right at a logit of 2: the temperature by a fine search, one by one."""
    right = 1 / (1 + np.exp(-2))
    labels = np.array([0, 1] * 20)
    scores = np.where(labels == 1, right, 1 - right)
    at = 1 if wrong == 0 else 0
    scores[at] = wrong
    tried = np.linspace(calibration.LOWEST, calibration.HIGHEST, 20_000)
    losses = (39 * np.log1p(np.exp(-2 / tried)) + np.logaddexp(0, logit / tried)) / 40
    fit = calibration.fit_temperature(labels, scores)
    assert fit.temperature == pytest.approx(tried[losses.argmin()], abs=0.002)
    assert np.isfinite([fit.log_loss_before, fit.log_loss_after]).all()


def test_separated_and_reversed_videos_stop_at_a_bound(tmp_path, capsys):
    labels = [0] * 5 + [1] * 5
    separated = [0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0]
    fit = calibration.fit_temperature(labels, separated)
    assert (fit.temperature, fit.at_bound) == (calibration.LOWEST, "lowest")
    assert np.isfinite([fit.log_loss_before, fit.log_loss_after]).all()
    calibration.fit_to_file(tmp_path / "t.json", labels, separated, MODELS, "confident")
    assert "is the lower bound" in capsys.readouterr().out
    assert calibration.read_temperature(tmp_path / "t.json", MODELS, "confident") == calibration.LOWEST
    fit = calibration.fit_temperature(labels, separated[::-1])
    assert (fit.temperature, fit.at_bound) == (calibration.HIGHEST, "highest")


def test_a_bound_is_said_and_nothing_near_it(tmp_path, capsys):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 0.25, 2000)  # 20 times that is no score of 1 in float32
    labels = (rng.random(2000) < 1 / (1 + np.exp(-logits))).astype(int)
    best = calibration.fit_temperature(labels, 1 / (1 + np.exp(-logits))).temperature
    said = {0.2: "is the lower bound", 20: "is the upper bound"}
    for wanted, bound in ((0.19, "lowest"), (0.201, ""), (1.0, ""), (19.9, ""), (21, "highest")):
        moved = 1 / (1 + np.exp(-logits * wanted / best))
        fit = calibration.fit_temperature(labels, moved)
        assert fit.at_bound == bound
        assert fit.temperature == pytest.approx(np.clip(wanted, 0.2, 20), rel=1e-3)
        calibration.fit_to_file(tmp_path / "t.json", labels.tolist(), moved.tolist(), MODELS, "confident")
        out = capsys.readouterr().out
        for limit, words in said.items():
            assert (words in out) == (bound != "" and fit.temperature == limit)


def test_eight_videos_are_enough():
    assert calibration.fit_temperature([0, 1] * 4, [0.4, 0.6] * 4).videos == calibration.FEWEST_VIDEOS == 8
    with pytest.raises(UserError, match="there are 4 real and 3 fake"):
        calibration.check_enough([0, 1, 0, 1, 0, 1, 0])


@pytest.mark.parametrize("labels", [[0, 1] * 3, [1] * 20, [0] * 20, []])
def test_too_few_videos_or_one_class(labels):
    with pytest.raises(UserError, match="at least 8 labelled videos with a verdict, of both classes"):
        calibration.fit_temperature(labels, [0.5] * len(labels))


def test_a_temperature_is_refused_where_it_was_not_fitted_for(tmp_path):
    path = tmp_path / "t.json"
    calibration.fit_to_file(path, *(values.tolist() for values in overconfident(50)), MODELS, "confident")
    one, two = MODELS
    moved = [two, replace(one, name="renamed")]
    assert calibration.read_temperature(path, moved, "confident") == json.loads(path.read_text())["temperature"]
    for models in ([one], [one, one], [one, two, two], [replace(one, xxh3="5"), two]):
        with pytest.raises(UserError, match="other checkpoints"):
            calibration.read_temperature(path, models, "confident")
    with pytest.raises(UserError, match="strategy confident, not mean"):
        calibration.read_temperature(path, MODELS, "mean")
    good = path.read_text()
    for text in ("", "[]", "{}", good.replace('"temperature": ', '"temperature": -'), good.replace("models", "other")):
        path.write_text(text)
        with pytest.raises(UserError, match="not a file written by calibrate"):
            calibration.read_temperature(path, MODELS, "confident")
    content = json.loads(good)
    assert (content["scoring"], content["version"]) == (calibration.SCORING_VERSION, 1)
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "version"}))
    assert calibration.read_temperature(path, MODELS, "confident") == content["temperature"]
    for scoring, said in ((1, "another version"), (None, "an earlier version"), (99, "another version")):
        path.write_text(json.dumps({**content, "scoring": scoring}))
        with pytest.raises(UserError, match=f"scores of {said} of this program"):
            calibration.read_temperature(path, MODELS, "confident")
    with pytest.raises(UserError, match=r"absent\.json"):
        calibration.read_temperature(tmp_path / "absent.json", MODELS, "confident")


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    """Ten pictures with a face, and their labels: half of them fake, by name."""
    import skimage.data

    from dfdc.imaging import encode_png

    folder = tmp_path_factory.mktemp("portraits")
    rng = np.random.default_rng(0)
    for index in range(10):
        picture = skimage.data.astronaut()[:300, 60:400] * (0.6 + 0.04 * index) + rng.normal(0, 12, (300, 340, 3))
        (folder / f"{index}.png").write_bytes(encode_png(np.clip(picture, 0, 255).astype(np.uint8)))
    labels = folder.parent / "metadata.json"
    labels.write_text(json.dumps({f"{i}.png": {"label": "FAKE" if i % 3 else "REAL"} for i in range(10)}))
    return folder, labels


@pytest.mark.slow
def test_calibrate_in_one_run_and_apply_in_the_next(portraits, tmp_path, capsys):
    folder, labels = portraits
    weights = tmp_path / "weights"
    weights.mkdir()
    make_checkpoint(weights, "a", seed=1, bias=2.0)
    make_checkpoint(weights, "b", "test_resnet", size=96, seed=2, bias=1.0)
    output, fitted = tmp_path / "out.csv", tmp_path / "t.json"
    assert run(weights, folder, output, "--labels", labels, "--calibrate", fitted) == 0
    before = details(output)
    out = capsys.readouterr().out
    assert "fitted to 10 videos (6 fake)" in out
    assert (tmp_path / "out_reliability.png").is_file()
    assert [part["name"] for part in before["summary"]["metrics_of_parts"]] == ["a", "b"]
    assert all(video["score_uncalibrated"] is None for video in before["videos"])
    content = json.loads(fitted.read_text())
    assert content["log_loss_before"] == pytest.approx(before["summary"]["metrics"]["log_loss"])

    assert run(weights, folder, output, "--labels", labels, "--calibration", fitted) == 0
    after = details(output)
    assert after["settings"]["temperature"] == content["temperature"]
    assert after["summary"]["metrics"]["log_loss"] == pytest.approx(content["log_loss_after"])
    rows = csv_labels(output)
    for old, new in zip(before["videos"], after["videos"], strict=True):
        assert new["score_uncalibrated"] == old["score"]
        expected = calibration.calibrate([old["score"]], content["temperature"])[0]
        assert new["score"] == pytest.approx(expected)
        assert float(rows[new["filename"]]) == pytest.approx(expected, abs=1e-6)
        assert new["models"] == old["models"]
    assert "ensemble, calibrated" in capsys.readouterr().out
    assert run(weights, folder, output) == 0  # what is kept of a calibrated run is not calibrated
    assert [video["score"] for video in details(output)["videos"]] == [video["score"] for video in before["videos"]]

    for more, models in ((["--strategy", "mean"], ("a", "b")), ([], ("a",))):
        with pytest.raises(UserError, match="was fitted for"):
            run(weights, folder, output, "--calibration", fitted, *more, models=models)
    few = tmp_path / "few.csv"
    few.write_text("filename,label\n1.png,1\n")
    with pytest.raises(UserError, match="0 real and 1 fake"):
        run(weights, folder, output, "--labels", few, "--calibrate", fitted)
    with pytest.raises(UserError, match="--calibrate requires labels"):
        run(weights, folder, output, "--calibrate", fitted)
    with pytest.raises(UserError, match="leave out --calibration"):
        run(weights, folder, output, "--labels", labels, "--calibrate", fitted, "--calibration", fitted)
