"""Reading logs, choosing checkpoints, the picture (training/loss_plot.py)."""

import json

import matplotlib
import matplotlib.pyplot as plt
import pytest
from loss_logs import FULL_LOG, LOG, TAIL, TRAIN, colour_of, lines_of, plotted, rings_of, video, write_json_log

from training import loss_plot
from training.loss_plot import Candidate, Losses, Run

FULL_RUN = Run(
    held_out={0: Losses(0.7, 0.6), 1: Losses(0.4, 0.2), 3: Losses(0.2, 0.5)},
    average={0: Losses(0.9, 0.8), 3: Losses(0.18, 0.4)},
    sets={
        "celeb": {0: Losses(1.7, 1.4), 1: Losses(0.5, 0.6), 3: Losses(0.7, 0.4)},
        "phone-crops_2": {0: Losses(2.0, 2.5)},
    },
)

pytestmark = pytest.mark.usefixtures("no_display")


def test_t51_epochs_are_the_logs_own_also_after_a_resume(log):
    assert loss_plot.read_run(log) == Run({0: Losses(0.7, 0.6), 1: Losses(0.4, 0.2), 3: Losses(0.2, 0.5)}, {}, {})


def test_averages_and_sets_are_read_and_a_repeated_epoch_counts_as_it_was_last(full_log):
    assert loss_plot.read_run(full_log) == FULL_RUN


def test_json_lines_say_the_same(tmp_path, log, full_log):
    path = write_json_log(
        tmp_path / "run.jsonl",
        {"epoch": 0, "video": video(0.7, 0.6)},
        {"epoch": 1, "video": video(0.3, 0.5)},
        {"epoch": 2, "train_loss": 0.4},
        {"epoch": 1, "video": video(0.4, 0.2)},
        {"epoch": 3, "video": video(0.2, 0.5)},
    )
    assert loss_plot.read_run(path) == loss_plot.read_run(log)
    crops = video(9, 9)  # a record has other groups, too
    path = write_json_log(
        tmp_path / "full.jsonl",
        {
            "epoch": 0,
            "video": video(0.7, 0.6),
            "video_ema": video(0.9, 0.8),
            "frame": crops,
            "sets": {"celeb": {"video": video(1.7, 1.4), "frame": crops}, "phone-crops_2": {"video": video(2, 2.5)}},
        },
        {
            "epoch": 1,
            "video": video(0.3, 0.5),
            "video_ema": video(0.01, 0.02),
            "sets": {"celeb": {"video": video(0.03, 0.04)}},
        },
        {
            "epoch": 3,
            "video": video(0.2, 0.5),
            "video_ema": video(0.18, 0.4),
            "frame_ema": crops,
            "sets": {"celeb": {"video": video(0.7, 0.4)}, "phone-crops_2": {"video": {"log_loss_fake": 0.9}}},
        },
        {"epoch": 1, "video": video(0.4, 0.2), "sets": {"celeb": {"video": video(0.5, 0.6), "broken_crops": 0}}},
    )
    assert loss_plot.read_run(path) == loss_plot.read_run(full_log)


@pytest.mark.parametrize("losses", ["fake nan real 0.1000", "fake 0.1000 real inf", "fake - real 0.1", "fake - real -"])
def test_an_epoch_that_is_not_finite_is_never_the_best(log, losses):
    log.write_text(LOG + f"epoch 9 {losses} {TAIL} {TRAIN}\nepoch 3 {losses} {TAIL} {TRAIN}\n")
    run = loss_plot.read_run(log)
    assert 9 not in run.held_out
    assert 3 not in run.held_out, "an epoch that is not finite the second time lost its first checkpoint"
    assert sorted(run.held_out) == [0, 1]


def test_json_lines_that_are_not_finite_are_left_out_as_well(tmp_path):
    good, bad = video(0.4, 0.2), (video(float("nan"), 0.1), video(0.1, float("inf")), {"log_loss_real": 0.1}, {})
    for metrics in bad:
        record = {"epoch": 1, "video": metrics, "video_ema": metrics, "sets": {"celeb": {"video": metrics}}}
        path = write_json_log(tmp_path / "run.jsonl", {"epoch": 0, "video": good}, record)
        assert loss_plot.read_run(path) == Run({0: Losses(0.4, 0.2)}, {}, {"celeb": {}})


