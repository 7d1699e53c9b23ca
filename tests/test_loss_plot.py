"""Reading logs, choosing checkpoints, the picture (training/loss_plot.py)."""

import math

import matplotlib
import matplotlib.pyplot as plt
import pytest
from loss_logs import FULL_LOG, LOG, colour_of, epoch, lines_of, plotted, rings_of, write_log

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


@pytest.mark.parametrize("losses", [(math.nan, 0.1), (0.1, math.inf), (0.1, math.nan)])
def test_an_epoch_that_is_not_finite_is_never_the_best(log, losses):
    write_log(log, *LOG, epoch(9, *losses, average=losses), epoch(3, *losses))
    run = loss_plot.read_run(log)
    assert 9 not in run.held_out
    assert 9 not in run.average
    assert 3 not in run.held_out, "an epoch that is not finite the second time lost its first checkpoint"
    assert sorted(run.held_out) == [0, 1]


@pytest.mark.parametrize("metrics", [{"log_loss_real": 0.1}, {"log_loss_fake": 0.1}, {}])
def test_an_epoch_without_both_losses_is_left_out(log, metrics):
    record = {"epoch": 1, "video": metrics, "video_ema": metrics, "sets": {"celeb": {"video": metrics}}}
    write_log(log, epoch(0, 0.4, 0.2), record)
    assert loss_plot.read_run(log) == Run({0: Losses(0.4, 0.2)}, {}, {"celeb": {}})


def test_averaged_weights_may_be_all_that_is_finite(log):
    write_log(log, epoch(0, math.nan, math.nan, average=(0.2, 0.1)))
    assert loss_plot.read_run(log) == Run({}, {0: Losses(0.2, 0.1)}, {})
    assert plotted("--log-file", log).get_title() == "run"


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
    assert legend == [*lines_of(axis), "averaged weights of the run in the same colour"]


def test_several_runs_without_averages_have_no_entry_for_them(log, tmp_path):
    other = write_log(tmp_path / "other.jsonl", *LOG)
    axis = plotted("--log-file", log, other)
    assert len(axis.figure.legends[0].get_texts()) == 2


def test_epochs_are_drawn_in_order_and_counted_in_whole_numbers(tmp_path):
    path = write_log(tmp_path / "run.jsonl", *(epoch(n, n, n) for n in (0, 1, 2, 1)))
    axis = plotted("--log-file", path, "--fake-weight", 1)
    assert {line[0] == [0, 1, 2] for line in lines_of(axis).values()} == {True}
    assert all(float(tick).is_integer() for tick in axis.get_xticks())


@pytest.mark.slow
@pytest.mark.parametrize("many", [False, True], ids=["one run", "five runs"])
def test_nothing_hides_behind_the_legend_or_leaves_the_picture(full_log, tmp_path, many):
    logs = [full_log]
    for seed in range(4 if many else 0):
        name = f"b7_{seed}_DeepFakeClassifier_tf_efficientnet_b7.ns_jft_in1k_0.jsonl"
        logs.append(write_log(tmp_path / name, *FULL_LOG))
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
