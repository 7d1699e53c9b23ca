"""plot_loss.py: reading logs, choosing checkpoints, the picture."""

import json

import matplotlib
import matplotlib.pyplot as plt
import pytest
from helpers import ROOT, run_script

import plot_loss
from dfdc.command_line import UsageError
from dfdc.imaging import read_picture
from plot_loss import Candidate, Losses, Run

TAIL = "| bce 0.4000 auc 0.9000 acc 0.8000"
TRAIN = "| train 0.5 lr 0.01 | 10.0 img/s, data wait 3%, 9 s"
# Three epochs, of which the second was trained again after a resume; one was not validated.
LOG = f"""run: random weights; seed 1
epoch 0 fake 0.7000 real 0.6000 {TAIL} {TRAIN}
epoch 1 fake 0.3000 real 0.5000 {TAIL} {TRAIN}
epoch 2 fake - real - | bce - auc - acc - {TRAIN}
run: from epoch 1, step 0 weights of last
epoch 1 fake 0.4000 real 0.2000 {TAIL} {TRAIN}
epoch 3 fake 0.2000 real 0.5000 {TAIL} {TRAIN}
"""
# With an average of the weights and two further sets; the resume was without either.
FULL_LOG = f"""run: random weights; seed 1
epoch 0 fake 0.7000 real 0.6000 {TAIL} {TRAIN}
epoch 0 average fake 0.9000 real 0.8000 {TAIL}
epoch 0 on celeb fake 1.7000 real 1.4000 {TAIL}
epoch 0 on phone-crops_2 fake 2.0000 real 2.5000 {TAIL}
epoch 1 fake 0.3000 real 0.5000 {TAIL} {TRAIN}
epoch 1 average fake 0.0100 real 0.0200 {TAIL}
epoch 1 on celeb fake 0.0300 real 0.0400 {TAIL}
epoch 3 fake 0.2000 real 0.5000 {TAIL} {TRAIN}
epoch 3 average fake 0.1800 real 0.4000 {TAIL}
epoch 3 on celeb fake 0.7000 real 0.4000 {TAIL}
epoch 3 on phone-crops_2 fake 0.9000 real - | bce - auc - acc 0.8000
run: from epoch 1, step 0 weights of last
epoch 1 fake 0.4000 real 0.2000 {TAIL} {TRAIN}
epoch 1 on celeb fake 0.5000 real 0.6000 {TAIL}
"""
FULL_RUN = Run(
    held_out={0: Losses(0.7, 0.6), 1: Losses(0.4, 0.2), 3: Losses(0.2, 0.5)},
    average={0: Losses(0.9, 0.8), 3: Losses(0.18, 0.4)},
    sets={
        "celeb": {0: Losses(1.7, 1.4), 1: Losses(0.5, 0.6), 3: Losses(0.7, 0.4)},
        "phone-crops_2": {0: Losses(2.0, 2.5)},
    },
)


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    matplotlib.use("Agg")
    yield
    plt.close("all")


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "run.log"
    path.write_text(LOG)
    return path


@pytest.fixture
def full_log(tmp_path):
    path = tmp_path / "full.log"
    path.write_text(FULL_LOG)
    return path


def video(fake, real):
    """A record's metrics of videos, as far as they count here."""
    return {"log_loss_fake": fake, "log_loss_real": real, "auc": 0.9}


def write_json_log(path, *records):
    rows = [{"event": "start", "config": {"epochs": 3}}, *({"event": "epoch", **record} for record in records)]
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"event": "epo')
    return path


def plotted(*arguments):
    """Run the command; returns the axes that it drew."""
    assert plot_loss.main([*map(str, arguments)]) == 0
    return plt.gcf().axes[0]


def lines_of(axis):
    """Label -> (epochs, losses), of lines with a label and a point."""
    return {
        line.get_label(): (list(line.get_xdata()), pytest.approx(list(line.get_ydata())))
        for line in axis.get_lines()
        if not line.get_label().startswith("_") and len(line.get_xdata())
    }