def test_averaged_weights_may_be_all_that_is_finite(log):
    log.write_text(f"epoch 0 fake nan real nan {TAIL} {TRAIN}\nepoch 0 average fake 0.2000 real 0.1000 {TAIL}\n")
    assert loss_plot.read_run(log) == Run({}, {0: Losses(0.2, 0.1)}, {})
    assert plotted("--log-file", log).get_title() == "run"


@pytest.mark.parametrize("cut", ["epoch 3 fake 0.20", "epoch 3 fake 0.2000 real 0.5"])
def test_a_line_that_was_cut_by_a_kill_is_no_epoch(log, cut):
    log.write_text(LOG[: LOG.index("epoch 3")] + cut)
    assert sorted(loss_plot.read_run(log).held_out) == [0, 1]


def test_bytes_that_are_no_text_do_not_matter(log):
    log.write_bytes(b"\xff\xfe broken\n" + LOG.encode())
    assert sorted(loss_plot.read_run(log).held_out) == [0, 1, 3]


def test_the_fake_loss_weighs_more_and_averages_are_chosen_from(full_log):
    run = loss_plot.read_run(full_log)
    ranked = run.best(1.4)
    # (1.4 fake + real) / 2 by hand: 0.38, 0.39 and 0.79 of the weights, 0.326 and 1.03 of the averages.
    assert [candidate.suffix for candidate in ranked] == ["_3_ema", "_1", "_3", "_0", "_0_ema"]
    assert [candidate.suffix for candidate in run.best(3.0)][:3] == ["_3_ema", "_3", "_1"]
    assert [candidate.suffix for candidate in run.best(1.4, first_epoch=1)] == ["_3_ema", "_1", "_3"]
    assert [candidate.suffix for candidate in run.best(1.4, first_epoch=3)] == ["_3_ema", "_3"]
    assert run.best(1.4, first_epoch=4) == []
    assert ranked[0] == Candidate(3, True, Losses(0.18, 0.4))


def test_of_equals_the_earlier_and_the_epochs_own_weights_come_first():
    same = Losses(0.5, 0.5)
    run = Run({5: same, 2: same}, {2: same, 1: same})
    assert [candidate.suffix for candidate in run.best(1.4)] == ["_1_ema", "_2", "_2_ema", "_5"]


def test_json_lines_that_are_not_the_trainers_are_passed_over(tmp_path):
    path = tmp_path / "run.jsonl"
    good = {"event": "epoch", "epoch": 1, "video": {"log_loss_fake": 0.5, "log_loss_real": 0.25}}
    odd = [
        {"event": "epoch"},
        {"event": "epoch", "epoch": 3, "video": None},
        {"event": "epoch", "epoch": "x", "video": {}},
        {"event": "epoch", "epoch": 4, "sets": {"a": {}}},
        {"epoch": 5},
        {"event": "epoch", "epoch": 1, "video": {"log_loss_fake": "text"}},
    ]
    path.write_text("\n".join(map(json.dumps, [good, *odd])) + "\n{}\n")
    assert loss_plot.read_run(path) == Run(held_out={1: Losses(0.5, 0.25)})


def test_the_picture_of_a_run_has_a_line_for_all_that_the_log_has(full_log):
    axis = plotted("--log-file", full_log, "--best", 2)
    assert axis.get_title() == "full"
    assert axis.get_xlabel() == "epoch"
    assert "(1.4 x fake + real) / 2" in axis.get_ylabel()
    assert lines_of(axis) == {
        "fake videos alone": ([0, 1, 3], [0.7, 0.4, 0.2]),
        "real videos alone": ([0, 1, 3], [0.6, 0.2, 0.5]),
        "weights, best: 1": ([0, 1, 3], [0.79, 0.38, 0.39]),
        "averaged weights, best: 3": ([0, 3], [1.03, 0.326]),
        "on celeb": ([0, 1, 3], [1.89, 0.65, 0.69]),
        "on phone-crops_2": ([0], [2.65]),
    }
    dashed = {line.get_label() for line in axis.get_lines() if line.get_linestyle() == "--"}
    assert dashed == {"on celeb", "on phone-crops_2"}
    assert rings_of(axis) == {
        colour_of(axis, "weights"): [(1, 0.38)],
        colour_of(axis, "averaged weights"): [(3, 0.326)],
    }
    colours = [matplotlib.colors.to_hex(colour_of(axis, label.split(",")[0])) for label in lines_of(axis)]
    assert len(set(colours)) == 6


