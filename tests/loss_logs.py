"""Logs of made-up runs, and what a picture of them holds, for the tests of plot_loss.py."""

import json
import math

import matplotlib.pyplot as plt
import pytest

import plot_loss


def video(fake, real):
    """A record's metrics of videos, as far as they count here."""
    return {"log_loss_fake": fake, "log_loss_real": real, "auc": 0.9}


def epoch(number, fake=None, real=None, average=None, **sets):
    """The record of an epoch; without losses it was not validated. Of `average` and sets: their two losses."""
    record = {"epoch": number, "train_loss": 0.5, "frame": video(9, 9)}
    if fake is not None:
        record["video"] = video(fake, real)
    if average:
        record |= {"video_ema": video(*average), "frame_ema": video(9, 9)}
    if sets:
        record["sets"] = {name: {"video": video(*losses), "frame": video(9, 9)} for name, losses in sets.items()}
    return record


# Three epochs, of which the second was trained again after a resume; one was not validated.
LOG = [epoch(0, 0.7, 0.6), epoch(1, 0.3, 0.5), epoch(2), epoch(1, 0.4, 0.2), epoch(3, 0.2, 0.5)]
# With an average of the weights and two further sets, one of which has no real video that could be read after epoch 3;
# the resume was without either.
FULL_LOG = [
    epoch(0, 0.7, 0.6, (0.9, 0.8), **{"celeb": (1.7, 1.4), "phone-crops_2": (2.0, 2.5)}),
    epoch(1, 0.3, 0.5, (0.01, 0.02), celeb=(0.03, 0.04)),
    epoch(3, 0.2, 0.5, (0.18, 0.4), **{"celeb": (0.7, 0.4), "phone-crops_2": (0.9, math.nan)}),
    epoch(1, 0.4, 0.2, celeb=(0.5, 0.6)),
]


def write_log(path, *records):
    """A run's JSON lines: its start, these records, and a line that a kill cut."""
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