def rings_of(axis):
    """Colour -> the points that are marked as the best."""
    rings = [line for line in axis.get_lines() if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    return {
        line.get_markeredgecolor(): [(x, round(y, 6)) for x, y in zip(*line.get_data(), strict=True)] for line in rings
    }


def colour_of(axis, label):
    (line,) = [line for line in axis.get_lines() if line.get_label().startswith(label)]
    return line.get_color()


# Reading


def test_t51_epochs_are_the_logs_own_also_after_a_resume(log):
    assert plot_loss.read_run(log) == Run({0: Losses(0.7, 0.6), 1: Losses(0.4, 0.2), 3: Losses(0.2, 0.5)}, {}, {})


def test_averages_and_sets_are_read_and_a_repeated_epoch_counts_as_it_was_last(full_log):
    assert plot_loss.read_run(full_log) == FULL_RUN


def test_json_lines_say_the_same(tmp_path, log, full_log):
    path = write_json_log(
        tmp_path / "run.jsonl",
        {"epoch": 0, "video": video(0.7, 0.6)},
        {"epoch": 1, "video": video(0.3, 0.5)},
        {"epoch": 2, "train_loss": 0.4},
        {"epoch": 1, "video": video(0.4, 0.2)},
        {"epoch": 3, "video": video(0.2, 0.5)},
    )
    assert plot_loss.read_run(path) == plot_loss.read_run(log)
    crops = video(9, 9)  # a record has other groups, too
    path = write_json_log(
        tmp_path / "full.jsonl",
        {"epoch": 0, "video": video(0.7, 0.6), "video_ema": video(0.9, 0.8), "frame": crops,
         "sets": {"celeb": {"video": video(1.7, 1.4), "frame": crops}, "phone-crops_2": {"video": video(2, 2.5)}}},
        {"epoch": 1, "video": video(0.3, 0.5), "video_ema": video(0.01, 0.02),
         "sets": {"celeb": {"video": video(0.03, 0.04)}}},
        {"epoch": 3, "video": video(0.2, 0.5), "video_ema": video(0.18, 0.4), "frame_ema": crops,
         "sets": {"celeb": {"video": video(0.7, 0.4)}, "phone-crops_2": {"video": {"log_loss_fake": 0.9}}}},
        {"epoch": 1, "video": video(0.4, 0.2), "sets": {"celeb": {"video": video(0.5, 0.6), "broken_crops": 0}}},
    )  # fmt: skip
    assert plot_loss.read_run(path) == plot_loss.read_run(full_log)


@pytest.mark.parametrize("losses", ["fake nan real 0.1000", "fake 0.1000 real inf", "fake - real 0.1", "fake - real -"])
def test_an_epoch_that_is_not_finite_is_never_the_best(log, losses):
    log.write_text(LOG + f"epoch 9 {losses} {TAIL} {TRAIN}\nepoch 3 {losses} {TAIL} {TRAIN}\n")
    run = plot_loss.read_run(log)
    assert 9 not in run.held_out
    assert 3 not in run.held_out, "an epoch that is not finite the second time lost its first checkpoint"
    assert sorted(run.held_out) == [0, 1]


def test_json_lines_that_are_not_finite_are_left_out_as_well(tmp_path):
    good, bad = video(0.4, 0.2), (video(float("nan"), 0.1), video(0.1, float("inf")), {"log_loss_real": 0.1}, {})
    for metrics in bad:
        record = {"epoch": 1, "video": metrics, "video_ema": metrics, "sets": {"celeb": {"video": metrics}}}
        path = write_json_log(tmp_path / "run.jsonl", {"epoch": 0, "video": good}, record)
        assert plot_loss.read_run(path) == Run({0: Losses(0.4, 0.2)}, {}, {"celeb": {}})


def test_averaged_weights_may_be_all_that_is_finite(log):
    log.write_text(f"epoch 0 fake nan real nan {TAIL} {TRAIN}\nepoch 0 average fake 0.2000 real 0.1000 {TAIL}\n")
    assert plot_loss.read_run(log) == Run({}, {0: Losses(0.2, 0.1)}, {})
    assert plotted("--log-file", log).get_title() == "run"


@pytest.mark.parametrize("cut", ["epoch 3 fake 0.20", "epoch 3 fake 0.2000 real 0.5"])
def test_a_line_that_was_cut_by_a_kill_is_no_epoch(log, cut):
    log.write_text(LOG[: LOG.index("epoch 3")] + cut)
    assert sorted(plot_loss.read_run(log).held_out) == [0, 1]


def test_logs_without_an_epoch_are_an_error(tmp_path):
    path = tmp_path / "empty.log"
    path.write_text(f"epoch one\n{{broken\nepoch 0 on celeb fake 0.1000 real 0.1000 {TAIL}\n")
    with pytest.raises(UsageError, match=r"empty\.log: no epoch"):
        plot_loss.read_run(path)
    done = run_script("plot_loss.py", "--log-file", tmp_path / "absent.log", cwd=ROOT)
    assert done.returncode == 2
    assert "absent.log: can't be read" in done.stderr


def test_bytes_that_are_no_text_do_not_matter(log):
    log.write_bytes(b"\xff\xfe broken\n" + LOG.encode())
    assert sorted(plot_loss.read_run(log).held_out) == [0, 1, 3]


# Choosing


def test_the_fake_loss_weighs_more_and_averages_are_chosen_from(full_log):
    run = plot_loss.read_run(full_log)
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


def test_t51_the_plot_is_a_file_and_the_best_epochs_are_named(log, tmp_path):
    output = tmp_path / "very" / "deep" / "loss.png"
    backend = {"MPLBACKEND": "module://backend_of_a_notebook"}  # what a notebook leaves in the environment
    done = run_script("plot_loss.py", "--log-file", log, "--output", output, "--best", 2, env=backend)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes().startswith(b"\x89PNG")
    assert done.stdout.splitlines() == [
        "epoch 1: 0.3800 (fake 0.4000, real 0.2000)",
        "epoch 3: 0.3900 (fake 0.2000, real 0.5000)",
        f"plot: {output}",
    ]


def test_by_default_three_are_named_and_the_plot_lies_beside_the_log(log, full_log, tmp_path, capsys):
    assert plot_loss.main(["--log-file", str(full_log)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "epoch 3, averaged weights: 0.3260 (fake 0.1800, real 0.4000)",
        "epoch 1: 0.3800 (fake 0.4000, real 0.2000)",
        "epoch 3: 0.3900 (fake 0.2000, real 0.5000)",
        f"plot: {tmp_path / 'full.png'}",
    ]
    assert (tmp_path / "full.png").exists()
    assert plot_loss.main(["--log-file", str(log), "--best", "1", "--fake-weight", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "epoch 3: 0.5500 (fake 0.2000, real 0.5000)"
    assert not (tmp_path / "weights").exists()


def test_five_seeds_come_into_one_picture_and_their_best_into_a_file(log, full_log, tmp_path, capsys):
    other = tmp_path / "b7_555_net_tf_efficientnet_b7.ns_jft_in1k_0.log"
    other.write_text(LOG.replace("fake 0.2000", "fake 0.1000"))
    chosen = tmp_path / "weights" / "selected.txt"
    arguments = ["--log-file", log, other, full_log, "--select", 1, "--select-file", chosen, "--best", 2]
    assert plot_loss.main([*map(str, arguments)]) == 0
    assert chosen.read_text() == f"run_1\n{other.name[:-4]}_3\nfull_3_ema\n"
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if not line.startswith("epoch")][:3] == ["run", other.name[:-4], "full"]
    assert [line for line in said if "averaged" in line] == [said[7]]
    assert len(said) == 3 * 3 + 2
    assert (tmp_path / "run.png").exists()
    assert not (tmp_path / "full.png").exists()
    arguments[5] = 2
    assert plot_loss.main([*map(str, arguments)]) == 0
    assert chosen.read_text().split() == ["run_1", "run_3", f"{other.name[:-4]}_3", f"{other.name[:-4]}_1",
                                          "full_3_ema", "full_1"]  # fmt: skip


def test_early_epochs_are_drawn_but_never_chosen(full_log, tmp_path, capsys):
    chosen = tmp_path / "selected.txt"
    arguments = ["--log-file", full_log, "--first-epoch", 3, "--select", 5, "--select-file", chosen]
    axis = plotted(*arguments)
    said = capsys.readouterr().out
    assert said.startswith("epoch 3, averaged weights: 0.3260")
    assert "epoch 1" not in said
    assert chosen.read_text().split() == ["full_3_ema", "full_3"]
    assert lines_of(axis)["weights, best: 3"][0] == [0, 1, 3]
    (shade,) = axis.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (-0.5, 2.5)
    assert "3" in shade.get_label()
    assert 0.85 < min(shade.get_facecolor()) < 1
    assert not plotted("--log-file", full_log).patches
    assert not plotted("--log-file", full_log, "--first-epoch", 0).patches


def test_a_first_epoch_behind_the_logs_last_is_refused(log, full_log, tmp_path):
    log.write_text(LOG.replace("epoch 3 ", "epoch 6 "))
    plotted("--log-file", log, "--first-epoch", 6)
    with pytest.raises(UsageError, match=r"--first-epoch 4: .* full is 3;"):
        plot_loss.main(["--log-file", str(log), str(full_log), "--first-epoch", "4"])
    with pytest.raises(UsageError, match=r"--first-epoch 7: .* run is 6;"):
        plot_loss.main(["--log-file", str(log), "--first-epoch", "7"])
    assert not (tmp_path / "full.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--fake-weight", "0"), "--fake-weight 0: "), (("--fake-weight", "nan"), "--fake-weight nan: "),
     (("--fake-weight", "inf"), "--fake-weight inf: "), (("--fake-weight", "-1"), "--fake-weight -1: "),
     (("--best", "0"), "--best 0: 1 or more"), (("--select", "0"), "--select 0: 1 or more"),
     (("--output", "a.jpg"), r"--output a\.jpg: .*\.png")],
    ids=str,
)  # fmt: skip
def test_values_that_cant_work_are_refused(log, arguments, said):
    with pytest.raises(UsageError, match=said):
        plot_loss.main(["--log-file", str(log), *arguments])
    assert not log.with_suffix(".png").exists()