def test_what_counts_stands_out(full_log):
    lines = {line.get_label().split(",")[0]: line for line in plotted("--log-file", full_log).get_lines()}
    for part in ("fake videos alone", "real videos alone"):
        assert lines[part].get_linewidth() < lines["weights"].get_linewidth()
        assert lines[part].get_alpha() < 1
    grid = plt.gca().get_xgridlines() + plt.gca().get_ygridlines()
    assert {line.get_visible() and line.get_alpha() <= 0.5 for line in grid} == {True}
    rings = [line for line in lines.values() if line.get_markerfacecolor() == "none"]
    assert rings
    assert min(line.get_markersize() for line in rings) > 2 * lines["weights"].get_markersize()


def test_the_picture_of_a_log_without_averages_and_sets(log):
    axis = plotted("--log-file", log, "--best", 2, "--fake-weight", 2)
    assert lines_of(axis) == {
        "fake videos alone": ([0, 1, 3], [0.7, 0.4, 0.2]),
        "real videos alone": ([0, 1, 3], [0.6, 0.2, 0.5]),
        "weights, best: 3, 1": ([0, 1, 3], [1.0, 0.5, 0.45]),
    }
    assert list(rings_of(axis).values()) == [[(3, 0.45), (1, 0.5)]]
    assert [text.get_text() for text in axis.figure.legends[0].get_texts()] == [*lines_of(axis)]
    assert "(2 x fake" in axis.get_ylabel()


def test_a_line_without_a_best_point_says_none(full_log):
    labels = set(lines_of(plotted("--log-file", full_log, "--best", 1)))
    assert {"weights", "averaged weights, best: 3"} <= labels


def test_the_picture_of_several_runs(log, full_log, capsys):
    axis = plotted("--log-file", log, full_log, "--best", 3)
    assert [line for line in capsys.readouterr().out.splitlines() if ":" not in line] == ["run", "full"]
    assert axis.get_title() == "2 runs"
    assert lines_of(axis) == {
        "run, best: 1, 3, 0": ([0, 1, 3], [0.79, 0.38, 0.39]),
        "full, best: 3 averaged, 1, 3": ([0, 1, 3], [0.79, 0.38, 0.39]),
    }
    first, second = colour_of(axis, "run,"), colour_of(axis, "full,")
    (average,) = [line for line in axis.get_lines() if line.get_linestyle() == ":" and len(line.get_xdata())]
    assert (list(average.get_xdata()), list(average.get_ydata())) == ([0, 3], pytest.approx([1.03, 0.326]))
    assert average.get_color() == second != first
    assert colour_of(axis, "averaged weights") not in plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert rings_of(axis) == {
        first: [(1, 0.38), (3, 0.39), (0, 0.79)],
        second: [(3, 0.326), (1, 0.38), (3, 0.39)],
    }
    legend = [text.get_text() for text in axis.figure.legends[0].get_texts()]
    assert legend == [*lines_of(axis), "averaged weights of the run with that colour"]


def test_several_runs_without_averages_have_no_entry_for_them(log, tmp_path):
    other = tmp_path / "other.log"
    other.write_text(LOG)
    axis = plotted("--log-file", log, other)
    assert len(axis.figure.legends[0].get_texts()) == 2


def test_epochs_are_drawn_in_order_and_counted_in_whole_numbers(tmp_path):
    path = write_json_log(tmp_path / "run.jsonl", *({"epoch": n, "video": video(n, n)} for n in (0, 1, 2, 1)))
    axis = plotted("--log-file", path, "--fake-weight", 1)
    assert {line[0] == [0, 1, 2] for line in lines_of(axis).values()} == {True}
    assert all(float(tick).is_integer() for tick in axis.get_xticks())


@pytest.mark.slow
@pytest.mark.parametrize("many", [False, True], ids=["one run", "five runs"])
def test_nothing_hides_behind_the_legend_or_leaves_the_picture(full_log, tmp_path, many):
    logs = [full_log]
    for seed in range(4 if many else 0):
        logs.append(tmp_path / f"b7_{seed}_DeepFakeClassifier_tf_efficientnet_b7.ns_jft_in1k_0.log")
        logs[-1].write_text(FULL_LOG)
    axis = plotted("--log-file", *logs, "--first-epoch", 1)
    figure = axis.figure
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    picture, plot = figure.bbox, axis.get_tightbbox()
    for box in (legend, plot):
        assert (box.x0 >= 0, box.y0 >= 0) == (True, True)
        assert (box.x1 <= picture.x1, box.y1 <= picture.y1) == (True, True)
    assert legend.y1 <= plot.y0
    assert axis.get_window_extent().height > 0.6 * picture.height
    assert legend.height < (0.3 if many else 0.2) * picture.height
