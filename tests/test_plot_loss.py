"""The command plot_loss.py."""

import matplotlib.pyplot as plt
import pytest
from helpers import ROOT, run_script
from loss_logs import LOG, epoch, lines_of, plotted, write_log

import plot_loss
from dfdc.command_line import SettingError, UsageError
from dfdc.imaging import read_picture

pytestmark = pytest.mark.usefixtures("no_display")


def test_a_log_without_an_epoch_is_an_error(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text('epoch one\n{broken\n{"event": "epoch", "epoch": 0, "sets": {"celeb": {"video": {}}}}\n')
    with pytest.raises(SettingError, match=r"log_file .*empty\.jsonl: it contains no epoch"):
        plot_loss.main(["--log-file", str(path)])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".log", ".jsonl"])
def test_the_log_for_people_stands_for_the_lines_beside_it(log, tmp_path, capsys, suffix):
    """Names of encoders have dots, so that only what ends the name is replaced."""
    lines = log.rename(tmp_path / "run_tf_efficientnet_b7.ns_jft_in1k_0.jsonl")
    given = lines.with_suffix(suffix)
    lines.with_suffix(".log").write_text("lines for people\n")
    assert plot_loss.main(["--log-file", str(given)]) == 0
    assert capsys.readouterr().out.startswith("epoch 1: 0.3800")
    assert lines.with_suffix(".png").exists()
    lines.unlink()
    done = run_script("plot_loss.py", "--log-file", given, cwd=ROOT)
    assert done.returncode == 2
    assert f"--log-file {given}: {lines} can't be read (No such file" in done.stderr
    assert "training writes it beside <run>.log" in done.stderr


@pytest.mark.slow
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


@pytest.mark.slow
def test_five_seeds_come_into_one_picture_and_their_best_into_a_file(log, full_log, tmp_path, capsys):
    other = write_log(tmp_path / "b7_555_net_tf_efficientnet_b7.ns_jft_in1k_0.jsonl", *LOG, epoch(3, 0.1, 0.5))
    chosen = tmp_path / "weights" / "selected.txt"
    arguments = ["--log-file", log, other, full_log, "--select", 1, "--select-file", chosen, "--best", 2]
    assert plot_loss.main([*map(str, arguments)]) == 0
    assert chosen.read_text() == f"run_1\n{other.stem}_3\nfull_3_ema\n"
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if not line.startswith("epoch")][:3] == ["run", other.stem, "full"]
    assert [line for line in said if "averaged" in line] == [said[7]]
    assert len(said) == 3 * 3 + 2
    assert (tmp_path / "run.png").exists()
    assert not (tmp_path / "full.png").exists()
    arguments[5] = 2
    assert plot_loss.main([*map(str, arguments)]) == 0
    assert chosen.read_text().split() == [
        "run_1",
        "run_3",
        f"{other.stem}_3",
        f"{other.stem}_1",
        "full_3_ema",
        "full_1",
    ]


@pytest.mark.slow
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
    write_log(log, *LOG[:-1], epoch(6, 0.2, 0.5))
    plotted("--log-file", log, "--first-epoch", 6)
    with pytest.raises(UsageError, match=r"--first-epoch 4: .* full is 3;"):
        plot_loss.main(["--log-file", str(log), str(full_log), "--first-epoch", "4"])
    with pytest.raises(UsageError, match=r"--first-epoch 7: .* run is 6;"):
        plot_loss.main(["--log-file", str(log), "--first-epoch", "7"])
    assert not (tmp_path / "full.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fake-weight", "0"), "--fake-weight 0: "),
        (("--fake-weight", "nan"), "--fake-weight nan: "),
        (("--fake-weight", "inf"), "--fake-weight inf: "),
        (("--fake-weight", "-1"), "--fake-weight -1: "),
        (("--best", "0"), "--best 0: 1 or more"),
        (("--select", "0"), "--select 0: 1 or more"),
        (("--output", "a.jpg"), r"--output a\.jpg: .*\.png"),
    ],
    ids=str,
)
def test_values_that_cant_work_are_refused(log, arguments, said):
    with pytest.raises(UsageError, match=said):
        plot_loss.main(["--log-file", str(log), *arguments])
    assert not log.with_suffix(".png").exists()


def test_one_run_given_twice_is_refused(log, tmp_path):
    for other in (log, tmp_path / "run.log"):
        with pytest.raises(UsageError, match="the same run is given twice"):
            plot_loss.main(["--log-file", str(log), str(other)])


def test_ends_of_names_are_taken_as_they_come(log, tmp_path):
    plotted("--log-file", log, "--output", tmp_path / "A.PNG", "--fake-weight", 0.001)
    assert (tmp_path / "A.PNG").exists()
    axis = plotted("--log-file", write_log(tmp_path / "other.jsonl", epoch(0, 0.7, 0.6)))
    assert axis.get_title() == "other"
    assert (tmp_path / "other.png").exists()


def test_the_help_keeps_its_examples_a_line_each(capsys):
    with pytest.raises(SystemExit):
        plot_loss.main(["--help"])
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "python plot_loss.py --log-file logs/<log>" in said
    assert "17" in " ".join(said), "the winners' plot chose from epoch 17 on"


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_choices_that_are_not_there_are_named(log, tmp_path, capsys):
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