def test_one_run_given_twice_is_refused(log, tmp_path):
    twin = write_json_log(tmp_path / "run.jsonl", {"epoch": 0, "video": video(0.7, 0.6)})
    for other in (log, twin):
        with pytest.raises(UsageError, match="the same run is given twice"):
            plot_loss.main(["--log-file", str(log), str(other)])


def test_ends_of_names_are_taken_as_they_come(log, tmp_path):
    plotted("--log-file", log, "--output", tmp_path / "A.PNG", "--fake-weight", 0.001)
    assert (tmp_path / "A.PNG").exists()
    axis = plotted("--log-file", write_json_log(tmp_path / "other.jsonl", {"epoch": 0, "video": video(0.7, 0.6)}))
    assert axis.get_title() == "other"
    assert (tmp_path / "other.png").exists()


def test_the_help_keeps_its_examples_a_line_each(capsys):
    with pytest.raises(SystemExit):
        plot_loss.main(["--help"])
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "python plot_loss.py --log-file logs/<log>" in said
    assert "17" in " ".join(said), "the winners' plot chose from epoch 17 on"


# The picture


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


def test_the_png_is_the_same_each_time_and_of_a_fit_size(full_log):
    plotted("--log-file", full_log)
    picture = full_log.with_suffix(".png").read_bytes()
    height, width = read_picture(full_log.with_suffix(".png")).shape[:2]
    assert 850 <= width <= 1200
    assert 450 <= height <= width
    plt.close("all")
    plotted("--log-file", full_log)
    assert full_log.with_suffix(".png").read_bytes() == picture
    assert b"Matplotlib" not in picture  # a version in it would change the file with each update


@pytest.mark.parametrize("variable", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_t51_a_window_is_shown_where_there_is_a_display_after_the_file_is_written(log, monkeypatch, variable):
    shown = []
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: shown.append(log.with_suffix(".png").exists()))
    plotted("--log-file", log)
    assert shown == []
    monkeypatch.setenv(variable, ":0")
    monkeypatch.setattr("matplotlib.use", lambda name: pytest.fail("the backend of the display was put away"))
    plotted("--log-file", log)
    assert shown == [True]


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
    assert plot_loss.read_run(path) == Run(held_out={1: Losses(0.5, 0.25)})


def test_choices_that_are_not_there_are_named(tmp_path, capsys):
    log = tmp_path / "run.log"
    log.write_text(LOG)
    chosen = tmp_path / "weights" / "selected.txt"
    given = ["--log-file", str(log), "--select", "2", "--select-file", str(chosen)]
    for present, missing in (((), "run_1, run_3"), (("run_3",), "run_1"), (("run_1",), "")):
        chosen.parent.mkdir(exist_ok=True)
        for name in present:
            (chosen.parent / name).touch()
        plot_loss.main(given)
        out, err = capsys.readouterr()
        assert f"predict_folder.py --weights-dir {chosen.parent} --models @{chosen}" in out
        assert (f"not in {chosen.parent}: {missing}." in err) if missing else not err
